// Layers of generation, in C++. Each row's result is the same in bits whatever rows are beside it.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>

namespace minicpm {

// x wᵀ + bias; int8 weights have `scales`. `together`: the same rows always come together, so that the fastest way to all of them will do. `wide`: in
// float32.
at::Tensor rowsLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& scales,
                      bool together, bool wide);

// x over its root mean square, times offset + weight.
at::Tensor rowsRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps, double offset);

// silu(gate) · up
at::Tensor rowsSwiglu(const at::Tensor& gate, const at::Tensor& up);

// x + alpha · y
at::Tensor rowsAdd(const at::Tensor& x, const at::Tensor& y, double alpha);

// A new position of each sequence: see decode-attention.cc.
at::Tensor decodeAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& table, at::TensorList caches,
                           at::IntArrayRef lengths);

}  // namespace minicpm
