// minicpm::ggml_quantize. Rows of float32 to the blocks of GGUF files.
//
// The bytes are those of llama.cpp's own quantizer (without an importance matrix): each block is computed in the same order and without fused
// multiply-adds. K-quants search the best scale of every sub-block; here sixteen sub-blocks are searched side by side, one in each lane.
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Half.h>

#include <string_view>

#include "lanes.h"
#include "own-operators.h"

namespace minicpm {

using at::Tensor;
using c10::Half;

constexpr int64_t kBlock = 32;    // numbers with a scale of their own in Q5_0 and Q8_0
constexpr int64_t kSuper = 256;   // numbers of a K-quant's block
constexpr float kNothing = 1e-15f;  // a sub-block with less in it is zeros

struct Q5_0 {
  Half d;
  uint8_t high[4];
  uint8_t low[kBlock / 2];
};
struct Q8_0 {
  Half d;
  int8_t values[kBlock];
};
struct Q4K {
  Half d, dmin;
  uint8_t scales[12];
  uint8_t low[kSuper / 2];
};
struct Q6K {
  uint8_t low[kSuper / 2];
  uint8_t high[kSuper / 4];
  int8_t scales[kSuper / 16];
  Half d;
};
static_assert(sizeof(Q5_0) == 22 && sizeof(Q8_0) == 34 && sizeof(Q4K) == 144 && sizeof(Q6K) == 210);

// ---- roundings

// To the nearest whole number, ties to even, of a number below four million.
constexpr float kShift = 12582912.0f;

inline int nearest(float value) {
  const float shifted = value + kShift;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return (bits & 0x7fffff) - 0x400000;
}

// To the nearest whole number from `low` to `high`.
LANES_INLINE Floats nearest(float low, float high, const Floats& values) {
  const Floats most = values > high ? broadcast(high) : values;
  return ((most < low ? broadcast(low) : most) + kShift) - kShift;
}

LANES_INLINE Floats absolute(const Floats& values) { return bitsAs<Floats>(bitsAs<Ints>(values) & 0x7fffffff); }

// Numbers of sixteen sub-blocks of `size`, side by side: `to[i]` has the i-th of each.
template <int64_t size>
LANES_INLINE void sideBySide(const float* from, Floats* to) {
  float turned[size * kFloats];
  for (int64_t lane = 0; lane < kFloats; lane++)
    for (int64_t i = 0; i < size; i++) turned[i * kFloats + lane] = from[lane * size + i];
  std::memcpy(to, turned, sizeof turned);
}

// ---- Q8_0 and Q5_0

LANES_INLINE void quantizeQ8Inline(const float* from, int64_t blocks, Q8_0* to) {
  for (int64_t b = 0; b < blocks; b++, from += kBlock) {
    float most = 0;
    for (int64_t i = 0; i < kBlock; i++) most = std::max(most, std::fabs(from[i]));
    const float d = most / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    to[b].d = d;
    for (int64_t part = 0; part < kBlock; part += kFloats) {
      const Floats scaled = loadFloats(from + part) * inverse;
      const Ints whole = __builtin_convertvector(scaled, Ints);  // towards zero
      const Floats rest = scaled - __builtin_convertvector(whole, Floats);
      const Ints away = rest >= 0.5f ? Ints{} + 1 : rest <= -0.5f ? Ints{} - 1 : Ints{};
      const Ints rounded = whole + away;
      for (int64_t i = 0; i < kFloats; i++) to[b].values[part + i] = static_cast<int8_t>(rounded[i]);
    }
  }
}
CLONES(quantizeQ8, (const float* from, int64_t blocks, Q8_0* to), (from, blocks, to))

static void quantizeQ5(const float* from, int64_t blocks, Q5_0* to) {
  for (int64_t b = 0; b < blocks; b++, from += kBlock) {
    float most = 0, extreme = 0;
    for (int64_t i = 0; i < kBlock; i++)
      if (std::fabs(from[i]) > most) {
        most = std::fabs(from[i]);
        extreme = from[i];
      }
    const float d = extreme / -16.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    to[b].d = d;
    const auto level = [&](int64_t i) { return static_cast<uint32_t>(std::min(31, static_cast<int>(from[i] * inverse + 16.5f))); };
    uint32_t high = 0;
    for (int64_t i = 0; i < kBlock / 2; i++) {
      const uint32_t first = level(i), second = level(i + kBlock / 2);
      to[b].low[i] = static_cast<uint8_t>((first & 15) | (second & 15) << 4);
      high |= (first >> 4) << i | (second >> 4) << (i + kBlock / 2);
    }
    std::memcpy(to[b].high, &high, sizeof high);
  }
}

// ---- Q4_K: x = d * scale * level - dmin * min, eight sub-blocks of 32

struct Affine {
  Floats scale, least;  // x = scale * level - least
};

// The scale and the least number of each of sixteen sub-blocks with the smallest weighted squared error that the search finds; `levels` gets
// their levels, 0 to 15.
LANES_INLINE Affine searchAffine(const Floats* x, const Floats* weights, Floats* levels) {
  constexpr float kLevels = 15;
  constexpr int kSteps = 20;
  Floats least = x[0], most = x[0], sumW = weights[0], sumX = sumW * x[0];
  for (int64_t i = 1; i < kBlock; i++) {
    least = x[i] < least ? x[i] : least;
    most = x[i] > most ? x[i] : most;
    sumW += weights[i];
    sumX += weights[i] * x[i];
  }
  least = least > 0.0f ? Floats{} : least;
  const Ints flat = most == least;
  const Floats lowest = least, first = kLevels / (most - least);
  Floats scale = 1.0f / first, bestError{};
  for (int64_t i = 0; i < kBlock; i++) {
    levels[i] = nearest(0, kLevels, first * (x[i] - least));
    const Floats off = scale * levels[i] + least - x[i];
    bestError += weights[i] * (off * off);
  }
  for (int step = 0; step <= kSteps; step++) {
    const Floats inverse = (-1.0f + 0.1f * static_cast<float>(step) + kLevels) / (most - least);
    Floats sumL{}, sumL2{}, sumXL{}, tried[kBlock];
    for (int64_t i = 0; i < kBlock; i++) {
      const Floats level = nearest(0, kLevels, inverse * (x[i] - least)), weighted = weights[i] * level;
      tried[i] = level;
      sumL += weighted;
      sumL2 += weighted * level;
      sumXL += weighted * x[i];
    }
    const Floats determinant = sumW * sumL2 - sumL * sumL;
    Floats newScale = (sumW * sumXL - sumX * sumL) / determinant;
    Floats newLeast = (sumL2 * sumX - sumL * sumXL) / determinant;
    const Ints above = newLeast > 0.0f;
    newScale = above ? sumXL / sumL2 : newScale;
    newLeast = above ? Floats{} : newLeast;
    Floats error{};
    for (int64_t i = 0; i < kBlock; i++) {
      const Floats off = newScale * tried[i] + newLeast - x[i];
      error += weights[i] * (off * off);
    }
    const Ints better = (determinant > 0.0f) & (error < bestError);
    for (int64_t i = 0; i < kBlock; i++) levels[i] = better ? tried[i] : levels[i];
    bestError = better ? error : bestError;
    scale = better ? newScale : scale;
    least = better ? newLeast : least;
  }
  for (int64_t i = 0; i < kBlock; i++) levels[i] = flat ? Floats{} : levels[i];
  return {flat ? Floats{} : scale, flat ? -lowest : -least};
}

// Six-bit scales and minima of eight sub-blocks in twelve bytes.
inline void packScales(const uint8_t* scales, const uint8_t* minima, uint8_t* to) {
  for (int i = 0; i < 4; i++) {
    to[i] = static_cast<uint8_t>(scales[i] | (scales[i + 4] >> 4) << 6);
    to[i + 4] = static_cast<uint8_t>(minima[i] | (minima[i + 4] >> 4) << 6);
    to[i + 8] = static_cast<uint8_t>((scales[i + 4] & 15) | (minima[i + 4] & 15) << 4);
  }
}

// Two blocks: sixteen sub-blocks.
LANES_INLINE void quantizeQ4KInline(const float* from, Q4K* to) {
  Floats x[kBlock], weights[kBlock];
  Floats levels[kBlock];
  sideBySide<kBlock>(from, x);
  Floats squares{};
  for (int64_t i = 0; i < kBlock; i++) squares += x[i] * x[i];
  Floats mean = squares / 32.0f;
  for (int64_t lane = 0; lane < kFloats; lane++) mean[lane] = std::sqrt(mean[lane]);
  for (int64_t i = 0; i < kBlock; i++) weights[i] = mean + absolute(x[i]);
  const Affine found = searchAffine(x, weights, levels);

  Floats scales{}, minima{};
  for (int64_t block = 0; block < 2; block++) {
    const int64_t lane = 8 * block;
    float mostScale = 0, mostMin = 0;
    for (int64_t j = 0; j < 8; j++) {
      mostScale = std::max(mostScale, found.scale[lane + j]);
      mostMin = std::max(mostMin, found.least[lane + j]);
    }
    const float inverseScale = mostScale > 0 ? 63.0f / mostScale : 0.0f;
    const float inverseMin = mostMin > 0 ? 63.0f / mostMin : 0.0f;
    const Half d = mostScale / 63.0f, dmin = mostMin / 63.0f;
    uint8_t wholeScales[8], wholeMinima[8];
    for (int64_t j = 0; j < 8; j++) {
      // as unsigned bytes: a scale below zero becomes the largest
      wholeScales[j] = std::min<uint8_t>(63, static_cast<uint8_t>(nearest(inverseScale * found.scale[lane + j])));
      wholeMinima[j] = std::min<uint8_t>(63, static_cast<uint8_t>(nearest(inverseMin * found.least[lane + j])));
      scales[lane + j] = static_cast<float>(d) * wholeScales[j];
      minima[lane + j] = static_cast<float>(dmin) * wholeMinima[j];
    }
    to[block].d = d;
    to[block].dmin = dmin;
    packScales(wholeScales, wholeMinima, to[block].scales);
  }
  const Ints empty = scales == 0.0f;
  Ints whole[kBlock];
  for (int64_t i = 0; i < kBlock; i++)
    whole[i] = __builtin_convertvector(empty ? levels[i] : nearest(0, 15, (x[i] + minima) / scales), Ints);
  int32_t turned[kBlock * kFloats];
  std::memcpy(turned, whole, sizeof turned);
  for (int64_t block = 0; block < 2; block++)
    for (int64_t pair = 0; pair < 4; pair++)
      for (int64_t i = 0; i < kBlock; i++) {
        const int32_t* both = turned + i * kFloats + 8 * block + 2 * pair;
        to[block].low[pair * kBlock + i] = static_cast<uint8_t>(both[0] | both[1] << 4);
      }
}
CLONES(quantizeQ4K, (const float* from, Q4K* to), (from, to))

// ---- Q6_K: x = d * scale * level, sixteen sub-blocks of 16

// The scale of each of sixteen sub-blocks with the smallest squared error, weighted by squares, that the search finds; `levels` gets their
// levels, -32 to 31.
LANES_INLINE Floats searchSymmetric(const Floats* x, Floats* levels) {
  constexpr int kSize = 16;
  constexpr float kLevels = 32;
  Floats amount{}, extreme{};
  for (int i = 0; i < kSize; i++) {
    const Floats size = absolute(x[i]);
    const Ints larger = size > amount;
    amount = larger ? size : amount;
    extreme = larger ? x[i] : extreme;
  }
  const Ints nothing = amount < kNothing;
  Floats scale{}, best{};
  for (int step = 0; step <= 18; step++) {  // the middle first
    const int offset = step == 0 ? 0 : step <= 9 ? step - 10 : step - 9;
    const Floats inverse = -(kLevels + 0.1f * static_cast<float>(offset)) / extreme;
    Floats sumXL{}, sumL2{}, tried[kSize];
    for (int i = 0; i < kSize; i++) {
      const Floats level = nearest(-kLevels, kLevels - 1, inverse * x[i]), weight = x[i] * x[i];
      tried[i] = level;
      sumXL += weight * x[i] * level;
      sumL2 += weight * level * level;
    }
    const Ints some = sumL2 > 0.0f;
    const Ints better = step == 0 ? some : some & (sumXL * sumXL > best * sumL2);
    const Floats newScale = sumXL / sumL2;
    scale = better ? newScale : scale;
    best = better ? newScale * sumXL : best;
    for (int i = 0; i < kSize; i++) levels[i] = better ? tried[i] : levels[i];
  }
  for (int i = 0; i < kSize; i++) levels[i] = nothing ? broadcast(-kLevels) : levels[i];
  return nothing ? Floats{} : scale;
}

LANES_INLINE void quantizeQ6KInline(const float* from, Q6K* to) {
  Floats x[16];
  Floats levels[16];
  sideBySide<16>(from, x);
  const Floats found = searchSymmetric(x, levels);
  float amount = 0, extreme = 0;
  for (int64_t j = 0; j < kFloats; j++)
    if (std::fabs(found[j]) > amount) {
      amount = std::fabs(found[j]);
      extreme = found[j];
    }
  if (amount < kNothing) {
    std::memset(static_cast<void*>(to), 0, sizeof *to);
    return;
  }
  const float inverse = -128.0f / extreme;
  to->d = 1.0f / inverse;
  Floats scales{};
  for (int64_t j = 0; j < kFloats; j++) {
    to->scales[j] = static_cast<int8_t>(std::min(127, nearest(inverse * found[j])));
    scales[j] = static_cast<float>(to->d) * to->scales[j];
  }
  const Ints empty = scales == 0.0f;
  Ints whole[16];
  for (int64_t i = 0; i < 16; i++)
    whole[i] = __builtin_convertvector(empty ? levels[i] : nearest(-32, 31, x[i] / scales), Ints) + 32;
  int32_t turned[16 * kFloats];
  std::memcpy(turned, whole, sizeof turned);
  const auto level = [&](int64_t i) { return turned[i % 16 * kFloats + i / 16]; };
  for (int64_t half = 0; half < 2; half++)
    for (int64_t i = 0; i < 32; i++) {
      const int64_t at = 128 * half + i;
      const int32_t four[] = {level(at), level(at + 32), level(at + 64), level(at + 96)};
      to->low[64 * half + i] = static_cast<uint8_t>((four[0] & 15) | (four[2] & 15) << 4);
      to->low[64 * half + i + 32] = static_cast<uint8_t>((four[1] & 15) | (four[3] & 15) << 4);
      to->high[32 * half + i] = static_cast<uint8_t>(four[0] >> 4 | four[1] >> 4 << 2 | four[2] >> 4 << 4 | four[3] >> 4 << 6);
    }
}
CLONES(quantizeQ6K, (const float* from, Q6K* to), (from, to))

// ---- all blocks of a tensor, in all threads

static void quantizeQ4KBlocks(const float* from, int64_t blocks, Q4K* to) {
  for (int64_t b = 0; b < blocks; b += 2) {
    if (b + 2 <= blocks) {
      quantizeQ4K(from + b * kSuper, to + b);
      continue;
    }
    float two[2 * kSuper] = {};
    Q4K made[2];
    std::memcpy(two, from + b * kSuper, kSuper * sizeof(float));
    quantizeQ4K(two, made);
    to[b] = made[0];
  }
}

static void quantizeQ6KBlocks(const float* from, int64_t blocks, Q6K* to) {
  for (int64_t b = 0; b < blocks; b++) quantizeQ6K(from + b * kSuper, to + b);
}

template <class Block>
static Tensor inBlocks(const Tensor& values, int64_t size, void (*quantize)(const float*, int64_t, Block*)) {
  TORCH_CHECK(values.dim() == 2 && values.size(1) % size == 0, "expected rows of a multiple of ", size, " numbers");
  const int64_t rows = values.size(0), bytes = values.size(1) / size * static_cast<int64_t>(sizeof(Block));
  Tensor result = at::empty({rows, bytes}, values.options().dtype(at::kByte));
  if (values.is_meta()) return result;
  const Tensor whole = values.contiguous();
  const auto* from = whole.const_data_ptr<float>();
  auto* to = reinterpret_cast<Block*>(result.mutable_data_ptr());
  constexpr int64_t kTogether = 16;  // blocks that a thread takes at once
  const int64_t blocks = whole.numel() / size;
  at::parallel_for(0, (blocks + kTogether - 1) / kTogether, 4, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kTogether, last = std::min(end * kTogether, blocks);
    quantize(from + first * size, last - first, to + first);
  });
  return result;
}

// Rows (n, width) of float32 to bytes (n, bytes of a row). `type`: q5_0, q8_0 (width a multiple of 32), q4_k, q6_k (of 256). Numbers have to be
// finite.
static Tensor quantizeForGguf(const Tensor& values, std::string_view type) {
  TORCH_CHECK(values.scalar_type() == at::kFloat && (values.is_cpu() || values.is_meta()), "expected float32 rows on the CPU");
  if (type == "q8_0") return inBlocks<Q8_0>(values, kBlock, quantizeQ8);
  if (type == "q5_0") return inBlocks<Q5_0>(values, kBlock, quantizeQ5);
  if (type == "q4_k") return inBlocks<Q4K>(values, kSuper, quantizeQ4KBlocks);
  TORCH_CHECK(type == "q6_k", "expected q5_0, q8_0, q4_k or q6_k but received ", type);
  return inBlocks<Q6K>(values, kSuper, quantizeQ6KBlocks);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("ggml_quantize(Tensor values, str type) -> Tensor", quantizeForGguf);
}

}  // namespace minicpm
