// Layers of generation, in C++. Each row's result is the same in bits whatever rows are beside it.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace minicpm {

// x wᵀ + bias; int8 weights have `scales`. `together`: the same rows always come together, so that the fastest way to all of them will do. `wide`: in
// float32.
at::Tensor rowsLinear(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& scales,
                      bool together, bool wide);

// Of a linear layer: `bias` and `scales` where there are some.
struct RowsLayer {
  at::Tensor weight;
  std::optional<at::Tensor> bias, scales;
};

// x wᵀ + bias of layers with the same x, each by itself in every bit.
std::vector<at::Tensor> rowsLinears(const at::Tensor& x, c10::ArrayRef<RowsLayer> layers);

// silu(gate(x)) · up(x), with the bits of rowsSwiglu of two layers.
at::Tensor rowsGated(const at::Tensor& x, const RowsLayer& gate, const RowsLayer& up);

// x over its root mean square, times offset + weight.
at::Tensor rowsRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps, double offset);

// silu(gate) · up
at::Tensor rowsSwiglu(const at::Tensor& gate, const at::Tensor& up);

// The same of some numbers, in the caller's thread; y may be one of the two.
void swigluOf(const float* gate, const float* up, int64_t count, float* y);
void swigluOf(const c10::BFloat16* gate, const c10::BFloat16* up, int64_t count, c10::BFloat16* y);

// x + alpha · y of some numbers, in the caller's thread; `to` may be one of the two.
void addOf(const float* x, const float* y, float alpha, int64_t count, float* to);
void addOf(const c10::BFloat16* x, const c10::BFloat16* y, float alpha, int64_t count, c10::BFloat16* to);

// Low-rank factors of rows `from` to `from + count` of a layer: scaling · up(down(x)) is added to its output.
struct LowRank {
  int64_t from, count;
  at::Tensor down, up;
  double scaling;
};

// Adds to y = layer(x), whose rows are of the first dimension, what each group has for its rows.
void addLowRank(const at::Tensor& y, const at::Tensor& x, c10::ArrayRef<LowRank> groups);

// Those of each of `layers` layers, as operators take them. Of each one after the other: its layer, first row and rows; down and up.
std::vector<std::vector<LowRank>> lowRanks(size_t layers, at::IntArrayRef places, at::TensorList factors, at::ArrayRef<double> scalings);

// x + alpha · y
at::Tensor rowsAdd(const at::Tensor& x, const at::Tensor& y, double alpha);

// A new position of each sequence: see decode-attention.cc.
at::Tensor decodeAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value, const at::Tensor& table, at::TensorList caches,
                           at::IntArrayRef lengths);

}  // namespace minicpm
