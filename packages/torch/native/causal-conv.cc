// minicpm::causal_conv1d_silu: a causal convolution and SiLU. Over a row and those before it, each channel for itself.
//
// On a CPU a kernel, float32 inside (float64 for float64), with nothing kept for the gradient but the operands; elsewhere, and for float16,
// libtorch's operators. A thread works on some channels of all rows: results do not depend on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "own-operators.h"
#include "real-lanes.h"
#include "recompute.h"
#include "sequences.h"

namespace minicpm {

using at::Tensor;

namespace {

constexpr int64_t kChannels = 256;  // that a thread works on at a time
constexpr int64_t kTaps = 8;        // at most

// Some channels of one sequence.
template <class Number>
struct Lane {
  const Number* x;
  int64_t row;  // between rows of x
  const Number* before;  // the rows before the first, or null: zeros
  int64_t channels;  // of all, between rows of everything dense
  int64_t count, taps, length;
  const Number* rowAt(int64_t t, const Number* zeros) const {
    if (t >= 0) return x + t * row;
    return before == nullptr ? zeros : before + (taps - 1 + t) * channels;
  }
};

// The sum before SiLU, of sixteen (eight) channels.
template <class Real, class Number>
LANES_INLINE Vector<Real> sumAt(const Number* const* rows, const Real* weight, int64_t taps, int64_t c, int64_t count) {
  Vector<Real> sum = {};
  for (int64_t tap = 0; tap < taps; tap++) sum += loadUpTo<Real>(rows[tap] + c, count - c) * load(weight + tap * kChannels + c);
  return sum;
}

template <class Real, class Number>
LANES_INLINE void convForwardInline(const Lane<Number>& lane, const Real* weight, Number* to) {
  const Number zeros[kChannels] = {};
  for (int64_t t = 0; t < lane.length; t++) {
    const Number* rows[kTaps];
    for (int64_t tap = 0; tap < lane.taps; tap++) rows[tap] = lane.rowAt(t - (lane.taps - 1) + tap, zeros);
    for (int64_t c = 0; c < lane.count; c += kLanes<Real>) {
      const Vector<Real> sum = sumAt(rows, weight, lane.taps, c, lane.count);
      storeUpTo(to + t * lane.channels + c, sum * sigmoidOf<Real>(sum), lane.count - c);
    }
  }
}

// Writes the gradient of x and adds to that of the weight, if it is not null.
template <class Real, class Number>
LANES_INLINE void convBackwardInline(const Lane<Number>& lane, const Real* weight, const Number* gradient, int64_t gradientRow, Number* to, Real* gradWeight) {
  const Number zeros[kChannels] = {};
  const int64_t taps = lane.taps;
  Real sums[kTaps][kChannels] = {};  // gradients of the sums of the last rows; they are zero after the end
  for (int64_t t = lane.length - 1; t >= 0; t--) {
    const Number* rows[kTaps];
    for (int64_t tap = 0; tap < taps; tap++) rows[tap] = lane.rowAt(t - (taps - 1) + tap, zeros);
    for (int64_t c = 0; c < lane.count; c += kLanes<Real>) {
      const Vector<Real> sum = sumAt(rows, weight, taps, c, lane.count), s = sigmoidOf<Real>(sum);
      const Vector<Real> own = loadUpTo<Real>(gradient + t * gradientRow + c, lane.count - c) * s * (1 + sum * (1 - s));
      store(sums[t % taps] + c, own);
      Vector<Real> all = {};
      for (int64_t tap = 0; tap < taps; tap++) all += load(sums[(t + taps - 1 - tap) % taps] + c) * load(weight + tap * kChannels + c);
      storeUpTo(to + t * lane.channels + c, all, lane.count - c);
      for (int64_t tap = 0; tap < taps && gradWeight != nullptr; tap++) {
        Real* const place = gradWeight + tap * kChannels + c;
        store(place, load(place) + own * loadUpTo<Real>(rows[tap] + c, lane.count - c));
      }
    }
  }
}

#define FOR_TYPES(Real, Number)                                                                                                              \
  CLONES(convForward, (const Lane<Number>& lane, const Real* weight, Number* to), (lane, weight, to))                                        \
  CLONES(convBackward, (const Lane<Number>& lane, const Real* weight, const Number* gradient, int64_t gradientRow, Number* to, Real* gradWeight), \
         (lane, weight, gradient, gradientRow, to, gradWeight))

FOR_TYPES(float, float)
FOR_TYPES(float, BFloat16)
FOR_TYPES(double, double)
#undef FOR_TYPES

// The weights (channels, taps) of some channels as (taps, kChannels).
template <class Real, class Number>
void readWeight(const Number* from, int64_t first, int64_t count, int64_t taps, Real* to) {
  std::fill_n(to, taps * kChannels, Real(0));
  for (int64_t c = 0; c < count; c++)
    for (int64_t tap = 0; tap < taps; tap++) to[tap * kChannels + c] = static_cast<Real>(from[(first + c) * taps + tap]);
}

// Calls `work(first channel, channels)` on all threads.
template <class Work>
void forChannels(int64_t channels, int64_t numbers, const Work& work) {
  const int64_t blocks = (channels + kChannels - 1) / kChannels;
  at::parallel_for(0, blocks, std::max<int64_t>(1, kGrain * blocks / numbers), [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; block++) work(block * kChannels, std::min(kChannels, channels - block * kChannels));
  });
}

template <class Real, class Number>
void forward(const std::vector<RowRange>& sequences, const Tensor& x, const Tensor& weight, at::TensorList states, const Tensor& output) {
  const int64_t channels = x.size(2), taps = weight.size(1);
  forChannels(channels, x.numel(), [&](int64_t first, int64_t count) {
    Real own[kTaps * kChannels];
    readWeight(weight.const_data_ptr<Number>(), first, count, taps, own);
    for (size_t i = 0; i < sequences.size(); i++) {
      const auto [batch, start, length] = sequences[i];
      Number* const state = states.empty() ? nullptr : states[i].data_ptr<Number>() + first;
      const Lane<Number> lane{x.const_data_ptr<Number>() + batch * x.stride(0) + start * x.stride(1) + first, x.stride(1), state, channels, count, taps, length};
      convForward(lane, own, output.data_ptr<Number>() + (batch * x.size(1) + start) * channels + first);
      for (int64_t t = 0; t < taps - 1 && state != nullptr; t++)  // a row of the state comes from one after it, or from x
        std::memmove(state + t * channels, lane.rowAt(length - (taps - 1) + t, nullptr), static_cast<size_t>(count) * sizeof(Number));
    }
  });
}

template <class Real, class Number>
void backward(const std::vector<RowRange>& sequences, const Tensor& x, const Tensor& weight, const Tensor& gradient, const Tensor& gradX,
              const Tensor& gradWeight) {
  const int64_t channels = x.size(2), taps = weight.size(1);
  forChannels(channels, x.numel(), [&](int64_t first, int64_t count) {
    Real own[kTaps * kChannels], sums[kTaps * kChannels] = {};
    readWeight(weight.const_data_ptr<Number>(), first, count, taps, own);
    for (const auto [batch, start, length] : sequences) {
      const Lane<Number> lane{x.const_data_ptr<Number>() + batch * x.stride(0) + start * x.stride(1) + first, x.stride(1), nullptr, channels, count, taps, length};
      convBackward(lane, own, gradient.const_data_ptr<Number>() + batch * gradient.stride(0) + start * gradient.stride(1) + first, gradient.stride(1),
                   gradX.data_ptr<Number>() + (batch * x.size(1) + start) * channels + first, gradWeight.defined() ? sums : nullptr);
    }
    for (int64_t c = 0; c < count && gradWeight.defined(); c++)
      for (int64_t tap = 0; tap < taps; tap++) gradWeight.data_ptr<Number>()[(first + c) * taps + tap] = static_cast<Number>(sums[tap * kChannels + c]);
  });
}

template <class... Arguments>
void forwardAny(const Tensor& x, const Arguments&... arguments) {
  if (x.scalar_type() == at::kDouble) return forward<double, double>(arguments...);
  if (x.scalar_type() == at::kFloat) return forward<float, float>(arguments...);
  forward<float, BFloat16>(arguments...);
}

template <class... Arguments>
void backwardAny(const Tensor& x, const Arguments&... arguments) {
  if (x.scalar_type() == at::kDouble) return backward<double, double>(arguments...);
  if (x.scalar_type() == at::kFloat) return backward<float, float>(arguments...);
  backward<float, BFloat16>(arguments...);
}

Tensor dense(const Tensor& tensor) { return tensor.stride(2) == 1 ? tensor : tensor.contiguous(); }

// On the meta device, only the memory is taken.
struct CausalConv : torch::autograd::Function<CausalConv> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& given, const Tensor& givenWeight, at::OptionalIntArrayRef lengths) {
    const Tensor x = dense(given), weight = givenWeight.contiguous(), output = at::empty(x.sizes(), x.options());
    if (!x.is_meta()) forwardAny(x, rowRanges(x, lengths), x, weight, at::TensorList(), output);
    context->save_for_backward({x, weight});
    context->saved_data["lengths"] = lengths ? lengths->vec() : std::vector<int64_t>();
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], gradX = at::empty(x.sizes(), x.options());
    const Tensor gradWeight = context->needs_input_grad(1) ? at::empty(weight.sizes(), weight.options()) : Tensor();
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const auto sequences = rowRanges(x, lengths.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(lengths));
    if (!x.is_meta()) backwardAny(x, sequences, x, weight, dense(gradients[0]), gradX, gradWeight);
    return {gradX, gradWeight, Tensor()};
  }
};

Tensor convByOperators(const Tensor& x, const Tensor& weight, const std::vector<RowRange>& sequences, at::TensorList states) {
  const int64_t taps = weight.size(1);
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor factors = weight.to(wide).t();  // (taps, channels)
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < sequences.size(); i++) {
    const auto [batch, start, length] = sequences[i];
    const Tensor before = states.empty() ? at::zeros({taps - 1, x.size(2)}, x.options()) : states[i];
    const Tensor all = at::cat({before, x[batch].narrow(0, start, length)}).to(wide);
    Tensor sum = all.narrow(0, 0, length).mul(factors[0]);
    for (int64_t tap = 1; tap < taps; tap++) sum = sum.add(all.narrow(0, tap, length).mul(factors[tap]));
    if (!states.empty()) states[i].copy_(all.narrow(0, length, taps - 1));
    outputs.push_back(at::silu(sum).to(x.scalar_type()));
  }
  return sequences.size() == 1 ? outputs[0].unsqueeze(0) : x.size(0) == 1 ? at::cat(outputs).unsqueeze(0) : at::stack(outputs);
}

// Operator by operator, with libtorch's own gradient of what is computed again.
struct ConvByOperators : torch::autograd::Function<ConvByOperators> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, const Tensor& weight, at::OptionalIntArrayRef lengths) {
    context->save_for_backward({x, weight});
    context->saved_data["lengths"] = lengths ? lengths->vec() : std::vector<int64_t>();
    return convByOperators(x, weight, rowRanges(x, lengths), {});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const auto saved = context->get_saved_variables();
    const auto sequences = rowRanges(saved[0], lengths.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(lengths));
    auto results = gradientsOf(saved, gradients[0],
                               [&](const torch::autograd::variable_list& leaves) { return convByOperators(leaves[0], leaves[1], sequences, {}); });
    results.emplace_back();
    return results;
  }
};

bool isForKernel(const Tensor& x, int64_t taps) {
  return (x.is_cpu() || (x.is_meta() && metaStandsForCpu())) && x.scalar_type() != at::kHalf && taps <= kTaps;
}

Tensor causalConv(const Tensor& x, const Tensor& weight, at::TensorList states, at::OptionalIntArrayRef lengths) {
  TORCH_CHECK(x.dim() == 3 && x.numel() > 0 && weight.dim() == 3 && weight.size(0) == x.size(2) && weight.size(1) == 1 && weight.size(2) > 1 &&
                  weight.scalar_type() == x.scalar_type(),
              "expected x (batches, rows, channels) and a weight (channels, 1, taps) of its type but received ", x.sizes(), " and ", weight.sizes());
  const auto sequences = rowRanges(x, lengths);
  const bool grows = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  checkStates(states, sequences.size(), {weight.size(2) - 1, x.size(2)}, x.scalar_type(), x, grows);
  const Tensor taps = weight.squeeze(1);
  const bool kernel = isForKernel(x, taps.size(1));
  if (states.empty()) return kernel ? CausalConv::apply(x, taps, lengths) : ConvByOperators::apply(x, taps, lengths);
  if (!kernel) return convByOperators(x, taps, sequences, states);
  const Tensor output = at::empty(x.sizes(), x.options());
  if (!x.is_meta()) forwardAny(x, sequences, dense(x), taps.contiguous(), states, output);
  return output;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("causal_conv1d_silu(Tensor x, Tensor weight, Tensor(a!)[] states, *, int[]? lengths=None) -> Tensor", causalConv);
}

}  // namespace minicpm
