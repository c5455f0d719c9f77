// minicpm::dropout: CPU dropout without a stored mask. libtorch's dropout draws the numbers one after the other in one
// thread. Here one number is drawn from the generator; whether element i is dropped is a function of that number and i
// (SplitMix64; Steele et al., 2014), so all threads work at once and the gradient makes the same choice again.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/dropout.h>
#include <ATen/ops/empty_like.h>

#include <cmath>
#include <mutex>

#include "avx512.h"
#include "own-operators.h"
#include "random-bits.h"

namespace minicpm {

using at::Tensor;

struct Choice {
  uint64_t seed;
  uint32_t threshold;  // elements whose 32 random bits are below it are dropped
  float factor;        // of those kept
};

// 64 random bits serve two elements: the lower half element 2 · pair, the upper half the next one.
template <typename T>
static void drop(const Choice& choice, const T* x, T* y, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    const auto bits = static_cast<uint32_t>(randomBits(choice.seed, static_cast<uint64_t>(i) / 2) >> (i % 2 * 32));
    y[i] = bits < choice.threshold ? T(0) : T(x[i] * choice.factor);
  }
}

#if defined(MINICPM_AVX512)
AVX512 static __m512i everyLane(uint64_t value) { return _mm512_set1_epi64(static_cast<int64_t>(value)); }

// The same for bfloat16; `begin` is even.
AVX512 static void dropBf16(const Choice& choice, const BFloat16* x, BFloat16* y, int64_t begin, int64_t end) {
  const __m512i seed = everyLane(choice.seed), next = _mm512_set_epi64(8, 7, 6, 5, 4, 3, 2, 1);
  const __m512i step = everyLane(kStep), first = everyLane(kFirst), second = everyLane(kSecond);
  const __m512i threshold = _mm512_set1_epi32(static_cast<int32_t>(choice.threshold));
  const __m512 factor = _mm512_set1_ps(choice.factor);
  for (int64_t i = begin; i < end; i += 16) {
    const __m512i pair = _mm512_add_epi64(_mm512_set1_epi64(i / 2), next);
    __m512i z = _mm512_add_epi64(seed, _mm512_mullo_epi64(pair, step));
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)), first);
    z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)), second);
    z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
    const __mmask16 lanes = firstLanes(end - i), kept = _mm512_cmpge_epu32_mask(z, threshold);
    store(y + i, _mm512_maskz_mul_ps(kept, load(x + i, lanes), factor), lanes);
  }
}
#endif

static Tensor drop(const Choice& choice, const Tensor& given) {
  const Tensor x = given.contiguous(), y = at::empty_like(x);
  // An even number of elements for each thread, so that no pair is divided.
  at::parallel_for(0, (x.numel() + 1) / 2, kGrain / 2, [&](int64_t begin, int64_t end) {
    const int64_t from = 2 * begin, to = std::min(2 * end, x.numel());
#if defined(MINICPM_AVX512)
    if (x.scalar_type() == at::kBFloat16 && hasAvx512Bf16())
      return dropBf16(choice, x.const_data_ptr<BFloat16>(), y.data_ptr<BFloat16>(), from, to);
#endif
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, x.scalar_type(), "dropout", [&] {
      drop(choice, x.const_data_ptr<scalar_t>(), y.data_ptr<scalar_t>(), from, to);
    });
  });
  return y;
}

static Choice choiceOf(uint64_t seed, double p) {
  return {seed, static_cast<uint32_t>(std::min(std::round(p * 0x1p32), 0x1p32 - 1)), static_cast<float>(1 / (1 - p))};
}

static uint64_t drawSeed() {
  auto* generator = at::get_generator_or_default<at::CPUGeneratorImpl>(std::nullopt, at::detail::getDefaultCPUGenerator());
  const std::lock_guard<std::mutex> lock(generator->mutex_);
  return generator->random64();
}

struct Dropout : torch::autograd::Function<Dropout> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, double p) {
    const uint64_t seed = drawSeed();
    context->saved_data["seed"] = static_cast<int64_t>(seed);
    context->saved_data["p"] = p;
    return drop(choiceOf(seed, p), x);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto seed = static_cast<uint64_t>(context->saved_data["seed"].toInt());
    return {drop(choiceOf(seed, context->saved_data["p"].toDouble()), gradients[0]), Tensor()};
  }
};

static Tensor dropout(const Tensor& x, double p) {
  TORCH_CHECK(p >= 0 && p < 1, "expected a share of at least 0 and below 1 but received ", p);
  if (x.is_meta() && metaStandsForCpu()) return at::mul(x, 1 - p);  // as on the CPU, nothing is kept but the result
  return x.is_cpu() ? Dropout::apply(x, p) : at::dropout(x, p, true);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) { library.def("dropout(Tensor x, float p) -> Tensor", dropout); }

}  // namespace minicpm
