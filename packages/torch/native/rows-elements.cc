// What stands between the products of generation. minicpm::rows_rms_norm, rows_swiglu and rows_add: a row depends on no other row. And
// minicpm::rows_argmax, which follows them.
//
// On a CPU they are computed here, in float32 inside, whatever the processor.
#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>

#include "crew.h"
#include "lanes.h"
#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;

template <class Number>
LANES_INLINE void normInline(const Number* x, const Number* weight, float eps, float offset, int64_t rows, int64_t size, Number* y) {
  for (int64_t row = 0; row < rows; row++, x += size, y += size) {
    Floats squares = {};
    for (int64_t i = 0; i < size; i += kFloats) {
      const Floats values = loadSome(x + i, size - i);
      squares += values * values;
    }
    const float factor = 1.0f / std::sqrt(sumOf(squares) / static_cast<float>(size) + eps);
    for (int64_t i = 0; i < size; i += kFloats) storeSome(y + i, loadSome(x + i, size - i) * factor * (loadSome(weight + i, size - i) + offset), size - i);
  }
}

CLONES(norm, (const float* x, const float* weight, float eps, float offset, int64_t rows, int64_t size, float* y), (x, weight, eps, offset, rows, size, y))
CLONES(norm, (const BFloat16* x, const BFloat16* weight, float eps, float offset, int64_t rows, int64_t size, BFloat16* y),
       (x, weight, eps, offset, rows, size, y))

Tensor rowsRmsNorm(const Tensor& given, const Tensor& weight, double eps, double offset) {
  const Tensor x = given.contiguous();
  const int64_t size = x.size(-1);
  TORCH_CHECK(weight.dim() == 1 && weight.size(0) == size && weight.scalar_type() == x.scalar_type() && weight.is_contiguous(),
              "expected a weight for each number of the last dimension but received ", x.sizes(), " and ", weight.sizes());
  const auto type = x.scalar_type();
  if (!x.is_cpu() || (type != at::kFloat && type != at::kBFloat16)) return at::rms_norm(x, {size}, offset == 0 ? weight : weight.add(offset), eps);
  const Tensor y = at::empty_like(x);
  const auto run = [&](auto number) {
    using Number = decltype(number);
    norm(x.const_data_ptr<Number>(), weight.const_data_ptr<Number>(), static_cast<float>(eps), static_cast<float>(offset), x.numel() / size, size, y.data_ptr<Number>());
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

void swigluOf(const float* gate, const float* up, int64_t count, float* y) { swiglu(gate, up, count, y); }

void swigluOf(const BFloat16* gate, const BFloat16* up, int64_t count, BFloat16* y) { swiglu(gate, up, count, y); }

Tensor rowsSwiglu(const Tensor& gateGiven, const Tensor& upGiven) {
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
    crewFor(gate.numel(), kGrain / 16, [&](int64_t begin, int64_t end) { swiglu(g + begin, u + begin, end - begin, to + begin); });
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

void addOf(const float* x, const float* y, float alpha, int64_t count, float* to) { add(x, y, alpha, count, to); }

void addOf(const BFloat16* x, const BFloat16* y, float alpha, int64_t count, BFloat16* to) { add(x, y, alpha, count, to); }

// x + alpha · y. libtorch rounds the last numbers of a thread's share another way than the rest where alpha is not 1.
Tensor rowsAdd(const Tensor& xGiven, const Tensor& yGiven, double alpha) {
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

LANES_INLINE void argmaxInline(const float* x, int64_t count, int64_t* result) {
  Floats best = broadcast(-INFINITY);
  Ints places = {}, own = {}, isNaN = {};
  for (int32_t lane = 0; lane < kFloats; lane++) own[lane] = lane;
  places = own;
  for (int64_t i = 0; i < count; i += kFloats, own += static_cast<int32_t>(kFloats)) {
    Floats values = broadcast(-INFINITY);
    if (i + kFloats <= count) values = loadFloats(x + i);
    else
      for (int64_t lane = 0; i + lane < count; lane++) values[lane] = x[i + lane];
    isNaN |= values != values;
    const Ints isMore = values > best;
    best = isMore ? values : best;
    places = isMore ? own : places;
  }
  float most = -INFINITY;
  *result = 0;
  for (int lane = 0; lane < kFloats; lane++) {
    if (isNaN[lane]) {
      *result = -1;
      return;
    }
    if (best[lane] > most || (best[lane] == most && places[lane] < *result)) most = best[lane], *result = places[lane];
  }
}

CLONES(argmax, (const float* x, int64_t count, int64_t* result), (x, count, result))

// The index of the highest number of a row, the first of equals; -1: one is NaN. libtorch's own wakes its threads for a row of many numbers, and they stay
// awake while those of generation go on.
static int64_t rowsArgmax(const Tensor& row) {
  TORCH_CHECK(row.dim() == 1 && row.scalar_type() == at::kFloat && row.size(0) > 0 && row.size(0) < (int64_t{1} << 31),
              "expected a row of float32 numbers but received ", row.scalar_type(), row.sizes());
  if (!row.is_cpu()) {
    const Tensor best = row.argmax(0, true);
    return std::isnan(row.gather(0, best).item<float>()) ? -1 : best.item<int64_t>();
  }
  int64_t result = 0;
  argmax(row.contiguous().const_data_ptr<float>(), row.size(0), &result);
  return result;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rows_rms_norm(Tensor x, Tensor weight, float eps, float offset=0) -> Tensor", rowsRmsNorm);
  library.def("rows_add(Tensor x, Tensor y, float alpha) -> Tensor", rowsAdd);
  library.def("rows_argmax(Tensor row) -> int", rowsArgmax);
  library.def("rows_swiglu(Tensor gate, Tensor up) -> Tensor", rowsSwiglu);
}

}  // namespace minicpm
