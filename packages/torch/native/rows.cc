// minicpm::rows_linear, rows_rms_norm, rows_swiglu and rows_add: layers of generation, in which a row's result does not depend on other rows.
//
// On a CPU they are computed here, in float32 inside, whatever the processor; bfloat16 with AVX-512 BF16 multiplies in rows-bf16.cc. On
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
constexpr int64_t kShareBytes = 1 << 17;  // of a weight that a thread takes at a time

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
LANES_INLINE void plainProductInline(const RowsProblem& problem, const X* x, const Weight* weight, float* sums, int64_t begin, int64_t end) {
  const int64_t width = problem.inputs;
  for (int64_t o = begin; o < end; o += 4)
    for (int64_t row = 0; row < problem.rows; row++) {
      float* to = sums + row * problem.outputs + o;
      if (o + 4 <= end) plainBlock<4>(width, x + row * width, weight + o * width, to);
      else
        for (int64_t i = 0; o + i < end; i++) plainBlock<1>(width, x + row * width, weight + (o + i) * width, to + i);
    }
}

#define PLAIN_PRODUCT(X, Weight)                                                                                               \
  CLONES(plainProduct, (const RowsProblem& problem, const X* x, const Weight* weight, float* sums, int64_t begin, int64_t end), \
         (problem, x, weight, sums, begin, end))
PLAIN_PRODUCT(float, float)
PLAIN_PRODUCT(float, int8_t)
PLAIN_PRODUCT(BFloat16, BFloat16)
PLAIN_PRODUCT(BFloat16, int8_t)
#undef PLAIN_PRODUCT

template <class Weight>
static void product(const RowsProblem& problem, const float* x, const Weight* weight, float* sums, int64_t begin, int64_t end) {
  plainProduct(problem, x, weight, sums, begin, end);
}

template <class Weight>
static void product(const RowsProblem& problem, const BFloat16* x, const Weight* weight, float* sums, int64_t begin, int64_t end) {
  if (hasRowsKernel()) return rowsProductBf16(problem, x, weight, sums, begin, end);
  plainProduct(problem, x, weight, sums, begin, end);
}

// Scales, bias, and the type of the result.
template <class X>
static void finish(const RowsProblem& problem, const float* sums, const X* bias, X* y, int64_t begin, int64_t end) {
  for (int64_t row = 0; row < problem.rows; row++)
    for (int64_t o = begin; o < end; o++) {
      float value = sums[row * problem.outputs + o];
      if (problem.scales != nullptr) value *= problem.scales[o] / 127.0f;
      if (bias != nullptr) value += static_cast<float>(bias[o]);
      y[row * problem.outputs + o] = static_cast<X>(value);
    }
}

// Threads take the next outputs whenever they are done with some: memory is never idle while one of them is held up.
template <class X, class Weight>
static Tensor linearOnCpu(const RowsProblem& problem, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  auto sizes = x.sizes().vec();
  sizes.back() = problem.outputs;
  const Tensor y = at::empty(sizes, x.options());
  const Tensor memory = at::empty({problem.rows, problem.outputs}, x.options().dtype(at::kFloat));
  const auto* from = x.const_data_ptr<X>();
  const auto* weights = weight.const_data_ptr<Weight>();
  const auto* added = bias.defined() ? bias.const_data_ptr<X>() : nullptr;
  auto *sums = memory.data_ptr<float>();
  auto* to = y.data_ptr<X>();
  const int64_t units = (problem.outputs + kRowUnit - 1) / kRowUnit;
  const int64_t unitBytes = kRowUnit * problem.inputs * static_cast<int64_t>(sizeof(Weight));
  const int64_t share = std::max<int64_t>(1, std::min(kShareBytes / unitBytes, units / (4 * at::get_num_threads())));
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), std::max<int64_t>(1, problem.rows * problem.outputs * problem.inputs / kGrain));
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (;;) {
      const int64_t unit = next.fetch_add(share);
      if (unit >= units) return;
      const int64_t begin = unit * kRowUnit, end = std::min(problem.outputs, (unit + share) * kRowUnit);
      product(problem, from, weights, sums, begin, end);
      finish(problem, sums, added, to, begin, end);
    }
  });
  return y;
}

static Tensor linearOnDevice(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  std::vector<Tensor> parts;
  for (const Tensor& some : x.reshape({-1, x.size(-1)}).split(kDeviceRows)) {
    const int64_t missing = kDeviceRows - some.size(0);
    const Tensor whole = missing == 0 ? some : at::constant_pad_nd(some, {0, 0, 0, missing});
    parts.push_back(at::linear(whole, weight, bias).narrow(0, 0, some.size(0)));
  }
  auto sizes = x.sizes().vec();
  sizes.back() = weight.size(0);
  return at::cat(parts).view(sizes);
}

static Tensor rowsLinear(const Tensor& given, const Tensor& weight, const std::optional<Tensor>& maybeBias, const std::optional<Tensor>& scales) {
  TORCH_CHECK(given.dim() > 0 && weight.dim() == 2 && weight.size(1) == given.size(-1) && weight.is_contiguous(),
              "expected rows of the weight's inputs but received ", given.sizes(), " and ", weight.sizes());
  TORCH_CHECK(!scales || (weight.scalar_type() == at::kChar && given.is_cpu() && scales->scalar_type() == at::kFloat && scales->is_contiguous() &&
                          scales->numel() == weight.size(0)),
              "expected scales (float32) for each output of an int8 weight on a CPU");
  const Tensor x = given.contiguous(), bias = maybeBias.value_or(Tensor());
  if (!x.is_cpu()) return linearOnDevice(x, weight, bias);
  TORCH_CHECK(!bias.defined() || (bias.scalar_type() == x.scalar_type() && bias.is_contiguous() && bias.numel() == weight.size(0)),
              "expected a bias of the input's type for each output");
  const int64_t width = x.size(-1);
  const RowsProblem problem{width == 0 ? 0 : x.numel() / width, width, weight.size(0), scales ? scales->const_data_ptr<float>() : nullptr};
  const auto type = x.scalar_type();
  if (type == at::kFloat && scales) return linearOnCpu<float, int8_t>(problem, x, weight, bias);
  if (type == at::kBFloat16 && scales) return linearOnCpu<BFloat16, int8_t>(problem, x, weight, bias);
  TORCH_CHECK(weight.scalar_type() == type, "expected a weight of the input's type but received ", weight.scalar_type(), " and ", type);
  if (type == at::kFloat) return linearOnCpu<float, float>(problem, x, weight, bias);
  TORCH_CHECK(type == at::kBFloat16, "expected float32 or bfloat16 on a CPU but received ", type);
  return linearOnCpu<BFloat16, BFloat16>(problem, x, weight, bias);
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
  library.def("rows_linear(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? scales=None) -> Tensor", rowsLinear);
  library.def("rows_rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rowsRmsNorm);
  library.def("rows_add(Tensor x, Tensor y, float alpha) -> Tensor", rowsAdd);
  library.def("rows_swiglu(Tensor gate, Tensor up) -> Tensor", rowsSwiglu);
}

}  // namespace minicpm
