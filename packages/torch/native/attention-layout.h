// Matrix layouts for oneDNN's bfloat16 products. Tiles have 64 rows. The right-hand side comes in pairs of rows: [rows
// / 2][columns][2].
#pragma once
#include <algorithm>

#include "attention-kernel.h"
#include "avx512.h"

#if defined(MINICPM_AVX512)
namespace minicpm {

// The transpose of `count` rows of `width` numbers (even), in pairs: (paddedWidth / 2, kTile, 2), zeros where there is nothing.
AVX512 inline void packTransposed(const BFloat16* from, int64_t stride, int64_t count, int64_t width, int64_t paddedWidth, BFloat16* to) {
  auto* out = reinterpret_cast<int32_t*>(to);
  for (int64_t pair = 0; pair < paddedWidth / 2; pair += 16) {
    const __mmask16 lanes = firstLanes(width / 2 - pair);
    for (int64_t row = 0; row < kTile; row += 16) {
      __m512i block[16];
      for (int64_t i = 0; i < 16; i++)
        block[i] = row + i < count ? _mm512_maskz_loadu_epi32(lanes, from + (row + i) * stride + 2 * pair) : _mm512_setzero_si512();
      transpose16(block);
      const int64_t pairs = std::min<int64_t>(16, paddedWidth / 2 - pair);
      for (int64_t i = 0; i < pairs; i++) _mm512_storeu_si512(out + (pair + i) * kTile + row, block[i]);
    }
  }
}

// A tile of `count` rows in pairs, by blocks of kTile columns: block c is (allRows / 2, its width, 2) and begins at c · kTile · allRows of
// `to`, where the tile begins at row `place`. Zeros where there is nothing.
AVX512 inline void packPairs(const BFloat16* from, int64_t stride, int64_t count, int64_t width, int64_t paddedWidth, int64_t place,
                             int64_t allRows, BFloat16* to) {
  for (int64_t left = 0; left < paddedWidth; left += kTile) {
    const int64_t blockWidth = std::min(kTile, paddedWidth - left);
    auto* out = reinterpret_cast<int32_t*>(to + left * allRows + place * blockWidth);
    for (int64_t row = 0; row < kTile; row += 2) {
      for (int64_t column = 0; column < blockWidth; column += 16) {
        const __mmask16 lanes = firstLanes(width - left - column);
        const BFloat16* first = from + row * stride + left + column;
        const __m256i upper = row < count ? _mm256_maskz_loadu_epi16(lanes, first) : _mm256_setzero_si256();
        const __m256i lower = row + 1 < count ? _mm256_maskz_loadu_epi16(lanes, first + stride) : _mm256_setzero_si256();
        const __m512i pairs = _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16));
        _mm512_storeu_si512(out + row / 2 * blockWidth + column, pairs);
      }
    }
  }
}

// `count` rows as they are: (kTile, paddedWidth), zeros where there is nothing.
AVX512 inline void copyRows(const BFloat16* from, int64_t stride, int64_t count, int64_t width, int64_t paddedWidth, BFloat16* to) {
  for (int64_t row = 0; row < kTile; row++)
    for (int64_t column = 0; column < paddedWidth; column += 16)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + row * paddedWidth + column),
                          row < count ? _mm256_maskz_loadu_epi16(firstLanes(width - column), from + row * stride + column)
                                      : _mm256_setzero_si256());
}

// The output of packTransposed as a plain matrix: (paddedWidth, kTile).
AVX512 inline void splitPairs(const BFloat16* from, int64_t paddedWidth, BFloat16* to) {
  const auto* in = reinterpret_cast<const int32_t*>(from);
  for (int64_t pair = 0; pair < paddedWidth / 2; pair++) {
    for (int64_t column = 0; column < kTile; column += 16) {
      const __m512i both = _mm512_loadu_si512(in + pair * kTile + column);
      BFloat16* upper = to + 2 * pair * kTile + column;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper), _mm512_cvtepi32_epi16(both));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper + kTile), _mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
    }
  }
}

// A float32 (width, kTile) matrix, transposed and rounded into `count` rows.
AVX512 inline void storeTransposed(const float* from, int64_t count, int64_t width, BFloat16* to, int64_t stride) {
  for (int64_t column = 0; column < width; column += 16) {
    for (int64_t row = 0; row < count; row += 16) {
      __m512i block[16];
      for (int64_t i = 0; i < 16; i++)
        block[i] = column + i < width ? _mm512_castps_si512(_mm512_loadu_ps(from + (column + i) * kTile + row)) : _mm512_setzero_si512();
      transpose16(block);
      for (int64_t i = 0; i < 16 && row + i < count; i++)
        store(to + (row + i) * stride + column, _mm512_castsi512_ps(block[i]), firstLanes(width - column));
    }
  }
}

}  // namespace minicpm
#endif
