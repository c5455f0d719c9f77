// minicpm::swiglu and minicpm::rms_norm, fused. libtorch runs each as several operators. These make one pass through
// memory each way and keep only the operands (and one number per row) for the gradient. bfloat16 on a CPU with AVX-512
// has kernels here, computed in float32; all other cases are composed of libtorch's operators.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/silu_backward.h>
#include <ATen/ops/zeros.h>

#include "avx512.h"
#include "own-operators.h"

namespace minicpm {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#if defined(MINICPM_AVX512)

static bool isForKernel(const Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kBFloat16 && x.numel() > 0 && hasAvx512Bf16(); }

AVX512 static void swigluForward(const BFloat16* gate, const BFloat16* up, BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = firstLanes(count - i);
    const __m512 x = load(gate + i, lanes);
    store(to + i, _mm512_mul_ps(_mm512_mul_ps(x, sigmoid(x)), load(up + i, lanes)), lanes);
  }
}

AVX512 static void swigluBackward(const BFloat16* grad, const BFloat16* gate, const BFloat16* up, BFloat16* gradGate, BFloat16* gradUp,
                                  int64_t count) {
  const __m512 one = _mm512_set1_ps(1.0f);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = firstLanes(count - i);
    const __m512 x = load(gate + i, lanes), dy = load(grad + i, lanes), s = sigmoid(x);
    const __m512 slope = _mm512_mul_ps(s, _mm512_fmadd_ps(x, _mm512_sub_ps(one, s), one));  // of x · sigmoid(x)
    store(gradGate + i, _mm512_mul_ps(_mm512_mul_ps(dy, load(up + i, lanes)), slope), lanes);
    store(gradUp + i, _mm512_mul_ps(dy, _mm512_mul_ps(x, s)), lanes);
  }
}

AVX512 static void rmsNormForward(const BFloat16* x, const BFloat16* weight, float eps, int64_t size, BFloat16* to, float* inverse) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 values = load(x + i, firstLanes(size - i));
    squares = _mm512_fmadd_ps(values, values, squares);
  }
  *inverse = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(size) + eps);
  const __m512 factor = _mm512_set1_ps(*inverse);
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    store(to + i, _mm512_mul_ps(_mm512_mul_ps(load(x + i, lanes), factor), load(weight + i, lanes)), lanes);
  }
}

// With x̂ = x · inverse: dx = inverse · (w dy - x̂ · mean(w dy x̂)), and dy x̂ is added to the weight's gradient where there is one.
AVX512 static void rmsNormBackward(const BFloat16* grad, const BFloat16* x, const BFloat16* weight, float inverse, int64_t size,
                                   BFloat16* gradX, float* gradWeight) {
  const __m512 factor = _mm512_set1_ps(inverse);
  __m512 products = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    const __m512 dy = load(grad + i, lanes), normal = _mm512_mul_ps(load(x + i, lanes), factor);
    const __m512 product = _mm512_mul_ps(dy, normal);
    products = _mm512_fmadd_ps(product, load(weight + i, lanes), products);
    if (gradWeight != nullptr)
      _mm512_mask_storeu_ps(gradWeight + i, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, gradWeight + i), product));
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(products) / static_cast<float>(size));
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    const __m512 weighted = _mm512_mul_ps(load(grad + i, lanes), load(weight + i, lanes));
    const __m512 normal = _mm512_mul_ps(load(x + i, lanes), factor);
    store(gradX + i, _mm512_mul_ps(factor, _mm512_fnmadd_ps(normal, mean, weighted)), lanes);
  }
}

struct FusedRmsNorm : torch::autograd::Function<FusedRmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& given, const Tensor& weight, double eps) {
    const Tensor x = given.contiguous(), y = at::empty_like(x);
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const Tensor inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    const auto *from = x.const_data_ptr<BFloat16>(), *factors = weight.const_data_ptr<BFloat16>();
    auto* to = y.data_ptr<BFloat16>();
    auto* inverses = inverse.data_ptr<float>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        rmsNormForward(from + i * size, factors, static_cast<float>(eps), size, to + i * size, inverses + i);
    });
    context->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &weight = saved[1], grad = gradients[0].contiguous(), gradX = at::empty_like(x);
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const bool trains = context->needs_input_grad(1);
    const Tensor sums = trains ? at::zeros({at::get_num_threads(), size}, x.options().dtype(at::kFloat)) : Tensor();
    const auto *dy = grad.const_data_ptr<BFloat16>(), *from = x.const_data_ptr<BFloat16>(), *factors = weight.const_data_ptr<BFloat16>();
    const auto* inverses = saved[2].const_data_ptr<float>();
    auto* to = gradX.data_ptr<BFloat16>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
      float* sum = trains ? sums.data_ptr<float>() + at::get_thread_num() * size : nullptr;
      for (int64_t i = begin; i < end; i++)
        rmsNormBackward(dy + i * size, from + i * size, factors, inverses[i], size, to + i * size, sum);
    });
    return {gradX, trains ? sums.sum(0).to(weight.scalar_type()) : Tensor(), Tensor()};
  }
};

#endif

struct SwiGlu : torch::autograd::Function<SwiGlu> {
  static Tensor forward(AutogradContext* context, const Tensor& gateGiven, const Tensor& upGiven) {
    const Tensor gate = gateGiven.contiguous(), up = upGiven.contiguous();
    context->save_for_backward({gate, up});
#if defined(MINICPM_AVX512)
    if (isForKernel(gate)) {
      const Tensor y = at::empty_like(gate);
      const auto *g = gate.const_data_ptr<BFloat16>(), *u = up.const_data_ptr<BFloat16>();
      auto* to = y.data_ptr<BFloat16>();
      at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) { swigluForward(g + begin, u + begin, to + begin, end - begin); });
      return y;
    }
#endif
    return at::silu(gate).mul(up);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const Tensor &gate = saved[0], &up = saved[1];
#if defined(MINICPM_AVX512)
    if (isForKernel(gate)) {
      refuseSecondDerivative();
      const Tensor grad = gradients[0].contiguous(), gradGate = at::empty_like(gate), gradUp = at::empty_like(up);
      const auto *dy = grad.const_data_ptr<BFloat16>(), *g = gate.const_data_ptr<BFloat16>(), *u = up.const_data_ptr<BFloat16>();
      auto *toGate = gradGate.data_ptr<BFloat16>(), *toUp = gradUp.data_ptr<BFloat16>();
      at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
        swigluBackward(dy + begin, g + begin, u + begin, toGate + begin, toUp + begin, end - begin);
      });
      return {gradGate, gradUp};
    }
#endif
    return {at::silu_backward(gradients[0].mul(up), gate), gradients[0].mul(at::silu(gate))};
  }
};

static Tensor swiglu(const Tensor& gate, const Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "expected two tensors of one shape and type but received ",
              gate.sizes(), " and ", up.sizes());
  return SwiGlu::apply(gate, up);
}

static Tensor rmsNorm(const Tensor& x, const Tensor& weight, double eps) {
  TORCH_CHECK(x.dim() > 0 && weight.dim() == 1 && weight.size(0) == x.size(-1),
              "expected a weight for each number of the last dimension but received ", x.sizes(), " and ", weight.sizes());
#if defined(MINICPM_AVX512)
  if (isForKernel(x) && weight.scalar_type() == at::kBFloat16 && weight.is_contiguous()) return FusedRmsNorm::apply(x, weight, eps);
#endif
  return at::rms_norm(x, {x.size(-1)}, weight, eps);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("swiglu(Tensor gate, Tensor up) -> Tensor", swiglu);
  library.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor", rmsNorm);
}

}  // namespace minicpm
