// The gated delta rule forward (delta-kernel.h).
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <atomic>

#include "delta-chunk.h"

namespace minicpm {

namespace {

// One head of one sequence.
template <class Real, class Number>
struct Head {
  const Number *query, *key, *value;
  int64_t queryRow, keyRow, valueRow;
  const Real *decay, *beta;
  int64_t heads;   // between tokens of decay and beta
  int64_t length;
  Real* state;     // dense, or null: it begins with zeros and is not wanted
  Number* output;
  int64_t outputRow;
};

template <class Real>
struct Forward {
  Chunk<Real> chunk;
  Rows<Real> state, changes, output;
  Forward(Memory<Real>& memory, int64_t keySize, int64_t size) : chunk(chunkIn(memory, keySize, size)) {
    state = memory.rows(keySize, size);
    changes = memory.rows(kChunk, size);
    output = memory.rows(kChunk, size);
  }
};

// O = s Q S + (Q Kᵀ · D) U
template <class Real, class Number>
LANES_INLINE void writeOutput(const Forward<Real>& space, const Chunk<Real>& chunk, bool isZero, Number* to, int64_t toRow) {
  const int64_t width = widthOf<Real>(chunk.size);
  if (!isZero) multiply(chunk.count, width, chunk.keySize, chunk.query.left(), space.state, space.output, Into::Replace);
  for (int64_t i = 0; i < chunk.count; i++)
    for (int64_t j = 0; j < width; j += kLanes<Real>)
      store(space.output[i] + j, isZero ? Vector<Real>{} : load(space.output[i] + j) * chunk.since[i]);
  addLowerTimes(chunk.count, width, chunk.scores, space.changes, space.output);
  for (int64_t i = 0; i < chunk.count; i++) writeRow(space.output[i], chunk.size, to + i * toRow);
}

template <class Real, class Number>
LANES_INLINE void forwardHeadInline(const Forward<Real>& space, const Head<Real, Number>& head) {
  Chunk<Real> chunk = space.chunk;
  bool isZero = head.state == nullptr;
  if (!isZero)
    for (int64_t i = 0; i < chunk.keySize; i++) readRow(head.state + i * chunk.size, chunk.size, space.state[i]);
  for (int64_t first = 0; first < head.length; first += kChunk) {
    chunk.count = std::min(kChunk, head.length - first);
    readChunk(chunk, head.query + first * head.queryRow, head.queryRow, head.key + first * head.keyRow, head.keyRow, head.decay + first * head.heads,
              head.beta + first * head.heads, head.heads);
    correct(chunk, head.value + first * head.valueRow, head.valueRow, space.state, isZero, space.changes);
    writeOutput(space, chunk, isZero, head.output + first * head.outputRow, head.outputRow);
    const bool isLast = first + kChunk >= head.length;
    if (isLast && head.state == nullptr) return;
    advance(chunk, space.state, isZero, space.changes, space.state);
    isZero = false;
  }
  for (int64_t i = 0; i < chunk.keySize; i++) writeRow(space.state[i], chunk.size, head.state + i * chunk.size);
}

// One token, from its state: no chunk is worth it. Reads the state once and overwrites it once.
template <class Real, class Number>
LANES_INLINE void stepInline(const Forward<Real>& space, const Head<Real, Number>& head) {
  const Chunk<Real>& chunk = space.chunk;
  Real *const q = chunk.query[0], *const k = chunk.key[0], *const change = space.changes[0], *const y = space.output[0];
  readUnit(head.query, chunk.keySize, 1 / std::sqrt(static_cast<Real>(chunk.keySize)), q);
  readUnit(head.key, chunk.keySize, Real(1), k);
  Vector<Real> logarithm = {};
  logarithm[0] = head.decay[0];
  const Real decay = expOf(logarithm)[0], score = dot(q, k, chunk.keySize);
  for (int64_t j = 0; j < chunk.size; j += kLanes<Real>) {
    Vector<Real> known = {}, asked = {};
    for (int64_t i = 0; i < chunk.keySize; i++) {
      const Vector<Real> state = loadUpTo<Real>(head.state + i * chunk.size + j, chunk.size - j);
      known += k[i] * state;
      asked += q[i] * state;
    }
    const Vector<Real> delta = (loadUpTo<Real>(head.value + j, chunk.size - j) - decay * known) * head.beta[0];
    store(change + j, delta);
    store(y + j, asked * decay + delta * score);
  }
  writeRow(y, chunk.size, head.output);
  Real* const row = space.state[0];
  for (int64_t i = 0; i < chunk.keySize; i++) {
    Real* const state = head.state + i * chunk.size;
    for (int64_t j = 0; j < chunk.size; j += kLanes<Real>)
      store(row + j, loadUpTo<Real>(state + j, chunk.size - j) * decay + load(change + j) * k[i]);
    writeRow(row, chunk.size, state);
  }
}

#define FOR_TYPES(Real, Number)                                                                                    \
  CLONES(forwardHead, (const Forward<Real>& space, const Head<Real, Number>& head), (space, head))                 \
  CLONES(step, (const Forward<Real>& space, const Head<Real, Number>& head), (space, head))

FOR_TYPES(float, float)
FOR_TYPES(float, BFloat16)
FOR_TYPES(double, double)
#undef FOR_TYPES

template <class Real>
int64_t numbersOf(const DeltaOperands& operands) {
  Memory<Real> memory(nullptr);
  Forward<Real>(memory, operands.key.size(3), operands.value.size(3));
  return memory.taken();
}

template <class Real, class Number>
void forward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, at::TensorList states, const at::Tensor& output) {
  const HeadRow<Number> query(operands.query), key(operands.key), value(operands.value), to(output);
  const Real *decay = operands.decay.const_data_ptr<Real>(), *beta = operands.beta.const_data_ptr<Real>();
  const int64_t rows = output.size(1), heads = output.size(2), keySize = operands.key.size(3), size = output.size(3), group = operands.group();
  const int64_t tasks = heads * static_cast<int64_t>(sequences.size()), threads = std::min<int64_t>(tasks, at::get_num_threads());
  const int64_t numbers = numbersOf<Real>(operands);
  const at::Tensor all = at::empty({threads, numbers}, operands.decay.options());
  std::atomic<int64_t> next{0};
  at::parallel_for(0, threads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t thread = begin; thread < end; thread++) {
      Memory<Real> memory(all.data_ptr<Real>() + thread * numbers);
      const Forward<Real> space(memory, keySize, size);
      for (int64_t task = next++; task < tasks; task = next++) {
        const int64_t sequence = task / heads, h = task % heads;
        const auto [batch, start, length] = sequences[static_cast<size_t>(sequence)];
        const int64_t place = (batch * rows + start) * heads + h;
        Real* const state = states.empty() ? nullptr : states[static_cast<size_t>(sequence)].template data_ptr<Real>() + h * keySize * size;
        const Head<Real, Number> head{query.at(batch, start, h / group), key.at(batch, start, h / group), value.at(batch, start, h), query.row, key.row,
                                      value.row, decay + place, beta + place, heads, length, state, to.at(batch, start, h), to.row};
        if (state != nullptr && length == 1) step(space, head);
        else forwardHead(space, head);
      }
    }
  });
}

}  // namespace

void deltaForward(const std::vector<RowRange>& sequences, const DeltaOperands& operands, at::TensorList states, const at::Tensor& output) {
  if (output.scalar_type() == at::kDouble) return forward<double, double>(sequences, operands, states, output);
  if (output.scalar_type() == at::kFloat) return forward<float, float>(sequences, operands, states, output);
  forward<float, BFloat16>(sequences, operands, states, output);
}

int64_t deltaForwardBytes(const std::vector<RowRange>&, const DeltaOperands& operands) {
  return at::get_num_threads() * 4 * numbersOf<float>(operands);
}

}  // namespace minicpm
