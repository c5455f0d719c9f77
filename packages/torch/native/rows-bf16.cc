// Products of bfloat16 rows with AVX-512 BF16. Weights are bfloat16 or int8. Six outputs and four rows at a time: 24 sums, each in one register.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "avx512.h"
#include "rows-kernel.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

bool hasRowsKernel() { return hasAvx512Bf16(); }

namespace {

constexpr int64_t kLanes = 32;       // inputs that one instruction multiplies
constexpr int64_t kLine = 64;        // bytes of a cache line
constexpr int64_t kOutputs = 6;      // at a time
constexpr int64_t kStreamBytes = 8 << 10;  // of rows that stay in the nearest cache
constexpr int64_t kSingle = 8;             // outputs at a time, for one row
constexpr int64_t kFewRows = 32;          // up to here, it matters
constexpr int64_t kPart = 1024;           // inputs at a time, for five to kFewRows rows

template <bool whole>
AVX512 inline __m512bh inputs(const BFloat16* from, int64_t count) {
  if (whole) return (__m512bh)_mm512_loadu_si512(from);
  return (__m512bh)_mm512_maskz_loadu_epi16((__mmask32(1) << count) - 1, from);
}

// Integers up to 127 are exact in bfloat16.
template <bool whole>
AVX512 inline __m512bh inputs(const int8_t* from, int64_t count) {
  const auto half = [&](int64_t start) AVX512 {
    const auto* bytes = reinterpret_cast<const __m128i*>(from + start);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(whole ? _mm_loadu_si128(bytes) : _mm_maskz_loadu_epi8(firstLanes(count - start), bytes)));
  };
  return _mm512_cvtne2ps_pbh(half(16), half(0));
}

// Memory to fetch meanwhile: `lines` cache lines with each step.
struct Ahead {
  const char *next, *end;
  int64_t lines;

  Ahead(const void* from, int64_t bytes, int64_t steps)
      : next(static_cast<const char*>(from)), end(next + bytes), lines((bytes / kLine + steps - 1) / std::max<int64_t>(1, steps)) {}

  AVX512 void step() {
    for (int64_t i = 0; i < lines && next < end; i++, next += kLine) _mm_prefetch(next, _MM_HINT_T1);
  }
};

template <int outputs, int rows, bool whole, class Weight>
AVX512 inline void step(__m512 (&sums)[outputs][rows], const BFloat16* x, int64_t width, const Weight* weight, int64_t stride, int64_t count) {
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
AVX512 inline void storeSums(const __m512 (&sums)[outputs][rows], float* to, int64_t stride) {
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int o = 0; o < outputs; o += 4) {
      constexpr int last = outputs - 1;  // in place of those after the last
      const __m512 &a = sums[o][r], &b = sums[std::min(o + 1, last)][r], &c = sums[std::min(o + 2, last)][r], &d = sums[std::min(o + 3, last)][r];
      storeFirst(to + r * stride + o, sumsOf(a, b, c, d), outputs - o);
    }
}

template <int outputs, int rows, class Weight>
AVX512 inline void block(const BFloat16* x, const Weight* weight, int64_t width, float* to, int64_t stride, Ahead& ahead) {
  __m512 sums[outputs][rows];
#pragma GCC unroll 8
  for (int o = 0; o < outputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = _mm512_setzero_ps();
  int64_t k = 0;
  for (; k + kLanes <= width; k += kLanes) {
    ahead.step();
    step<outputs, rows, true>(sums, x + k, width, weight + k, width, kLanes);
  }
  if (k < width) step<outputs, rows, false>(sums, x + k, width, weight + k, width, width - k);
  storeSums(sums, to, stride);
}

// Few rows with four outputs, one after the other: the processor fetches ahead by itself what is read from front to back, and faster than
// anything else.
template <int rows, class Weight>
AVX512 inline void stream(const BFloat16* x, const Weight* weight, int64_t width, float* to, int64_t stride) {
  __m512 sums[4][rows];
#pragma GCC unroll 4
  for (int o = 0; o < 4; o++, weight += width) {
    __m512 own[1][rows];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) own[0][r] = _mm512_setzero_ps();
    int64_t k = 0;
    for (; k + kLanes <= width; k += kLanes) step<1, rows, true>(own, x + k, width, weight + k, width, kLanes);
    if (k < width) step<1, rows, false>(own, x + k, width, weight + k, width, width - k);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = own[0][r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) _mm_storeu_ps(to + r * stride, sumsOf(sums[0][r], sums[1][r], sums[2][r], sums[3][r]));
}

template <int outputs, class Weight>
AVX512 inline void blockOf(int64_t rows, const BFloat16* x, const Weight* weight, int64_t width, float* to, int64_t stride, Ahead& ahead) {
  switch (rows) {
    case 1: return block<outputs, 1>(x, weight, width, to, stride, ahead);
    case 2: return block<outputs, 2>(x, weight, width, to, stride, ahead);
    case 3: return block<outputs, 3>(x, weight, width, to, stride, ahead);
    default: return block<outputs, 4>(x, weight, width, to, stride, ahead);
  }
}

// All rows, four at a time, with `groups` times `outputs` outputs. Meanwhile `bytes` from `next`, the weights that follow, are fetched.
template <int outputs, class Weight>
AVX512 void allRows(const RowsProblem& problem, int64_t groups, const BFloat16* x, const Weight* weight, float* to, const void* next, int64_t bytes) {
  const int64_t width = problem.inputs;
  Ahead ahead(next, bytes, groups * ((problem.rows + 3) / 4) * (width / kLanes));
  for (int64_t row = 0; row < problem.rows; row += 4)
    for (int64_t group = 0; group < groups; group++)
      blockOf<outputs>(std::min<int64_t>(4, problem.rows - row), x + row * width, weight + group * outputs * width, width,
                       to + row * problem.outputs + group * outputs, problem.outputs, ahead);
}

// Outputs at a time, as many as registers hold, or, for many rows, as the cache holds.
int64_t together(const RowsProblem& problem) { return problem.rows <= kFewRows ? kOutputs : kRowUnit; }

template <class Weight>
AVX512 void product(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums) {
  const int64_t width = problem.inputs, end = problem.outputs, count = together(problem);
  const auto bytesOf = [&](int64_t outputs) { return outputs * width * static_cast<int64_t>(sizeof(Weight)); };
  int64_t o = 0;
  if (problem.rows <= 2 && problem.rows * width * 2 <= kStreamBytes)
    for (; o + 4 <= end; o += 4) {
      if (problem.rows == 1) stream<1>(x, weight + o * width, width, sums + o, problem.outputs);
      else stream<2>(x, weight + o * width, width, sums + o, problem.outputs);
    }
  if (problem.rows == 1)
    for (; o + kSingle <= end; o += kSingle) {
      Ahead none(nullptr, 0, 1);
      block<kSingle, 1>(x, weight + o * width, width, sums + o, problem.outputs, none);
    }
  for (; o + count <= end; o += count) {
    const int64_t next = std::min(count, end - o - count);
    allRows<kOutputs>(problem, count / kOutputs, x, weight + o * width, sums + o, weight + (o + count) * width, bytesOf(next));
  }
  for (; o < end; o++) allRows<1>(problem, 1, x, weight + o * width, sums + o, nullptr, 0);
}

AVX512 void expand(const int8_t* from, BFloat16* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) _mm512_storeu_si512(to + i, (__m512i)inputs<true>(from + i, kLanes));
  if (i < count) _mm512_mask_storeu_epi16(to + i, (__mmask32(1) << (count - i)) - 1, (__m512i)inputs<false>(from + i, count - i));
}

// A part of the inputs of a block: goes on with the sums in `kept`, and stores the result after the last part.
template <int rows, class Meanwhile>
AVX512 inline void part(const BFloat16* x, int64_t width, const BFloat16* weight, int64_t stride, int64_t count, bool first, float* kept, float* to,
                        int64_t toStride, Meanwhile& meanwhile) {
  __m512 sums[kOutputs][rows];
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(kept + (o * rows + r) * 16);
  int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    meanwhile.step();
    step<kOutputs, rows, true>(sums, x + k, width, weight + k, stride, kLanes);
  }
  if (k < count) step<kOutputs, rows, false>(sums, x + k, width, weight + k, stride, count - k);
  if (to != nullptr) return storeSums(sums, to, toStride);
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(kept + (o * rows + r) * 16, sums[o][r]);
}

// All rows, in `groups` of four, with a part of the inputs of a block.
template <class Meanwhile>
AVX512 void partOfRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, int64_t stride, int64_t k, int64_t count, float* kept, float* to,
                       Meanwhile& meanwhile) {
  constexpr int64_t floats = kOutputs * 4 * 16;
  const int64_t width = problem.inputs, toStride = problem.outputs;
  for (int64_t row = 0; row < problem.rows; row += 4, kept += floats) {
    const BFloat16* from = x + row * width + k;
    float* own = k + count == width ? to + row * toStride : nullptr;
    switch (std::min<int64_t>(4, problem.rows - row)) {
      case 1: part<1>(from, width, weight, stride, count, k == 0, kept, own, toStride, meanwhile); break;
      case 2: part<2>(from, width, weight, stride, count, k == 0, kept, own, toStride, meanwhile); break;
      case 3: part<3>(from, width, weight, stride, count, k == 0, kept, own, toStride, meanwhile); break;
      default: part<4>(from, width, weight, stride, count, k == 0, kept, own, toStride, meanwhile);
    }
  }
}

// A part of the inputs of a block of int8 weights becomes bfloat16, a little with each step of the products with the part before.
struct Expansion {
  const int8_t* from;
  BFloat16* to;
  int64_t width, count, perStep, row, k = 0;

  // Without calls, so that the sums stay in registers.
  __attribute__((always_inline)) AVX512 inline void step() {
    for (int64_t i = 0; i < perStep && row < kOutputs; i++) {
      const int8_t* own = from + row * width + k;
      _mm_prefetch(reinterpret_cast<const char*>(own) + kOutputs * width, _MM_HINT_T1);  // of the next block
      _mm512_storeu_si512(to + row * kPart + k, (__m512i)inputs<true>(own, kLanes));
      if ((k += kLanes) + kLanes > count) k = 0, row++;
    }
  }

  AVX512 void finish() {
    const int64_t whole = count / kLanes * kLanes;
    while (whole > 0 && row < kOutputs) step();
    for (int64_t r = 0; whole < count && r < kOutputs; r++) expand(from + r * width + whole, to + r * kPart + whole, count - whole);
  }
};

// Five to kFewRows rows: the inputs in parts, so that a part of the weights stays in the nearest cache while all rows pass over it. The sums are the
// same: they wait in between.
AVX512 void fewRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums, int64_t end, float* kept) {
  const int64_t width = problem.inputs, groups = (problem.rows + 3) / 4;
  for (int64_t o = 0; o < end; o += kOutputs) {
    const int64_t next = std::min(kOutputs, end - o - kOutputs) * width * static_cast<int64_t>(sizeof(BFloat16));
    Ahead ahead(weight + (o + kOutputs) * width, next, groups * (width / kLanes));
    for (int64_t k = 0; k < width; k += kPart)
      partOfRows(problem, x, weight + o * width + k, width, k, std::min(kPart, width - k), kept, sums + o, ahead);
  }
}

AVX512 void fewRows(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums, int64_t end, float* kept) {
  const int64_t width = problem.inputs, groups = (problem.rows + 3) / 4;
  BFloat16 expanded[2][kOutputs * kPart];
  const auto expansionOf = [&](int64_t o, int64_t k, int64_t i) -> Expansion {
    const int64_t count = std::min(kPart, width - k);
    return {weight + o * width + k, expanded[i], width, count, (kOutputs + groups - 1) / groups, o < end && count >= kLanes ? 0 : kOutputs};
  };
  int64_t i = 0;
  Expansion expansion = expansionOf(0, 0, 0);
  for (int64_t o = 0; o < end; o += kOutputs)
    for (int64_t k = 0; k < width; k += kPart, i ^= 1) {
      expansion.finish();
      const bool isLast = k + kPart >= width;
      expansion = expansionOf(isLast ? o + kOutputs : o, isLast ? 0 : k + kPart, i ^ 1);
      partOfRows(problem, x, expanded[i], kPart, k, std::min(kPart, width - k), kept, sums + o, expansion);
    }
}

template <class Weight>
AVX512 void fewRows(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums) {
  const int64_t end = problem.outputs / kOutputs * kOutputs;
  std::vector<float> kept(static_cast<size_t>((problem.rows + 3) / 4 * kOutputs * 4 * 16));
  fewRows(problem, x, weight, sums, end, kept.data());
  for (int64_t o = end; o < problem.outputs; o++) allRows<1>(problem, 1, x, weight + o * problem.inputs, sums + o, nullptr, 0);
}

}  // namespace

void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  if (problem.rows > 4 && problem.rows <= kFewRows) return fewRows(problem, x, weight, sums);
  product(problem, x, weight, sums);
}

// More than four rows pass over the weights several times: these are then expanded first, a few outputs at a time.
void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums) {
  if (problem.rows <= 4) return product(problem, x, weight, sums);
  if (problem.rows <= kFewRows) return fewRows(problem, x, weight, sums);
  const int64_t width = problem.inputs, end = problem.outputs, count = together(problem);
  std::vector<BFloat16> expanded(static_cast<size_t>(count * width));
  for (int64_t o = 0; o < end; o += count) {
    const int64_t own = std::min(count, end - o);
    expand(weight + o * width, expanded.data(), own * width);
    if (own == count) {
      allRows<kOutputs>(problem, count / kOutputs, x, expanded.data(), sums + o, weight + (o + count) * width, std::min(count, end - o - count) * width);
    } else {
      for (int64_t i = 0; i < own; i++) allRows<1>(problem, 1, x, expanded.data() + i * width, sums + o + i, nullptr, 0);
    }
  }
}

#else

bool hasRowsKernel() { return false; }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const BFloat16*, float*) { std::abort(); }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const int8_t*, float*) { std::abort(); }

#endif

}  // namespace minicpm
