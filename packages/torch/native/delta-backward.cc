// The gated delta rule backward (delta-kernel.h). States and corrections of all chunks of a head are computed again, then the chunks are walked
// from the last to the first.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>

#include "delta-chunk.h"

namespace minicpm {

namespace {

// One head of values of one sequence, and the head of keys that it shares with others.
template <class Real, class Number>
struct Head {
  const Number *query, *key, *value, *gradOutput;
  int64_t queryRow, keyRow, valueRow, gradRow;
  const Real *decay, *beta;
  Number* gradValue;
  int64_t gradValueRow;
  Real *gradDecay, *gradBeta;
  int64_t heads;  // between tokens of decay, beta and their gradients
  int64_t length;
  int64_t chunks() const { return (length + kChunk - 1) / kChunk; }
};

template <class Real>
struct Backward {
  Chunk<Real> chunk;
  Rows<Real> states;                  // of all chunks, where they begin
  Rows<Real> changes;                 // of all tokens
  Rows<Real> queries, keys;           // gradients of all tokens, of the normalised ones
  Rows<Real> gradState;               // of the state after the chunk, then of the one before
  Rows<Real> stateColumns;            // a state, transposed
  Rows<Real> changeColumns;           // changes of the chunk, transposed
  Rows<Real> gradOutput, gradChange;  // the latter becomes the gradient of β (V - s K S)
  Rows<Real> sized, keyed;            // (tokens, size) and (tokens, key size)
  Rows<Real> scores, reads;           // gradients of these of the chunk
  Real *sums, *betas;                 // gradients of the sums of decays since the chunk began, and of β
  Backward(Memory<Real>& memory, int64_t keySize, int64_t size, int64_t longest) : chunk(chunkIn(memory, keySize, size)) {
    states = memory.rows((longest + kChunk - 1) / kChunk * keySize, size);
    changes = memory.rows(longest, size);
    queries = memory.rows(longest, keySize);
    keys = memory.rows(longest, keySize);
    gradState = memory.rows(keySize, size);
    stateColumns = memory.rows(widthOf<Real>(size), keySize);
    changeColumns = memory.rows(widthOf<Real>(size), kChunk);
    for (Rows<Real>* each : {&gradOutput, &gradChange, &sized}) *each = memory.rows(kChunk, size);
    keyed = memory.rows(kChunk, keySize);
    scores = memory.rows(kChunk, kChunk);
    reads = memory.rows(kChunk, kChunk);
    sums = memory.row(kChunk);
    betas = memory.row(kChunk);
  }
};

template <class Real, class Number>
LANES_INLINE void readChunkAt(const Chunk<Real>& chunk, const Head<Real, Number>& head, int64_t first) {
  readChunk(chunk, head.query + first * head.queryRow, head.queryRow, head.key + first * head.keyRow, head.keyRow, head.decay + first * head.heads,
            head.beta + first * head.heads, head.heads);
}

// All states and corrections, as they were forward.
template <class Real, class Number>
LANES_INLINE void replay(const Backward<Real>& space, Chunk<Real>& chunk, const Head<Real, Number>& head) {
  for (int64_t first = 0; first < head.length; first += kChunk) {
    const Rows<Real> state = space.states.from(first / kChunk * chunk.keySize), changes = space.changes.from(first);
    chunk.count = std::min(kChunk, head.length - first);
    readChunkAt(chunk, head, first);
    correct(chunk, head.value + first * head.valueRow, head.valueRow, state, first == 0, changes);
    if (first + kChunk < head.length) advance(chunk, state, first == 0, changes, state.from(chunk.keySize));
  }
}

// Of what reaches the next chunk: adds to the gradients of corrections, keys and sums. `gradState` is of the state after the chunk.
template <class Real>
LANES_INLINE void backThroughState(const Backward<Real>& space, const Chunk<Real>& chunk, const Rows<Real>& state, bool isZero, const Rows<Real>& changes,
                             const Rows<Real>& gradKey) {
  const int64_t width = widthOf<Real>(chunk.size), keyWidth = widthOf<Real>(chunk.keySize);
  transpose(space.gradState, chunk.keySize, chunk.size, space.stateColumns);
  multiply(chunk.count, keyWidth, chunk.size, changes.left(), space.stateColumns, space.keyed, Into::Replace);
  multiply(chunk.count, width, chunk.keySize, chunk.key.left(), space.gradState, space.sized, Into::Replace);
  Real all = 0;
  for (int64_t i = 0; i < chunk.count; i++) {
    const Real until = chunk.until[i], own = until * dot(chunk.key[i], space.keyed[i], chunk.keySize);
    space.sums[i] -= own;
    all += own;
    for (int64_t j = 0; j < keyWidth; j += kLanes<Real>) store(gradKey[i] + j, load(gradKey[i] + j) + load(space.keyed[i] + j) * until);
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(space.gradChange[i] + j, load(space.gradChange[i] + j) + load(space.sized[i] + j) * until);
  }
  if (!isZero) {
    Real product = 0;
    for (int64_t i = 0; i < chunk.keySize; i++) product += dot(state[i], space.gradState[i], chunk.size);
    all += product * chunk.since[chunk.count - 1];
  }
  space.sums[chunk.count - 1] += all;
}

// Of the state before the chunk, as the chunk's outputs and corrections read it: adds to the gradients of queries, keys, β and sums, and sets that
// of the state.
template <class Real>
LANES_INLINE void backThroughReads(const Backward<Real>& space, const Chunk<Real>& chunk, const Rows<Real>& state, bool isLast, const Rows<Real>& gradQuery,
                             const Rows<Real>& gradKey) {
  const int64_t width = widthOf<Real>(chunk.size), keyWidth = widthOf<Real>(chunk.keySize);
  transpose(state, chunk.keySize, chunk.size, space.stateColumns);
  for (int64_t i = 0; i < chunk.count; i++)
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(space.sized[i] + j, load(space.gradOutput[i] + j) * chunk.since[i]);
  multiply(chunk.count, keyWidth, chunk.size, space.sized.left(), space.stateColumns, space.keyed, Into::Replace);
  for (int64_t i = 0; i < chunk.count; i++) {
    space.sums[i] += dot(chunk.query[i], space.keyed[i], chunk.keySize);
    for (int64_t j = 0; j < keyWidth; j += kLanes<Real>) store(gradQuery[i] + j, load(gradQuery[i] + j) + load(space.keyed[i] + j));
  }
  const Real all = chunk.since[chunk.count - 1];
  for (int64_t i = 0; i < chunk.keySize && !isLast; i++) scale(space.gradState[i], width, all);
  multiply(chunk.keySize, width, chunk.count, chunk.query.transposed(), space.sized, space.gradState, isLast ? Into::Replace : Into::Add);

  for (int64_t i = 0; i < chunk.count; i++)
    for (int64_t j = 0; j < width; j += kLanes<Real>) store(space.sized[i] + j, load(space.gradChange[i] + j) * chunk.since[i]);
  multiply(chunk.count, keyWidth, chunk.size, space.sized.left(), space.stateColumns, space.keyed, Into::Replace);
  for (int64_t i = 0; i < chunk.count; i++) {
    const Real beta = chunk.beta[i], product = dot(chunk.key[i], space.keyed[i], chunk.keySize);
    space.sums[i] -= beta * product;
    space.betas[i] -= product;
    for (int64_t j = 0; j < keyWidth; j += kLanes<Real>) store(gradKey[i] + j, load(gradKey[i] + j) - load(space.keyed[i] + j) * beta);
    scale(space.sized[i], width, beta);
  }
  multiply(chunk.keySize, width, chunk.count, chunk.key.transposed(), space.sized, space.gradState, Into::Subtract);
}

// From the gradients of scores and reads to those of their sums of decays and of β: products with D, and sums of rows and columns.
template <class Real>
LANES_INLINE void backThroughDecays(const Backward<Real>& space, const Chunk<Real>& chunk) {
  Real columns[kChunk] = {};
  for (int64_t i = 0; i < chunk.count; i++) {
    const int64_t width = widthOf<Real>(i + 1);
    for (int64_t j = i + 1; j < width; j++) space.scores[i][j] = 0;
    for (int64_t j = i; j < width; j++) space.reads[i][j] = 0;
    Vector<Real> row = {}, rates = {};
    for (int64_t j = 0; j < width; j += kLanes<Real>) {
      const Vector<Real> score = load(space.scores[i] + j), read = -load(space.reads[i] + j), between = load(chunk.between[i] + j);
      const Vector<Real> rate = read * load(chunk.reads[i] + j), moved = score * load(chunk.scores[i] + j) + rate * chunk.beta[i];
      row += moved;
      rates += rate;
      store(columns + j, load(columns + j) + moved);
      store(space.scores[i] + j, score * between);
      store(space.reads[i] + j, read * between * chunk.beta[i]);
    }
    Real rowSum = 0, rateSum = 0;
    for (int lane = 0; lane < kLanes<Real>; lane++) {
      rowSum += row[lane];
      rateSum += rates[lane];
    }
    space.sums[i] += rowSum;
    space.betas[i] += rateSum;
  }
  for (int64_t i = 0; i < chunk.count; i++) space.sums[i] -= columns[i];
}

template <class Real, class Number>
LANES_INLINE void chunkBackward(const Backward<Real>& space, const Chunk<Real>& chunk, const Head<Real, Number>& head, int64_t first) {
  const int64_t width = widthOf<Real>(chunk.size), keyWidth = widthOf<Real>(chunk.keySize), count = chunk.count;
  const bool isFirst = first == 0, isLast = first + count == head.length;
  const Rows<Real> state = space.states.from(first / kChunk * chunk.keySize), changes = space.changes.from(first);
  const Rows<Real> gradQuery = space.queries.from(first), gradKey = space.keys.from(first);
  for (int64_t i = 0; i < count; i++) {
    readRow(head.gradOutput + (first + i) * head.gradRow, chunk.size, space.gradOutput[i]);
    std::memset(space.gradChange[i], 0, static_cast<size_t>(width) * sizeof(Real));
    space.sums[i] = space.betas[i] = 0;
  }
  addUpperTimes(count, width, chunk.scores, space.gradOutput, space.gradChange);
  if (!isLast) backThroughState(space, chunk, state, isFirst, changes, gradKey);
  solveTransposed(chunk, space.gradChange);

  transpose(changes, count, chunk.size, space.changeColumns);
  lowerProduct(count, chunk.size, space.gradOutput, space.changeColumns, space.scores);
  lowerProduct(count, chunk.size, space.gradChange, space.changeColumns, space.reads);
  if (!isFirst) backThroughReads(space, chunk, state, isLast, gradQuery, gradKey);
  backThroughDecays(space, chunk);
  addLowerTimes(count, keyWidth, space.scores, chunk.key, gradQuery);
  addUpperTimes(count, keyWidth, space.scores, chunk.query, gradKey);
  addLowerTimes(count, keyWidth, space.reads, chunk.key, gradKey);
  addUpperTimes(count, keyWidth, space.reads, chunk.key, gradKey);

  Real sum = 0;
  for (int64_t i = count - 1; i >= 0; i--) {
    const Number* const value = head.value + (first + i) * head.valueRow;
    Vector<Real> products = {};
    for (int64_t j = 0; j < chunk.size; j += kLanes<Real>) products += load(space.gradChange[i] + j) * loadUpTo<Real>(value + j, chunk.size - j);
    for (int lane = 0; lane < kLanes<Real>; lane++) space.betas[i] += products[lane];
    scale(space.gradChange[i], width, chunk.beta[i]);
    writeRow(space.gradChange[i], chunk.size, head.gradValue + (first + i) * head.gradValueRow);
    sum += space.sums[i];
    head.gradDecay[(first + i) * head.heads] = sum;
    head.gradBeta[(first + i) * head.heads] = space.betas[i];
  }
}

// Adds to the gradients of the normalised queries and keys.
template <class Real, class Number>
LANES_INLINE void backwardHeadInline(const Backward<Real>& space, const Head<Real, Number>& head) {
  Chunk<Real> chunk = space.chunk;
  replay(space, chunk, head);
  for (int64_t first = (head.chunks() - 1) * kChunk; first >= 0; first -= kChunk) {
    chunk.count = std::min(kChunk, head.length - first);
    readChunkAt(chunk, head, first);
    chunkBackward(space, chunk, head, first);
  }
}

// From the gradient of x · factor / |x| to that of x.
template <class Real, class Number>
LANES_INLINE void normBackwardInline(int64_t length, int64_t size, Real factor, const Number* from, int64_t fromRow, const Rows<Real>& gradients, Real* unit,
                               Number* to, int64_t toRow) {
  for (int64_t i = 0; i < length; i++) {
    const Real inverse = readUnit(from + i * fromRow, size, Real(1), unit), along = dot(unit, gradients[i], size);
    for (int64_t j = 0; j < size; j += kLanes<Real>)
      store(gradients[i] + j, (load(gradients[i] + j) - load(unit + j) * along) * (inverse * factor));
    writeRow(gradients[i], size, to + i * toRow);
  }
}

#define FOR_TYPES(Real, Number)                                                                                                                   \
  CLONES(backwardHead, (const Backward<Real>& space, const Head<Real, Number>& head), (space, head))                                              \
  CLONES(normBackward, (int64_t length, int64_t size, Real factor, const Number* from, int64_t fromRow, const Rows<Real>& gradients, Real* unit, \
                        Number* to, int64_t toRow), (length, size, factor, from, fromRow, gradients, unit, to, toRow))

FOR_TYPES(float, float)
FOR_TYPES(float, BFloat16)
FOR_TYPES(double, double)
#undef FOR_TYPES

int64_t longestOf(const std::vector<RowRange>& sequences) {
  int64_t longest = 0;
  for (const RowRange& sequence : sequences) longest = std::max(longest, sequence.length);
  return longest;
}

template <class Real>
int64_t numbersOf(const std::vector<RowRange>& sequences, const DeltaOperands& operands) {
  Memory<Real> memory(nullptr);
  Backward<Real>(memory, operands.key.size(3), operands.value.size(3), longestOf(sequences));
  return memory.taken();
}

template <class Real, class Number>
void backward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, const at::Tensor& given, const DeltaOperands& gradients) {
  const HeadRow<Number> query(operands.query), key(operands.key), value(operands.value), gradOutput(given);
  const HeadRow<Number> gradQuery(gradients.query), gradKey(gradients.key), gradValue(gradients.value);
  const Real *decay = operands.decay.const_data_ptr<Real>(), *beta = operands.beta.const_data_ptr<Real>();
  Real *const gradDecay = gradients.decay.data_ptr<Real>(), *const gradBeta = gradients.beta.data_ptr<Real>();
  const int64_t rows = given.size(1), heads = given.size(2), keyHeads = operands.key.size(2), keySize = operands.key.size(3), group = operands.group();
  const int64_t tasks = keyHeads * static_cast<int64_t>(sequences.size()), threads = std::min<int64_t>(tasks, at::get_num_threads());
  const int64_t numbers = numbersOf<Real>(sequences, operands), longest = longestOf(sequences);
  const at::Tensor all = at::empty({threads, numbers}, operands.decay.options());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; thread++) {
      Memory<Real> memory(all.data_ptr<Real>() + thread * numbers);
      const Backward<Real> space(memory, keySize, given.size(3), longest);
      for (int64_t task = next++; task < tasks; task = next++) {
        const auto [batch, start, length] = sequences[static_cast<size_t>(task / keyHeads)];
        const int64_t k = task % keyHeads;
        for (const Rows<Real>& sums : {space.queries, space.keys}) std::memset(sums.data, 0, static_cast<size_t>(length * sums.stride) * sizeof(Real));
        for (int64_t h = k * group; h < (k + 1) * group; h++) {
          const int64_t place = (batch * rows + start) * heads + h;
          backwardHead(space, Head<Real, Number>{query.at(batch, start, k), key.at(batch, start, k), value.at(batch, start, h), gradOutput.at(batch, start, h),
                                                 query.row, key.row, value.row, gradOutput.row, decay + place, beta + place, gradValue.at(batch, start, h),
                                                 gradValue.row, gradDecay + place, gradBeta + place, heads, length});
        }
        normBackward(length, keySize, 1 / std::sqrt(static_cast<Real>(keySize)), query.at(batch, start, k), query.row, space.queries, space.keyed.data,
                     gradQuery.at(batch, start, k), gradQuery.row);
        normBackward(length, keySize, Real(1), key.at(batch, start, k), key.row, space.keys, space.keyed.data, gradKey.at(batch, start, k), gradKey.row);
      }
    }
  });
}

}  // namespace

void deltaBackward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, const at::Tensor& gradOutput, const DeltaOperands& gradients) {
  if (gradOutput.scalar_type() == at::kDouble) return backward<double, double>(sequences, operands, gradOutput, gradients);
  if (gradOutput.scalar_type() == at::kFloat) return backward<float, float>(sequences, operands, gradOutput, gradients);
  backward<float, BFloat16>(sequences, operands, gradOutput, gradients);
}

int64_t deltaBackwardBytes(const std::vector<RowRange>& sequences, const DeltaOperands& operands) {
  return at::get_num_threads() * 4 * numbersOf<float>(sequences, operands);
}

}  // namespace minicpm
