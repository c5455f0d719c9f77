// minicpm::quantize_rows: rows as integers from -127 to 127. Beside each row is what 127 stands for in it, its largest magnitude.
#include <ATen/Parallel.h>
#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>

#include <tuple>

#include "lanes.h"
#include "own-operators.h"

namespace minicpm {

using at::Tensor;

namespace {

constexpr float kTiny = 1e-30f;            // in place of a largest magnitude of zero, so that it can be divided by
constexpr int64_t kChunkNumbers = 1 << 20;  // that are widened at once where the operators of libtorch do it

template <class Number>
LANES_INLINE void quantizeRowInline(const Number* row, int64_t width, int8_t* codes, float* scale) {
  typedef int8_t Bytes __attribute__((vector_size(16)));
  Floats most = {}, bad = {};
  for (int64_t i = 0; i < width; i += kFloats) {
    const Floats values = loadSome(row + i, width - i);
    const Floats magnitudes = values < 0 ? -values : values;
    most = most > magnitudes ? most : magnitudes;
    bad += values * 0.0f;
  }
  float lanes[kFloats];
  storeFloats(lanes, most);
  *scale = *std::max_element(lanes, lanes + kFloats) + sumOf(bad);  // NaN stays NaN
  const float unit = (*scale > kTiny ? *scale : kTiny) / 127;
  for (int64_t i = 0; i < width; i += kFloats) {
    const Floats scaled = loadSome(row + i, width - i) / unit;
    const Floats whole = (scaled + 12582912.0f) - 12582912.0f;  // rounded to the nearest, ties to even
    const Floats low = whole < -127 ? broadcast(-127) : whole, kept = low > 127 ? broadcast(127) : low;
    const Bytes bytes = __builtin_convertvector(__builtin_convertvector(kept, Ints), Bytes);
    std::memcpy(codes + i, &bytes, static_cast<size_t>(std::min(kFloats, width - i)));
  }
}

CLONES(quantizeRow, (const float* row, int64_t width, int8_t* codes, float* scale), (row, width, codes, scale))
CLONES(quantizeRow, (const BFloat16* row, int64_t width, int8_t* codes, float* scale), (row, width, codes, scale))

template <class Number>
void quantizeOnCpu(const Tensor& weight, Tensor& codes, Tensor& scales) {
  const int64_t width = weight.size(1);
  const auto* from = weight.const_data_ptr<Number>();
  auto* to = codes.data_ptr<int8_t>();
  auto* scale = scales.data_ptr<float>();
  at::parallel_for(0, weight.size(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, width)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) quantizeRow(from + row * width, width, to + row * width, scale + row);
  });
}

void quantizeByOperators(const Tensor& weight, Tensor& codes, Tensor& scales) {
  const int64_t rows = std::max<int64_t>(1, kChunkNumbers / std::max<int64_t>(1, weight.size(1)));
  for (int64_t first = 0; first < weight.size(0); first += rows) {
    const int64_t count = std::min(rows, weight.size(0) - first);
    const Tensor wide = weight.narrow(0, first, count).to(at::kFloat), most = wide.abs().amax({1}, true);
    codes.narrow(0, first, count).copy_(wide.div(most.clamp_min(kTiny).div(127)).round_().clamp_(-127, 127));
    scales.narrow(0, first, count).copy_(most);
  }
}

}  // namespace

// weight (rows, width) to codes (rows, width) int8 and scales (rows, 1) float32.
static std::tuple<Tensor, Tensor> quantizeRows(const Tensor& given) {
  TORCH_CHECK(given.dim() == 2 && given.is_floating_point(), "expected a matrix of floating-point numbers but received ", given.sizes());
  const Tensor weight = given.contiguous();
  Tensor codes = at::empty(weight.sizes(), weight.options().dtype(at::kChar)), scales = at::empty({weight.size(0), 1}, weight.options().dtype(at::kFloat));
  if (weight.is_cpu() && weight.scalar_type() == at::kFloat) quantizeOnCpu<float>(weight, codes, scales);
  else if (weight.is_cpu() && weight.scalar_type() == at::kBFloat16) quantizeOnCpu<BFloat16>(weight, codes, scales);
  else if (weight.numel() > 0) quantizeByOperators(weight, codes, scales);
  return {codes, scales};
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) { library.def("quantize_rows(Tensor weight) -> (Tensor, Tensor)", quantizeRows); }

}  // namespace minicpm
