// AVX-512 vector helpers of the bfloat16 kernels. Sixteen numbers at a time, computed in float32.
//
// Only functions marked AVX512 may use it, and only after `hasAvx512Bf16()` said yes: the addon itself is compiled for any x86-64.
#pragma once
#include <ATen/Version.h>
#include <c10/util/BFloat16.h>

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 takes the undefined values inside of its own intrinsics for mistakes
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define MINICPM_AVX512 1
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))

namespace minicpm {

using c10::BFloat16;

// Whether this CPU has the instructions and libtorch uses AVX-512 too: ATEN_CPU_CAPABILITY=avx2 turns off both.
inline bool hasAvx512Bf16() {
  static const bool has = at::get_cpu_capability() == "AVX512" && __builtin_cpu_supports("avx512f") &&
                          __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bf16");
  return has;
}

// The first `count` of 16 lanes.
AVX512 inline __mmask16 firstLanes(int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : count <= 0 ? __mmask16(0) : __mmask16((1u << count) - 1);
}

AVX512 inline __m512 widen(__m256i bf16) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16)); }

AVX512 inline __m512 load(const BFloat16* from, __mmask16 lanes = 0xffff) { return widen(_mm256_maskz_loadu_epi16(lanes, from)); }

// Rounds to the nearest, ties to even.
AVX512 inline void store(BFloat16* to, __m512 values, __mmask16 lanes = 0xffff) {
  _mm256_mask_storeu_epi16(to, lanes, (__m256i)_mm512_cvtneps_pbh(values));
}

// 2^x to two units in the last place of float32; 0 far below, infinity far above.
AVX512 inline __m512 exp2(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 f = _mm512_sub_ps(x, whole);                                // -0.5 to 0.5
  __m512 power = _mm512_set1_ps(1.5403530393381608e-4f);                   // ln(2)^k / k!, k = 6 down to 0
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.3333558146428443e-3f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(9.618129107628477e-3f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(5.550410866482158e-2f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(2.402265069591007e-1f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(6.931471805599453e-1f));
  power = _mm512_fmadd_ps(power, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(power, whole);
}

// 1 / (1 + e^-x)
AVX512 inline __m512 sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, exp2(_mm512_mul_ps(x, _mm512_set1_ps(-1.4426950408889634f)))));
}

// The sums of the lanes of four vectors, each in the same order.
AVX512 inline __m128 sumsOf(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512d low = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd)), high = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
  const __m512 all = _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high));
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

AVX512 inline __m128i sumsOf(__m512i a, __m512i b, __m512i c, __m512i d) {
  const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
  const __m512i all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(all), _mm512_extracti32x8_epi32(all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

// The first `count` of four numbers: 1, 2, 3 or more.
AVX512 inline void storeFirst(float* to, __m128 values, int count) {
  if (count >= 4) return _mm_storeu_ps(to, values);
  if (count == 1) return _mm_store_ss(to, values);
  _mm_storel_pi(reinterpret_cast<__m64*>(to), values);
  if (count == 3) _mm_store_ss(to + 2, _mm_movehl_ps(values, values));
}

// Turns 16 rows of 16 dwords into 16 columns.
AVX512 inline void transpose16(__m512i rows[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    rows[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    rows[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    rows[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  // Now row 4i + k has column 4·lane + k of rows 4i to 4i + 3 in each of its four lanes.
#pragma GCC unroll 4
  for (int k = 0; k < 4; k++) {
    const __m512i a = _mm512_shuffle_i32x4(rows[k], rows[4 + k], 0x88), b = _mm512_shuffle_i32x4(rows[k], rows[4 + k], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(rows[8 + k], rows[12 + k], 0x88), d = _mm512_shuffle_i32x4(rows[8 + k], rows[12 + k], 0xdd);
    t[k] = _mm512_shuffle_i32x4(a, c, 0x88);
    t[4 + k] = _mm512_shuffle_i32x4(b, d, 0x88);
    t[8 + k] = _mm512_shuffle_i32x4(a, c, 0xdd);
    t[12 + k] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) rows[i] = t[i];
}

}  // namespace minicpm
#endif
