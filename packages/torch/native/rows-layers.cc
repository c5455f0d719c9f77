// Several layers of generation in one call. minicpm::rows_mlp and decode_layers.
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

  RowsLayer at(size_t i) const { return {weights[i], biases.get(i), scales.get(i)}; }
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
  return added(x, layers.linear(first + 2, rowsGated(normed, layers.at(first), layers.at(first + 1))), scale);
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

constexpr size_t kPerLayer = 7;  // linear layers of a decoder layer

// What all decoder layers share: rows of the rotary table, positions before the new one, norms.
struct Decoding {
  const Tensor& table;
  at::IntArrayRef lengths;
  Norm how;
  double scale;
};

// x + scale · o(attention(q, k, v)), then the MLP. Norms before the two, and of the heads of q and k where there are some. `first`: its first linear layer
static Tensor decodeLayer(const Tensor& x, const Decoding& decoding, at::TensorList caches, at::TensorList norms, const std::optional<Tensor>& queryNorm,
                          const std::optional<Tensor>& keyNorm, const Layers& layers, size_t first) {
  const auto& [table, lengths, how, scale] = decoding;
  const Tensor normed = how.of(x, norms[0]);
  const auto qkv = rowsLinears(normed, {layers.at(first), layers.at(first + 1), layers.at(first + 2)});
  const Tensor q = normedHeads(qkv[0], queryNorm, how), k = normedHeads(qkv[1], keyNorm, how);
  const Tensor attended = decodeAttention(q, k, qkv[2], table, caches, lengths);
  return mlp(added(x, layers.linear(first + 3, attended), scale), norms[1], how, layers, first + 4, scale);
}

// Decoder layers one after the other. Of each one after the other: a cache for each sequence, two norms, two norms of heads, seven linear layers
static Tensor decodeLayers(const Tensor& given, const Tensor& table, at::TensorList caches, at::IntArrayRef lengths, at::TensorList norms,
                           const Optionals& headNorms, double eps, double offset, at::TensorList weights, const Optionals& biases, const Optionals& scales,
                           double scale) {
  const size_t count = norms.size() / 2, sequences = lengths.size();
  TORCH_CHECK(norms.size() == 2 * count && headNorms.size() == 2 * count && caches.size() == sequences * count, "expected two norms, two norms of heads and ", sequences,
              " caches for each layer but received ", norms.size(), ", ", headNorms.size(), " and ", caches.size());
  const Layers layers(weights, biases, scales, kPerLayer * count);
  const Decoding decoding{table, lengths, {eps, offset}, scale};
  Tensor x = given;
  for (size_t i = 0; i < count; i++)
    x = decodeLayer(x, decoding, caches.slice(i * sequences, sequences), norms.slice(2 * i, 2), headNorms.get(2 * i), headNorms.get(2 * i + 1), layers, kPerLayer * i);
  return x;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def(
      "rows_mlp(Tensor x, Tensor norm, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale) -> Tensor", rowsMlp);
  library.def(
      "decode_layers(Tensor x, Tensor table, Tensor[] caches, int[] lengths, Tensor[] norms, Tensor?[] head_norms, float eps, float offset, Tensor[] weights, "
      "Tensor?[] biases, Tensor?[] scales, float scale) -> Tensor",
      decodeLayers);
}

}  // namespace minicpm
