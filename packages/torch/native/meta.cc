// Shapes on the meta device for operators that lack them. PyTorch has some meta kernels in Python alone; tests and
// estimates run whole steps there. A kernel that this libtorch has already is left as it is.
#include <ATen/ExpandUtils.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/result_type.h>
#include <torch/library.h>

#include <array>
#include <string>
#include <tuple>

namespace minicpm {

using at::IntArrayRef;
using at::Tensor;
using Optional = std::optional<Tensor>;

static Tensor indexSelect(const Tensor& self, int64_t dim, const Tensor& index) {
  auto sizes = self.sizes().vec();
  sizes[static_cast<size_t>(dim < 0 ? dim + self.dim() : dim)] = index.numel();
  return at::empty(sizes, self.options());
}

static Tensor& whereOut(const Tensor& condition, const Tensor& self, const Tensor& other, Tensor& result) {
  result.resize_(at::infer_size(condition.sizes(), at::infer_size(self.sizes(), other.sizes())));
  return result;
}

static Tensor where(const Tensor& condition, const Tensor& self, const Tensor& other) {
  Tensor result = at::empty({0}, condition.options().dtype(at::result_type(self, other)));
  return whereOut(condition, self, other, result);
}

static Tensor embeddingDenseBackward(const Tensor& grad, const Tensor&, int64_t rows, int64_t, bool) {
  return at::empty({rows, grad.size(-1)}, grad.options());
}

// Mean and reciprocal deviation of each row are float32 where numbers are smaller.
static Tensor statistics(const Tensor& x, size_t normalized) {
  auto sizes = x.sizes().vec();
  for (size_t i = sizes.size() - normalized; i < sizes.size(); i++) sizes[i] = 1;
  return at::empty(sizes, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
}

static std::tuple<Tensor, Tensor, Tensor> layerNorm(const Tensor& x, IntArrayRef shape, const Optional&, const Optional&, double) {
  return {at::empty_like(x), statistics(x, shape.size()), statistics(x, shape.size())};
}

static Tensor likeIf(bool wanted, const Optional& tensor) { return wanted && tensor && tensor->defined() ? at::empty_like(*tensor) : Tensor(); }

static std::tuple<Tensor, Tensor, Tensor> layerNormBackward(const Tensor&, const Tensor& x, IntArrayRef, const Tensor&, const Tensor&,
                                                            const Optional& weight, const Optional& bias, std::array<bool, 3> mask) {
  return {likeIf(mask[0], x), likeIf(mask[1], weight), likeIf(mask[2], bias)};
}

static std::tuple<Tensor, Tensor> rmsNorm(const Tensor& x, IntArrayRef shape, const Optional&, std::optional<double>) {
  return {at::empty_like(x), statistics(x, shape.size())};
}

static std::tuple<Tensor, Tensor> rmsNormBackward(const Tensor&, const Tensor& x, IntArrayRef, const Tensor&, const Optional& weight,
                                                  std::array<bool, 2> mask) {
  return {likeIf(mask[0], x), likeIf(mask[1], weight)};
}

static std::tuple<Tensor, Tensor> dropout(const Tensor& x, double, std::optional<bool>) {
  return {at::empty_like(x), at::empty_like(x, x.options().dtype(at::kBool))};
}

static Tensor dropoutBackward(const Tensor& grad, const Tensor&, double) { return at::empty_like(grad); }

static Tensor flip(const Tensor& self, IntArrayRef) { return at::empty_like(self); }

static Tensor solveTriangular(const Tensor&, const Tensor& b, bool, bool, bool) { return at::empty_like(b); }

static void fusedAdamW(at::TensorList, at::TensorList, at::TensorList, at::TensorList, at::TensorList, at::TensorList, double, double,
                       double, double, double, bool, bool, const Optional&, const Optional&) {}

// Packed queries (rows, heads, size): the output, a float32 number for each head and row, and what else is kept. Boxed, because the declaration
// has grown with libtorch's versions.
static void flashAttention(const c10::OperatorHandle& op, c10::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const Tensor query = torch::jit::peek(*stack, 0, count).toTensor();
  torch::jit::drop(*stack, count);
  const auto floats = query.options().dtype(at::kFloat), bytes = query.options().dtype(at::kByte);
  torch::jit::push(*stack, at::empty_like(query), at::empty({query.size(1), query.size(0)}, floats), at::empty({2}, bytes), at::empty({}, bytes),
                   at::empty({0}, query.options()));
}

static void flashAttentionBackward(const c10::OperatorHandle& op, c10::Stack* stack) {
  const size_t count = op.schema().arguments().size();
  const auto like = [&](size_t i) { return at::empty_like(torch::jit::peek(*stack, i, count).toTensor()); };
  const Tensor query = like(1), key = like(2), value = like(3);
  torch::jit::drop(*stack, count);
  torch::jit::push(*stack, query, key, value);
}

template <c10::BoxedKernel::BoxedKernelFunction* kernel>
static void addBoxed(torch::Library& library, const char* name) {
  const auto found = c10::Dispatcher::singleton().findSchema({std::string("aten::") + name, ""});
  if (found && !found->hasKernelForDispatchKey(c10::DispatchKey::Meta)) library.impl(name, torch::CppFunction::makeFromBoxedFunction<kernel>());
}

// Adds a kernel where an operator has none for meta tensors. Another libtorch may declare the operator differently: then it stays without.
template <typename Function>
static void add(torch::Library& library, const char* name, const char* overload, Function* kernel) {
  const auto found = c10::Dispatcher::singleton().findSchema({std::string("aten::") + name, overload});
  if (!found || found->hasKernelForDispatchKey(c10::DispatchKey::Meta)) return;
  try {
    const std::string full = *overload == 0 ? std::string(name) : std::string(name) + "." + overload;
    library.impl(full.c_str(), kernel);
  } catch (const c10::Error&) {
  }
}

TORCH_LIBRARY_IMPL(aten, Meta, library) {
  add(library, "index_select", "", indexSelect);
  add(library, "where", "self", where);
  add(library, "where", "self_out", whereOut);
  add(library, "embedding_dense_backward", "", embeddingDenseBackward);
  add(library, "native_layer_norm", "", layerNorm);
  add(library, "native_layer_norm_backward", "", layerNormBackward);
  add(library, "_fused_rms_norm", "", rmsNorm);
  add(library, "_fused_rms_norm_backward", "", rmsNormBackward);
  add(library, "native_dropout", "", dropout);
  add(library, "native_dropout_backward", "", dropoutBackward);
  add(library, "flip", "", flip);
  add(library, "linalg_solve_triangular", "", solveTriangular);
  add(library, "_fused_adamw_", "", fusedAdamW);
  addBoxed<flashAttention>(library, "_flash_attention_forward");
  addBoxed<flashAttentionBackward>(library, "_flash_attention_backward");
}

}  // namespace minicpm
