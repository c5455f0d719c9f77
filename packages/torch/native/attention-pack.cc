// Packs keys and values into the layouts of the products. Also says whether this machine has those products.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "attention-kernel.h"
#include "attention-layout.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

// One tiny product: where brgemm cannot use this layout, some versions of libtorch throw and others expect another layout.
static bool multipliesPairs() {
  alignas(64) BFloat16 a[kTile * kTile], b[kTile * kTile];
  alignas(64) float c[kTile * kTile];
  for (int64_t i = 0; i < kTile; i++)
    for (int64_t j = 0; j < kTile; j++) {
      a[i * kTile + j] = BFloat16(i == j ? 1.0f : 0.0f);
      b[(i / 2 * kTile + j) * 2 + i % 2] = BFloat16(static_cast<float>(i * 2 + j % 4));
    }
  try {
    multiply(kTile, kTile, kTile, a, kTile, b, c, kTile, false);
    at::native::cpublas::brgemm_release();
  } catch (...) {  // whatever it throws: libtorch's own attention is used instead
    return false;
  }
  for (int64_t i = 0; i < kTile; i++)
    for (int64_t j = 0; j < kTile; j++)
      if (c[i * kTile + j] != static_cast<float>(i * 2 + j % 4)) return false;
  return true;
}

bool hasAttentionKernel() {
  static const bool has = hasAvx512Bf16() && multipliesPairs();
  return has;
}

at::Tensor pack(const AttentionProblem& problem, HeadRows keys, Layout layout) {
  const int64_t width = problem.width(), size = problem.headSize, sequences = static_cast<int64_t>(problem.sequences.size());
  const at::Tensor packed = at::empty({problem.keyHeads, problem.keyRows, width}, at::kBFloat16);
  at::parallel_for(0, problem.keyHeads * sequences, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t head = i / sequences;
      const Sequence& sequence = problem.sequences[i % sequences];
      BFloat16* to = packedAt(packed, head, sequence);
      for (int64_t row = 0; row < sequence.keys; row += kTile) {
        const BFloat16* from = keys.at(sequence.batch, head, sequence.start + row);
        const int64_t count = std::min(kTile, sequence.keys - row);
        if (layout == Layout::Transposed) {
          packTransposed(from, keys.row, count, size, width, to + row * width);
        } else {
          packPairs(from, keys.row, count, size, width, row, padded(sequence.keys, kTile), to);
        }
      }
    }
  });
  return packed;
}

#else

bool hasAttentionKernel() { return false; }

#endif

}  // namespace minicpm
