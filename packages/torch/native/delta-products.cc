// Products of the small matrices of delta-kernel.h. A number of the result is summed from the first to the last, wherever it is in the matrix.
#include "delta-kernel.h"

namespace minicpm {

namespace {

// As wide as a register, so that the sums stay in registers.
template <class Real, int bytes>
struct Register {
  typedef Real Type __attribute__((vector_size(bytes)));
};

template <int bytes, int rows, int vectors, class Real>
LANES_INLINE void tile(int64_t depth, const Left<Real>& a, const Rows<Real>& b, const Rows<Real>& c, Into into) {
  using Values = typename Register<Real, bytes>::Type;
  constexpr int64_t lanes = bytes / sizeof(Real);
  Values sums[rows][vectors] = {};
  for (int64_t k = 0; k < depth; k++) {
    Values right[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) std::memcpy(&right[v], b.data + k * b.stride + v * lanes, bytes);
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
      Values before, all = sums[r][v];
      std::memcpy(&before, to, bytes);
      if (into == Into::Add) all = before + all;
      if (into == Into::Subtract) all = before - all;
      std::memcpy(to, &all, bytes);
    }
  }
}

// All rows of some columns: as many at a time as the registers hold, then fewer.
template <int bytes, int atOnce, int vectors, class Real>
LANES_INLINE void panel(int64_t rows, int64_t depth, Left<Real> a, const Rows<Real>& b, Rows<Real> c, Into into) {
  while (rows >= atOnce) {
    tile<bytes, atOnce, vectors>(depth, a, b, c, into);
    a.data += atOnce * a.row;
    c.data += atOnce * c.stride;
    rows -= atOnce;
  }
  if constexpr (atOnce > 1) panel<bytes, atOnce / 2, vectors>(rows, depth, a, b, c, into);
}

template <int bytes, int atOnce, int vectors, class Real>
LANES_INLINE void multiplyInline(int64_t rows, int64_t columns, int64_t depth, Left<Real> a, Rows<Real> b, Rows<Real> c, Into into) {
  constexpr int64_t lanes = bytes / sizeof(Real);
  int64_t column = 0;
  for (; column + vectors * lanes <= columns; column += vectors * lanes) panel<bytes, atOnce, vectors>(rows, depth, a, b.from(0, column), c.from(0, column), into);
  for (; column < columns; column += lanes) panel<bytes, atOnce, 1>(rows, depth, a, b.from(0, column), c.from(0, column), into);
}

// As many sums as the registers of each processor hold.
#if defined(__x86_64__)
#define MULTIPLY(Real)                                                                                                                             \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma"))) void multiplyAvx512(int64_t rows, int64_t columns, int64_t depth,        \
                                                                                             Left<Real> a, Rows<Real> b, Rows<Real> c, Into into) { \
    multiplyInline<64, 8, 2>(rows, columns, depth, a, b, c, into);                                                                                    \
  }                                                                                                                                                \
  __attribute__((target("avx2,fma"))) void multiplyAvx2(int64_t rows, int64_t columns, int64_t depth, Left<Real> a, Rows<Real> b, Rows<Real> c,     \
                                                        Into into) {                                                                               \
    multiplyInline<32, 4, 2>(rows, columns, depth, a, b, c, into);                                                                                     \
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
  multiplyInline<16, 4, 2>(rows, columns, depth, a, b, c, into);
}

}  // namespace

void multiply(int64_t rows, int64_t columns, int64_t depth, Left<float> a, Rows<float> b, Rows<float> c, Into into) {
  multiplyAnywhere(rows, columns, depth, a, b, c, into);
}

void multiply(int64_t rows, int64_t columns, int64_t depth, Left<double> a, Rows<double> b, Rows<double> c, Into into) {
  multiplyAnywhere(rows, columns, depth, a, b, c, into);
}

}  // namespace minicpm
