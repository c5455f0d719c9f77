// The inside of products on processors with AMX. Blocks are 32 rows and 32 columns: four tiles of sums.
#pragma once
#include "product-kernel.h"

namespace minicpm {

constexpr int64_t kAmxSide = 32;  // rows, columns and inner numbers that belong together

// Whether this processor and this system have tiles of bfloat16, and ONEDNN_MAX_CPU_ISA leaves them to use.
bool hasAmx();

// Lays out `inner` numbers from `first` of the columns from `column` of the right side.
void amxLayOut(const Matrix& right, bool transposed, int64_t first, int64_t inner, int64_t column, int64_t columns, BFloat16* panel);

// What amxMultiply takes beside, in numbers.
inline int64_t amxLeftNumbers(int64_t inner) { return kAmxSide * (inner + kAmxSide); }

// sums (rows rounded up to kAmxSide; `stride` from row to row) = left (rows, inner) · panel; `add`: to what they have.
void amxMultiply(const Matrix& left, int64_t rows, int64_t inner, const BFloat16* panel, int64_t columns, float* sums, int64_t stride, bool add,
                 BFloat16* scratch);

// Before and after a thread uses the above.
void amxBegin();
void amxEnd();

}  // namespace minicpm
