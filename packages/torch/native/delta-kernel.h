// The gated delta rule on a CPU, in chunks of tokens. Everything inside is float32 (float64 for float64), vectorised for AVX-512, for AVX2 and for
// any processor. One head of one sequence is worked on by one thread, always in the same order: results do not depend on the number of threads.
//
// Within a chunk that begins with the state S, with keys K, queries Q, values V, rates β, D[i][j] the decay from token j to token i (0 for j > i),
// s the decays since the chunk began and e those until its end:
//   A = β · strictly lower (K Kᵀ) · D        what a token's key reads of the corrections before it
//   U = (1 + A)⁻¹ β (V - s K S)              the corrections
//   O = s Q S + (Q Kᵀ · D) U
//   S' = e₀ S + (e K)ᵀ U
#pragma once
#include <ATen/core/Tensor.h>

#include "real-lanes.h"
#include "sequences.h"

namespace minicpm {

constexpr int64_t kChunk = 64;       // tokens whose corrections are solved for at once
constexpr float kNormEps = 1e-6f;    // of the lengths of queries and keys

struct DeltaOperands {
  at::Tensor query, key, value, decay, beta;  // the last stride of the first three is 1; the others are dense
  int64_t group() const { return value.size(2) / key.size(2); }  // heads of value for each of key
};

// Writes `output`, dense, and overwrites the states, if there are any.
void deltaForward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, at::TensorList states, const at::Tensor& output);

// Writes `gradients`, dense, of all operands.
void deltaBackward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, const at::Tensor& gradOutput, const DeltaOperands& gradients);

// Bytes that the two take beside their operands and results. Estimates of memory count them.
int64_t deltaForwardBytes(const std::vector<RowRange>& sequences, const DeltaOperands& operands);
int64_t deltaBackwardBytes(const std::vector<RowRange>& sequences, const DeltaOperands& operands);

// ---- between the kernels' own files -----------------------------------------------------------------------------------

enum class Into { Replace, Add, Subtract };

// A matrix that is read number by number: any strides.
template <class Real>
struct Left {
  const Real* data;
  int64_t row, column;
};

// Rows of whole vectors, zeros after the numbers that count.
template <class Real>
struct Rows {
  Real* data;
  int64_t stride;
  Real* operator[](int64_t i) const { return data + i * stride; }
  Left<Real> left() const { return {data, stride, 1}; }
  Left<Real> transposed() const { return {data, 1, stride}; }
  Rows from(int64_t row, int64_t column = 0) const { return {data + row * stride + column, stride}; }
};

// c (rows, columns) takes a (rows, depth) · b (depth, columns); columns in whole vectors.
void multiply(int64_t rows, int64_t columns, int64_t depth, Left<float> a, Rows<float> b, Rows<float> c, Into into);
void multiply(int64_t rows, int64_t columns, int64_t depth, Left<double> a, Rows<double> b, Rows<double> c, Into into);

}  // namespace minicpm
