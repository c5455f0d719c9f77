// Backward pass of attention, tile by tile. Probabilities are recomputed from the scores and the logarithms of their
// sums.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cstdlib>

#include "attention-kernel.h"
#include "attention-layout.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

namespace {

struct BackwardScratch {
  BFloat16 *query, *queryColumns, *grad, *gradColumns, *pairs;  // (kTile, width), (width, kTile); pairs on the way between them
  BFloat16 *probPairs, *scoreGrad, *scoreGradPairs;                              // (kTile, kTile)
  float *scores, *probGrad, *queryGrad, delta[kTile];

  static int64_t floats(int64_t width) { return kTile * (5 * width / 2 + 3 * kTile / 2 + 2 * kTile + width); }
  BackwardScratch(float* memory, int64_t width) {
    scores = memory;
    probGrad = scores + kTile * kTile;
    queryGrad = probGrad + kTile * kTile;
    auto* next = reinterpret_cast<BFloat16*>(queryGrad + kTile * width);
    for (BFloat16** matrix : {&query, &queryColumns, &grad, &gradColumns, &pairs}) {
      *matrix = next;
      next += kTile * width;
    }
    for (BFloat16** matrix : {&probPairs, &scoreGrad, &scoreGradPairs}) {
      *matrix = next;
      next += kTile * kTile;
    }
  }
};

// delta: for each row, the sum of output · gradient of the output.
AVX512 void rowProducts(const BFloat16* output, int64_t strideOutput, const BFloat16* grad, int64_t strideGrad, int64_t rows, int64_t size,
                        float* delta) {
  for (int64_t i = 0; i < rows; i++) {
    __m512 sum = _mm512_setzero_ps();
    for (int64_t d = 0; d < size; d += 16) {
      const __mmask16 lanes = firstLanes(size - d);
      sum = _mm512_fmadd_ps(load(output + i * strideOutput + d, lanes), load(grad + i * strideGrad + d, lanes), sum);
    }
    delta[i] = _mm512_reduce_add_ps(sum);
  }
}

// Scores and gradients of the probabilities of one tile, to the probabilities and the gradients of the scores. `seen`: keys that the first
// query sees, each next one sees `step` more.
AVX512 void softmaxBackwardTile(BackwardScratch& scratch, int64_t rows, int64_t count, int64_t seen, int64_t step, float scale,
                                const float* logSums) {
  const __m512 factor = _mm512_set1_ps(scale * kLog2E), outer = _mm512_set1_ps(scale);
  auto* probPairs = reinterpret_cast<int32_t*>(scratch.probPairs);
  auto* gradPairs = reinterpret_cast<int32_t*>(scratch.scoreGradPairs);
  for (int64_t i = 0; i < kTile; i += 2) {
    for (int64_t j = 0; j < kTile; j += 16) {
      __m512i probs = _mm512_setzero_si512(), grads = _mm512_setzero_si512();
      for (int64_t k = 0; k < 2; k++) {
        const int64_t row = i + k, at = row * kTile + j;
        const __mmask16 lanes = row < rows ? firstLanes(std::min(count, seen + row * step) - j) : __mmask16(0);
        __m256i prob16 = _mm256_setzero_si256(), grad16 = _mm256_setzero_si256();
        if (lanes != 0) {
          const __m512 exponent = _mm512_fmsub_ps(_mm512_loadu_ps(scratch.scores + at), factor, _mm512_set1_ps(logSums[row]));
          const __m512 prob = _mm512_maskz_mov_ps(lanes, exp2(exponent));
          const __m512 inner = _mm512_sub_ps(_mm512_loadu_ps(scratch.probGrad + at), _mm512_set1_ps(scratch.delta[row]));
          const __m512 grad = _mm512_maskz_mul_ps(lanes, _mm512_mul_ps(prob, outer), inner);
          prob16 = (__m256i)_mm512_cvtneps_pbh(prob);
          grad16 = (__m256i)_mm512_cvtneps_pbh(grad);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(scratch.scoreGrad + at), grad16);
        probs = _mm512_or_si512(probs, _mm512_slli_epi32(_mm512_cvtepu16_epi32(prob16), 16 * k));
        grads = _mm512_or_si512(grads, _mm512_slli_epi32(_mm512_cvtepu16_epi32(grad16), 16 * k));
      }
      _mm512_storeu_si512(probPairs + i / 2 * kTile + j, probs);
      _mm512_storeu_si512(gradPairs + i / 2 * kTile + j, grads);
    }
  }
}

AVX512 void storeRows(const float* from, int64_t rows, int64_t size, int64_t width, BFloat16* to, int64_t stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < size; d += 16) store(to + i * stride + d, _mm512_loadu_ps(from + i * width + d), firstLanes(size - d));
}

// Inputs of the backward pass of one head and sequence.
struct BackwardOperands {
  const BFloat16 *keysTransposed, *keyPairs, *valuesTransposed;
  HeadRows query, output, gradOutput, gradQuery;
  const float* logSums;
};

// Adds one tile of queries' part to the gradients of the sequence's keys and values, (width, kTile) each by tiles of keys, and writes its
// own gradient.
void backwardTile(const AttentionProblem& problem, const Sequence& sequence, int64_t first, int64_t head, const BackwardOperands& from,
                  float* keyGrad, float* valueGrad, BackwardScratch& scratch) {
  const int64_t width = problem.width(), size = problem.headSize, b = sequence.batch, at = sequence.start + first;
  const int64_t rows = std::min(kTile, sequence.queries - first);
  const BFloat16* grad = from.gradOutput.at(b, head, at);
  copyRows(from.query.at(b, head, at), from.query.row, rows, size, width, scratch.query);
  copyRows(grad, from.gradOutput.row, rows, size, width, scratch.grad);
  packTransposed(scratch.query, width, kTile, width, width, scratch.pairs);
  splitPairs(scratch.pairs, width, scratch.queryColumns);
  packTransposed(scratch.grad, width, kTile, width, width, scratch.pairs);
  splitPairs(scratch.pairs, width, scratch.gradColumns);
  rowProducts(from.output.at(b, head, at), from.output.row, grad, from.gradOutput.row, rows, size, scratch.delta);
  const int64_t end = problem.causal ? std::min(sequence.keys, first + rows) : sequence.keys;
  for (int64_t key = 0; key < end; key += kTile) {
    const int64_t count = std::min(kTile, sequence.keys - key);
    multiply(kTile, kTile, width, scratch.query, width, from.keysTransposed + key * width, scratch.scores, kTile, false);
    multiply(kTile, kTile, width, scratch.grad, width, from.valuesTransposed + key * width, scratch.probGrad, kTile, false);
    softmaxBackwardTile(scratch, rows, count, problem.causal ? first + 1 - key : count, problem.causal ? 1 : 0, problem.scale(),
                        from.logSums + (head * problem.batches + b) * problem.rows + at);
    multiply(width, kTile, kTile, scratch.gradColumns, kTile, scratch.probPairs, valueGrad + key * width, kTile, true);
    multiply(width, kTile, kTile, scratch.queryColumns, kTile, scratch.scoreGradPairs, keyGrad + key * width, kTile, true);
    for (int64_t d = 0; d < width; d += kTile) {
      const int64_t n = std::min(kTile, width - d);
      const BFloat16* block = from.keyPairs + d * padded(sequence.keys, kTile) + key * n;
      multiply(kTile, n, kTile, scratch.scoreGrad, kTile, block, scratch.queryGrad + d, width, key > 0);
    }
  }
  storeRows(scratch.queryGrad, rows, size, width, from.gradQuery.at(b, head, at), from.gradQuery.row);
}

// Sums the parts of a group's heads and writes the gradient of the sequence's keys or values.
void storeKeyGrad(const AttentionProblem& problem, const at::Tensor& parts, const Sequence& sequence, int64_t keyHead, HeadRows to) {
  const int64_t width = problem.width(), rows = padded(sequence.keys, kTile), count = parts.size(1);
  float* sum = parts.data_ptr<float>() + keyHead * parts.stride(0) + sequence.offset * width;
  for (int64_t part = 1; part < count; part++) {
    const float* more = sum + part * parts.stride(1);
    for (int64_t i = 0; i < rows * width; i++) sum[i] += more[i];
  }
  for (int64_t key = 0; key < sequence.keys; key += kTile)
    storeTransposed(sum + key * width, std::min(kTile, sequence.keys - key), problem.headSize,
                    to.at(sequence.batch, keyHead, sequence.start + key), to.row);
}

// Into how many parts a group of heads that share keys is divided, so that every thread has something to do.
int64_t partsOfGroup(const AttentionProblem& problem) {
  const int64_t group = problem.heads / problem.keyHeads;
  for (int64_t parts = 1; parts < group; parts++)
    if (group % parts == 0 && problem.keyHeads * parts >= at::get_num_threads()) return parts;
  return group;
}

}  // namespace

int64_t attentionBackwardBytes(const AttentionProblem& problem) {
  const int64_t sums = 2 * partsOfGroup(problem) * packedNumbers(problem), scratch = at::get_num_threads() * BackwardScratch::floats(problem.width());
  return 3 * packedNumbers(problem) * static_cast<int64_t>(sizeof(BFloat16)) + (sums + scratch) * static_cast<int64_t>(sizeof(float));
}

void attentionBackward(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, HeadRows gradOutput,
                       const float* logSums, AttentionGradients gradients) {
  const int64_t width = problem.width(), group = problem.heads / problem.keyHeads, rows = problem.keyRows;
  const at::Tensor keys = pack(problem, key, Layout::Transposed), keyPairs = pack(problem, key, Layout::Pairs);
  const at::Tensor values = pack(problem, value, Layout::Transposed);
  const int64_t parts = partsOfGroup(problem), share = group / parts, sequences = static_cast<int64_t>(problem.sequences.size());
  const at::Tensor keyGrads = at::zeros({problem.keyHeads, parts, rows * width}, at::kFloat), valueGrads = at::zeros_like(keyGrads);
  const at::Tensor memory = at::empty({at::get_num_threads(), BackwardScratch::floats(width)}, at::kFloat);
  at::parallel_for(0, problem.keyHeads * parts * sequences, 1, [&](int64_t begin, int64_t end) {
    BackwardScratch scratch(memory.data_ptr<float>() + at::get_thread_num() * memory.stride(0), width);
    for (int64_t i = begin; i < end; i++) {
      const Sequence& sequence = problem.sequences[i % sequences];
      const int64_t part = i / sequences, keyHead = part / parts, place = (part * rows + sequence.offset) * width;
      const BackwardOperands from{packedAt(keys, keyHead, sequence), packedAt(keyPairs, keyHead, sequence),
                                  packedAt(values, keyHead, sequence), query, output, gradOutput, gradients.query, logSums};
      for (int64_t head = part * share; head < (part + 1) * share; head++)
        for (int64_t first = 0; first < sequence.queries; first += kTile)
          backwardTile(problem, sequence, first, head, from, keyGrads.data_ptr<float>() + place, valueGrads.data_ptr<float>() + place,
                       scratch);
    }
    at::native::cpublas::brgemm_release();
  });
  at::parallel_for(0, problem.keyHeads * sequences, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const Sequence& sequence = problem.sequences[i % sequences];
      storeKeyGrad(problem, keyGrads, sequence, i / sequences, gradients.key);
      storeKeyGrad(problem, valueGrads, sequence, i / sequences, gradients.value);
    }
  });
}

#else

void attentionBackward(const AttentionProblem&, HeadRows, HeadRows, HeadRows, HeadRows, HeadRows, const float*, AttentionGradients) {
  std::abort();
}

int64_t attentionBackwardBytes(const AttentionProblem&) { return 0; }

#endif

}  // namespace minicpm
