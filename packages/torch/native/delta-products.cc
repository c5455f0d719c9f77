// Products of the small matrices of delta-kernel.h. A number of the result is summed from the first to the last, wherever it is in the matrix.
#include "delta-kernel.h"

namespace minicpm {

namespace {

typedef double Doubles __attribute__((vector_size(64)));
template <class Real>
using Vector = std::conditional_t<std::is_same_v<Real, float>, Floats, Doubles>;

template <class Real>
LANES_INLINE Vector<Real> load(const Real* from) {
  Vector<Real> values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <int rows, int vectors, class Real>
LANES_INLINE void tile(int64_t depth, const Left<Real>& a, const Rows<Real>& b, const Rows<Real>& c, Into into) {
  constexpr int64_t lanes = 64 / sizeof(Real);
  Vector<Real> sums[rows][vectors] = {};
  for (int64_t k = 0; k < depth; k++) {
    Vector<Real> right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = load(b.data + k * b.stride + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      const Real left = a.data[r * a.row + k * a.column];
#pragma GCC unroll 2
      for (int v = 0; v < vectors; v++) sums[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++) {
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
      Real* const to = c.data + r * c.stride + v * lanes;
      Vector<Real> all = sums[r][v];
      if (into == Into::Add) all = load(to) + all;
      if (into == Into::Subtract) all = load(to) - all;
      std::memcpy(to, &all, sizeof all);
    }
  }
}

// All rows of some columns: as many at a time as the registers hold, then fewer.
template <int atOnce, int vectors, class Real>
LANES_INLINE void panel(int64_t rows, int64_t depth, Left<Real> a, const Rows<Real>& b, Rows<Real> c, Into into) {
  while (rows >= atOnce) {
    tile<atOnce, vectors>(depth, a, b, c, into);
    a.data += atOnce * a.row;
    c.data += atOnce * c.stride;
    rows -= atOnce;
  }
  if constexpr (atOnce > 1) panel<atOnce / 2, vectors>(rows, depth, a, b, c, into);
}

template <int atOnce, int vectors, class Real>
LANES_INLINE void multiplyInline(int64_t rows, int64_t columns, int64_t depth, Left<Real> a, Rows<Real> b, Rows<Real> c, Into into) {
  constexpr int64_t lanes = 64 / sizeof(Real);
  int64_t column = 0;
  for (; column + vectors * lanes <= columns; column += vectors * lanes) panel<atOnce, vectors>(rows, depth, a, b.from(0, column), c.from(0, column), into);
  for (; column < columns; column += lanes) panel<atOnce, 1>(rows, depth, a, b.from(0, column), c.from(0, column), into);
}

// As many sums as the registers of each processor hold.
#if defined(__x86_64__)
#define MULTIPLY(Real)                                                                                                                             \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))) void multiplyAvx512(int64_t rows, int64_t columns, int64_t depth,        \
                                                                                             Left<Real> a, Rows<Real> b, Rows<Real> c, Into into) { \
    multiplyInline<8, 2>(rows, columns, depth, a, b, c, into);                                                                                    \
  }                                                                                                                                                \
  __attribute__((target("avx2,fma"))) void multiplyAvx2(int64_t rows, int64_t columns, int64_t depth, Left<Real> a, Rows<Real> b, Rows<Real> c,     \
                                                        Into into) {                                                                               \
    multiplyInline<6, 1>(rows, columns, depth, a, b, c, into);                                                                                     \
  }
#else
#define MULTIPLY(Real)
#endif

MULTIPLY(float)
MULTIPLY(double)
#undef MULTIPLY

template <class Real>
void multiplyAnywhere(int64_t rows, int64_t columns, int64_t depth, Left<Real> a, Rows<Real> b, Rows<Real> c, Into into) {
#if defined(__x86_64__)
  if (capabilityIs("AVX512")) return multiplyAvx512(rows, columns, depth, a, b, c, into);
  if (capabilityIs("AVX2")) return multiplyAvx2(rows, columns, depth, a, b, c, into);
#endif
  multiplyInline<2, 1>(rows, columns, depth, a, b, c, into);
}

}  // namespace

void multiply(int64_t rows, int64_t columns, int64_t depth, Left<float> a, Rows<float> b, Rows<float> c, Into into) {
  multiplyAnywhere(rows, columns, depth, a, b, c, into);
}

void multiply(int64_t rows, int64_t columns, int64_t depth, Left<double> a, Rows<double> b, Rows<double> c, Into into) {
  multiplyAnywhere(rows, columns, depth, a, b, c, into);
}

}  // namespace minicpm
