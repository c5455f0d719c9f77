// minicpm::causal_conv1d_silu: a convolution over the rows before, each channel for itself, and SiLU.
#include <ATen/ops/cat.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "own-operators.h"
#include "sequences.h"

namespace minicpm {

using at::Tensor;

namespace {

// Operator by operator, with libtorch's own gradient.
Tensor convByOperators(const Tensor& x, const Tensor& weight, const std::vector<RowRange>& sequences, at::TensorList states) {
  const int64_t taps = weight.size(1);
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const Tensor factors = weight.to(wide).t();  // (taps, channels)
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < sequences.size(); i++) {
    const auto [batch, start, length] = sequences[i];
    const Tensor before = states.empty() ? at::zeros({taps - 1, x.size(2)}, x.options()) : states[i];
    const Tensor all = at::cat({before, x[batch].narrow(0, start, length)});
    Tensor sum = all.narrow(0, 0, length).to(wide).mul(factors[0]);
    for (int64_t tap = 1; tap < taps; tap++) sum = sum.add(all.narrow(0, tap, length).to(wide).mul(factors[tap]));
    if (!states.empty()) states[i].copy_(all.narrow(0, length, taps - 1));
    outputs.push_back(at::silu(sum).to(x.scalar_type()));
  }
  return sequences.size() == 1 ? outputs[0].unsqueeze(0) : x.size(0) == 1 ? at::cat(outputs).unsqueeze(0) : at::stack(outputs);
}

Tensor causalConv(const Tensor& x, const Tensor& weight, at::TensorList states, at::OptionalIntArrayRef lengths) {
  TORCH_CHECK(x.dim() == 3 && x.numel() > 0 && weight.dim() == 3 && weight.size(0) == x.size(2) && weight.size(1) == 1 && weight.size(2) > 1 &&
                  weight.scalar_type() == x.scalar_type(),
              "expected x (batches, rows, channels) and a weight (channels, 1, taps) of its type but received ", x.sizes(), " and ", weight.sizes());
  const auto sequences = rowRanges(x, lengths);
  const bool grows = c10::GradMode::is_enabled() && (x.requires_grad() || weight.requires_grad());
  checkStates(states, sequences.size(), {weight.size(2) - 1, x.size(2)}, x.scalar_type(), x, grows);
  return convByOperators(x, weight.squeeze(1), sequences, states);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("causal_conv1d_silu(Tensor x, Tensor weight, Tensor(a!)[] states, *, int[]? lengths=None) -> Tensor", causalConv);
}

}  // namespace minicpm
