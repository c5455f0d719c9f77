// minicpm::sum_of_squares and minicpm::round_stochastically_. What an optimizer step needs of its own.
//
// Their results are those of a whole parameter however it is cut into pieces: the sum is made in float64, and the random bits of an element
// are a function of a seed and of the element's place in the parameter.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/add.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>

#include "own-operators.h"
#include "random-bits.h"

namespace minicpm {

using at::Tensor;

// In float64, the parts of a tensor added in their order, so that the number of threads changes nothing.
template <typename T>
static double sumOfSquares(const T* values, int64_t count) {
  std::vector<double> parts(static_cast<size_t>((count + kGrain - 1) / kGrain));
  at::parallel_for(0, static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; part++) {
      constexpr int kLanes = 8;  // sums side by side: the compiler makes vectors of them
      double sums[kLanes] = {};
      const int64_t from = part * kGrain, to = std::min(from + kGrain, count);
      for (int64_t i = from; i < to; i++) {
        const auto value = static_cast<double>(static_cast<float>(values[i]));
        sums[(i - from) % kLanes] += value * value;
      }
      for (const double sum : sums) parts[static_cast<size_t>(part)] += sum;
    }
  });
  double sum = 0;
  for (const double part : parts) sum += part;
  return sum;
}

// The sum of the squares of all numbers of tensors of floating types on one device: a float64 scalar (float32 where the device has no float64).
static Tensor sumOfAllSquares(at::TensorList tensors) {
  TORCH_CHECK(!tensors.empty(), "expected at least one tensor");
  const auto device = tensors[0].device();
  const auto dtype = device.is_mps() ? at::kFloat : at::kDouble;
  if (device.is_meta()) return at::empty({}, at::TensorOptions(device).dtype(dtype));
  if (!device.is_cpu()) {
    std::vector<Tensor> norms;
    for (const Tensor& tensor : tensors) norms.push_back(at::_foreach_norm({tensor}, 2, at::kFloat)[0].to(dtype));
    const Tensor all = at::stack(norms);
    return at::sum(at::mul(all, all));
  }
  double sum = 0;
  for (const Tensor& given : tensors) {
    const Tensor tensor = given.is_contiguous() ? given : given.contiguous();
    if (tensor.scalar_type() == at::kDouble) {
      sum += at::sum(at::square(tensor)).item<double>();
      continue;
    }
    AT_DISPATCH_SWITCH(tensor.scalar_type(), "sum_of_squares",
                       AT_DISPATCH_CASE(at::kFloat, [&] { sum += sumOfSquares(tensor.const_data_ptr<scalar_t>(), tensor.numel()); })
                           AT_DISPATCH_CASE(at::kBFloat16, [&] { sum += sumOfSquares(tensor.const_data_ptr<scalar_t>(), tensor.numel()); })
                               AT_DISPATCH_CASE(at::kHalf, [&] { sum += sumOfSquares(tensor.const_data_ptr<scalar_t>(), tensor.numel()); }));
  }
  return at::scalar_tensor(sum, at::kDouble);
}

// Rounds float32 `values` to the bfloat16 below or above, the nearer one more often, and writes them to `target`. Value i is number
// `start + i` of its parameter; with `rows` (int64), of which each has `width` numbers, number `i % width` of row `rows[i / width]`, counted
// from `start`.
static Tensor roundStochastically(const Tensor& target, const Tensor& values, int64_t seed, int64_t start, const std::optional<Tensor>& rows,
                                  int64_t width) {
  TORCH_CHECK(target.scalar_type() == at::kBFloat16 && values.scalar_type() == at::kFloat, "expected float32 values for a bfloat16 target");
  TORCH_CHECK(target.is_contiguous() && values.is_contiguous() && target.numel() == values.numel(), "expected contiguous tensors of equal size");
  if (target.is_meta()) return target;
  if (!target.is_cpu()) {  // the device's own generator, which the caller has seeded
    const Tensor noise = at::randint(0x10000, values.sizes(), values.options().dtype(at::kInt));
    target.copy_(at::bitwise_and(at::add(values.view(at::kInt), noise), -0x10000).view(at::kFloat));
    return target;
  }
  const int64_t* ids = rows ? rows->const_data_ptr<int64_t>() : nullptr;
  TORCH_CHECK(ids == nullptr || rows->numel() * width == values.numel(), "expected as many rows as there are values");
  const auto* from = values.const_data_ptr<float>();
  auto* to = target.data_ptr<at::BFloat16>();
  at::parallel_for(0, values.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const auto place = static_cast<uint64_t>(start + (ids == nullptr ? i : ids[i / width] * width + i % width));
      uint32_t bits;
      std::memcpy(&bits, from + i, sizeof bits);
      to[i].x = static_cast<uint16_t>((bits + (randomBits(static_cast<uint64_t>(seed), place) & 0xffff)) >> 16);
    }
  });
  return target;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("sum_of_squares(Tensor[] tensors) -> Tensor", sumOfAllSquares);
  library.def(
      "round_stochastically_(Tensor(a!) target, Tensor values, int seed, int start, Tensor? rows=None, int width=0) -> Tensor(a!)",
      [](Tensor target, const Tensor& values, int64_t seed, int64_t start, const std::optional<Tensor>& rows, int64_t width) {
        return roundStochastically(target, values, seed, start, rows, width);
      });
}

}  // namespace minicpm
