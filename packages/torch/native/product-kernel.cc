// The blocks of products of many rows in bfloat16. Goto & van de Geijn (2008): a panel of the right side stays in the cache while the left side passes by.
#include "product-kernel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>
#include <cstdlib>

#include "attention-kernel.h"
#include "attention-layout.h"
#include "own-operators.h"
#include "product-amx.h"

namespace minicpm {

#if defined(MINICPM_AVX512)

constexpr int64_t kPanelColumns = 4 * kTile, kPanelInner = 2304, kAmxPanelInner = 1536;  // up to a megabyte, as second caches have
constexpr int64_t kFewestRows = 256;  // for which laying out a panel again is worth it, so that all threads have work
constexpr int64_t kMostRows = 2048;   // whose sums may wait for the next part of `inner`

namespace {

int64_t dividedUp(int64_t count, int64_t by) { return (count + by - 1) / by; }

struct Blocks {
  int64_t columns, rows;  // of a piece of work
  int64_t inner;          // worked on at a time
  int64_t panels, chunks;

  static Blocks of(const ProductShape& shape, int64_t threads) {
    Blocks blocks{};
    blocks.columns = std::min(kPanelColumns, padded(shape.columns, kTile));
    blocks.inner = padded(dividedUp(shape.inner, dividedUp(shape.inner, hasAmx() ? kAmxPanelInner : kPanelInner)), kTile);
    blocks.panels = dividedUp(shape.columns, blocks.columns);
    const int64_t wanted = dividedUp(4 * threads, blocks.panels), useful = std::max<int64_t>(1, shape.rows / kFewestRows);
    blocks.rows = padded(dividedUp(shape.rows, std::max(std::min(wanted, useful), dividedUp(shape.rows, kMostRows))), kTile);
    blocks.chunks = dividedUp(shape.rows, blocks.rows);
    return blocks;
  }

  bool atOnce(const ProductShape& shape) const { return inner >= shape.inner; }
  int64_t floatsOfSums(const ProductShape& shape) const { return (atOnce(shape) ? kTile : rows) * columns; }
  int64_t floatsOfPanel() const { return inner * columns / 2; }
  int64_t floatsOfLeft() const { return hasAmx() ? amxLeftNumbers(inner) / 2 : 0; }
};

// `inner` numbers of `columns` columns, in blocks of kTile columns, for brgemm.
void layOut(const Matrix& right, bool transposed, int64_t first, int64_t inner, int64_t column, int64_t columns, BFloat16* to) {
  if (transposed) {
    for (int64_t c = 0; c < columns; c += kTile)
      packTransposed(right.data + (column + c) * right.stride + first, right.stride, std::min(kTile, columns - c), inner, inner, to + c * inner);
    return;
  }
  const int64_t all = padded(inner, kTile);
  for (int64_t row = 0; row < inner; row += kTile)
    packPairs(right.data + (first + row) * right.stride + column, right.stride, std::min(kTile, inner - row), columns, padded(columns, kTile), row, all, to);
}

AVX512 void finishRows(const float* sums, int64_t stride, int64_t rows, int64_t columns, const BFloat16* bias, BFloat16* to, int64_t strideTo) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t column = 0; column < columns; column += 16) {
      const __mmask16 lanes = firstLanes(columns - column);
      __m512 values = _mm512_loadu_ps(sums + row * stride + column);
      if (bias != nullptr) values = _mm512_add_ps(values, load(bias + column, lanes));
      store(to + row * strideTo + column, values, lanes);
    }
}

struct Scratch {
  float* sums;
  BFloat16 *panel, *left;
};

struct Product {
  ProductShape shape;
  Blocks blocks;
  Matrix left, right;
  bool transposed;  // `right` is (columns, inner)
  const BFloat16* bias;
  BFloat16* to;
};

// The piece of the rows from `row` and of the columns from `column`.
void multiplyPiece(const Product& product, int64_t row, int64_t column, const Scratch& scratch) {
  const auto& [shape, blocks, left, right, transposed, bias, to] = product;
  const int64_t columns = std::min(blocks.columns, shape.columns - column), end = std::min(row + blocks.rows, shape.rows);
  for (int64_t first = 0; first < shape.inner; first += blocks.inner) {
    const int64_t inner = std::min(blocks.inner, shape.inner - first), height = transposed ? inner : padded(inner, kTile);
    (hasAmx() ? amxLayOut : layOut)(right, transposed, first, inner, column, columns, scratch.panel);
    for (int64_t i = row; i < end; i += kTile) {
      const int64_t rows = std::min(kTile, end - i);
      float* sums = scratch.sums + (blocks.atOnce(shape) ? 0 : (i - row) * blocks.columns);
      const BFloat16* from = left.data + i * left.stride + first;
      if (hasAmx()) amxMultiply({from, left.stride}, rows, inner, scratch.panel, columns, sums, blocks.columns, first > 0, scratch.left);
      else
        for (int64_t c = 0; c < columns; c += kTile)
          at::native::cpublas::brgemm(rows, kTile, inner, left.stride, kTile, blocks.columns, first > 0, from, scratch.panel + c * height, sums + c);
      if (first + inner == shape.inner)
        finishRows(sums, blocks.columns, rows, columns, bias == nullptr ? nullptr : bias + column, to + i * shape.columns + column, shape.columns);
    }
  }
}

}  // namespace

// libtorch is as fast where there are few rows or the weight is small; with AMX, on which laying out takes the most of its time, sooner.
bool hasProduct(const ProductShape& shape) {
  if (shape.inner % 2 != 0 || !hasAttentionKernel()) return false;
  return shape.rows >= (hasAmx() ? 512 : 1024) && shape.columns * shape.inner >= (hasAmx() ? 1 << 18 : 1 << 21);
}

void productBf16(const ProductShape& shape, const Matrix& left, const Matrix& right, bool transposed, const BFloat16* bias, BFloat16* to) {
  const int64_t threads = at::get_num_threads();
  const Product product{shape, Blocks::of(shape, threads), left, right, transposed, bias, to};
  const Blocks& blocks = product.blocks;
  const int64_t sums = blocks.floatsOfSums(shape), panel = blocks.floatsOfPanel(), floats = sums + panel + blocks.floatsOfLeft();
  const at::Tensor memory = at::empty({threads, floats}, at::kFloat);
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t thread, int64_t) {
    float* own = memory.data_ptr<float>() + thread * floats;
    const Scratch scratch{own, reinterpret_cast<BFloat16*>(own + sums), reinterpret_cast<BFloat16*>(own + sums + panel)};
    if (hasAmx()) amxBegin();
    for (int64_t i; (i = next.fetch_add(1)) < blocks.panels * blocks.chunks;)
      multiplyPiece(product, i % blocks.chunks * blocks.rows, i / blocks.chunks * blocks.columns, scratch);
    if (hasAmx()) amxEnd();
    else at::native::cpublas::brgemm_release();
  });
}

#else

bool hasProduct(const ProductShape&) { return false; }

void productBf16(const ProductShape&, const Matrix&, const Matrix&, bool, const BFloat16*, BFloat16*) { std::abort(); }

#endif

}  // namespace minicpm
