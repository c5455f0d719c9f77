// Forward pass of attention: online softmax over key blocks. One tile of queries at a time.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <cstdlib>
#include <limits>

#include "attention-kernel.h"
#include "attention-layout.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

constexpr int64_t kKeyBlock = 512;                 // keys whose scores exist at a time in the forward pass
constexpr int64_t kScoreStride = kKeyBlock + 16;   // no power of two, so that rows do not compete for the same cache lines
constexpr int64_t kProbStride = kKeyBlock + 32;

namespace {

struct Work {  // a tile of queries
  const Sequence* sequence;
  int64_t first;
};

std::vector<Work> tilesOf(const AttentionProblem& problem) {
  std::vector<Work> tiles;
  for (const auto& sequence : problem.sequences)
    for (int64_t first = 0; first < sequence.queries; first += kTile) tiles.push_back({&sequence, first});
  return tiles;
}

struct ForwardScratch {
  BFloat16 *query, *probabilities;
  float *scores, *output, maxima[kTile], sums[kTile];

  static int64_t floats(int64_t width) { return kTile * (width / 2 + kProbStride / 2 + kScoreStride + width); }
  ForwardScratch(float* memory, int64_t width) {
    scores = memory;
    output = scores + kTile * kScoreStride;
    query = reinterpret_cast<BFloat16*>(output + kTile * width);
    probabilities = query + kTile * width;
  }
};

// Scores of `rows` queries against `count` keys to probabilities up to the softmax's denominator; online softmax (Milakov & Gimelshein, 2018).
// `visible`: keys that the first query sees; each next one sees one more under causality.
AVX512 void softmaxTile(ForwardScratch& scratch, int64_t rows, int64_t count, int64_t visible, bool causal, bool first, float scale,
                        int64_t width) {
  for (int64_t i = 0; i < rows; i++) {
    const float* scores = scratch.scores + i * kScoreStride;
    BFloat16* probabilities = scratch.probabilities + i * kProbStride;
    const int64_t seen = causal ? std::min(count, visible + i) : count;
    __m512 highest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
    for (int64_t j = 0; j < seen; j += 16) {
      const __mmask16 lanes = firstLanes(seen - j);
      highest = _mm512_mask_max_ps(highest, lanes, highest, _mm512_maskz_loadu_ps(lanes, scores + j));
    }
    const float before = scratch.maxima[i];
    const float maximum = std::max(first ? -std::numeric_limits<float>::infinity() : before, _mm512_reduce_max_ps(highest) * scale);
    __m512 sum = _mm512_setzero_ps();
    const __m512 factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(maximum);
    for (int64_t j = 0; j < padded(count, kTile); j += 16) {
      const __mmask16 lanes = firstLanes(seen - j);
      __m512 power = _mm512_setzero_ps();
      if (lanes != 0) power = exp2(_mm512_fmsub_ps(_mm512_loadu_ps(scores + j), factor, shift));
      power = _mm512_maskz_mov_ps(lanes, power);
      sum = _mm512_add_ps(sum, power);
      store(probabilities + j, power);
    }
    const float total = _mm512_reduce_add_ps(sum);
    scratch.maxima[i] = maximum;
    if (first) {
      scratch.sums[i] = total;
      continue;
    }
    const float correction = std::exp2(before - maximum);
    scratch.sums[i] = scratch.sums[i] * correction + total;
    float* output = scratch.output + i * width;
    for (int64_t d = 0; d < width; d += 16)
      _mm512_storeu_ps(output + d, _mm512_mul_ps(_mm512_loadu_ps(output + d), _mm512_set1_ps(correction)));
  }
}

AVX512 void storeOutput(const ForwardScratch& scratch, int64_t rows, int64_t size, int64_t width, BFloat16* to, int64_t stride,
                        float* logSums) {
  for (int64_t i = 0; i < rows; i++) {
    const __m512 factor = _mm512_set1_ps(1.0f / scratch.sums[i]);
    for (int64_t d = 0; d < size; d += 16)
      store(to + i * stride + d, _mm512_mul_ps(_mm512_loadu_ps(scratch.output + i * width + d), factor), firstLanes(size - d));
    logSums[i] = scratch.maxima[i] + std::log2(scratch.sums[i]);
  }
}

void forwardTile(const AttentionProblem& problem, const Work& work, int64_t head, HeadRows query, const BFloat16* keys,
                 const BFloat16* values, HeadRows output, float* logSums, ForwardScratch& scratch) {
  const int64_t width = problem.width(), size = problem.headSize;
  const Sequence& sequence = *work.sequence;
  const int64_t rows = std::min(kTile, sequence.queries - work.first);
  const int64_t visible = sequence.keys - sequence.queries + work.first;  // keys before the first query, under causality
  const int64_t end = problem.causal ? std::min(sequence.keys, visible + rows) : sequence.keys;
  copyRows(query.at(sequence.batch, head, sequence.start + work.first), query.row, rows, size, width, scratch.query);
  for (int64_t key = 0; key < end; key += kKeyBlock) {
    const int64_t count = std::min(kKeyBlock, end - key), whole = padded(count, kTile);
    for (int64_t j = 0; j < whole; j += kTile)
      multiply(kTile, kTile, width, scratch.query, width, keys + (key + j) * width, scratch.scores + j, kScoreStride, false);
    softmaxTile(scratch, rows, count, visible + 1 - key, problem.causal, key == 0, problem.scale() * kLog2E, width);
    for (int64_t d = 0; d < width; d += kTile) {
      const int64_t n = std::min(kTile, width - d);
      const BFloat16* block = values + d * padded(sequence.keys, kTile) + key * n;
      multiply(kTile, n, whole, scratch.probabilities, kProbStride, block, scratch.output + d, width, key > 0);
    }
  }
  storeOutput(scratch, rows, size, width, output.at(sequence.batch, head, sequence.start + work.first), output.row,
              logSums + (head * problem.batches + sequence.batch) * problem.rows + sequence.start + work.first);
}

}  // namespace

int64_t attentionForwardBytes(const AttentionProblem& problem) {
  const int64_t scratch = at::get_num_threads() * ForwardScratch::floats(problem.width());
  return 2 * packedNumbers(problem) * static_cast<int64_t>(sizeof(BFloat16)) + scratch * static_cast<int64_t>(sizeof(float));
}

void attentionForward(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, float* logSums) {
  const int64_t width = problem.width(), group = problem.heads / problem.keyHeads;
  const at::Tensor keys = pack(problem, key, Layout::Transposed), values = pack(problem, value, Layout::Pairs);
  const auto tiles = tilesOf(problem);
  const int64_t count = static_cast<int64_t>(tiles.size());
  const at::Tensor memory = at::empty({at::get_num_threads(), ForwardScratch::floats(width)}, at::kFloat);
  at::parallel_for(0, problem.heads * count, 1, [&](int64_t begin, int64_t end) {
    ForwardScratch scratch(memory.data_ptr<float>() + at::get_thread_num() * memory.stride(0), width);
    for (int64_t i = begin; i < end; i++) {
      const Work& work = tiles[i % count];
      const int64_t head = i / count;
      forwardTile(problem, work, head, query, packedAt(keys, head / group, *work.sequence), packedAt(values, head / group, *work.sequence),
                  output, logSums, scratch);
    }
    at::native::cpublas::brgemm_release();
  });
}

#else

void attentionForward(const AttentionProblem&, HeadRows, HeadRows, HeadRows, HeadRows, float*) { std::abort(); }

int64_t attentionForwardBytes(const AttentionProblem&) { return 0; }

#endif

}  // namespace minicpm
