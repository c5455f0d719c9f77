// minicpm::gated_delta_rule: linear attention with a state. It forgets by a gate and is corrected by the delta rule (Yang, Kautz and Hatamizadeh, 2024).
//
// On a CPU, the kernels of delta-*.cc; elsewhere, and for float16, libtorch's operators.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "delta-kernel.h"
#include "own-operators.h"
#include "recompute.h"

namespace minicpm {

using at::Tensor;

namespace {

Tensor unit(const Tensor& x) { return x.mul(x.square().sum(-1, true).add(kNormEps).rsqrt()); }

// One chunk of all heads: q, k (N, C, dk), v (N, C, dv), decay and beta (N, C), state (N, dk, dv), which is replaced by the one after the chunk.
Tensor chunkByOperators(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& decay, const Tensor& beta, Tensor& state) {
  const Tensor sums = decay.cumsum(-1), since = sums.exp().unsqueeze(-1), last = sums.narrow(-1, sums.size(-1) - 1, 1);
  // (row, column): the decay from the column's token to the row's. A difference of sums would lose what is small after a gate that closes.
  const Tensor between = decay.unsqueeze(-1).expand({-1, -1, decay.size(-1)}).tril(-1).cumsum(-2).exp().tril();
  const Tensor rate = beta.unsqueeze(-1), keys = k.transpose(-1, -2);
  const Tensor system = k.matmul(keys).mul(between).mul(rate);
  const Tensor wanted = v.sub(k.matmul(state).mul(since)).mul(rate);
  const Tensor changes = at::linalg_solve_triangular(system, wanted, /*upper=*/false, /*left=*/true, /*unitriangular=*/true);
  const Tensor output = q.matmul(state).mul(since).add(q.matmul(keys).mul(between).matmul(changes));
  state = state.mul(last.exp().unsqueeze(-1)).add(keys.mul(between.narrow(-2, decay.size(-1) - 1, 1)).matmul(changes));
  return output;
}

Tensor deltaByOperators(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay, const Tensor& beta,
                        const std::vector<RowRange>& sequences, at::TensorList states) {
  const auto wide = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t group = value.size(2) / key.size(2);
  const Tensor q = unit(query.to(wide)).mul(1.0 / std::sqrt(static_cast<double>(key.size(3)))), k = unit(key.to(wide));
  const auto perValueHead = [&](const Tensor& x) { return group == 1 ? x : x.repeat_interleave(group, 0); };
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < sequences.size(); i++) {
    const auto [batch, start, length] = sequences[i];
    Tensor state = states.empty() ? at::zeros({value.size(2), key.size(3), value.size(3)}, value.options().dtype(wide)) : states[i].clone();
    std::vector<Tensor> chunks;
    for (int64_t first = start; first < start + length; first += kChunk) {
      const int64_t count = std::min(kChunk, start + length - first);
      const auto heads = [&, batch = batch](const Tensor& x) { return x[batch].narrow(0, first, count).to(wide).transpose(0, 1); };
      chunks.push_back(chunkByOperators(perValueHead(heads(q)), perValueHead(heads(k)), heads(value), heads(decay), heads(beta), state));
    }
    if (!states.empty()) states[i].copy_(state);
    outputs.push_back(at::cat(chunks, 1).transpose(0, 1));
  }
  const Tensor all = sequences.size() == 1 ? outputs[0].unsqueeze(0) : value.size(0) == 1 ? at::cat(outputs).unsqueeze(0) : at::stack(outputs);
  return all.to(value.scalar_type());
}

Tensor dense(const Tensor& tensor) { return tensor.stride(3) == 1 ? tensor : tensor.contiguous(); }

Tensor emptyOutput(const Tensor& value) { return at::empty(value.sizes(), value.options()); }

DeltaOperands denseOperands(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay, const Tensor& beta) {
  return {dense(query), dense(key), dense(value), decay.contiguous(), beta.contiguous()};
}

// What the kernels keep is their operands. On the meta device, only the memory is taken.
struct DeltaRule : torch::autograd::Function<DeltaRule> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay,
                        const Tensor& beta, at::OptionalIntArrayRef lengths) {
    const DeltaOperands operands = denseOperands(query, key, value, decay, beta);
    const auto sequences = rowRanges(value, lengths);
    const Tensor output = emptyOutput(value);
    if (value.is_meta()) take(deltaForwardBytes(sequences, operands), value);
    else deltaForward(sequences, operands, {}, output);
    context->save_for_backward({operands.query, operands.key, operands.value, operands.decay, operands.beta});
    context->saved_data["lengths"] = lengths ? lengths->vec() : std::vector<int64_t>();
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const DeltaOperands operands{saved[0], saved[1], saved[2], saved[3], saved[4]};
    const auto like = [](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
    const DeltaOperands results{like(saved[0]), like(saved[1]), like(saved[2]), like(saved[3]), like(saved[4])};
    const auto sequences = rowRanges(saved[2], lengths.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(lengths));
    if (saved[2].is_meta()) take(deltaBackwardBytes(sequences, operands), saved[2]);
    else deltaBackward(sequences, operands, dense(gradients[0]), results);
    return {results.query, results.key, results.value, results.decay, results.beta, Tensor()};
  }

  // Memory that is gone again at once.
  static void take(int64_t bytes, const Tensor& like) { at::empty({bytes}, like.options().dtype(at::kByte)); }
};

// Operator by operator, with libtorch's own gradient of what is computed again: graphs of all layers at once would take 10 MB a token.
struct DeltaByOperators : torch::autograd::Function<DeltaByOperators> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay,
                        const Tensor& beta, at::OptionalIntArrayRef lengths) {
    context->save_for_backward({query, key, value, decay, beta});
    context->saved_data["lengths"] = lengths ? lengths->vec() : std::vector<int64_t>();
    return deltaByOperators(query, key, value, decay, beta, rowRanges(value, lengths), {});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const auto saved = context->get_saved_variables();
    const auto sequences = rowRanges(saved[2], lengths.empty() ? at::OptionalIntArrayRef() : at::OptionalIntArrayRef(lengths));
    auto results = gradientsOf(saved, gradients[0], [&](const torch::autograd::variable_list& x) {
      return deltaByOperators(x[0], x[1], x[2], x[3], x[4], sequences, {});
    });
    results.emplace_back();
    return results;
  }
};

void check(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay, const Tensor& beta) {
  for (const Tensor* tensor : {&query, &key, &value}) {
    TORCH_CHECK(tensor->dim() == 4, "expected (batches, rows, heads, head size) but received ", tensor->sizes());
    TORCH_CHECK(tensor->scalar_type() == query.scalar_type(), "expected query, key and value of one type");
  }
  TORCH_CHECK(query.sizes() == key.sizes() && key.size(0) == value.size(0) && key.size(1) == value.size(1) && key.size(2) > 0 &&
                  value.size(2) % key.size(2) == 0 && value.numel() > 0 && key.numel() > 0,
              "expected query and key of one shape, with the value's batches and rows and a divisor of its heads, but received ", query.sizes(), ", ",
              key.sizes(), " and ", value.sizes());
  const auto wide = value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  for (const Tensor* tensor : {&decay, &beta})
    TORCH_CHECK(tensor->sizes() == value.sizes().slice(0, 3) && tensor->scalar_type() == wide, "expected decay and beta ", value.sizes().slice(0, 3),
                " of type ", wide, " but received ", tensor->sizes(), " of type ", tensor->scalar_type());
}

bool isForKernel(const Tensor& value) {
  return (value.is_cpu() || (value.is_meta() && metaStandsForCpu())) && value.scalar_type() != at::kHalf;
}

Tensor gatedDeltaRule(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& decay, const Tensor& beta, at::TensorList states,
                      at::OptionalIntArrayRef lengths) {
  check(query, key, value, decay, beta);
  const auto sequences = rowRanges(value, lengths);
  const bool grows = c10::GradMode::is_enabled() && (query.requires_grad() || key.requires_grad() || value.requires_grad() || decay.requires_grad() ||
                                                     beta.requires_grad());
  checkStates(states, sequences.size(), {value.size(2), key.size(3), value.size(3)}, decay.scalar_type(), value, grows);
  const bool kernel = isForKernel(value);
  if (states.empty())
    return kernel ? DeltaRule::apply(query, key, value, decay, beta, lengths) : DeltaByOperators::apply(query, key, value, decay, beta, lengths);
  if (!kernel) return deltaByOperators(query, key, value, decay, beta, sequences, states);
  const Tensor output = emptyOutput(value);
  if (!value.is_meta()) deltaForward(sequences, denseOperands(query, key, value, decay, beta), states, output);
  return output;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def(
      "gated_delta_rule(Tensor query, Tensor key, Tensor value, Tensor decay, Tensor beta, Tensor(a!)[] states, *, int[]? lengths=None) -> Tensor",
      gatedDeltaRule);
}

}  // namespace minicpm
