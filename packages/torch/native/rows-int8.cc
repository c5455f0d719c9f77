// Products of bfloat16 rows with int8 weights (AVX-512). They count as the integers that they are.
//
// Integers up to 127 are exact in bfloat16: tables of the two bytes of each give them, 64 at a time.
#include <cstdlib>
#include <cstring>
#include <memory>

#include "rows-avx512.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

namespace {

constexpr int64_t kBytes = 64;  // weights that become bfloat16 at once

// Of the numbers 0 to 127 in bfloat16.
struct Bytes {
  alignas(64) uint8_t low[128], high[128];

  Bytes() {
    for (int i = 0; i < 128; i++) {
      const BFloat16 number(static_cast<float>(i));
      low[i] = number.x & 0xff;
      high[i] = number.x >> 8;
    }
  }
};

const Bytes& bytes() {
  static const Bytes all;
  return all;
}

// 64 integers as two times 32 numbers, in their order.
struct Expander {
  __m512i low[2], high[2], sign, order;

  AVX512_ROWS Expander() {
    for (int i = 0; i < 2; i++) {
      low[i] = _mm512_load_si512(bytes().low + 64 * i);
      high[i] = _mm512_load_si512(bytes().high + 64 * i);
    }
    sign = _mm512_set1_epi8(static_cast<char>(0x80));
    order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);  // so that the lower and upper halves of lanes are the first and last 32
  }

  AVX512_ROWS void expand(__m512i integers, __m512bh (&to)[2]) const {
    const __m512i ordered = _mm512_permutexvar_epi64(order, integers), sizes = _mm512_abs_epi8(ordered);
    const __m512i l = _mm512_permutex2var_epi8(low[0], sizes, low[1]), h = _mm512_permutex2var_epi8(high[0], sizes, high[1]);
    const __m512i signedHigh = _mm512_ternarylogic_epi64(h, ordered, sign, 0xf8);  // h | (ordered & sign)
    to[0] = (__m512bh)_mm512_unpacklo_epi8(l, signedHigh);
    to[1] = (__m512bh)_mm512_unpackhi_epi8(l, signedHigh);
  }

  static constexpr int kVectors = 2, kStreams = kInt8Streams, kRows = 4;

  // `count` of them, 64 or fewer; the rest is zero.
  AVX512_ROWS void load(const int8_t* from, int64_t count, __m512bh (&to)[2]) const {
    if (count >= kBytes) return expand(_mm512_loadu_si512(from), to);
    expand(_mm512_maskz_loadu_epi8((__mmask64(1) << count) - 1, from), to);
  }
};

AVX512_ROWS void expand(const Expander& expander, const int8_t* from, BFloat16* to, int64_t count) {
  __m512bh numbers[2];
  int64_t i = 0;
  for (; i + kBytes <= count; i += kBytes) {
    expander.load(from + i, kBytes, numbers);
    _mm512_storeu_si512(to + i, (__m512i)numbers[0]);
    _mm512_storeu_si512(to + i + kLanes, (__m512i)numbers[1]);
  }
  if (i == count) return;
  expander.load(from + i, count - i, numbers);
  alignas(64) BFloat16 rest[kBytes];
  _mm512_store_si512(rest, (__m512i)numbers[0]);
  _mm512_store_si512(rest + kLanes, (__m512i)numbers[1]);
  std::memcpy(to + i, rest, static_cast<size_t>(count - i) * sizeof(BFloat16));
}

}  // namespace

// More than a few rows: the weights of all outputs, of which a call has a thread's share, become bfloat16 first.
AVX512_ROWS static void manyRows(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums) {
  const int64_t width = problem.inputs, end = problem.outputs;
  const Expander expander;
  const auto expanded = std::make_unique_for_overwrite<BFloat16[]>(static_cast<size_t>(end * width));
  expand(expander, weight, expanded.get(), end * width);
  rowsProductBf16(problem, x, expanded.get(), sums);
}

void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums) {
  if (problem.rows <= kFewRows) return inStreams(Expander(), problem, x, weight, sums);
  manyRows(problem, x, weight, sums);
}

#else

void rowsProductBf16(const RowsProblem&, const BFloat16*, const int8_t*, float*) { std::abort(); }

#endif

}  // namespace minicpm
