// Products of bfloat16 rows with bfloat16 weights (AVX-512).
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
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

// Two ways to the same bits, of which processors differ in the faster one. The first products take turns and are timed.
class Faster {
 public:
  // 0 or 1
  int next() {
    const int found = found_.load(std::memory_order_relaxed);
    return found >= 0 ? found : turn_.fetch_add(1, std::memory_order_relaxed) & 1;
  }

  // Calls work(), which is `way` with `bytes` of weights.
  template <class Work>
  void timed(int way, int64_t bytes, const Work& work) {
    if (bytes < kFewestBytes || found_.load(std::memory_order_relaxed) >= 0) return work();
    const auto start = std::chrono::steady_clock::now();
    work();
    took(way, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(bytes));
  }

 private:
  static constexpr size_t kTimes = 48;
  static constexpr int64_t kFewestBytes = 1 << 16;

  void took(int way, double seconds) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (times_[way].size() < kTimes) times_[way].push_back(seconds);
    if (times_[0].size() < kTimes || times_[1].size() < kTimes || found_.load(std::memory_order_relaxed) >= 0) return;
    for (auto& times : times_) std::nth_element(times.begin(), times.begin() + kTimes / 2, times.end());
    found_.store(times_[1][kTimes / 2] < times_[0][kTimes / 2] ? 1 : 0, std::memory_order_relaxed);
  }

  std::atomic<int> found_{-1}, turn_{0};
  std::mutex mutex_;
  std::vector<double> times_[2];
};

// Few rows with four outputs, one after the other: memory is read from front to back.
template <int rows>
AVX512_ROWS inline void stream(const BFloat16* x, const BFloat16* weight, int64_t width, float* to, int64_t stride) {
  __m512 sums[4][rows];
#pragma GCC unroll 4
  for (int o = 0; o < 4; o++, weight += width) {
    __m512 own[1][rows];
    clear(own);
    int64_t k = 0;
    for (; k + kLanes <= width; k += kLanes) step<1, rows, true>(own, x + k, width, weight + k, width, kLanes);
    if (k < width) step<1, rows, false>(own, x + k, width, weight + k, width, width - k);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[o][r] = own[0][r];
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) _mm_storeu_ps(to + r * stride, sumsOf(sums[0][r], sums[1][r], sums[2][r], sums[3][r]));
}

// One row, as many outputs as there are in groups of `kSingle` or four; the rest is the caller's. Returns how many those are.
AVX512_ROWS int64_t oneRow(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  static Faster ways;
  const int64_t width = problem.inputs, end = problem.outputs;
  const auto atOnce = [&](int64_t o) AVX512_ROWS {
    for (Ahead none(nullptr, 0, 1); o + kSingle <= end; o += kSingle) block<kSingle, 1>(x, weight + o * width, width, sums + o, end, none);
    return o;
  };
  int64_t o = 0;
  if (width * 2 > kStreamBytes) return atOnce(0);
  const int way = ways.next();
  ways.timed(way, end * width * 2, [&]() AVX512_ROWS {
    if (way == 1) o = atOnce(0);
    for (; o + 4 <= end; o += 4) stream<1>(x, weight + o * width, width, sums + o, end);
  });
  return o;
}

// Up to four rows.
AVX512_ROWS void fewestRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  const int64_t width = problem.inputs, end = problem.outputs;
  int64_t o = problem.rows == 1 ? oneRow(problem, x, weight, sums) : 0;
  if (problem.rows == 2 && 2 * width * 2 <= kStreamBytes)
    for (; o + 4 <= end; o += 4) stream<2>(x, weight + o * width, width, sums + o, end);
  for (; o + kOutputs <= end; o += kOutputs) {
    const int64_t next = std::min(kOutputs, end - o - kOutputs);
    allRows<kOutputs>(problem, x, weight + o * width, sums + o, weight + (o + kOutputs) * width, 2 * next * width);
  }
  for (; o < end; o++) allRows<1>(problem, x, weight + o * width, sums + o, nullptr, 0);
}

// Five to kFewRows rows: the inputs in parts, so that a part of the weights stays in the nearest cache while all rows pass over it. The sums are the
// same: they wait in between.
AVX512_ROWS void fewRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  const int64_t width = problem.inputs, groups = (problem.rows + 3) / 4, end = problem.outputs / kOutputs * kOutputs;
  std::vector<float> kept(keptFloats(problem.rows, 1));
  for (int64_t o = 0; o < end; o += kOutputs) {
    const int64_t next = std::min(kOutputs, end - o - kOutputs) * width * 2;
    Ahead ahead(weight + (o + kOutputs) * width, next, groups * (width / kLanes));
    for (int64_t k = 0; k < width; k += kPart)
      partOfRows(problem, 1, x, weight + o * width + k, width, k, std::min(kPart, width - k), kept.data(), sums + o, ahead);
  }
  for (int64_t o = end; o < problem.outputs; o++) allRows<1>(problem, x, weight + o * width, sums + o, nullptr, 0);
}

AVX512_ROWS void manyRows(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  const int64_t width = problem.inputs, end = problem.outputs, count = groupsOf(width) * kOutputs, whole = end / count * count;
  std::vector<float> kept(keptFloats(kManyRows, groupsOf(width)));
  for (int64_t row = 0; row < problem.rows; row += kManyRows) {
    const RowsProblem some{std::min(kManyRows, problem.rows - row), width, end};
    for (int64_t o = 0; o < whole; o += count)
      manyRows(some, x + row * width, weight + o * width, kept.data(), sums + row * end + o, weight + (o + count) * width, 2 * std::min(count, whole - o - count) * width);
  }
  for (int64_t o = whole; o < end; o++) allRows<1>(problem, x, weight + o * width, sums + o, nullptr, 0);
}

}  // namespace

void rowsProductBf16(const RowsProblem& problem, const BFloat16* x, const BFloat16* weight, float* sums) {
  if (problem.rows <= 4) return fewestRows(problem, x, weight, sums);
  if (problem.rows <= kFewRows) return fewRows(problem, x, weight, sums);
  manyRows(problem, x, weight, sums);
}

#else

bool hasRowsKernel() { return false; }

void rowsProductBf16(const RowsProblem&, const BFloat16*, const BFloat16*, float*) { std::abort(); }

#endif

}  // namespace minicpm
