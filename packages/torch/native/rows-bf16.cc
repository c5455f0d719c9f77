// Products of few bfloat16 rows with AVX-512 BF16. Four outputs and four rows at a time: sixteen sums, each in one register.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "avx512.h"
#include "rows-kernel.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

bool hasRowsKernel() { return hasAvx512Bf16(); }

namespace {

constexpr int64_t kLanes = 32;  // inputs that one instruction multiplies
constexpr int64_t kLine = 64;   // bytes of a cache line

AVX512 inline __mmask32 firstInputs(int64_t count) { return count >= kLanes ? ~__mmask32(0) : (__mmask32(1) << count) - 1; }

template <bool whole>
AVX512 inline __m512bh inputs(const BFloat16* from, __mmask32 lanes) {
  return (__m512bh)(whole ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(lanes, from));
}

// Integers up to 127 are exact in bfloat16.
template <bool whole>
AVX512 inline __m512bh inputs(const int8_t* from, __mmask32 lanes) {
  const __m256i bytes = whole ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)) : _mm256_maskz_loadu_epi8(lanes, from);
  const __m512i low = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)), high = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1));
  return _mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high), _mm512_cvtepi32_ps(low));
}

// Lines of the next weights, fetched a few with every step.
struct Ahead {
  const char *next, *end;
  int64_t lines;  // with each step
};

template <int outputs, int rows, bool whole, class Weight>
AVX512 inline void step(__m512 (&sums)[outputs][rows], const BFloat16* x, const Weight* weight, int64_t width, __mmask32 lanes) {
  __m512bh factors[rows];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) factors[r] = inputs<whole>(x + r * width, lanes);
#pragma GCC unroll 8
  for (int o = 0; o < outputs; o++) {
    const __m512bh weights = inputs<whole>(weight + o * width, lanes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = _mm512_dpbf16_ps(sums[o][r], factors[r], weights);
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
    for (int64_t i = 0; i < ahead.lines; i++, ahead.next += kLine) _mm_prefetch(ahead.next, _MM_HINT_T1);
    step<outputs, rows, true>(sums, x + k, weight + k, width, ~__mmask32(0));
  }
  if (k < width) step<outputs, rows, false>(sums, x + k, weight + k, width, firstInputs(width - k));
#pragma GCC unroll 8
  for (int o = 0; o < outputs; o++)
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) to[r * stride + o] = _mm512_reduce_add_ps(sums[o][r]);
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

// All rows with `outputs` outputs, four rows at a time. Meanwhile the weights of the next outputs are fetched, a part in each pass.
template <int outputs, class Weight>
AVX512 void allRows(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* to, const void* next, int64_t bytes) {
  const int64_t width = problem.inputs, passes = (problem.rows + 3) / 4, steps = std::max<int64_t>(1, passes * (width / kLanes));
  const auto* from = static_cast<const char*>(next);
  Ahead ahead{from, from + bytes, from == nullptr ? 0 : (bytes / kLine + steps - 1) / steps};
  for (int64_t row = 0; row < problem.rows; row += 4)
    blockOf<outputs>(std::min<int64_t>(4, problem.rows - row), x + row * width, weight, width, to + row * problem.outputs, problem.outputs, ahead);
}

template <class Weight>
AVX512 void product(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums, int64_t begin, int64_t end) {
  const int64_t width = problem.inputs;
  int64_t o = begin;
  // one row leaves registers for eight outputs
  const int64_t together = problem.rows == 1 ? 8 : 4;
  for (; o + together <= end; o += together) {
    const Weight* own = weight + o * width;
    const bool more = o + 2 * together <= end;
    const void* next = more && problem.rows > 1 ? own + together * width : nullptr;
    const int64_t bytes = together * width * static_cast<int64_t>(sizeof(Weight));
    if (together == 8) {
      Ahead none{nullptr, nullptr, 0};
      block<8, 1>(x, own, width, sums + o, problem.outputs, none);
    } else {
      allRows<4>(problem, x, own, sums + o, next, bytes);
    }
  }
  for (; o < end; o++) allRows<1>(problem, x, weight + o * width, sums + o, nullptr, 0);
}

AVX512 void expand(const int8_t* from, BFloat16* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) _mm512_storeu_si512(to + i, (__m512i)inputs<true>(from + i, ~__mmask32(0)));
  if (i < count) _mm512_mask_storeu_epi16(to + i, firstInputs(count - i), (__m512i)inputs<false>(from + i, firstInputs(count - i)));
}

}  // namespace

void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums, int64_t begin, int64_t end) {
  product(problem, x, weight, sums, begin, end);
}

// More than four rows pass over the weights several times: these are then expanded first, a few outputs at a time.
void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums, int64_t begin, int64_t end) {
  if (problem.rows <= 4) return product(problem, x, weight, sums, begin, end);
  const int64_t width = problem.inputs;
  std::vector<BFloat16> expanded(static_cast<size_t>(kRowUnit * width));
  for (int64_t o = begin; o < end; o += kRowUnit) {
    const int64_t count = std::min(kRowUnit, end - o);
    expand(weight + o * width, expanded.data(), count * width);
    product(problem, x, expanded.data(), sums + o, 0, count);
  }
}

#else

bool hasRowsKernel() { return false; }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const BFloat16*, float*, int64_t, int64_t) { std::abort(); }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const int8_t*, float*, int64_t, int64_t) { std::abort(); }

#endif

}  // namespace minicpm
