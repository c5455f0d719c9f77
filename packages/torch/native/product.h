// Products of many rows with a weight, and their gradients.
#pragma once
#include <ATen/core/Tensor.h>

namespace minicpm {

// x wᵀ + bias; x (…, inputs), weight (outputs, inputs); no graph is recorded.
at::Tensor rowsTimesWeight(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

// The gradient of x: grad (…, outputs) times weight (outputs, inputs).
at::Tensor gradientOfRows(const at::Tensor& grad, const at::Tensor& weight);

}  // namespace minicpm
