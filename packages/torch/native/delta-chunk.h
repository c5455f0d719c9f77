// A chunk of the gated delta rule. What both passes do alike (delta-kernel.h). Functions for the inside of CLONES.
#pragma once
#include "delta-kernel.h"

namespace minicpm {

// Between rows: an odd number of cache lines, so that the rows of a column do not fall into the same few places of the cache.
template <class Real>
constexpr int64_t strideOf(int64_t count) {
  return (widthOf<Real>(count) / kLanes<Real> | 1) * kLanes<Real>;
}

template <class Real>
LANES_INLINE Real dot(const Real* a, const Real* b, int64_t size) {
  Vector<Real> sums = {};
  for (int64_t i = 0; i < size; i += kLanes<Real>) sums += load(a + i) * load(b + i);
  Real sum = 0;
  for (int i = 0; i < kLanes<Real>; i++) sum += sums[i];
  return sum;
}

template <class Real>
LANES_INLINE void scale(Real* row, int64_t size, Real factor) {
  for (int64_t i = 0; i < size; i += kLanes<Real>) store(row + i, load(row + i) * factor);
}

// Reads a query or key and gives it the length `factor`. Returns what it was multiplied by.
template <class Real, class Number>
LANES_INLINE Real readUnit(const Number* from, int64_t size, Real factor, Real* to) {
  readRow(from, size, to);
  const Real inverse = 1 / std::sqrt(dot(to, to, size) + static_cast<Real>(kNormEps));
  scale(to, size, inverse * factor);
  return inverse;
}

// to (columns, rows) = from (rows, columns); zeros to the end of the last vector of rows.
template <class Real>
LANES_INLINE void transpose(const Rows<Real>& from, int64_t rows, int64_t columns, const Rows<Real>& to) {
  for (int64_t row = 0; row < rows; row += kLanes<Real>) {
    const int64_t count = std::min(kLanes<Real>, rows - row);
    for (int64_t column = 0; column < columns; column++) {
      Real values[kLanes<Real>] = {};
      for (int64_t i = 0; i < count; i++) values[i] = from[row + i][column];
      std::memcpy(to[column] + row, values, sizeof values);
    }
  }
}

// A chunk of one head. All rows are of whole vectors.
template <class Real>
struct Chunk {
  int64_t count, keySize, size;  // tokens, and of a head
  Rows<Real> query, key;         // (tokens, key size), of length keySize^-½ and 1
  Rows<Real> keyColumns;         // (key size, tokens)
  Rows<Real> between;            // D
  Rows<Real> reads;              // strictly lower (K Kᵀ) · D, without β
  Rows<Real> system;             // A
  Rows<Real> scores;             // Q Kᵀ · D
  Real *since, *until;           // s, e
  Real* beta;
};

// `decay`, with `stride` between tokens, as logarithms. A decay between two tokens is the exponential of the sum between them: the difference of
// two sums since the beginning would lose small decays after a large one.
template <class Real>
LANES_INLINE void readDecays(const Chunk<Real>& chunk, const Real* decay, const Real* beta, int64_t stride) {
  const int64_t count = chunk.count, width = widthOf<Real>(count);
  Real sums[kChunk] = {}, all = 0;
  for (int64_t i = 0; i < count; i++) {
    const Real own = decay[i * stride];
    all += own;
    chunk.since[i] = all;
    chunk.beta[i] = beta[i * stride];
    for (int64_t j = 0; j < i; j++) sums[j] += own;
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(chunk.between[i] + j, expOf(load(sums + j)));
    for (int64_t j = i + 1; j < width; j++) chunk.between[i][j] = 0;
  }
  for (int64_t i = 0; i < width; i += kLanes<Real>) {
    store(chunk.since + i, expOf(load(chunk.since + i)));
    store(chunk.until + i, load(chunk.between[count - 1] + i));
  }
}

// The lower triangle, with its diagonal, of a (tokens, depth) · b (depth, tokens).
template <class Real>
LANES_INLINE void lowerProduct(int64_t count, int64_t depth, const Rows<Real>& a, const Rows<Real>& b, const Rows<Real>& to) {
  for (int64_t row = 0; row < count; row += kLanes<Real>)
    multiply(std::min(kLanes<Real>, count - row), row + kLanes<Real>, depth, a.from(row).left(), b, to.from(row), Into::Replace);
}

// to += (lower triangular) · b
template <class Real>
LANES_INLINE void addLowerTimes(int64_t count, int64_t width, const Rows<Real>& lower, const Rows<Real>& b, const Rows<Real>& to) {
  for (int64_t row = 0; row < count; row += kLanes<Real>) {
    const int64_t rows = std::min(kLanes<Real>, count - row);
    multiply(rows, width, row + rows, lower.from(row).left(), b, to.from(row), Into::Add);
  }
}

// to += (lower triangular)ᵀ · b
template <class Real>
LANES_INLINE void addUpperTimes(int64_t count, int64_t width, const Rows<Real>& lower, const Rows<Real>& b, const Rows<Real>& to) {
  for (int64_t row = 0; row < count; row += kLanes<Real>)
    multiply(std::min(kLanes<Real>, count - row), width, count - row, lower.from(row, row).transposed(), b.from(row), to.from(row), Into::Add);
}

// Products of keys and queries with keys become the chunk's triangles.
template <class Real>
LANES_INLINE void weigh(const Chunk<Real>& chunk) {
  for (int64_t i = 0; i < chunk.count; i++) {
    const int64_t width = widthOf<Real>(i + 1);
    for (int64_t j = 0; j < width; j += kLanes<Real>) {
      store(chunk.reads[i] + j, load(chunk.reads[i] + j) * load(chunk.between[i] + j));
      store(chunk.scores[i] + j, load(chunk.scores[i] + j) * load(chunk.between[i] + j));
    }
    for (int64_t j = i; j < width; j++) chunk.reads[i][j] = 0;
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(chunk.system[i] + j, load(chunk.reads[i] + j) * chunk.beta[i]);
  }
}

// Reads the tokens of a chunk and computes everything of `Chunk`. q and k: the head's row of the first token.
template <class Real, class Number>
LANES_INLINE void readChunk(const Chunk<Real>& chunk, const Number* q, int64_t queryRow, const Number* k, int64_t keyRow, const Real* decay, const Real* beta,
                      int64_t stride) {
  const Real length = 1 / std::sqrt(static_cast<Real>(chunk.keySize));
  for (int64_t i = 0; i < chunk.count; i++) {
    readUnit(q + i * queryRow, chunk.keySize, length, chunk.query[i]);
    readUnit(k + i * keyRow, chunk.keySize, Real(1), chunk.key[i]);
  }
  transpose(chunk.key, chunk.count, chunk.keySize, chunk.keyColumns);
  readDecays(chunk, decay, beta, stride);
  lowerProduct(chunk.count, chunk.keySize, chunk.key, chunk.keyColumns, chunk.reads);
  lowerProduct(chunk.count, chunk.keySize, chunk.query, chunk.keyColumns, chunk.scores);
  weigh(chunk);
}

// x = (1 + A)⁻¹ x, in place.
template <class Real>
LANES_INLINE void solve(const Chunk<Real>& chunk, const Rows<Real>& x) {
  const int64_t width = widthOf<Real>(chunk.size);
  for (int64_t row = 0; row < chunk.count; row += kLanes<Real>) {
    const int64_t rows = std::min(kLanes<Real>, chunk.count - row);
    if (row > 0) multiply(rows, width, row, chunk.system.from(row).left(), x, x.from(row), Into::Subtract);
    for (int64_t i = row + 1; i < row + rows; i++)
      for (int64_t column = 0; column < width; column += kLanes<Real>) {
        Vector<Real> rest = load(x[i] + column);
        for (int64_t j = row; j < i; j++) rest -= load(x[j] + column) * chunk.system[i][j];
        store(x[i] + column, rest);
      }
  }
}

// x = (1 + A)⁻ᵀ x, in place.
template <class Real>
LANES_INLINE void solveTransposed(const Chunk<Real>& chunk, const Rows<Real>& x) {
  const int64_t width = widthOf<Real>(chunk.size), count = chunk.count;
  for (int64_t row = (count - 1) / kLanes<Real> * kLanes<Real>; row >= 0; row -= kLanes<Real>) {
    const int64_t end = std::min(row + kLanes<Real>, count);
    if (end < count) multiply(end - row, width, count - end, chunk.system.from(end, row).transposed(), x.from(end), x.from(row), Into::Subtract);
    for (int64_t j = end - 2; j >= row; j--)
      for (int64_t column = 0; column < width; column += kLanes<Real>) {
        Vector<Real> rest = load(x[j] + column);
        for (int64_t i = j + 1; i < end; i++) rest -= load(x[i] + column) * chunk.system[i][j];
        store(x[j] + column, rest);
      }
  }
}

// U. v: the head's row of the first token. `isZero`: the state is, whatever its memory holds.
template <class Real, class Number>
LANES_INLINE void correct(const Chunk<Real>& chunk, const Number* v, int64_t valueRow, const Rows<Real>& state, bool isZero, const Rows<Real>& changes) {
  const int64_t width = widthOf<Real>(chunk.size);
  if (!isZero) multiply(chunk.count, width, chunk.keySize, chunk.key.left(), state, changes, Into::Replace);
  for (int64_t i = 0; i < chunk.count; i++)
    for (int64_t j = 0; j < chunk.size; j += kLanes<Real>) {
      Vector<Real> wanted = loadUpTo<Real>(v + i * valueRow + j, chunk.size - j);
      if (!isZero) wanted -= load(changes[i] + j) * chunk.since[i];
      store(changes[i] + j, wanted * chunk.beta[i]);
    }
  solve(chunk, changes);
}

// S' = e₀ S + (e K)ᵀ U; `to` may be `state`. The chunk's keys become e K.
template <class Real>
LANES_INLINE void advance(const Chunk<Real>& chunk, const Rows<Real>& state, bool isZero, const Rows<Real>& changes, const Rows<Real>& to) {
  const int64_t width = widthOf<Real>(chunk.size), keyWidth = widthOf<Real>(chunk.keySize);
  for (int64_t i = 0; i < chunk.count; i++) scale(chunk.key[i], keyWidth, chunk.until[i]);
  const Real all = chunk.since[chunk.count - 1];
  for (int64_t i = 0; i < chunk.keySize && !isZero; i++)
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(to[i] + j, load(state[i] + j) * all);
  multiply(chunk.keySize, width, chunk.count, chunk.key.transposed(), changes, to, isZero ? Into::Replace : Into::Add);
}

// Memory of one thread, cut into pieces.
template <class Real>
class Memory {
 public:
  explicit Memory(Real* begin) : next(begin) {}
  Rows<Real> rows(int64_t count, int64_t size) {
    const Rows<Real> result{next, strideOf<Real>(size)};
    next += count * result.stride;
    return result;
  }
  Real* row(int64_t size) { return rows(1, size).data; }
  int64_t taken() const { return next - static_cast<Real*>(nullptr); }  // where it began with null

 private:
  Real* next;
};

template <class Real>
Chunk<Real> chunkIn(Memory<Real>& memory, int64_t keySize, int64_t size) {
  Chunk<Real> chunk{0, keySize, size};
  chunk.query = memory.rows(kChunk, keySize);
  chunk.key = memory.rows(kChunk, keySize);
  chunk.keyColumns = memory.rows(keySize, kChunk);
  for (Rows<Real>* each : {&chunk.between, &chunk.reads, &chunk.system, &chunk.scores}) *each = memory.rows(kChunk, kChunk);
  for (Real** each : {&chunk.since, &chunk.until, &chunk.beta}) *each = memory.row(kChunk);
  return chunk;
}

// Rows of a head in a (batches, rows, heads, size) tensor.
template <class Number>
struct HeadRow {
  Number* data;
  int64_t batch, row, head;  // strides
  explicit HeadRow(const at::Tensor& tensor)
      : data(tensor.data_ptr<Number>()), batch(tensor.stride(0)), row(tensor.stride(1)), head(tensor.stride(2)) {}
  Number* at(int64_t b, int64_t r, int64_t h) const { return data + b * batch + r * row + h * head; }
};

}  // namespace minicpm
