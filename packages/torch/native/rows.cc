// minicpm::rows_linear: products of few rows with a weight. A row depends on no other row.
//
// On a CPU they are computed here, in float32 inside, whatever the processor; bfloat16 with AVX-512 BF16 multiplies in rows-bf16.cc. On devices
// the rows are padded to multiples of kDeviceRows, so that the same kernel of the device serves any number of them.
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <string>
#include <utility>

#include "crew.h"
#include "lanes.h"
#include "own-operators.h"
#include "product.h"
#include "rows-kernel.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;

constexpr int64_t kDeviceRows = 16;
constexpr int64_t kShareBytes = 1 << 18;  // of a weight that a thread takes at a time, with few rows
constexpr int64_t kManyRows = 512;        // from here, products of all rows at once are faster; they are one sequence's then

template <int outputs, class X, class Weight>
LANES_INLINE void plainBlock(int64_t width, const X* x, const Weight* weight, float* to) {
  Floats sums[outputs] = {};
  for (int64_t k = 0; k < width; k += kFloats) {
    const Floats factors = loadSome(x + k, width - k);
    for (int o = 0; o < outputs; o++) sums[o] += factors * loadSome(weight + o * width + k, width - k);
  }
  for (int o = 0; o < outputs; o++) to[o] = sumOf(sums[o]);
}

template <class X, class Weight>
LANES_INLINE void plainProductInline(const RowsProblem& problem, const X* x, const Weight* weight, float* sums) {
  const int64_t width = problem.inputs;
  const int64_t end = problem.outputs;
  for (int64_t o = 0; o < end; o += 4)
    for (int64_t row = 0; row < problem.rows; row++) {
      float* to = sums + row * problem.outputs + o;
      if (o + 4 <= end) plainBlock<4>(width, x + row * width, weight + o * width, to);
      else
        for (int64_t i = 0; o + i < end; i++) plainBlock<1>(width, x + row * width, weight + (o + i) * width, to + i);
    }
}

#define PLAIN_PRODUCT(X, Weight)                                                                                               \
  CLONES(plainProduct, (const RowsProblem& problem, const X* x, const Weight* weight, float* sums), \
         (problem, x, weight, sums))
PLAIN_PRODUCT(float, float)
PLAIN_PRODUCT(float, int8_t)
PLAIN_PRODUCT(BFloat16, BFloat16)
PLAIN_PRODUCT(BFloat16, int8_t)
#undef PLAIN_PRODUCT

template <class Weight>
static void product(const RowsProblem& problem, const float* x, const Weight* weight, float* sums) {
  plainProduct(problem, x, weight, sums);
}

template <class Weight>
static void product(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums) {
  if (hasRowsKernel()) return rowsProductBf16(problem, x, weight, sums);
  plainProduct(problem, x, weight, sums);
}

// Scales of int8 weights, bias, and the rounding to the type X of the layer; y may be of another type.
template <class X, class Y>
LANES_INLINE void finishInline(int64_t count, const float* sums, const float* scales, const X* bias, Y* y) {
  for (int64_t i = 0; i < count; i += kFloats) {
    const int64_t left = count - i;
    Floats values = loadSome(sums + i, left);
    if (scales != nullptr) values *= loadSome(scales + i, left) / 127.0f;
    if (bias != nullptr) values += loadSome(bias + i, left);
    storeSome(y + i, rounded<X>(values), left);
  }
}

#define FINISH(X, Y) \
  CLONES(finish, (int64_t count, const float* sums, const float* scales, const X* bias, Y* y), (count, sums, scales, bias, y))
FINISH(float, float)
FINISH(BFloat16, BFloat16)
FINISH(BFloat16, float)
#undef FINISH

struct Layer {
  Tensor x, weight, bias, scales;  // the last two where there are some
};

// Outputs that a thread takes at a time.
static int64_t shareOf(const RowsProblem& problem, int64_t weightBytes, int64_t threads) {
  const int64_t most = problem.rows > kFewRows ? 2 : kShareBytes / std::max<int64_t>(1, kRowUnit * problem.inputs * weightBytes);
  return kRowUnit * std::max<int64_t>(1, std::min(most, problem.outputs / (kRowUnit * 4 * threads)));
}

// Hands out the outputs of a product in pieces that get smaller and smaller, down to `share`: memory read from front to back is read fastest, and no
// thread waits for long at the end.
class Pieces {
 public:
  Pieces(int64_t outputs, int64_t share, int64_t threads) : outputs_(outputs), share_(share), threads_(threads), next_(threads * first()) {}

  // Of the piece that each thread begins with.
  int64_t first() const { return sizeAt(0); }

  // Begin and end of one more; the end is at most the begin: none is left.
  std::pair<int64_t, int64_t> take() {
    int64_t begin = next_.load(std::memory_order_relaxed);
    while (begin < outputs_ && !next_.compare_exchange_weak(begin, begin + sizeAt(begin), std::memory_order_relaxed)) continue;
    return {begin, std::min(outputs_, begin + sizeAt(begin))};
  }

 private:
  int64_t sizeAt(int64_t begin) const { return share_ * std::max<int64_t>(1, (outputs_ - begin) / (2 * threads_ * share_)); }

  int64_t outputs_, share_, threads_;
  std::atomic<int64_t> next_;
};

// A layer whose outputs are computed some at a time.
template <class X, class Weight>
struct Outputs {
  explicit Outputs(const Layer& layer)
      : width(layer.x.size(-1)),
        rows(width == 0 ? 0 : layer.x.numel() / width),
        count(layer.weight.size(0)),
        x(layer.x.const_data_ptr<X>()),
        weight(layer.weight.const_data_ptr<Weight>()),
        bias(layer.bias.defined() ? layer.bias.const_data_ptr<X>() : nullptr),
        scales(layer.scales.defined() ? layer.scales.const_data_ptr<float>() : nullptr) {}

  // Outputs `begin` to `begin + some` of all rows; rows of `to`, which begins with output `begin`, are `stride` apart.
  template <class Y>
  void compute(int64_t begin, int64_t some, float* sums, Y* to, int64_t stride) const {
    product(RowsProblem{rows, width, some}, x, weight + begin * width, sums);
    for (int64_t row = 0; row < rows; row++)
      finish(some, sums + row * some, scales == nullptr ? nullptr : scales + begin, bias == nullptr ? nullptr : bias + begin, to + row * stride);
  }

  Reads reads(int64_t first) const {
    const auto bytes = static_cast<int64_t>(sizeof(Weight)) * width;
    const int64_t streams = !std::is_same_v<X, BFloat16> || !hasRowsKernel() ? 1 : sizeof(Weight) == 1 ? kInt8Streams : kBf16Streams;
    return {reinterpret_cast<const char*>(weight), count * bytes, first * bytes, streams};
  }

  int64_t width, rows, count;
  const X* x;
  const Weight* weight;
  const X* bias;
  const float* scales;
};

// Calls work(begin, end, share) for pieces of `outputs` outputs, on several threads. Few rows: they read the weights of `layers`.
template <class Layers, class Work>
static void inPieces(const Layers& layers, int64_t outputs, int64_t weightBytes, const Work& work) {
  const RowsProblem problem{layers.front().rows, layers.front().width, outputs};
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), std::max<int64_t>(1, problem.rows * outputs * problem.inputs / kGrain));
  const int64_t share = shareOf(problem, weightBytes, threads);
  Pieces pieces(outputs, share, threads);
  const int64_t most = problem.rows <= kFewRows ? pieces.first() : share;
  std::vector<Reads> reads;
  if (problem.rows <= kFewRows)
    for (const auto& layer : layers) reads.push_back(layer.reads(pieces.first()));
  const auto own = [&](int64_t thread) {
    const auto sums = std::make_unique_for_overwrite<float[]>(static_cast<size_t>(problem.rows * most));
    std::pair<int64_t, int64_t> piece{thread * pieces.first(), std::min((thread + 1) * pieces.first(), outputs)};
    for (; piece.first < piece.second; piece = pieces.take()) work(piece.first, piece.second, most, sums.get());
  };
  runCrew(threads, own, reads);
}

template <class Number>
static Tensor outputOf(const Layer& layer) {
  auto sizes = layer.x.sizes().vec();
  sizes.back() = layer.weight.size(0);
  return at::empty(sizes, layer.x.options().dtype(c10::CppTypeToScalarType<Number>()));
}

// Layers of the same rows.
template <class X, class Weight, class Y>
static std::vector<Tensor> linearOnCpu(c10::ArrayRef<Layer> given) {
  std::vector<Outputs<X, Weight>> layers;
  std::vector<Tensor> results;
  int64_t outputs = 0;
  for (const Layer& layer : given) {
    layers.emplace_back(layer);
    results.push_back(outputOf<Y>(layer));
    outputs += layers.back().count;
  }
  inPieces(layers, outputs, sizeof(Weight), [&](int64_t begin, int64_t end, int64_t share, float* sums) {
    for (size_t i = 0; i < layers.size() && begin < end; i++) {
      const auto& layer = layers[i];
      for (; begin < std::min(end, layer.count);) {
        const int64_t some = std::min({share, end - begin, layer.count - begin});
        layer.compute(begin, some, sums, results[i].mutable_data_ptr<Y>() + begin, layer.count);
        begin += some;
      }
      begin -= layer.count, end -= layer.count;
    }
  });
  return results;
}

// silu(gate) · up
template <class X, class Weight>
static Tensor gatedOnCpu(const Layer& gateLayer, const Layer& upLayer) {
  const std::vector<Outputs<X, Weight>> layers{Outputs<X, Weight>(gateLayer), Outputs<X, Weight>(upLayer)};
  const Outputs<X, Weight>&gate = layers[0], &up = layers[1];
  const Tensor y = outputOf<X>(gateLayer);
  X* to = y.mutable_data_ptr<X>();
  inPieces(layers, gate.count, sizeof(Weight), [&](int64_t first, int64_t end, int64_t share, float* sums) {
    std::vector<X> other(static_cast<size_t>(gate.rows * share));
    for (int64_t begin = first; begin < end; begin += share) gate.compute(begin, std::min(share, end - begin), sums, to + begin, gate.count);
    for (int64_t begin = first; begin < end; begin += share) {
      const int64_t some = std::min(share, end - begin);
      up.compute(begin, some, sums, other.data(), some);
      for (int64_t row = 0; row < gate.rows; row++) {
        X* own = to + row * gate.count + begin;
        swigluOf(own, other.data() + row * some, some, own);
      }
    }
  });
  return y;
}

static Tensor linearOnDevice(const Layer& layer) {
  std::vector<Tensor> parts;
  for (const Tensor& some : layer.x.reshape({-1, layer.x.size(-1)}).split(kDeviceRows)) {
    const int64_t missing = kDeviceRows - some.size(0);
    const Tensor whole = missing == 0 ? some : at::constant_pad_nd(some, {0, 0, 0, missing});
    parts.push_back(at::linear(whole, layer.weight, layer.bias).narrow(0, 0, some.size(0)));
  }
  auto sizes = layer.x.sizes().vec();
  sizes.back() = layer.weight.size(0);
  return at::cat(parts).view(sizes);
}

// What libtorch makes of all rows at once.
static Tensor linearTogether(const Layer& layer) {
  if (!layer.scales.defined()) return rowsTimesWeight(layer.x, layer.weight, layer.bias);
  const Tensor expanded = layer.weight.to(at::kFloat).mul_(layer.scales.div(127).view({-1, 1})).to(layer.x.scalar_type());
  return rowsTimesWeight(layer.x, expanded, layer.bias);
}

// Whether products of such rows depend on no other row with `together`, too.
static bool rowsStandAlone(const Tensor& like) { return like.is_cpu() && like.scalar_type() == at::kBFloat16 && hasRowsKernel(); }

static Layer checked(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& scales) {
  const auto type = x.scalar_type();
  const bool isInt8 = scales.has_value();
  TORCH_CHECK(x.dim() > 0 && weight.dim() == 2 && weight.size(1) == x.size(-1) && weight.is_contiguous() &&
                  weight.scalar_type() == (isInt8 ? at::kChar : type),
              "expected a weight of the input's type for rows of its inputs but received ", weight.sizes(), " and ", x.sizes());
  TORCH_CHECK(!isInt8 || (scales->is_contiguous() && scales->scalar_type() == at::kFloat && scales->numel() == weight.size(0) && x.is_cpu()),
              "expected a float32 scale for each output of an int8 weight on a CPU");
  TORCH_CHECK(!bias || (bias->scalar_type() == type && bias->is_contiguous() && bias->numel() == weight.size(0)),
              "expected a bias of the input's type for each output");
  return {x, weight, bias.value_or(Tensor()), scales.value_or(Tensor())};
}

// `together`: the same rows always come together, so that the fastest way to all of them will do.
Tensor rowsLinear(const Tensor& given, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& scales,
                         bool together, bool wide) {
  const Layer layer = checked(given.contiguous(), weight, bias, scales);
  const Tensor& x = layer.x;
  const auto type = x.scalar_type();
  const bool isInt8 = scales.has_value();
  const auto result = [&](const Tensor& y) { return wide ? y.to(at::kFloat) : y; };
  const bool many = !isInt8 && x.numel() / std::max<int64_t>(1, x.size(-1)) >= kManyRows;
  if (together && (many || !rowsStandAlone(x))) return result(linearTogether(layer));
  if (!x.is_cpu()) return result(linearOnDevice(layer));
  if (type == at::kFloat) return (isInt8 ? linearOnCpu<float, int8_t, float>(layer) : linearOnCpu<float, float, float>(layer))[0];
  TORCH_CHECK(type == at::kBFloat16, "expected float32 or bfloat16 on a CPU but received ", type);
  if (isInt8) return (wide ? linearOnCpu<BFloat16, int8_t, float>(layer) : linearOnCpu<BFloat16, int8_t, BFloat16>(layer))[0];
  return (wide ? linearOnCpu<BFloat16, BFloat16, float>(layer) : linearOnCpu<BFloat16, BFloat16, BFloat16>(layer))[0];
}

// Whether layers of the same rows are computed at once: on a CPU, in one type.
static bool atOnce(const Tensor& x, c10::ArrayRef<RowsLayer> layers) {
  const auto isAlike = [&](const RowsLayer& layer) { return layer.scales.has_value() == layers[0].scales.has_value(); };
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16) && std::all_of(layers.begin(), layers.end(), isAlike);
}

std::vector<Tensor> rowsLinears(const Tensor& given, c10::ArrayRef<RowsLayer> layers) {
  const Tensor x = given.contiguous();
  if (!atOnce(x, layers)) {
    std::vector<Tensor> each;
    for (const auto& [weight, bias, scales] : layers) each.push_back(rowsLinear(x, weight, bias, scales, false, false));
    return each;
  }
  std::vector<Layer> all;
  for (const auto& [weight, bias, scales] : layers) all.push_back(checked(x, weight, bias, scales));
  const bool isInt8 = layers[0].scales.has_value();
  if (x.scalar_type() == at::kFloat) return isInt8 ? linearOnCpu<float, int8_t, float>(all) : linearOnCpu<float, float, float>(all);
  return isInt8 ? linearOnCpu<BFloat16, int8_t, BFloat16>(all) : linearOnCpu<BFloat16, BFloat16, BFloat16>(all);
}

Tensor rowsGated(const Tensor& given, const RowsLayer& gate, const RowsLayer& up) {
  const Tensor x = given.contiguous();
  if (!atOnce(x, {gate, up}))
    return rowsSwiglu(rowsLinear(x, gate.weight, gate.bias, gate.scales, false, false), rowsLinear(x, up.weight, up.bias, up.scales, false, false));
  const Layer first = checked(x, gate.weight, gate.bias, gate.scales), second = checked(x, up.weight, up.bias, up.scales);
  TORCH_CHECK(gate.weight.size(0) == up.weight.size(0), "expected two layers of as many outputs but received ", gate.weight.sizes(), " and ", up.weight.sizes());
  const bool isInt8 = gate.scales.has_value();
  if (x.scalar_type() == at::kFloat) return isInt8 ? gatedOnCpu<float, int8_t>(first, second) : gatedOnCpu<float, float>(first, second);
  return isInt8 ? gatedOnCpu<BFloat16, int8_t>(first, second) : gatedOnCpu<BFloat16, BFloat16>(first, second);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rows_stand_alone(Tensor like) -> bool", rowsStandAlone);
  library.def("rows_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? scales=None, bool together=False, bool wide=False) -> Tensor", rowsLinear);
}

}  // namespace minicpm
