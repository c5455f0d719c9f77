// Sixteen float32 numbers at a time on any processor. The compiler makes of them what each processor has.
//
// CLONES compiles a kernel three times, for AVX-512, for AVX2 and for any processor, and calls the one that fits. Inside, all functions are
// inlined, so that they are compiled for the same.
#pragma once
#include <ATen/Version.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are never passed to functions that are not inlined
#endif

#define LANES_INLINE inline __attribute__((always_inline))

namespace minicpm {

using c10::BFloat16;

constexpr int64_t kFloats = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint16_t Halves __attribute__((vector_size(32)));

template <class To, class From>
LANES_INLINE To bitsAs(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

LANES_INLINE Floats broadcast(float value) { return Floats{} + value; }

LANES_INLINE Floats loadFloats(const float* from) {
  Floats values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

LANES_INLINE Floats loadFloats(const BFloat16* from) {
  Halves bits;
  std::memcpy(&bits, from, sizeof bits);
  return bitsAs<Floats>(__builtin_convertvector(bits, Words) << 16);
}

LANES_INLINE Floats loadFloats(const int8_t* from) {
  typedef int8_t Bytes __attribute__((vector_size(16)));
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, Ints), Floats);
}

// The first `count` numbers, zeros after them.
template <class Number>
LANES_INLINE Floats loadSome(const Number* from, int64_t count) {
  if (count >= kFloats) return loadFloats(from);
  Number some[kFloats] = {};
  std::memcpy(some, from, static_cast<size_t>(count) * sizeof(Number));
  return loadFloats(some);
}

// The sixteen numbers as bfloat16 in the upper halves of words: rounded to the nearest, ties to even; NaN stays NaN.
LANES_INLINE Words roundedWords(const Floats& values) {
  const Words bits = bitsAs<Words>(values);
  const Words near = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000;
  return values == values ? near : (bits | 0x400000) & 0xffff0000;
}

// Rounds to the type and back.
template <class Number>
LANES_INLINE Floats rounded(const Floats& values) {
  if constexpr (std::is_same_v<Number, float>) return values;
  else return bitsAs<Floats>(roundedWords(values));
}

LANES_INLINE void storeFloats(float* to, const Floats& values) { std::memcpy(to, &values, sizeof values); }

LANES_INLINE void storeFloats(BFloat16* to, const Floats& values) {
  const Halves halves = __builtin_convertvector(roundedWords(values) >> 16, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

template <class Number>
LANES_INLINE void storeSome(Number* to, const Floats& values, int64_t count) {
  if (count >= kFloats) return storeFloats(to, values);
  Number some[kFloats];
  storeFloats(some, values);
  std::memcpy(to, some, static_cast<size_t>(count) * sizeof(Number));
}

// 2^x to about two units in the last place; below -126 as at -126, above 127 as at 127.
LANES_INLINE Floats exp2Of(const Floats& given) {
  Floats x = given < -126.0f ? broadcast(-126.0f) : given;
  x = x > 127.0f ? broadcast(127.0f) : x;
  const Ints whole = __builtin_convertvector(x + (x < 0.0f ? broadcast(-0.5f) : broadcast(0.5f)), Ints);
  const Floats f = x - __builtin_convertvector(whole, Floats);  // -0.5 to 0.5
  Floats power = broadcast(1.5403530393381608e-4f);             // ln(2)^k / k!, k = 6 down to 0
  power = power * f + 1.3333558146428443e-3f;
  power = power * f + 9.618129107628477e-3f;
  power = power * f + 5.550410866482158e-2f;
  power = power * f + 2.402265069591007e-1f;
  power = power * f + 6.931471805599453e-1f;
  power = power * f + 1.0f;
  return power * bitsAs<Floats>((whole + 127) << 23);
}

// The lanes by halves: each of the first half and its partner of the second.
LANES_INLINE float sumOf(const Floats& values) {
  typedef float Eight __attribute__((vector_size(32)));
  typedef float Four __attribute__((vector_size(16)));
  Eight eight[2];
  std::memcpy(eight, &values, sizeof eight);
  eight[0] += eight[1];
  Four four[2];
  std::memcpy(four, eight, sizeof four);
  four[0] += four[1];
  return (four[0][0] + four[0][2]) + (four[0][1] + four[0][3]);
}

inline bool capabilityIs(const char* name) {
  static const std::string has = at::get_cpu_capability();
  return has == name;
}

#if defined(__x86_64__)
#define CLONES(name, parameters, arguments)                                                                                   \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))) static void name##Avx512 parameters { name##Inline arguments; } \
  __attribute__((target("avx2,fma"))) static void name##Avx2 parameters { name##Inline arguments; }                          \
  static void name##Plain parameters { name##Inline arguments; }                                                              \
  static void name parameters {                                                                                               \
    if (capabilityIs("AVX512")) return name##Avx512 arguments;                                                                \
    if (capabilityIs("AVX2")) return name##Avx2 arguments;                                                                    \
    name##Plain arguments;                                                                                                    \
  }
#else
#define CLONES(name, parameters, arguments) \
  static void name parameters { name##Inline arguments; }
#endif

}  // namespace minicpm
