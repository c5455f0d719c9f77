// minicpm::swiglu and minicpm::rms_norm, fused.
//
// One pass through memory each way, and nothing kept for the gradient but the operands (and a number per row). bfloat16 on a CPU with AVX-512
// has kernels here, in float32 inside; everything else is put together from libtorch's operators.
#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
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

AVX512 static __m512 shifted(const BFloat16* weight, __mmask16 lanes, __m512 offset) { return _mm512_add_ps(load(weight, lanes), offset); }

AVX512 static void rmsNormForward(const BFloat16* x, const BFloat16* weight, float eps, float offset, int64_t size, BFloat16* to, float* inverse) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __m512 values = load(x + i, firstLanes(size - i));
    squares = _mm512_fmadd_ps(values, values, squares);
  }
  *inverse = 1.0f / std::sqrt(_mm512_reduce_add_ps(squares) / static_cast<float>(size) + eps);
  const __m512 factor = _mm512_set1_ps(*inverse), more = _mm512_set1_ps(offset);
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    store(to + i, _mm512_mul_ps(_mm512_mul_ps(load(x + i, lanes), factor), shifted(weight + i, lanes, more)), lanes);
  }
}

// With x̂ = x · inverse: dx = inverse · (w dy - x̂ · mean(w dy x̂)), and dy x̂ is added to the weight's gradient where there is one.
AVX512 static void rmsNormBackward(const BFloat16* grad, const BFloat16* x, const BFloat16* weight, float inverse, float offset, int64_t size,
                                   BFloat16* gradX, float* gradWeight) {
  const __m512 factor = _mm512_set1_ps(inverse), more = _mm512_set1_ps(offset);
  __m512 products = _mm512_setzero_ps();
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    const __m512 dy = load(grad + i, lanes), normal = _mm512_mul_ps(load(x + i, lanes), factor);
    const __m512 product = _mm512_mul_ps(dy, normal);
    products = _mm512_fmadd_ps(product, shifted(weight + i, lanes, more), products);
    if (gradWeight != nullptr)
      _mm512_mask_storeu_ps(gradWeight + i, lanes, _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, gradWeight + i), product));
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(products) / static_cast<float>(size));
  for (int64_t i = 0; i < size; i += 16) {
    const __mmask16 lanes = firstLanes(size - i);
    const __m512 weighted = _mm512_mul_ps(load(grad + i, lanes), shifted(weight + i, lanes, more));
    const __m512 normal = _mm512_mul_ps(load(x + i, lanes), factor);
    store(gradX + i, _mm512_mul_ps(factor, _mm512_fnmadd_ps(normal, mean, weighted)), lanes);
  }
}

struct FusedRmsNorm : torch::autograd::Function<FusedRmsNorm> {
  static Tensor forward(AutogradContext* context, const Tensor& given, const Tensor& weight, double eps, double offset) {
    const Tensor x = given.contiguous(), y = at::empty_like(x);
    const int64_t size = x.size(-1), rows = x.numel() / size;
    const Tensor inverse = at::empty({rows}, x.options().dtype(at::kFloat));
    const auto *from = x.const_data_ptr<BFloat16>(), *factors = weight.const_data_ptr<BFloat16>();
    auto* to = y.data_ptr<BFloat16>();
    auto* inverses = inverse.data_ptr<float>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++)
        rmsNormForward(from + i * size, factors, static_cast<float>(eps), static_cast<float>(offset), size, to + i * size, inverses + i);
    });
    context->save_for_backward({x, weight, inverse});
    context->saved_data["offset"] = offset;
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
    const float offset = static_cast<float>(context->saved_data["offset"].toDouble());
    auto* to = gradX.data_ptr<BFloat16>();
    at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / size), [&](int64_t begin, int64_t end) {
      float* sum = trains ? sums.data_ptr<float>() + at::get_thread_num() * size : nullptr;
      for (int64_t i = begin; i < end; i++)
        rmsNormBackward(dy + i * size, from + i * size, factors, inverses[i], offset, size, to + i * size, sum);
    });
    return {gradX, trains ? sums.sum(0).to(weight.scalar_type()) : Tensor(), Tensor(), Tensor()};
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
    return at::silu(gate).mul_(up);
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
    const Tensor& grad = gradients[0];
    if (c10::GradMode::is_enabled()) return {at::silu_backward(grad.mul(up), gate), grad.mul(at::silu(gate))};
    Tensor gradGate = grad.mul(up);
    at::silu_backward_out(gradGate, gradGate, gate);
    return {gradGate, at::silu(gate).mul_(grad)};
  }
};

static Tensor swiglu(const Tensor& gate, const Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes() && gate.scalar_type() == up.scalar_type(), "expected two tensors of one shape and type but received ",
              gate.sizes(), " and ", up.sizes());
  return SwiGlu::apply(gate, up);
}

// Operator by operator, as libtorch computes it on a CPU: it keeps more for the gradient than the one operator that GPUs, and meta tensors, have.
static Tensor separateRmsNorm(const Tensor& x, const Tensor& weight, double eps, double offset) {
  const Tensor wide = x.to(at::kFloat);
  const Tensor normal = wide.mul(wide.pow(2).mean(-1, true).add_(eps).rsqrt());
  if (offset != 0) return normal.mul(weight.to(at::kFloat).add(offset)).to(x.scalar_type());
  return normal.to(x.scalar_type()).mul(weight);
}

// The weight is `offset` more than what is given, which is added in float32.
static Tensor rmsNorm(const Tensor& x, const Tensor& weight, double eps, double offset) {
  TORCH_CHECK(x.dim() > 0 && weight.dim() == 1 && weight.size(0) == x.size(-1),
              "expected a weight for each number of the last dimension but received ", x.sizes(), " and ", weight.sizes());
#if defined(MINICPM_AVX512)
  if (isForKernel(x) && weight.scalar_type() == at::kBFloat16 && weight.is_contiguous()) return FusedRmsNorm::apply(x, weight, eps, offset);
  const bool fused = x.scalar_type() == at::kBFloat16 && hasAvx512Bf16();
#else
  const bool fused = false;
#endif
  if (x.is_meta() && metaStandsForCpu() && !fused) return separateRmsNorm(x, weight, eps, offset);
  if (offset == 0) return at::rms_norm(x, {x.size(-1)}, weight, eps);
  const auto type = x.scalar_type();
  if (type == at::kFloat || type == at::kDouble) return at::rms_norm(x, {x.size(-1)}, weight.add(offset), eps);
  return separateRmsNorm(x, weight, eps, offset);
}

// (…, L, size) turned by cosines and sines (2, …, L, half): of the first 2 half numbers of the last dimension, the first half is paired with the
// second; what is left stays. `back` turns the other way. Written into the parts of one tensor, which has the memory layout of `x`.
static Tensor turned(const Tensor& x, const Tensor& table, bool back) {
  const Tensor y = at::empty_like(x), cosines = table.select(0, 0), sines = table.select(0, 1);
  const int64_t half = table.size(-1), rest = x.size(-1) - 2 * half;
  const Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half);
  if (rest > 0) y.narrow(-1, 2 * half, rest).copy_(x.narrow(-1, 2 * half, rest));
  Tensor left = y.narrow(-1, 0, half), right = y.narrow(-1, half, half);
  at::mul_out(left, first, cosines).addcmul_(second, sines, back ? 1 : -1);
  at::mul_out(right, second, cosines).addcmul_(first, sines, back ? -1 : 1);
  return y;
}

struct Rotary : torch::autograd::Function<Rotary> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& table) {
    context->save_for_backward({table});
    return turned(x, table, false);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    refuseSecondDerivative();
    return {turned(gradients[0], context->get_saved_variables()[0], true), Tensor()};
  }
};

// On a CPU, every product is rounded, as transformers does.
static Tensor rotary(const Tensor& x, const Tensor& table) {
  TORCH_CHECK(x.dim() > 1 && table.dim() == x.dim() + 1 && table.size(0) == 2 && 2 * table.size(-1) <= x.size(-1),
              "expected cosines and sines for at most half of the last dimension but received ", x.sizes(), " and ", table.sizes());
  TORCH_CHECK(!table.requires_grad(), "expected a table without gradient");
  if (!x.is_cpu()) return Rotary::apply(x, table);
  const int64_t half = table.size(-1), rest = x.size(-1) - 2 * half;
  const Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half), cosines = table.select(0, 0), sines = table.select(0, 1);
  std::vector<Tensor> parts{first.mul(cosines).sub(second.mul(sines)), second.mul(cosines).add(first.mul(sines))};
  if (rest > 0) parts.push_back(x.narrow(-1, 2 * half, rest));
  return at::cat(parts, -1);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rotary(Tensor x, Tensor table) -> Tensor", rotary);
  library.def("swiglu(Tensor gate, Tensor up) -> Tensor", swiglu);
  library.def("rms_norm(Tensor x, Tensor weight, float eps, float offset=0.) -> Tensor", rmsNorm);
}

}  // namespace minicpm
