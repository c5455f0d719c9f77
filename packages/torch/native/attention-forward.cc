// Forward pass of attention: online softmax over key blocks. One tile of queries at a time.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "attention-kernel.h"
#include "attention-layout.h"
#include "own-operators.h"

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

constexpr int64_t kFewKeys = 16;  // of a sequence: as many as a vector has lanes

// Whether all sequences are too short for tiles, of which nearly all would be zeros: windows of patches.
bool areWindows(const AttentionProblem& problem) {
  return std::all_of(problem.sequences.begin(), problem.sequences.end(), [](const Sequence& sequence) { return sequence.keys <= kFewKeys; });
}

AVX512 __m512bh loadPairs(const BFloat16* from, int64_t count) {
  const __mmask32 lanes = count >= 32 ? __mmask32(~0u) : __mmask32((1u << count) - 1);
  return (__m512bh)_mm512_maskz_loadu_epi16(lanes, from);
}

// The scores of one query against all keys of its sequence, up to the scale.
AVX512 __m512 scoresOf(const BFloat16* query, const BFloat16* keys, int64_t stride, int64_t count, int64_t size) {
  alignas(64) float scores[kFewKeys] = {};
  for (int64_t key = 0; key < count; key += 4) {
    __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    const int64_t keysHere = std::min<int64_t>(4, count - key);
    for (int64_t d = 0; d < size; d += 32) {
      const __m512bh own = loadPairs(query + d, size - d);
      for (int64_t k = 0; k < keysHere; k++) sums[k] = _mm512_dpbf16_ps(sums[k], own, loadPairs(keys + (key + k) * stride + d, size - d));
    }
    _mm_store_ps(scores + key, sumsOf(sums[0], sums[1], sums[2], sums[3]));
  }
  return _mm512_load_ps(scores);
}

// All of a sequence that `areWindows` let pass; probabilities are rounded as those of tiles.
AVX512 void forwardWindow(const AttentionProblem& problem, const Sequence& sequence, HeadRows query, HeadRows key, HeadRows value, HeadRows output,
                          float* logSums, int64_t head) {
  const int64_t size = problem.headSize, b = sequence.batch, keyHead = head / (problem.heads / problem.keyHeads);
  const BFloat16 *keys = key.at(b, keyHead, sequence.start), *values = value.at(b, keyHead, sequence.start);
  for (int64_t i = 0; i < sequence.queries; i++) {
    const __mmask16 lanes = firstLanes(problem.causal ? sequence.keys - sequence.queries + 1 + i : sequence.keys);
    const __m512 scores = _mm512_mul_ps(scoresOf(query.at(b, head, sequence.start + i), keys, key.row, sequence.keys, size),
                                        _mm512_set1_ps(problem.scale() * kLog2E));
    const float maximum = _mm512_mask_reduce_max_ps(lanes, scores);
    const __m512 powers = _mm512_maskz_mov_ps(lanes, exp2(_mm512_sub_ps(scores, _mm512_set1_ps(maximum))));
    const float sum = _mm512_reduce_add_ps(powers);
    alignas(64) float probabilities[kFewKeys];
    _mm512_store_ps(probabilities, widen((__m256i)_mm512_cvtneps_pbh(powers)));
    const __m512 factor = _mm512_set1_ps(1.0f / sum);
    BFloat16* const to = output.at(b, head, sequence.start + i);
    for (int64_t d = 0; d < size; d += 16) {
      __m512 all = _mm512_setzero_ps();
      for (int64_t j = 0; j < sequence.keys; j++)
        all = _mm512_fmadd_ps(_mm512_set1_ps(probabilities[j]), load(values + j * value.row + d, firstLanes(size - d)), all);
      store(to + d, _mm512_mul_ps(all, factor), firstLanes(size - d));
    }
    logSums[(head * problem.batches + b) * problem.rows + sequence.start + i] = maximum + std::log2(sum);
  }
}

void forwardWindows(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, float* logSums) {
  const int64_t grain = std::max<int64_t>(1, kGrain / (problem.heads * problem.headSize));
  at::parallel_for(0, static_cast<int64_t>(problem.sequences.size()), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t head = 0; head < problem.heads; head++)
        forwardWindow(problem, problem.sequences[static_cast<size_t>(i)], query, key, value, output, logSums, head);
  });
}

}  // namespace

int64_t attentionForwardBytes(const AttentionProblem& problem) {
  if (areWindows(problem)) return 0;
  const int64_t scratch = at::get_num_threads() * ForwardScratch::floats(problem.width());
  return 2 * packedNumbers(problem) * static_cast<int64_t>(sizeof(BFloat16)) + scratch * static_cast<int64_t>(sizeof(float));
}

void attentionForward(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, float* logSums) {
  if (areWindows(problem)) return forwardWindows(problem, query, key, value, output, logSums);
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
