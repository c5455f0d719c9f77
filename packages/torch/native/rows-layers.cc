// minicpm::rows_linears and rows_mlp: several layers of generation in one call.
//
// The same functions in the same order as the calls one by one, so the same bits. Between two products memory is idle: from here they follow within a
// microsecond, from JavaScript within twenty.
#include <ATen/ops/mul.h>

#include <vector>

#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;
using Optionals = c10::List<std::optional<Tensor>>;

static Tensor linear(const Tensor& x, const std::vector<Tensor>& weights, const Optionals& biases, const Optionals& scales, size_t i) {
  return rowsLinear(x, weights[i], biases.get(i), scales.get(i), false, false);
}

// The same rows with several weights.
static std::vector<Tensor> rowsLinears(const Tensor& x, at::TensorList weights, const Optionals& biases, const Optionals& scales) {
  TORCH_CHECK(biases.size() == weights.size() && scales.size() == weights.size(), "expected a bias and scales, or none, for each of ", weights.size(),
              " weights but received ", biases.size(), " and ", scales.size());
  std::vector<Tensor> results;
  for (size_t i = 0; i < weights.size(); i++) results.push_back(linear(x, weights.vec(), biases, scales, i));
  return results;
}

// x + scale · down(silu(gate(norm(x))) · up(norm(x)))
static Tensor rowsMlp(const Tensor& x, const Tensor& norm, double eps, double offset, at::TensorList given, const Optionals& biases,
                      const Optionals& scales, double scale) {
  TORCH_CHECK(given.size() == 3 && biases.size() == 3 && scales.size() == 3, "expected weights, biases and scales of gate, up and down but received ",
              given.size(), ", ", biases.size(), " and ", scales.size());
  const auto weights = given.vec();
  const Tensor normed = rowsRmsNorm(x, norm, eps, offset);
  const Tensor gate = linear(normed, weights, biases, scales, 0), up = linear(normed, weights, biases, scales, 1);
  const Tensor down = linear(rowsSwiglu(gate, up), weights, biases, scales, 2);
  return rowsAdd(x, scale == 1 ? down : at::mul(down, scale), 1);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rows_linears(Tensor x, Tensor[] weights, Tensor?[] biases, Tensor?[] scales) -> Tensor[]", rowsLinears);
  library.def(
      "rows_mlp(Tensor x, Tensor norm, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale) -> Tensor", rowsMlp);
}

}  // namespace minicpm
