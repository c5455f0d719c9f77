// What products of bfloat16 rows share (AVX-512 BF16). Weights are bfloat16 (rows-bf16.cc) or int8 (rows-int8.cc). Four to six outputs and
// rows at a time: up to 24 sums, each in one register.
#pragma once
#include <algorithm>

#include "avx512.h"
#include "rows-kernel.h"

#if defined(MINICPM_AVX512)
// Only after `hasRowsKernel()` said yes.
#define AVX512_ROWS __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vbmi")))

namespace minicpm {

constexpr int64_t kLanes = 32;       // inputs that one instruction multiplies
constexpr int64_t kLine = 64;        // bytes of a cache line
constexpr int64_t kOutputs = 6;      // at a time, for many rows
constexpr int64_t kAheadBytes = 1 << 10;  // fetched so far ahead of what is read from front to back
constexpr int64_t kManyRows = 128, kManyGroups = 2;  // rows and groups of outputs at a time, for many rows
constexpr int64_t kWholeInputs = 1536, kManyPart = 768;  // up to so many inputs are worked on at once, else so many

template <bool whole>
AVX512_ROWS inline __m512bh inputs(const BFloat16* from, int64_t count) {
  if (whole) return (__m512bh)_mm512_loadu_si512(from);
  return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32(1) << count) - 1, from);
}

AVX512_ROWS inline __m512bh firstInputs(const BFloat16* from, int64_t count) {
  return count >= kLanes ? inputs<true>(from, kLanes) : count > 0 ? inputs<false>(from, count) : (__m512bh)_mm512_setzero_si512();
}

// Memory to fetch meanwhile: `lines` cache lines with each step.
struct Ahead {
  const char *next, *end;
  int64_t lines;

  Ahead(const void* from, int64_t bytes, int64_t steps)
      : next(static_cast<const char*>(from)), end(next + bytes), lines((bytes / kLine + steps - 1) / std::max<int64_t>(1, steps)) {}

  AVX512_ROWS void step() {
    for (int64_t i = 0; i < lines && next < end; i++, next += kLine) _mm_prefetch(next, _MM_HINT_T1);
  }
};

template <int outputs, int rows>
AVX512_ROWS inline void clear(__m512 (&sums)[outputs][rows]) {
#pragma GCC unroll 8
  for (int o = 0; o < outputs; o++)
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sums[o][r] = _mm512_setzero_ps();
}

template <int outputs, int rows, bool whole>
AVX512_ROWS inline void step(__m512 (&sums)[outputs][rows], const BFloat16* x, int64_t width, const BFloat16* weight, int64_t stride, int64_t count) {
  __m512bh factors[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) factors[r] = inputs<whole>(x + r * width, count);
#pragma GCC unroll 8
  for (int o = 0; o < outputs; o++) {
    const __m512bh weights = inputs<whole>(weight + o * stride, count);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = _mm512_dpbf16_ps(sums[o][r], factors[r], weights);
  }
}

// The lanes' sums, each in the same order.
template <int outputs, int rows>
AVX512_ROWS inline void storeSums(const __m512 (&sums)[outputs][rows], float* to, int64_t stride) {
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int o = 0; o < outputs; o += 4) {
      constexpr int last = outputs - 1;  // in place of those after the last
      const __m512 &a = sums[o][r], &b = sums[std::min(o + 1, last)][r], &c = sums[std::min(o + 2, last)][r], &d = sums[std::min(o + 3, last)][r];
      storeFirst(to + r * stride + o, sumsOf(a, b, c, d), outputs - o);
    }
}

// As many inputs as `reader` gives weights of at once, with `outputs` outputs whose weights are `stride` numbers apart.
template <int outputs, int rows, bool whole, class Reader, class Weight>
AVX512_ROWS inline void stepOf(__m512 (&sums)[outputs][rows], const Reader& reader, const BFloat16* x, int64_t width, const Weight* weight, int64_t stride, int64_t count, int64_t ahead) {
  constexpr int vectors = Reader::kVectors;
  __m512bh factors[rows][vectors];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int i = 0; i < vectors; i++) factors[r][i] = whole ? inputs<true>(x + r * width + i * kLanes, kLanes) : firstInputs(x + r * width + i * kLanes, count - i * kLanes);
#pragma GCC unroll 6
  for (int o = 0; o < outputs; o++) {
    _mm_prefetch(reinterpret_cast<const char*>(weight + o * stride) + ahead, _MM_HINT_T0);
    __m512bh weights[vectors];
    reader.load(weight + o * stride, whole ? vectors * kLanes : count, weights);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
      for (int i = 0; i < vectors; i++) sums[o][r] = _mm512_dpbf16_ps(sums[o][r], factors[r][i], weights[i]);
  }
}

// `outputs` outputs whose weights are `stride` numbers apart and whose sums go to places `apart` from each other.
template <int outputs, int rows, class Reader, class Weight>
AVX512_ROWS inline void blockOf(const Reader& reader, const RowsProblem& problem, const BFloat16* x, const Weight* weight, int64_t stride, float* to, int64_t apart, int64_t ahead) {
  constexpr int64_t atOnce = Reader::kVectors * kLanes;
  const int64_t width = problem.inputs;
  __m512 sums[outputs][rows];
  clear(sums);
  int64_t k = 0;
  for (; k + atOnce <= width; k += atOnce) stepOf<outputs, rows, true>(sums, reader, x + k, width, weight + k, stride, atOnce, ahead);
  if (k < width) stepOf<outputs, rows, false>(sums, reader, x + k, width, weight + k, stride, width - k, ahead);
  float each[rows][outputs];
  storeSums(sums, each[0], outputs);
  for (int r = 0; r < rows; r++)
    for (int o = 0; o < outputs; o++) to[r * problem.outputs + o * apart] = each[r][o];
}

// `count` rows, `rows` or fewer.
template <int outputs, int rows, class Reader, class Weight>
AVX512_ROWS inline void blockOfRows(int64_t count, const Reader& reader, const RowsProblem& problem, const BFloat16* x, const Weight* weight, int64_t stride, float* to,
                                    int64_t apart, int64_t ahead) {
  if (count == rows) return blockOf<outputs, rows>(reader, problem, x, weight, stride, to, apart, ahead);
  if constexpr (rows > 1) blockOfRows<outputs, rows - 1>(count, reader, problem, x, weight, stride, to, apart, ahead);
}

// All rows with `outputs` outputs, as many at a time as there are registers for. The last ones fetch what the neighbours of these outputs will read.
template <int outputs, class Reader, class Weight>
AVX512_ROWS void allRows(const Reader& reader, const RowsProblem& problem, const BFloat16* x, const Weight* weight, int64_t stride, float* to, int64_t apart) {
  constexpr int most = Reader::kRows;
  const int64_t width = problem.inputs, groups = (problem.rows + most - 1) / most, neighbour = width * static_cast<int64_t>(sizeof(Weight));
  for (int64_t i = 0; i < groups; i++) {
    const int64_t row = problem.rows * i / groups, end = problem.rows * (i + 1) / groups;
    blockOfRows<outputs, most>(end - row, reader, problem, x + row * width, weight, stride, to + row * problem.outputs, apart, i > 0 && i + 1 == groups ? neighbour : kAheadBytes);
  }
}

// All rows with the outputs from `first`, one at a time.
template <class Reader, class Weight>
AVX512_ROWS void eachOutput(const Reader& reader, const RowsProblem& problem, int64_t first, const BFloat16* x, const Weight* weight, float* sums) {
  for (int64_t o = first; o < problem.outputs; o++) allRows<1>(reader, problem, x, weight + o * problem.inputs, 0, sums + o, 0);
}

// Some outputs at a time, far apart, and then the neighbour of each: memory is read in so many streams from front to back. One stream, many, or outputs side
// by side are read slower.
template <class Reader, class Weight>
AVX512_ROWS void inStreams(const Reader& reader, const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums) {
  constexpr int count = Reader::kStreams;
  const int64_t width = problem.inputs, apart = problem.outputs / count;
  for (int64_t o = 0; o < apart; o++) allRows<count>(reader, problem, x, weight + o * width, apart * width, sums + o, apart);
  eachOutput(reader, problem, count * apart, x, weight, sums);
}

// A part of the inputs of a block: goes on with the sums in `kept`, and stores the result after the last part.
template <int rows>
AVX512_ROWS inline void part(const BFloat16* x, int64_t width, const BFloat16* weight, int64_t count, bool first, float* kept, float* to, int64_t toStride,
                             Ahead& ahead) {
  __m512 sums[kOutputs][rows];
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(kept + (o * rows + r) * 16);
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    ahead.step();
    step<kOutputs, rows, true>(sums, x + k, width, weight + k, width, kLanes);
  }
  if (k < count) step<kOutputs, rows, false>(sums, x + k, width, weight + k, width, count - k);
  if (to != nullptr) return storeSums(sums, to, toStride);
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(kept + (o * rows + r) * 16, sums[o][r]);
}

constexpr int64_t kKept = kOutputs * 4 * 16;  // floats in which the sums of a block wait between two parts of the inputs

// Floats for those of `groups` blocks.
constexpr size_t keptFloats(int64_t rows, int64_t groups) { return static_cast<size_t>((rows + 3) / 4 * groups * kKept); }

// All rows, four at a time, with a part of the inputs of `groups` blocks.
AVX512_ROWS inline void partOfRows(const RowsProblem& problem, int64_t groups, const BFloat16* x, const BFloat16* weight, int64_t k, int64_t count, float* kept, float* to, Ahead& ahead) {
  const int64_t width = problem.inputs, toStride = problem.outputs;
  for (int64_t row = 0; row < problem.rows; row += 4)
    for (int64_t group = 0; group < groups; group++, kept += kKept) {
      const BFloat16 *from = x + row * width + k, *weights = weight + group * kOutputs * width;
      float* own = k + count == width ? to + row * toStride + group * kOutputs : nullptr;
      switch (std::min<int64_t>(4, problem.rows - row)) {
        case 1: part<1>(from, width, weights, count, k == 0, kept, own, toStride, ahead); break;
        case 2: part<2>(from, width, weights, count, k == 0, kept, own, toStride, ahead); break;
        case 3: part<3>(from, width, weights, count, k == 0, kept, own, toStride, ahead); break;
        default: part<4>(from, width, weights, count, k == 0, kept, own, toStride, ahead);
      }
    }
}

// Groups of outputs that many rows are multiplied with at a time.
constexpr int64_t groupsOf(int64_t width) { return width <= kWholeInputs ? 1 : kManyGroups; }

// Up to kManyRows rows with so many groups: parts of both stay in the nearest cache while they are multiplied. `next` is fetched meanwhile.
AVX512_ROWS inline void manyRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* kept, float* to, const void* next, int64_t bytes) {
  const int64_t width = problem.inputs, groups = groupsOf(width), parts = groups == 1 ? 1 : (width + kManyPart - 1) / kManyPart;
  const int64_t most = (width + parts * kLanes - 1) / (parts * kLanes) * kLanes;
  Ahead ahead(next, bytes, groups * ((problem.rows + 3) / 4) * (width / kLanes));
  for (int64_t k = 0; k < width; k += most)
    partOfRows(problem, groups, x, weight + k, k, std::min(most, width - k), kept, to, ahead);
}

}  // namespace minicpm
#endif
