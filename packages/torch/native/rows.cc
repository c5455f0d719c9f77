// Layers of generation: a row depends on no other row.
//
// minicpm::rows_linear, rows_rms_norm, rows_swiglu and rows_add. // On a CPU they are computed here, in float32 inside, whatever the processor; bfloat16 with AVX-512 BF16 multiplies in rows-bf16.cc. On
// devices, rows_linear pads the rows to multiples of kDeviceRows, so that the same kernel of the device serves any number of them.
#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "lanes.h"
#include "own-operators.h"
#include "rows-kernel.h"

namespace minicpm {

using at::Tensor;

constexpr int64_t kDeviceRows = 16;
constexpr int64_t kShareBytes = 1 << 19;  // of a weight that a thread takes at a time, with few rows

// ---- linear

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

// Threads take the next outputs whenever they are done with some: memory is never idle while one of them is held up.
template <class X, class Weight, class Y>
static Tensor linearOnCpu(const Layer& layer) {
  const int64_t width = layer.x.size(-1);
  const RowsProblem problem{width == 0 ? 0 : layer.x.numel() / width, width, layer.weight.size(0)};
  auto sizes = layer.x.sizes().vec();
  sizes.back() = problem.outputs;
  const Tensor y = at::empty(sizes, layer.x.options().dtype(c10::CppTypeToScalarType<Y>()));
  const auto* x = layer.x.const_data_ptr<X>();
  const auto* weight = layer.weight.const_data_ptr<Weight>();
  const auto* bias = layer.bias.defined() ? layer.bias.const_data_ptr<X>() : nullptr;
  const auto* scales = layer.scales.defined() ? layer.scales.const_data_ptr<float>() : nullptr;
  auto* to = y.data_ptr<Y>();
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), std::max<int64_t>(1, problem.rows * problem.outputs * width / kGrain));
  const int64_t units = (problem.outputs + kRowUnit - 1) / kRowUnit, unitBytes = kRowUnit * width * static_cast<int64_t>(sizeof(Weight));
  const int64_t most = problem.rows > 32 ? 2 : kShareBytes / std::max<int64_t>(1, unitBytes);
  const int64_t share = std::max<int64_t>(1, std::min(most, units / (8 * threads)));
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    std::vector<float> sums(static_cast<size_t>(problem.rows * share * kRowUnit));
    for (int64_t unit = next.fetch_add(share); unit < units; unit = next.fetch_add(share)) {
      const int64_t begin = unit * kRowUnit, count = std::min(problem.outputs - begin, share * kRowUnit);
      product(RowsProblem{problem.rows, width, count}, x, weight + begin * width, sums.data());
      for (int64_t row = 0; row < problem.rows; row++)
        finish(count, sums.data() + row * count, scales == nullptr ? nullptr : scales + begin, bias == nullptr ? nullptr : bias + begin,
               to + row * problem.outputs + begin);
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
  if (!layer.scales.defined()) return at::linear(layer.x, layer.weight, layer.bias);
  const Tensor expanded = layer.weight.to(at::kFloat).mul_(layer.scales.div(127).view({-1, 1})).to(layer.x.scalar_type());
  return at::linear(layer.x, expanded, layer.bias);
}

// `together`: the same rows always come together, so that the fastest way to all of them will do.
static Tensor rowsLinear(const Tensor& given, const Tensor& weight, const std::optional<Tensor>& bias, const std::optional<Tensor>& scales,
                         bool together, bool wide) {
  const Layer layer{given.contiguous(), weight, bias.value_or(Tensor()), scales.value_or(Tensor())};
  const Tensor& x = layer.x;
  const auto type = x.scalar_type();
  const bool isInt8 = scales.has_value();
  TORCH_CHECK(x.dim() > 0 && weight.dim() == 2 && weight.size(1) == x.size(-1) && weight.is_contiguous() &&
                  weight.scalar_type() == (isInt8 ? at::kChar : type),
              "expected a weight of the input's type for rows of its inputs but received ", weight.sizes(), " and ", x.sizes());
  TORCH_CHECK(!isInt8 || (scales->is_contiguous() && scales->scalar_type() == at::kFloat && scales->numel() == weight.size(0) && x.is_cpu()),
              "expected a float32 scale for each output of an int8 weight on a CPU");
  TORCH_CHECK(!bias || (bias->scalar_type() == type && bias->is_contiguous() && bias->numel() == weight.size(0)),
              "expected a bias of the input's type for each output");
  const auto result = [&](const Tensor& y) { return wide ? y.to(at::kFloat) : y; };
  if (together && !(x.is_cpu() && type == at::kBFloat16 && hasRowsKernel())) return result(linearTogether(layer));
  if (!x.is_cpu()) return result(linearOnDevice(layer));
  if (type == at::kFloat) return isInt8 ? linearOnCpu<float, int8_t, float>(layer) : linearOnCpu<float, float, float>(layer);
  TORCH_CHECK(type == at::kBFloat16, "expected float32 or bfloat16 on a CPU but received ", type);
  if (isInt8) return wide ? linearOnCpu<BFloat16, int8_t, float>(layer) : linearOnCpu<BFloat16, int8_t, BFloat16>(layer);
  return wide ? linearOnCpu<BFloat16, BFloat16, float>(layer) : linearOnCpu<BFloat16, BFloat16, BFloat16>(layer);
}

// ---- norm and activation

template <class Number>
LANES_INLINE void normInline(const Number* x, const Number* weight, float eps, int64_t rows, int64_t size, Number* y) {
  for (int64_t row = 0; row < rows; row++, x += size, y += size) {
    Floats squares = {};
    for (int64_t i = 0; i < size; i += kFloats) {
      const Floats values = loadSome(x + i, size - i);
      squares += values * values;
    }
    const float factor = 1.0f / std::sqrt(sumOf(squares) / static_cast<float>(size) + eps);
    for (int64_t i = 0; i < size; i += kFloats) storeSome(y + i, loadSome(x + i, size - i) * factor * loadSome(weight + i, size - i), size - i);
  }
}

CLONES(norm, (const float* x, const float* weight, float eps, int64_t rows, int64_t size, float* y), (x, weight, eps, rows, size, y))
CLONES(norm, (const BFloat16* x, const BFloat16* weight, float eps, int64_t rows, int64_t size, BFloat16* y), (x, weight, eps, rows, size, y))

static Tensor rowsRmsNorm(const Tensor& given, const Tensor& weight, double eps) {
  const Tensor x = given.contiguous();
  const int64_t size = x.size(-1);
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == size && weight.scalar_type() == x.scalar_type() && weight.is_contiguous(),
              "expected a weight for each number of the last dimension but received ", x.sizes(), " and ", weight.sizes());
  const auto type = x.scalar_type();
  if (!x.is_cpu() || (type != at::kFloat && type != at::kBFloat16)) return at::rms_norm(x, {size}, weight, eps);
  const Tensor y = at::empty_like(x);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    norm(x.const_data_ptr<Number>(), weight.const_data_ptr<Number>(), static_cast<float>(eps), x.numel() / size, size, y.data_ptr<Number>());
  };
  if (type == at::kFloat) run(float());
  else run(BFloat16());
  return y;
}

template <class Number>
LANES_INLINE void swigluInline(const Number* gate, const Number* up, int64_t count, Number* y) {
  for (int64_t i = 0; i < count; i += kFloats) {
    const Floats x = loadSome(gate + i, count - i);
    storeSome(y + i, x / (1.0f + exp2Of(x * -1.4426950408889634f)) * loadSome(up + i, count - i), count - i);
  }
}

CLONES(swiglu, (const float* gate, const float* up, int64_t count, float* y), (gate, up, count, y))
CLONES(swiglu, (const BFloat16* gate, const BFloat16* up, int64_t count, BFloat16* y), (gate, up, count, y))

static Tensor rowsSwiglu(const Tensor& gateGiven, const Tensor& upGiven) {
  TORCH_CHECK(gateGiven.sizes() == upGiven.sizes() && gateGiven.scalar_type() == upGiven.scalar_type(),
              "expected two tensors of one shape and type but received ", gateGiven.sizes(), " and ", upGiven.sizes());
  const Tensor gate = gateGiven.contiguous(), up = upGiven.contiguous();
  const auto type = gate.scalar_type();
  if (!gate.is_cpu() || (type != at::kFloat && type != at::kBFloat16)) return at::silu(gate).mul_(up);
  const Tensor y = at::empty_like(gate);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    const auto *g = gate.const_data_ptr<Number>(), *u = up.const_data_ptr<Number>();
    auto* to = y.data_ptr<Number>();
    at::parallel_for(0, gate.numel(), kGrain / 16, [&](int64_t begin, int64_t end) { swiglu(g + begin, u + begin, end - begin, to + begin); });
  };
  if (type == at::kFloat) run(float());
  else run(BFloat16());
  return y;
}

template <class Number>
LANES_INLINE void addInline(const Number* x, const Number* y, float alpha, int64_t count, Number* to) {
  for (int64_t i = 0; i < count; i += kFloats) storeSome(to + i, loadSome(x + i, count - i) + loadSome(y + i, count - i) * alpha, count - i);
}

CLONES(add, (const float* x, const float* y, float alpha, int64_t count, float* to), (x, y, alpha, count, to))
CLONES(add, (const BFloat16* x, const BFloat16* y, float alpha, int64_t count, BFloat16* to), (x, y, alpha, count, to))

// x + alpha · y. libtorch rounds the last numbers of a thread's share another way than the rest where alpha is not 1.
static Tensor rowsAdd(const Tensor& xGiven, const Tensor& yGiven, double alpha) {
  TORCH_CHECK(xGiven.sizes() == yGiven.sizes() && xGiven.scalar_type() == yGiven.scalar_type(),
              "expected two tensors of one shape and type but received ", xGiven.sizes(), " and ", yGiven.sizes());
  const Tensor x = xGiven.contiguous(), y = yGiven.contiguous();
  const auto type = x.scalar_type();
  if (!x.is_cpu() || (type != at::kFloat && type != at::kBFloat16)) return at::add(x, y, alpha);
  const Tensor sum = at::empty_like(x);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    add(x.const_data_ptr<Number>(), y.const_data_ptr<Number>(), static_cast<float>(alpha), x.numel(), sum.data_ptr<Number>());
  };
  if (type == at::kFloat) run(float());
  else run(BFloat16());
  return sum;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rows_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? scales=None, bool together=False, bool wide=False) -> Tensor", rowsLinear);
  library.def("rows_rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rowsRmsNorm);
  library.def("rows_add(Tensor x, Tensor y, float alpha) -> Tensor", rowsAdd);
  library.def("rows_swiglu(Tensor gate, Tensor up) -> Tensor", rowsSwiglu);
}

}  // namespace minicpm
