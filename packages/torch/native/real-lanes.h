// Vectors of 64 bytes of float32 or of float64. They are read from and written to narrower numbers. For the inside of CLONES.
#pragma once
#include "lanes.h"

namespace minicpm {

typedef double Doubles __attribute__((vector_size(64)));

template <class Real>
constexpr int64_t kLanes = 64 / static_cast<int64_t>(sizeof(Real));

template <class Real>
using Vector = std::conditional_t<std::is_same_v<Real, float>, Floats, Doubles>;

// In whole vectors.
template <class Real>
constexpr int64_t widthOf(int64_t count) {
  return (count + kLanes<Real> - 1) / kLanes<Real> * kLanes<Real>;
}

template <class Real>
LANES_INLINE Vector<Real> load(const Real* from) {
  Vector<Real> values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <class Real, class Values>
LANES_INLINE void store(Real* to, const Values& values) {
  static_assert(sizeof values == 64);
  std::memcpy(to, &values, sizeof values);
}

LANES_INLINE Floats expOf(const Floats& x) { return exp2Of(x * 1.4426950408889634f); }

LANES_INLINE Doubles expOf(const Doubles& x) {
  Doubles result;
  for (int i = 0; i < 8; i++) result[i] = std::exp(x[i]);
  return result;
}

// The first `count` numbers, zeros after them.
template <class Real, class Number>
LANES_INLINE Vector<Real> loadUpTo(const Number* from, int64_t count) {
  if constexpr (std::is_same_v<Real, float>) {
    return loadSome(from, count);
  } else {
    Vector<Real> values = {};
    std::memcpy(&values, from, static_cast<size_t>(std::min(kLanes<Real>, count)) * sizeof(Real));
    return values;
  }
}

// Zeros after the last number, to the end of its vector.
template <class Real, class Number>
LANES_INLINE void readRow(const Number* from, int64_t size, Real* to) {
  for (int64_t i = 0; i < size; i += kLanes<Real>) store(to + i, loadUpTo<Real>(from + i, size - i));
}

// The first `count` numbers.
template <class Number>
LANES_INLINE void storeUpTo(Number* to, const Floats& values, int64_t count) {
  storeSome(to, values, count);
}

LANES_INLINE void storeUpTo(double* to, const Doubles& values, int64_t count) {
  std::memcpy(to, &values, static_cast<size_t>(std::min<int64_t>(8, count)) * sizeof(double));
}

template <class Real, class Number>
LANES_INLINE void writeRow(const Real* from, int64_t size, Number* to) {
  for (int64_t i = 0; i < size; i += kLanes<Real>) storeUpTo(to + i, load(from + i), size - i);
}

template <class Real>
LANES_INLINE Vector<Real> sigmoidOf(const Vector<Real>& x) {
  return 1 / (1 + expOf(-x));
}

}  // namespace minicpm
