// Products of bfloat16 rows with int8 weights (AVX-512). They count as the integers that they are.
//
// Integers up to 127 are exact in bfloat16: tables of the two bytes of each give them, 64 at a time.
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

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

  static constexpr int kVectors = 2, kStreams = kInt8Streams;

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

// 32 of them, without the tables: where sums take all registers.
AVX512_ROWS inline __m512i converted(const int8_t* from) {
  const auto half = [&](int64_t start) AVX512_ROWS {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + start))));
  };
  return (__m512i)_mm512_cvtne2ps_pbh(half(16), half(0));
}

// A part of the inputs of a block becomes bfloat16, a little with each step of the products with the part before.
struct Expansion {
  const int8_t* from;
  BFloat16* to;
  int64_t width, count, perStep, row, k = 0;

  // Without calls, so that the sums stay in registers.
  __attribute__((always_inline)) AVX512_ROWS inline void step() {
    for (int64_t i = 0; i < perStep && row < kOutputs; i++) {
      const int8_t* own = from + row * width + k;
      _mm_prefetch(reinterpret_cast<const char*>(own) + kOutputs * width, _MM_HINT_T1);  // of the next block
      _mm512_storeu_si512(to + row * kPart + k, converted(own));
      if ((k += kLanes) + kLanes > count) k = 0, row++;
    }
  }

  AVX512_ROWS void finish(const Expander& expander) {
    const int64_t whole = count / kLanes * kLanes;
    while (whole > 0 && row < kOutputs) step();
    for (int64_t r = 0; whole < count && r < kOutputs; r++) expand(expander, from + r * width + whole, to + r * kPart + whole, count - whole);
  }
};

// As for bfloat16 weights.
AVX512_ROWS void fewRows(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums) {
  const int64_t width = problem.inputs, groups = (problem.rows + 3) / 4, end = problem.outputs / kOutputs * kOutputs;
  const Expander expander;
  std::vector<float> kept(keptFloats(problem.rows, 1));
  alignas(64) BFloat16 expanded[2][kOutputs * kPart];
  const auto expansionOf = [&](int64_t o, int64_t k, int64_t i) -> Expansion {
    const int64_t count = std::min(kPart, width - k);
    return {weight + o * width + k, expanded[i], width, count, (kOutputs + groups - 1) / groups, o < end && count >= kLanes ? 0 : kOutputs};
  };
  int64_t i = 0;
  Expansion expansion = expansionOf(0, 0, 0);
  for (int64_t o = 0; o < end; o += kOutputs)
    for (int64_t k = 0; k < width; k += kPart, i ^= 1) {
      expansion.finish(expander);
      const bool isLast = k + kPart >= width;
      expansion = expansionOf(isLast ? o + kOutputs : o, isLast ? 0 : k + kPart, i ^ 1);
      partOfRows(problem, 1, x, expanded[i], kPart, k, std::min(kPart, width - k), kept.data(), sums + o, expansion);
    }
  eachOutput(expander, problem, end, x, weight, sums);
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
  if (problem.rows <= kFewestRows) return fewestRows(Expander(), problem, x, weight, sums);
  if (problem.rows <= kFewRows) return fewRows(problem, x, weight, sums);
  manyRows(problem, x, weight, sums);
}

#else

void rowsProductBf16(const RowsProblem&, const BFloat16*, const int8_t*, float*) { std::abort(); }

#endif

}  // namespace minicpm
