// minicpm::cross_entropy_: losses, gradients over the logits.
//
// The logits are the largest thing of a step. Written over in their own type they exist once: nothing of their size stands beside them.
#include <ATen/Parallel.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include <limits>

#include "lanes.h"
#include "own-operators.h"

namespace minicpm {

using at::Tensor;

namespace {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 1 << 10;              // numbers whose exponentials are summed in float32, before float64 takes the sum
constexpr int64_t kTogether = int64_t{1} << 24;  // logits that libtorch's operators widen at a time

template <class Number>
LANES_INLINE float largestOf(const Number* row, int64_t size) {
  Floats most = broadcast(-kInfinity);
  int64_t i = 0;
  for (; i + kFloats <= size; i += kFloats) {
    const Floats values = loadFloats(row + i);
    most = values > most ? values : most;
  }
  float largest = -kInfinity;
  for (int64_t lane = 0; lane < kFloats; lane++) largest = std::max(largest, most[lane]);
  for (; i < size; i++) largest = std::max(largest, static_cast<float>(row[i]));
  return largest;
}

LANES_INLINE Floats exponentials(const Floats& values, float largest) { return exp2Of((values - largest) * kLog2E); }

// The sum of e^(value - largest): not a number where one of them is none.
template <class Number>
LANES_INLINE double sumOfExponentials(const Number* row, int64_t size, float largest) {
  double sum = 0;
  for (int64_t begin = 0; begin < size; begin += kBlock) {
    const int64_t end = std::min(size, begin + kBlock);
    Floats part = broadcast(0);
    int64_t i = begin;
    for (; i + kFloats <= end; i += kFloats) part += exponentials(loadFloats(row + i), largest);
    sum += sumOf(part);
    for (; i < end; i++) sum += exponentials(broadcast(static_cast<float>(row[i])), largest)[0];
  }
  return sum;
}

// The loss of a row, which becomes scale · (softmax - one at the target) where there is a scale.
template <class Number>
LANES_INLINE void rowInline(Number* row, int64_t size, int64_t target, const float* scale, float* loss) {
  const float largest = largestOf(row, size);
  const double sum = sumOfExponentials(row, size, largest);
  const float chosen = static_cast<float>(row[target]);
  *loss = static_cast<float>(std::log(sum) - (chosen - largest));
  if (scale == nullptr) return;
  const float factor = static_cast<float>(*scale / sum);
  for (int64_t i = 0; i < size; i += kFloats) {
    const int64_t count = size - i;
    storeSome(row + i, exponentials(loadSome(row + i, count), largest) * factor, count);
  }
  row[target] = static_cast<Number>(exponentials(broadcast(chosen), largest)[0] * factor - *scale);
}

LANES_INLINE void rowOfFloatsInline(float* row, int64_t size, int64_t target, const float* scale, float* loss) {
  rowInline(row, size, target, scale, loss);
}

LANES_INLINE void rowOfHalvesInline(BFloat16* row, int64_t size, int64_t target, const float* scale, float* loss) {
  rowInline(row, size, target, scale, loss);
}

CLONES(rowOfFloats, (float* row, int64_t size, int64_t target, const float* scale, float* loss), (row, size, target, scale, loss))
CLONES(rowOfHalves, (BFloat16* row, int64_t size, int64_t target, const float* scale, float* loss), (row, size, target, scale, loss))

void anyRow(float* row, int64_t size, int64_t target, const float* scale, float* loss) { rowOfFloats(row, size, target, scale, loss); }
void anyRow(BFloat16* row, int64_t size, int64_t target, const float* scale, float* loss) { rowOfHalves(row, size, target, scale, loss); }

template <class Number>
void eachRow(const Tensor& logits, const Tensor& target, const Tensor& scale, const Tensor& losses) {
  const int64_t size = logits.size(1);
  auto* rows = logits.data_ptr<Number>();
  const auto* targets = target.const_data_ptr<int64_t>();
  const auto* scales = scale.defined() ? scale.const_data_ptr<float>() : nullptr;
  const int64_t step = scale.defined() && scale.numel() > 1 ? 1 : 0;
  auto* to = losses.data_ptr<float>();
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      TORCH_CHECK_INDEX(targets[i] >= 0 && targets[i] < size, "expected a target of 0 to ", size - 1, " in row ", i, " but received ", targets[i]);
      anyRow(rows + i * size, size, targets[i], scales == nullptr ? nullptr : scales + i * step, to + i);
    }
  });
}

// Some rows at a time by libtorch's operators, on any device and in any type.
void rowsByOperators(const Tensor& logits, const Tensor& target, const Tensor& scale, const Tensor& losses) {
  if (!scale.defined()) {
    losses.copy_(at::cross_entropy_loss(logits.to(losses.scalar_type()), target, {}, at::Reduction::None));
    return;
  }
  const Tensor x = logits.to(losses.scalar_type()), places = target.unsqueeze(1);
  x.sub_(x.amax(-1, true));
  const Tensor chosen = x.gather(1, places);
  x.exp_();
  const Tensor sum = x.sum(-1, true);
  losses.copy_(sum.log().sub_(chosen).squeeze(1));
  const Tensor factor = scale.numel() > 1 ? scale.unsqueeze(1) : scale;
  x.mul_(factor).div_(sum);
  x.scatter_(1, places, x.gather(1, places).sub_(factor));
  if (!x.is_same(logits)) logits.copy_(x);
}

Tensor crossEntropy(const Tensor& logits, const Tensor& target, const std::optional<Tensor>& given) {
  TORCH_CHECK(logits.dim() == 2 && logits.is_contiguous() && logits.is_floating_point() && target.dim() == 1 && target.size(0) == logits.size(0) &&
                  target.scalar_type() == at::kLong && target.is_contiguous(),
              "expected contiguous logits (rows, classes) and a target (rows) of int64 but received ", logits.sizes(), " and ", target.sizes());
  const auto wide = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor scale = given.value_or(Tensor());
  TORCH_CHECK(!scale.defined() || (scale.scalar_type() == wide && scale.is_contiguous() && (scale.numel() == 1 || scale.sizes() == target.sizes())),
              "expected a scale for all rows or each in ", wide);
  const c10::NoGradGuard none;
  const Tensor losses = at::empty(target.sizes(), logits.options().dtype(wide));
  const bool forKernel = (logits.is_cpu() || (logits.is_meta() && metaStandsForCpu())) &&
                         (logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kBFloat16);
  if (logits.numel() == 0 || (forKernel && logits.is_meta())) return losses;
  if (!forKernel) {
    const int64_t rows = std::max<int64_t>(1, kTogether / logits.size(1));
    for (int64_t i = 0; i < logits.size(0); i += rows) {
      const auto part = [&](const Tensor& all) { return all.narrow(0, i, std::min(rows, logits.size(0) - i)); };
      rowsByOperators(part(logits), part(target), scale.defined() && scale.numel() > 1 ? part(scale) : scale, part(losses));
    }
  } else if (logits.scalar_type() == at::kFloat) {
    eachRow<float>(logits, target, scale, losses);
  } else {
    eachRow<BFloat16>(logits, target, scale, losses);
  }
  return losses;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("cross_entropy_(Tensor(a!) logits, Tensor target, *, Tensor? scale=None) -> Tensor", crossEntropy);
}

}  // namespace minicpm
