// Shared helpers of this package's own operators.
#pragma once
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace minicpm {

constexpr int64_t kGrain = 1 << 14;  // numbers for which a thread is worth waking

// Kernels record no graph: without this, a gradient of a gradient would be wrong and say nothing.
inline void refuseSecondDerivative() { TORCH_CHECK(!c10::GradMode::is_enabled(), "has a first derivative only: it cannot be part of createGraph"); }

// Whether meta tensors are counted as tensors of the CPU, which keeps less than a GPU does (meta-bytes.cc).
bool metaStandsForCpu();

}  // namespace minicpm
