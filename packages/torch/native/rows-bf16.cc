// Products of bfloat16 rows with bfloat16 weights (AVX-512).
#include <cstdlib>
#include <vector>

#include "rows-avx512.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

// Processors that have bfloat16 instructions have those that look up bytes, but for one of 2020.
bool hasRowsKernel() {
  static const bool has = hasAvx512Bf16() && __builtin_cpu_supports("avx512vbmi");
  return has;
}

namespace {

// Weights as they are.
struct Whole {
  static constexpr int kVectors = 1, kStreams = kBf16Streams, kRows = 6;
  AVX512_ROWS void load(const BFloat16* from, int64_t count, __m512bh (&to)[1]) const { to[0] = count >= kLanes ? inputs<true>(from, kLanes) : inputs<false>(from, count); }
};

AVX512_ROWS void manyRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  const int64_t width = problem.inputs, end = problem.outputs, count = groupsOf(width) * kOutputs, whole = end / count * count;
  std::vector<float> kept(keptFloats(kManyRows, groupsOf(width)));
  for (int64_t row = 0; row < problem.rows; row += kManyRows) {
    const RowsProblem some{std::min(kManyRows, problem.rows - row), width, end};
    for (int64_t o = 0; o < whole; o += count)
      manyRows(some, x + row * width, weight + o * width, kept.data(), sums + row * end + o, weight + (o + count) * width, 2 * std::min(count, whole - o - count) * width);
  }
  eachOutput(Whole(), problem, whole, x, weight, sums);
}

}  // namespace

void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  if (problem.rows <= kFewRows) return inStreams(Whole(), problem, x, weight, sums);
  manyRows(problem, x, weight, sums);
}

#else

bool hasRowsKernel() { return false; }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const BFloat16*, float*) { std::abort(); }

#endif

}  // namespace minicpm
