// Gradients of what is computed again. Nothing lies around between the passes but the operands.
#pragma once
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

namespace minicpm {

// Computes `compute(operands)` again, with a graph, and returns the gradients of all operands.
template <class Compute>
torch::autograd::variable_list gradientsOf(const torch::autograd::variable_list& operands, const at::Tensor& gradient, const Compute& compute) {
  const c10::AutoGradMode withGraph(true);
  torch::autograd::variable_list leaves;
  for (const at::Tensor& operand : operands) leaves.push_back(operand.detach().requires_grad_(true));
  return torch::autograd::grad({compute(leaves)}, leaves, {gradient});
}

}  // namespace minicpm
