// Products of many rows in bfloat16. They are accumulated in float32 and rounded once.
//
// The right side is laid out as the processor's instructions want it, a panel at a time, in the cache of the thread that uses it: libtorch's own way lays
// out the whole matrix in memory at each call. oneDNN multiplies the blocks, through ATen's brgemm, with AMX where there is some.
#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>

namespace minicpm {

using c10::BFloat16;

// A matrix whose rows are dense.
struct Matrix {
  const BFloat16* data;
  int64_t stride;  // from row to row
};

struct ProductShape {
  int64_t rows, columns, inner;
};

// Whether the processor and this libtorch have the products, and the shape is one for which they are faster than libtorch's.
bool hasProduct(const ProductShape& shape);

// to (rows, columns; dense) = left (rows, inner) · right (inner, columns), or right (columns, inner) where it is `transposed`, + bias, which may be null.
void productBf16(const ProductShape& shape, const Matrix& left, const Matrix& right, bool transposed, const BFloat16* bias, BFloat16* to);

}  // namespace minicpm
