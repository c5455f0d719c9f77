// Exact attention in bfloat16 tiles for AVX-512 BF16 CPUs. FlashAttention-2 (Dao, 2023). The matrix products are
// oneDNN's, through ATen's brgemm; these files hold the order of the work, softmax and its gradient, and the layouts of
// the operands. Scores, sums of probabilities and all accumulators are float32; probabilities are rounded to bfloat16
// for the products.
#pragma once
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace minicpm {

using c10::BFloat16;

constexpr int64_t kTile = 64;  // rows of queries and of keys that are worked on at a time
constexpr float kLog2E = 1.4426950408889634f;

inline int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// A (batch, heads, rows, head size) tensor whose last stride is 1.
struct HeadRows {
  BFloat16* data;
  int64_t batch, head, row;  // strides
  BFloat16* at(int64_t b, int64_t h, int64_t l) const { return data + b * batch + h * head + l * row; }
};

// A sequence that attends to itself alone (or to other keys).
struct Sequence {
  int64_t batch, start;   // where its first row is
  int64_t queries, keys;  // rows
  int64_t offset;         // of its keys among all keys, each sequence's rounded up to whole tiles
};

struct AttentionProblem {
  int64_t batches, heads, keyHeads, headSize;
  int64_t rows;         // of query in each batch entry
  int64_t keyRows = 0;  // of all sequences, rounded up to whole tiles
  bool causal;
  std::vector<Sequence> sequences;

  int64_t width() const { return padded(headSize, 16); }  // of a head in the kernels' own memory
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(headSize)); }
};

// Whether this CPU and this libtorch can run the kernels.
bool hasAttentionKernel();

// Writes `output` and, for the backward pass, log2 of the softmax's denominators (heads, batches, rows).
void attentionForward(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, float* logSums);

struct AttentionGradients {
  HeadRows query, key, value;
};

void attentionBackward(const AttentionProblem& problem, HeadRows query, HeadRows key, HeadRows value, HeadRows output, HeadRows gradOutput,
                       const float* logSums, AttentionGradients gradients);

// Bytes that the two passes take beside their operands and results. Estimates of memory count them.
int64_t attentionForwardBytes(const AttentionProblem& problem);
int64_t attentionBackwardBytes(const AttentionProblem& problem);

// ---- between the kernels' own files -----------------------------------------------------------------------------------

// Transposed: a (width / 2, kTile, 2) matrix for each tile of keys. Pairs: (keys / 2, columns, 2) for each kTile columns of a sequence.
enum class Layout { Transposed, Pairs };

// Keys or values of all heads for the right-hand side of a product: (key heads, problem.keyRows, width).
at::Tensor pack(const AttentionProblem& problem, HeadRows keys, Layout layout);

// Numbers in the output of `pack`.
inline int64_t packedNumbers(const AttentionProblem& problem) { return problem.keyHeads * problem.keyRows * problem.width(); }

// Start of a sequence in the output of `pack`.
inline BFloat16* packedAt(const at::Tensor& packed, int64_t keyHead, const Sequence& sequence) {
  return packed.data_ptr<BFloat16>() + keyHead * packed.stride(0) + sequence.offset * packed.stride(1);
}

// C (M, N) = A (M, K) · B with B in pairs of rows; `add`: to what C has.
inline void multiply(int64_t m, int64_t n, int64_t k, const BFloat16* a, int64_t strideA, const BFloat16* b, float* c, int64_t strideC,
                     bool add) {
  at::native::cpublas::brgemm(m, n, k, strideA, n, strideC, add, a, b, c);
}

}  // namespace minicpm
