// minicpm::decode_attention: a new position of each sequence.
//
// Each attends to a cache of its own. Turns queries and keys by their positions, writes keys and values to the caches, and attends. A sequence's result is the same in bits
// whatever sequences are beside it: keys are worked on in blocks of kKeys counted from the sequence's beginning, and the blocks' results are
// put together in their order (Flash-Decoding, Dao et al., 2023), whatever the number of threads.
//
// Here for CPUs, in float32 inside, on any processor; on devices and in other types it is put together from libtorch's operators.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <vector>

#include "crew.h"
#include "lanes.h"
#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;

namespace {

constexpr int64_t kKeys = 256;  // of a block
constexpr int64_t kScores = kKeys + kFloats;

struct Sizes {
  int64_t heads, keyHeads, size, half;  // size: of a head; half: of what is turned of it, its first numbers
  int64_t group() const { return heads / keyHeads; }
};

// The cache of a sequence: (2, key heads, capacity, size), keys then values.
template <class Number>
struct Cache {
  Number* data;
  int64_t capacity, length;  // length: with the new position
};

// Keys `first` to `first + count` of a sequence and a key head. Its result for each query head of the group: the highest score, the sum of
// powers, and the weighted values, `size` numbers.
struct Block {
  int64_t sequence, keyHead, first, count, place;  // place: of the result among all, in query heads
};

template <class Number>
LANES_INLINE void turn(const Number* from, const float* cosines, const float* sines, int64_t size, int64_t half, Number* to) {
  for (int64_t i = 0; i < half; i += kFloats) {
    const int64_t left = half - i;
    const Floats x = loadSome(from + i, left), y = loadSome(from + half + i, left), c = loadSome(cosines + i, left), s = loadSome(sines + i, left);
    // every product is rounded, as in minicpm::rotary
    storeSome(to + i, rounded<Number>(x * c) - rounded<Number>(y * s), left);
    storeSome(to + half + i, rounded<Number>(y * c) + rounded<Number>(x * s), left);
  }
  std::memcpy(to + 2 * half, from + 2 * half, static_cast<size_t>(size - 2 * half) * sizeof(Number));
}

template <class Number>
LANES_INLINE void enterInline(const Sizes& sizes, const Number* query, const Number* key, const Number* value, const float* cosines,
                              const float* sines, const Cache<Number>& cache, Number* turned) {
  const int64_t size = sizes.size, last = cache.length - 1;
  for (int64_t h = 0; h < sizes.heads; h++) turn(query + h * size, cosines, sines, size, sizes.half, turned + h * size);
  for (int64_t h = 0; h < sizes.keyHeads; h++) {
    turn(key + h * size, cosines, sines, size, sizes.half, cache.data + (h * cache.capacity + last) * size);
    std::memcpy(cache.data + ((sizes.keyHeads + h) * cache.capacity + last) * size, value + h * size, static_cast<size_t>(size) * sizeof(Number));
  }
}

// Scores of `heads` query heads (heads, size) float32 with a block's keys. Meanwhile its values are fetched.
template <int heads, class Number>
LANES_INLINE void scoresOf(int64_t size, int64_t count, const Number* keys, const Number* values, const float* query, float (*scores)[kScores], float* highest) {
  const float scale = 1.4426950408889634f / std::sqrt(static_cast<float>(size));  // powers of two
  for (int g = 0; g < heads; g++) highest[g] = -INFINITY;
  for (int64_t j = 0; j < count; j++) {
    Floats products[heads] = {};
    for (int64_t i = 0; i < size; i += kFloats) {
      __builtin_prefetch(values + j * size + i);
      const Floats key = loadSome(keys + j * size + i, size - i);
#pragma GCC unroll 4
      for (int g = 0; g < heads; g++) products[g] += loadSome(query + g * size + i, size - i) * key;
    }
#pragma GCC unroll 4
    for (int g = 0; g < heads; g++) {
      scores[g][j] = sumOf(products[g]) * scale;
      highest[g] = std::max(highest[g], scores[g][j]);
    }
  }
}

// Numbers `i` to `i + kFloats * vectors`, or to the last, of the heads' values, weighted by `powers`.
template <int heads, int vectors, class Number>
LANES_INLINE void weightedOf(int64_t size, int64_t i, int64_t count, const Number* from, const float (*powers)[kScores], float* values) {
  Floats sums[heads][vectors] = {};
  for (int64_t j = 0; j < count; j++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      const int64_t place = i + v * kFloats;
      const Floats value = vectors > 1 ? loadFloats(from + j * size + place) : loadSome(from + j * size + place, size - place);
#pragma GCC unroll 4
      for (int g = 0; g < heads; g++) sums[g][v] += powers[g][j] * value;
    }
  for (int g = 0; g < heads; g++)
    for (int v = 0; v < vectors; v++) storeSome(values + g * size + i + v * kFloats, sums[g][v], size - i - v * kFloats);
}

// `heads` query heads (heads, size) float32 with a block's keys, and the heads' weighted values: each key and value is read once for all of them.
template <int heads, class Number>
LANES_INLINE void attendHeads(const Sizes& sizes, const Cache<Number>& cache, const Block& block, const float* query, float* highest, float* sums,
                              float* values) {
  const int64_t size = sizes.size;
  const Number* keys = cache.data + (block.keyHead * cache.capacity + block.first) * size;
  const Number* from = keys + sizes.keyHeads * cache.capacity * size;
  float scores[heads][kScores];
  scoresOf<heads>(size, block.count, keys, from, query, scores, highest);
  for (int g = 0; g < heads; g++) {
    Floats sum = {};
    for (int64_t j = 0; j < block.count; j += kFloats) {
      float powers[kFloats] = {};
      storeFloats(powers, exp2Of(loadFloats(scores[g] + j) - highest[g]));
      for (int64_t i = block.count - j; i < kFloats; i++) powers[i] = 0;
      const Floats kept = loadFloats(powers);
      storeFloats(scores[g] + j, kept);
      sum += kept;
    }
    sums[g] = sumOf(sum);
  }
  int64_t i = 0;
  for (; i + 4 * kFloats <= size; i += 4 * kFloats) weightedOf<heads, 4>(size, i, block.count, from, scores, values);
  for (; i < size; i += kFloats) weightedOf<heads, 1>(size, i, block.count, from, scores, values);
}

template <class Number>
LANES_INLINE void attendBlockInline(const Sizes& sizes, const Cache<Number>& cache, const Block& block, const Number* query, float* wide, float* highest,
                              float* sums, float* values) {
  const int64_t size = sizes.size, group = sizes.group();
  for (int64_t i = 0; i < group * size; i += kFloats) storeSome(wide + i, loadSome(query + i, group * size - i), group * size - i);
  int64_t g = 0;
  for (; g + 4 <= group; g += 4) attendHeads<4>(sizes, cache, block, wide + g * size, highest + g, sums + g, values + g * size);
  for (; g + 2 <= group; g += 2) attendHeads<2>(sizes, cache, block, wide + g * size, highest + g, sums + g, values + g * size);
  for (; g < group; g++) attendHeads<1>(sizes, cache, block, wide + g * size, highest + g, sums + g, values + g * size);
}

// The results of a query head's blocks, `stride` heads apart, as one.
template <class Number>
LANES_INLINE void combineInline(int64_t blocks, int64_t stride, int64_t size, const float* highest, const float* sums, const float* values,
                                Number* output) {
  float most = -INFINITY, sum = 0;
  for (int64_t b = 0; b < blocks; b++) most = std::max(most, highest[b * stride]);
  for (int64_t b = 0; b < blocks; b++) sum += sums[b * stride] * std::exp2(highest[b * stride] - most);
  for (int64_t i = 0; i < size; i += kFloats) {
    Floats all = {};
    for (int64_t b = 0; b < blocks; b++) all += loadSome(values + b * stride * size + i, size - i) * std::exp2(highest[b * stride] - most);
    storeSome(output + i, all / sum, size - i);
  }
}

#define FOR_TYPE(Number)                                                                                                                      \
  CLONES(enter, (const Sizes& sizes, const Number* query, const Number* key, const Number* value, const float* cosines, const float* sines,    \
                 const Cache<Number>& cache, Number* turned), (sizes, query, key, value, cosines, sines, cache, turned))                       \
  CLONES(attendBlock, (const Sizes& sizes, const Cache<Number>& cache, const Block& block, const Number* query, float* wide,           \
                       float* highest, float* sums, float* values), (sizes, cache, block, query, wide, highest, sums, values))                                                    \
  CLONES(combine, (int64_t blocks, int64_t stride, int64_t size, const float* highest, const float* sums, const float* values, Number* output), \
         (blocks, stride, size, highest, sums, values, output))

FOR_TYPE(float)
FOR_TYPE(BFloat16)
#undef FOR_TYPE

template <class Number>
Tensor decodeOnCpu(const Sizes& sizes, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& table, at::TensorList caches,
                   at::IntArrayRef lengths) {
  const int64_t count = query.size(0), size = sizes.size, group = sizes.group();
  const Tensor output = at::empty_like(query), turned = at::empty_like(query);
  const float* angles = table.const_data_ptr<float>();
  std::vector<Cache<Number>> own;
  std::vector<Block> blocks;
  for (int64_t i = 0; i < count; i++) {
    own.push_back({caches[i].data_ptr<Number>(), caches[i].size(2), lengths[i] + 1});
    for (int64_t head = 0; head < sizes.keyHeads; head++)
      for (int64_t first = 0; first < own[i].length; first += kKeys)
        blocks.push_back({i, head, first, std::min(kKeys, own[i].length - first), static_cast<int64_t>(blocks.size()) * group});
  }
  const int64_t results = static_cast<int64_t>(blocks.size()) * group, row = sizes.heads * size, keyRow = sizes.keyHeads * size;
  const Tensor memory = at::empty({results * (size + 2)}, query.options().dtype(at::kFloat));
  float *highest = memory.data_ptr<float>(), *sums = highest + results, *values = sums + results;
  const auto *q = query.const_data_ptr<Number>(), *k = key.const_data_ptr<Number>(), *v = value.const_data_ptr<Number>();
  auto *t = turned.data_ptr<Number>(), *to = output.data_ptr<Number>();
  for (int64_t i = 0; i < count; i++)
    enter(sizes, q + i * row, k + i * keyRow, v + i * keyRow, angles + i * sizes.half, angles + (count + i) * sizes.half, own[i], t + i * row);
  const int64_t grain = std::max<int64_t>(1, kGrain / (kKeys * size * group));
  crewFor(static_cast<int64_t>(blocks.size()), grain, [&](int64_t begin, int64_t end) {
    std::vector<float> wide(static_cast<size_t>(group * size));
    for (int64_t b = begin; b < end; b++) {
      const Block& block = blocks[b];
      attendBlock(sizes, own[block.sequence], block, t + block.sequence * row + block.keyHead * group * size, wide.data(), highest + block.place,
                  sums + block.place, values + block.place * size);
    }
  });
  for (size_t b = 0; b < blocks.size();) {
    const Block& block = blocks[b];
    const int64_t parts = (own[block.sequence].length + kKeys - 1) / kKeys;
    for (int64_t g = 0; g < group; g++) {
      const int64_t place = block.place + g;
      combine(parts, group, size, highest + place, sums + place, values + place * size,
              to + block.sequence * row + (block.keyHead * group + g) * size);
    }
    b += static_cast<size_t>(parts);
  }
  return output;
}

// (heads · size) turned as heads; table (2, half)
Tensor turnedByOperators(const Tensor& row, int64_t heads, const Tensor& table) {
  const Tensor x = row.view({heads, -1});
  const int64_t half = table.size(1);
  const Tensor first = x.narrow(1, 0, half), second = x.narrow(1, half, half), cosines = table[0], sines = table[1];
  return at::cat({first.mul(cosines).sub(second.mul(sines)), second.mul(cosines).add(first.mul(sines)), x.narrow(1, 2 * half, x.size(1) - 2 * half)}, 1);
}

Tensor decodeByOperators(const Sizes& sizes, const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& given, at::TensorList caches,
                         at::IntArrayRef lengths) {
  const Tensor table = given.to(query.device(), query.scalar_type());
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < query.size(0); i++) {
    const Tensor own = table.select(1, i), all = caches[i].narrow(2, 0, lengths[i] + 1);
    all[0].select(1, lengths[i]).copy_(turnedByOperators(key[i], sizes.keyHeads, own));
    all[1].select(1, lengths[i]).copy_(value[i].view({sizes.keyHeads, -1}));
    const Tensor q = turnedByOperators(query[i], sizes.heads, own).unsqueeze(0).unsqueeze(2);  // (1, heads, 1, size)
    const auto heads = [&](const Tensor& x) { return x.unsqueeze(0).repeat_interleave(sizes.group(), 1); };
    rows.push_back(at::scaled_dot_product_attention(q, heads(all[0]), heads(all[1])).view({1, -1}));
  }
  return at::cat(rows);
}

}  // namespace

// query (N, heads · size), key and value (N, key heads · size) before rotation, table (2, N, half) float32 on the CPU: cosines and sines for the first
// 2 half numbers of a head. Each cache
// (2, key heads, capacity, size) has `lengths` positions and gets one more.
Tensor decodeAttention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& table, at::TensorList caches,
                              at::IntArrayRef lengths) {
  const int64_t count = query.size(0);
  TORCH_CHECK(query.dim() == 2 && static_cast<int64_t>(caches.size()) == count && static_cast<int64_t>(lengths.size()) == count && count > 0,
              "expected a cache and a length for each row of the query but received ", query.sizes(), ", ", caches.size(), " and ", lengths.size());
  TORCH_CHECK(table.is_cpu() && table.scalar_type() == at::kFloat && table.is_contiguous(), "expected a float32 table on the CPU");
  const int64_t size = caches[0].size(3), keyHeads = caches[0].size(1);
  const Sizes sizes{query.size(1) / size, keyHeads, size, table.size(-1)};
  TORCH_CHECK(query.size(1) % (size * keyHeads) == 0 && size % 2 == 0 && key.sizes() == at::IntArrayRef({count, keyHeads * size}) &&
                  value.sizes() == key.sizes() && table.sizes() == at::IntArrayRef({2, count, sizes.half}) && 2 * sizes.half <= size,
              "expected query, key, value and table for heads of ", size, " but received ", query.sizes(), ", ", key.sizes(), ", ", value.sizes(), " and ",
              table.sizes());
  for (int64_t i = 0; i < count; i++)
    TORCH_CHECK(caches[i].dim() == 4 && caches[i].is_contiguous() && caches[i].scalar_type() == query.scalar_type() && caches[i].size(1) == keyHeads &&
                    caches[i].size(3) == size && lengths[i] >= 0 && lengths[i] < caches[i].size(2),
                "expected a cache with room after ", lengths[i], " positions but received ", caches[i].sizes());
  const Tensor q = query.contiguous(), k = key.contiguous(), v = value.contiguous();
  if (q.is_cpu() && q.scalar_type() == at::kFloat) return decodeOnCpu<float>(sizes, q, k, v, table, caches, lengths);
  if (q.is_cpu() && q.scalar_type() == at::kBFloat16) return decodeOnCpu<BFloat16>(sizes, q, k, v, table, caches, lengths);
  return decodeByOperators(sizes, q, k, v, table, caches, lengths);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("decode_attention(Tensor query, Tensor key, Tensor value, Tensor table, Tensor[] caches, int[] lengths) -> Tensor", decodeAttention);
}

}  // namespace minicpm
