// Products of few rows with a weight, for generation. Each row's result is the same in bits whatever rows are beside it.
//
// A number of the result is a sum over the inputs in a fixed order: in lanes, each lane from the first input to the last, then the lanes by
// halves. How many outputs and rows are worked on at a time changes nothing in it. The weight streams through the cache once.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>

namespace minicpm {

using c10::BFloat16;

constexpr int64_t kRowUnit = 24;  // outputs that belong together when the work is shared out
constexpr int64_t kFewRows = 32;  // up to here, weights are read in some streams: the more outputs at once the better
constexpr int kBf16Streams = 4, kInt8Streams = 6;

// y = x wᵀ; x (rows, inputs), w (outputs, inputs), y (rows, outputs), all dense.
struct RowsProblem {
  int64_t rows, inputs, outputs;
};

// Whether this CPU has the products below.
bool hasRowsKernel();

// The product with AVX-512 BF16.
void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums);

// As above for int8 weights, as the integers that they are.
void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const int8_t* weight, float* sums);

}  // namespace minicpm
