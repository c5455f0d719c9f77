// Products with tiles of AMX. A tile of the right side holds 16 pairs of inner numbers for 16 columns; the left side is read where it is.
//
// oneDNN's kernel, called for a block at a time as other processors have it, reaches two thirds of this.
#include "product-amx.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "avx512.h"

#if defined(MINICPM_AVX512) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define MINICPM_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace minicpm {

#if defined(MINICPM_AMX)

#define AMX __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")))

constexpr int64_t kSide = 16, kTileNumbers = 512, kStepNumbers = 2 * kTileNumbers;

static bool oneDnnAllowsAmx() {
  const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
  if (most == nullptr) most = std::getenv("DNNL_MAX_CPU_ISA");
  return most == nullptr || *most == '\0' || strcasestr(most, "amx") != nullptr || strcasecmp(most, "all") == 0 || strcasecmp(most, "default") == 0;
}

bool hasAmx() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kTilesAndBf16 = 1u << 24 | 1u << 22;
    if (!hasAvx512Bf16() || !oneDnnAllowsAmx() || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTilesAndBf16) != kTilesAndBf16) return false;
    return syscall(SYS_arch_prctl, /* ARCH_REQ_XCOMP_PERM */ 0x1023, /* XFEATURE_XTILEDATA */ 18) == 0;
  }();
  return has;
}

static int64_t whole(int64_t count) { return (count + kAmxSide - 1) / kAmxSide * kAmxSide; }

// A tile from (columns, inner): `count` columns of `numbers` inner numbers, which is even.
AVX512 static void tileOfTransposed(const BFloat16* from, int64_t stride, int64_t count, int64_t numbers, BFloat16* to) {
  const __mmask16 lanes = firstLanes(numbers / 2);
  __m512i block[kSide];
  for (int64_t i = 0; i < kSide; i++) block[i] = i < count ? _mm512_maskz_loadu_epi32(lanes, from + i * stride) : _mm512_setzero_si512();
  transpose16(block);
  for (int64_t i = 0; i < kSide; i++) _mm512_storeu_si512(to + i * kAmxSide, block[i]);
}

// A tile from (inner, columns).
AVX512 static void tileOfPairs(const BFloat16* from, int64_t stride, int64_t count, int64_t numbers, BFloat16* to) {
  const __mmask16 lanes = firstLanes(count);
  for (int64_t i = 0; i < kSide; i++) {
    const BFloat16* first = from + 2 * i * stride;
    const __m256i upper = 2 * i < numbers ? _mm256_maskz_loadu_epi16(lanes, first) : _mm256_setzero_si256();
    const __m256i lower = 2 * i + 1 < numbers ? _mm256_maskz_loadu_epi16(lanes, first + stride) : _mm256_setzero_si256();
    _mm512_storeu_si512(to + i * kAmxSide, _mm512_or_si512(_mm512_cvtepu16_epi32(upper), _mm512_slli_epi32(_mm512_cvtepu16_epi32(lower), 16)));
  }
}

void amxLayOut(const Matrix& right, bool transposed, int64_t first, int64_t inner, int64_t column, int64_t columns, BFloat16* panel) {
  for (int64_t c = 0; c < whole(columns); c += kSide)
    for (int64_t k = 0; k < inner; k += kAmxSide) {
      const int64_t count = std::clamp<int64_t>(columns - c, 0, kSide), numbers = std::min(kAmxSide, inner - k);
      BFloat16* to = panel + c / kAmxSide * kAmxSide * whole(inner) + k * kAmxSide + c % kAmxSide / kSide * kTileNumbers;
      if (transposed) tileOfTransposed(right.data + (column + c) * right.stride + first + k, right.stride, count, numbers, to);
      else tileOfPairs(right.data + (first + k) * right.stride + column + c, right.stride, count, numbers, to);
    }
}

// 32 rows of the left side, `stride` apart, and 32 columns of a panel.
AMX static void multiplyBlock(int64_t steps, const BFloat16* left, int64_t stride, const BFloat16* panel, float* sums, int64_t sumStride, bool add) {
  const int64_t row = stride * static_cast<int64_t>(sizeof(BFloat16)), sumRow = sumStride * static_cast<int64_t>(sizeof(float));
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the intrinsics do not tell g++ that they read memory
  if (add) {
    _tile_loadd(0, sums, sumRow);
    _tile_loadd(1, sums + kSide, sumRow);
    _tile_loadd(2, sums + kSide * sumStride, sumRow);
    _tile_loadd(3, sums + kSide * sumStride + kSide, sumRow);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t step = 0; step < steps; step++, left += kAmxSide, panel += kStepNumbers) {
    _tile_loadd(6, panel, 64);
    _tile_loadd(4, left, row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + kTileNumbers, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, left + kSide * stride, row);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sumRow);
  _tile_stored(1, sums + kSide, sumRow);
  _tile_stored(2, sums + kSide * sumStride, sumRow);
  _tile_stored(3, sums + kSide * sumStride + kSide, sumRow);
}

void amxMultiply(const Matrix& left, int64_t rows, int64_t inner, const BFloat16* panel, int64_t columns, float* sums, int64_t stride, bool add,
                 BFloat16* scratch) {
  for (int64_t row = 0; row < rows; row += kAmxSide) {
    const int64_t count = std::min(kAmxSide, rows - row);
    Matrix block{left.data + row * left.stride, left.stride};
    if (count < kAmxSide || inner % kAmxSide != 0) {  // zeros around, as tiles are always whole
      std::memset(scratch, 0, static_cast<size_t>(kAmxSide * whole(inner)) * sizeof(BFloat16));
      for (int64_t i = 0; i < count; i++) std::memcpy(scratch + i * whole(inner), block.data + i * block.stride, static_cast<size_t>(inner) * sizeof(BFloat16));
      block = {scratch, whole(inner)};
    }
    for (int64_t column = 0; column < columns; column += kAmxSide)
      multiplyBlock(whole(inner) / kAmxSide, block.data, block.stride, panel + column * whole(inner), sums + row * stride + column, stride, add);
  }
}

AMX void amxBegin() {
  alignas(64) struct {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } tiles;
  _tile_loadconfig(&tiles);
}

AMX void amxEnd() { _tile_release(); }

#else

bool hasAmx() { return false; }
void amxLayOut(const Matrix&, bool, int64_t, int64_t, int64_t, int64_t, BFloat16*) { std::abort(); }
void amxMultiply(const Matrix&, int64_t, int64_t, const BFloat16*, int64_t, float*, int64_t, bool, BFloat16*) { std::abort(); }
void amxBegin() { std::abort(); }
void amxEnd() { std::abort(); }

#endif

}  // namespace minicpm
