// Several layers of generation in one call. minicpm::rows_mlp and decode_layer.
//
// The same functions in the same order as the calls one by one, so the same bits. Between two products memory is idle: from here they follow within a
// microsecond, from JavaScript within forty, because weights drive everything else out of the caches.
#include <ATen/ops/mul.h>

#include <vector>

#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;
using Optionals = c10::List<std::optional<Tensor>>;

namespace {

// Weights, biases and scales of some layers, in their order.
struct Layers {
  std::vector<Tensor> weights;
  const Optionals &biases, &scales;

  Layers(at::TensorList weights, const Optionals& biases, const Optionals& scales, size_t count)
      : weights(weights.vec()), biases(biases), scales(scales) {
    TORCH_CHECK(weights.size() == count && biases.size() == count && scales.size() == count, "expected weights, biases and scales of ", count,
                " layers but received ", weights.size(), ", ", biases.size(), " and ", scales.size());
  }

  Tensor linear(size_t i, const Tensor& x) const { return rowsLinear(x, weights[i], biases.get(i), scales.get(i), false, false); }
};

struct Norm {
  double eps, offset;
  Tensor of(const Tensor& x, const Tensor& weight) const { return rowsRmsNorm(x, weight, eps, offset); }
};

Tensor added(const Tensor& x, const Tensor& y, double scale) { return rowsAdd(x, scale == 1 ? y : at::mul(y, scale), 1); }

// x + scale · down(silu(gate(y)) · up(y)), y = norm(x); gate is layer `first`
Tensor mlp(const Tensor& x, const Tensor& norm, const Norm& how, const Layers& layers, size_t first, double scale) {
  const Tensor normed = how.of(x, norm);
  const Tensor gate = layers.linear(first, normed), up = layers.linear(first + 1, normed);
  return added(x, layers.linear(first + 2, rowsSwiglu(gate, up)), scale);
}

// Each head (of `weight`'s size) by itself
Tensor normedHeads(const Tensor& x, const std::optional<Tensor>& weight, const Norm& how) {
  return weight ? how.of(x.view({-1, weight->size(0)}), *weight).view(x.sizes()) : x;
}

}  // namespace

static Tensor rowsMlp(const Tensor& x, const Tensor& norm, double eps, double offset, at::TensorList weights, const Optionals& biases,
                      const Optionals& scales, double scale) {
  return mlp(x, norm, {eps, offset}, Layers(weights, biases, scales, 3), 0, scale);
}

// A decoder layer: x + scale · o(attention(q, k, v)), then the MLP. Norms before the two, and of the heads of q and k where there are some.
static Tensor decodeLayer(const Tensor& x, const Tensor& table, at::TensorList caches, at::IntArrayRef lengths, const Tensor& attentionNorm,
                          const Tensor& mlpNorm, const std::optional<Tensor>& queryNorm, const std::optional<Tensor>& keyNorm, double eps, double offset,
                          at::TensorList weights, const Optionals& biases, const Optionals& scales, double scale) {
  const Layers layers(weights, biases, scales, 7);
  const Norm how{eps, offset};
  const Tensor normed = how.of(x, attentionNorm);
  const Tensor q = normedHeads(layers.linear(0, normed), queryNorm, how), k = normedHeads(layers.linear(1, normed), keyNorm, how);
  const Tensor attended = decodeAttention(q, k, layers.linear(2, normed), table, caches, lengths);
  return mlp(added(x, layers.linear(3, attended), scale), mlpNorm, how, layers, 4, scale);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def(
      "rows_mlp(Tensor x, Tensor norm, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale) -> Tensor", rowsMlp);
  library.def(
      "decode_layer(Tensor x, Tensor table, Tensor[] caches, int[] lengths, Tensor attention_norm, Tensor mlp_norm, Tensor? query_norm, Tensor? key_norm, "
      "float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale) -> Tensor",
      decodeLayer);
}

}  // namespace minicpm
