// Several layers of generation in one call. minicpm::rows_mlp and decode_layers.
//
// The same functions in the same order as the calls one by one, so the same bits. Between two products memory is idle: from here they follow within a
// microsecond, from JavaScript within forty, because weights drive everything else out of the caches.
#include <ATen/ops/mul.h>

#include <utility>
#include <vector>

#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;
using Optionals = c10::List<std::optional<Tensor>>;

namespace {

// Weights, biases and scales of some layers, in their order, and what adapters add to rows of them.
struct Layers {
  std::vector<Tensor> weights;
  const Optionals &biases, &scales;
  std::vector<std::vector<LowRank>> adapters;

  Layers(at::TensorList weights, const Optionals& biases, const Optionals& scales, std::vector<std::vector<LowRank>> adapters)
      : weights(weights.vec()), biases(biases), scales(scales), adapters(std::move(adapters)) {
    const size_t count = this->adapters.size();
    TORCH_CHECK(weights.size() == count && biases.size() == count && scales.size() == count, "expected weights, biases and scales of ", count,
                " layers but received ", weights.size(), ", ", biases.size(), " and ", scales.size());
  }

  RowsLayer at(size_t i) const { return {weights[i], biases.get(i), scales.get(i)}; }

  Tensor linear(size_t i, const Tensor& x) const {
    const Tensor y = rowsLinear(x, weights[i], biases.get(i), scales.get(i), false, false);
    addLowRank(y, x, adapters[i]);
    return y;
  }

  // Of layers `first` to `first + count`, which have the same x.
  std::vector<Tensor> linears(size_t first, size_t count, const Tensor& x) const {
    std::vector<RowsLayer> layers;
    for (size_t i = first; i < first + count; i++) layers.push_back(at(i));
    const auto all = rowsLinears(x, layers);
    for (size_t i = 0; i < count; i++) addLowRank(all[i], x, adapters[first + i]);
    return all;
  }

  // silu(gate(x)) · up(x); gate is layer `first`.
  Tensor gated(size_t first, const Tensor& x) const {
    if (adapters[first].empty() && adapters[first + 1].empty()) return rowsGated(x, at(first), at(first + 1));
    const auto all = linears(first, 2, x);
    return rowsSwiglu(all[0], all[1]);
  }
};

struct Norm {
  double eps, offset;
  Tensor of(const Tensor& x, const Tensor& weight) const { return rowsRmsNorm(x, weight, eps, offset); }
};

Tensor added(const Tensor& x, const Tensor& y, double scale) { return rowsAdd(x, scale == 1 ? y : at::mul(y, scale), 1); }

// x + scale · down(silu(gate(y)) · up(y)), y = norm(x); gate is layer `first`
Tensor mlp(const Tensor& x, const Tensor& norm, const Norm& how, const Layers& layers, size_t first, double scale) {
  const Tensor normed = how.of(x, norm);
  return added(x, layers.linear(first + 2, layers.gated(first, normed)), scale);
}

// Each head (of `weight`'s size) by itself
Tensor normedHeads(const Tensor& x, const std::optional<Tensor>& weight, const Norm& how) {
  return weight ? how.of(x.view({-1, weight->size(0)}), *weight).view(x.sizes()) : x;
}

}  // namespace

static Tensor rowsMlp(const Tensor& x, const Tensor& norm, double eps, double offset, at::TensorList weights, const Optionals& biases,
                      const Optionals& scales, double scale, at::IntArrayRef places, at::TensorList factors, at::ArrayRef<double> scalings) {
  return mlp(x, norm, {eps, offset}, Layers(weights, biases, scales, lowRanks(3, places, factors, scalings)), 0, scale);
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
  const auto qkv = layers.linears(first, 3, normed);
  const Tensor q = normedHeads(qkv[0], queryNorm, how), k = normedHeads(qkv[1], keyNorm, how);
  const Tensor attended = decodeAttention(q, k, qkv[2], table, caches, lengths);
  return mlp(added(x, layers.linear(first + 3, attended), scale), norms[1], how, layers, first + 4, scale);
}

// Decoder layers one after the other. Of each one after the other: a cache for each sequence, two norms, two norms of heads, seven linear layers. Adapters: see
// lowRanks.
static Tensor decodeLayers(const Tensor& given, const Tensor& table, at::TensorList caches, at::IntArrayRef lengths, at::TensorList norms,
                           const Optionals& headNorms, double eps, double offset, at::TensorList weights, const Optionals& biases, const Optionals& scales,
                           double scale, at::IntArrayRef places, at::TensorList factors, at::ArrayRef<double> scalings) {
  const size_t count = norms.size() / 2, sequences = lengths.size();
  TORCH_CHECK(norms.size() == 2 * count && headNorms.size() == 2 * count && caches.size() == sequences * count, "expected two norms, two norms of heads and ", sequences,
              " caches for each layer but received ", norms.size(), ", ", headNorms.size(), " and ", caches.size());
  const Layers layers(weights, biases, scales, lowRanks(kPerLayer * count, places, factors, scalings));
  const Decoding decoding{table, lengths, {eps, offset}, scale};
  Tensor x = given;
  for (size_t i = 0; i < count; i++)
    x = decodeLayer(x, decoding, caches.slice(i * sequences, sequences), norms.slice(2 * i, 2), headNorms.get(2 * i), headNorms.get(2 * i + 1), layers, kPerLayer * i);
  return x;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def(
      "rows_mlp(Tensor x, Tensor norm, float eps, float offset, Tensor[] weights, Tensor?[] biases, Tensor?[] scales, float scale, int[] places, "
      "Tensor[] factors, float[] scalings) -> Tensor",
      rowsMlp);
  library.def(
      "decode_layers(Tensor x, Tensor table, Tensor[] caches, int[] lengths, Tensor[] norms, Tensor?[] head_norms, float eps, float offset, Tensor[] weights, "
      "Tensor?[] biases, Tensor?[] scales, float scale, int[] places, Tensor[] factors, float[] scalings) -> Tensor",
      decodeLayers);
}

}  // namespace minicpm
