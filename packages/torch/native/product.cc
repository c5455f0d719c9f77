// minicpm::linear: x wᵀ + b. bfloat16 on a CPU with the instructions for it is multiplied in product-kernel.cc, everything else by libtorch.
#include "product.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>

#include "own-operators.h"
#include "product-kernel.h"

namespace minicpm {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {

Tensor flat(const Tensor& rows) { return rows.reshape({-1, rows.size(-1)}); }

bool isDense(const Tensor& matrix) { return matrix.dim() == 2 && matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1); }

bool isOurs(const Tensor& a, const Tensor& b) {
  return a.is_cpu() && b.is_cpu() && a.scalar_type() == at::kBFloat16 && b.scalar_type() == at::kBFloat16;
}

Matrix matrixOf(const Tensor& matrix) { return {matrix.const_data_ptr<BFloat16>(), matrix.stride(0)}; }

std::vector<int64_t> withLast(const Tensor& like, int64_t last) {
  auto sizes = like.sizes().vec();
  sizes.back() = last;
  return sizes;
}

bool multiplies(const Tensor& x, const Tensor& weight) {
  return isOurs(x, weight) && x.dim() > 0 && isDense(weight) && x.size(-1) == weight.size(1) && x.numel() > 0 &&
         hasProduct({x.numel() / x.size(-1), weight.size(0), weight.size(1)});
}

}  // namespace

Tensor rowsTimesWeight(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (!multiplies(x, weight) || (bias.defined() && (bias.scalar_type() != at::kBFloat16 || !bias.is_contiguous()))) return at::linear(x, weight, bias);
  const Tensor rows = flat(x).contiguous(), y = at::empty(withLast(x, weight.size(0)), x.options());
  productBf16({rows.size(0), weight.size(0), weight.size(1)}, matrixOf(rows), matrixOf(weight), true,
              bias.defined() ? bias.const_data_ptr<BFloat16>() : nullptr, y.data_ptr<BFloat16>());
  return y;
}

Tensor gradientOfRows(const Tensor& given, const Tensor& weight) {
  const Tensor grad = flat(given).contiguous();
  const ProductShape shape{grad.size(0), weight.size(1), weight.size(0)};
  if (!isOurs(grad, weight) || !isDense(weight) || !hasProduct(shape)) return grad.mm(weight).view(withLast(given, shape.columns));
  const Tensor y = at::empty(withLast(given, shape.columns), grad.options());
  productBf16(shape, matrixOf(grad), matrixOf(weight), false, nullptr, y.data_ptr<BFloat16>());
  return y;
}

namespace {

// Of x and weight, each is kept only where the other one has a gradient.
struct Linear : torch::autograd::Function<Linear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
    context->saved_data["bias"] = bias.has_value();
    context->save_for_backward({weight.requires_grad() ? x : Tensor(), x.requires_grad() ? weight : Tensor()});
    return rowsTimesWeight(x, weight, bias.value_or(Tensor()));
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const Tensor& grad = gradients[0];
    return {context->needs_input_grad(0) ? gradientOfRows(grad, saved[1]) : Tensor(),
            context->needs_input_grad(1) ? flat(grad).t().mm(flat(saved[0])) : Tensor(),
            context->saved_data["bias"].toBool() && context->needs_input_grad(2) ? flat(grad).sum(0) : Tensor()};
  }
};

Tensor linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  if (!multiplies(x, weight)) return at::linear(x, weight, bias);
  return Linear::apply(x, weight, bias);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(minicpm, library) { library.def("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", linear); }

}  // namespace minicpm
