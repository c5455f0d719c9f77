// minicpm::gelu, and minicpm::gelu_mlp around it.
//
// The approximation by tanh in bfloat16 has a kernel here on a CPU with AVX-512, in float32 inside: libtorch's takes three times as long.
#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/native_layer_norm.h>
#include <ATen/ops/native_layer_norm_backward.h>

#include <string>
#include <string_view>

#include "avx512.h"
#include "own-operators.h"
#include "product.h"

namespace minicpm {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#if defined(MINICPM_AVX512)

// x / 2 · (1 + tanh(u)) = x · sigmoid(2 u) with u = √(2/π) (x + 0.044715 x³).
AVX512 static void geluTanh(const BFloat16* from, BFloat16* to, int64_t count) {
  const __m512 linear = _mm512_set1_ps(2 * 0.7978845608028654f), cubic = _mm512_set1_ps(2 * 0.7978845608028654f * 0.044715f);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = firstLanes(count - i);
    const __m512 x = load(from + i, lanes);
    store(to + i, _mm512_mul_ps(x, sigmoid(_mm512_mul_ps(x, _mm512_fmadd_ps(_mm512_mul_ps(x, x), cubic, linear)))), lanes);
  }
}

#endif

static Tensor geluOf(const Tensor& x, std::string_view approximate) {
#if defined(MINICPM_AVX512)
  if (x.is_cpu() && x.scalar_type() == at::kBFloat16 && x.is_contiguous() && approximate == "tanh" && hasAvx512Bf16()) {
    const Tensor y = at::empty_like(x);
    const auto* from = x.const_data_ptr<BFloat16>();
    auto* to = y.data_ptr<BFloat16>();
    at::parallel_for(0, x.numel(), kGrain, [&](int64_t begin, int64_t end) { geluTanh(from + begin, to + begin, end - begin); });
    return y;
  }
#endif
  return at::gelu(x, approximate);
}

struct Gelu : torch::autograd::Function<Gelu> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const std::string& approximate) {
    context->save_for_backward({x});
    context->saved_data["approximate"] = approximate;
    return geluOf(x, approximate);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    return {at::gelu_backward(gradients[0], context->get_saved_variables()[0], context->saved_data["approximate"].toStringRef()), Tensor()};
  }
};

static Tensor gelu(const Tensor& x, std::string_view approximate) { return Gelu::apply(x, std::string(approximate)); }

// x + W₂ gelu(W₁ layer_norm(x) + b₁) + b₂. Of the inside, only the input of gelu is kept for the gradient: layer_norm and gelu are computed
// again, which takes a pass through memory, where their results would take five of the twelve widths of `x` that the block keeps.
struct GeluMlp : torch::autograd::Function<GeluMlp> {
  static Tensor normalised(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps, Tensor* mean, Tensor* inverse) {
    auto [normal, found, reciprocal] = at::native_layer_norm(x, {x.size(-1)}, scale, shift, eps);
    if (mean != nullptr) std::tie(*mean, *inverse) = std::pair(found, reciprocal);
    return normal;
  }

  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& first,
                        const Tensor& firstBias, const Tensor& second, const Tensor& secondBias, double eps, bool tanh) {
    Tensor mean, inverse;
    const Tensor hidden = rowsTimesWeight(normalised(x, scale, shift, eps, &mean, &inverse), first, firstBias);
    context->save_for_backward({x, scale, shift, mean, inverse, first, hidden, second});
    context->saved_data["eps"] = eps;
    context->saved_data["tanh"] = tanh;
    return rowsTimesWeight(geluOf(hidden, tanh ? "tanh" : "none"), second, secondBias).add_(x);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &scale = saved[1], &shift = saved[2], &mean = saved[3], &inverse = saved[4];
    const char* approximate = context->saved_data["tanh"].toBool() ? "tanh" : "none";
    const auto rows = [](const Tensor& tensor) { return tensor.reshape({-1, tensor.size(-1)}); };
    const auto needs = [&](size_t input) { return context->needs_input_grad(input); };
    const Tensor grad = rows(gradients[0]), hidden = rows(saved[6]);
    const Tensor gradSecond = needs(5) ? grad.t().mm(geluOf(hidden, approximate)) : Tensor();
    const Tensor gradSecondBias = needs(6) ? grad.sum(0) : Tensor();
    const Tensor inner = at::gelu_backward(gradientOfRows(grad, saved[7]), hidden, approximate);
    const Tensor gradFirst =
        needs(3) ? inner.t().mm(rows(normalised(x, scale, shift, context->saved_data["eps"].toDouble(), nullptr, nullptr))) : Tensor();
    const Tensor gradFirstBias = needs(4) ? inner.sum(0) : Tensor();
    auto [gradX, gradScale, gradShift] = at::native_layer_norm_backward(gradientOfRows(inner, saved[5]).view_as(x), x, {x.size(-1)}, mean, inverse, scale, shift,
                                                                        {needs(0), needs(1), needs(2)});
    if (needs(0)) gradX.add_(gradients[0]);
    return {gradX, gradScale, gradShift, gradFirst, gradFirstBias, gradSecond, gradSecondBias, Tensor(), Tensor()};
  }
};

static Tensor geluMlp(const Tensor& x, const Tensor& scale, const Tensor& shift, const Tensor& first, const Tensor& firstBias, const Tensor& second,
                      const Tensor& secondBias, double eps, bool tanh) {
  return GeluMlp::apply(x.contiguous(), scale, shift, first, firstBias, second, secondBias, eps, tanh);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("gelu(Tensor x, *, str approximate=\"none\") -> Tensor", gelu);
  library.def(
      "gelu_mlp(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, float eps, bool tanh) -> "
      "Tensor",
      geluMlp);
}

}  // namespace minicpm
