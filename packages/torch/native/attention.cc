// minicpm::attention: packed or padded, causal or not. Computes softmax(q kᵀ / √d) v and its gradient.
//
// bfloat16 on a CPU with the instructions for it runs in the kernels of attention-*.cc: libtorch's own flash attention multiplies
// bfloat16 at a quarter of that speed where there is no AMX. Packed sequences in half precision on a GPU run in one call of libtorch's
// flash attention (Dao, 2023) with cumulative lengths. Everything else is libtorch's scaled_dot_product_attention.
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>

#include "attention-kernel.h"
#include "own-operators.h"

namespace minicpm {

using at::Tensor;

static HeadRows headRows(const Tensor& tensor) {
  return {tensor.data_ptr<BFloat16>(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

static Tensor dense(const Tensor& tensor) { return tensor.stride(3) == 1 ? tensor : tensor.contiguous(); }

// (batches, heads, rows, size) in the memory of (batches, rows, heads, size), which is how layers want it next.
static Tensor emptyHeads(const Tensor& like) {
  return at::empty({like.size(0), like.size(2), like.size(1), like.size(3)}, like.options()).transpose(1, 2);
}

// No `lengths`: each batch entry is one sequence.
static AttentionProblem problemOf(const Tensor& query, const Tensor& key, at::IntArrayRef lengths, bool causal) {
  AttentionProblem problem{query.size(0), query.size(1), key.size(1), query.size(3), query.size(2), 0, causal, {}};
  const auto add = [&](int64_t batch, int64_t start, int64_t queries, int64_t keys) {
    problem.sequences.push_back({batch, start, queries, keys, problem.keyRows});
    problem.keyRows += padded(keys, kTile);
  };
  if (lengths.empty()) {
    for (int64_t batch = 0; batch < problem.batches; batch++) add(batch, 0, query.size(2), key.size(2));
    return problem;
  }
  int64_t start = 0;
  for (const int64_t length : lengths) {
    add(0, start, length, length);
    start += length;
  }
  return problem;
}

struct TiledAttention : torch::autograd::Function<TiledAttention> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& queryGiven, const Tensor& keyGiven, const Tensor& valueGiven,
                        at::IntArrayRef lengths, bool causal) {
    const Tensor query = dense(queryGiven), key = dense(keyGiven), value = dense(valueGiven), output = emptyHeads(query);
    const AttentionProblem problem = problemOf(query, key, lengths, causal);
    const Tensor logSums = at::empty({query.size(1), query.size(0), query.size(2)}, query.options().dtype(at::kFloat));
    attentionForward(problem, headRows(query), headRows(key), headRows(value), headRows(output), logSums.data_ptr<float>());
    context->save_for_backward({query, key, value, output, logSums});
    context->saved_data["lengths"] = lengths.vec();
    context->saved_data["causal"] = causal;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const Tensor &query = saved[0], &key = saved[1], &value = saved[2], gradOutput = dense(gradients[0]);
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const AttentionProblem problem = problemOf(query, key, lengths, context->saved_data["causal"].toBool());
    const Tensor gradQuery = emptyHeads(query), gradKey = emptyHeads(key), gradValue = emptyHeads(value);
    attentionBackward(problem, headRows(query), headRows(key), headRows(value), headRows(saved[3]), headRows(gradOutput),
                      saved[4].data_ptr<float>(), {headRows(gradQuery), headRows(gradKey), headRows(gradValue)});
    return {gradQuery, gradKey, gradValue, Tensor(), Tensor()};
  }
};

// Packed sequences (1, heads, rows, size): `lengths` of key and value, `queryLengths` of the query where they differ.
static void check(const Tensor& query, const Tensor& key, const Tensor& value, at::OptionalIntArrayRef lengths,
                  at::OptionalIntArrayRef queryLengths, bool causal) {
  for (const Tensor* tensor : {&query, &key, &value}) {
    TORCH_CHECK(tensor->dim() == 4, "expected (batches, heads, rows, head size) but received ", tensor->sizes());
    TORCH_CHECK(tensor->scalar_type() == query.scalar_type(), "expected query, key and value of one type");
  }
  TORCH_CHECK(key.sizes() == value.sizes() && key.size(0) == query.size(0) && key.size(3) == query.size(3) && key.size(1) > 0 &&
                  query.size(1) % key.size(1) == 0,
              "expected key and value of one shape, with the query's batches and head size and a divisor of its heads, but received ",
              query.sizes(), ", ", key.sizes(), " and ", value.sizes());
  TORCH_CHECK(!causal || (key.size(2) == query.size(2) && !queryLengths) || (key.size(2) > query.size(2) && !lengths),
              "expected as many keys as queries, or more of one sequence, but received ", key.size(2), " and ", query.size(2));
  const bool grows = query.requires_grad() || key.requires_grad() || value.requires_grad();
  TORCH_CHECK(!causal || key.size(2) == query.size(2) || !grows || !c10::GradMode::is_enabled(), "has no gradient where keys are before the queries");
  TORCH_CHECK(lengths || !queryLengths, "expected lengths of keys beside those of queries");
  if (!lengths) return;
  const auto checkRow = [](const Tensor& row, at::IntArrayRef own) {
    int64_t all = 0;
    for (const int64_t length : own) {
      TORCH_CHECK(length > 0, "expected lengths above 0 but received ", own);
      all += length;
    }
    TORCH_CHECK(row.size(0) == 1 && all == row.size(2), "expected one row of sequences of lengths ", own, " but received ", row.sizes());
  };
  checkRow(query, queryLengths.value_or(*lengths));
  checkRow(key, *lengths);
  TORCH_CHECK(!queryLengths || queryLengths->size() == lengths->size(), "expected lengths of as many queries as keys but received ", *queryLengths,
              " and ", *lengths);
}

// Whether the kernels compute it, on a CPU.
static bool isForKernel(const Tensor& query, const Tensor& key) {
  const int64_t size = query.size(3);
  const bool fits = size >= 16 && size <= 256 && size % 2 == 0 && query.size(2) > 1 && query.numel() > 0 && key.numel() > 0;
  return query.scalar_type() == at::kBFloat16 && fits && hasAttentionKernel();
}

static bool isHalf(const Tensor& tensor) { return tensor.scalar_type() == at::kBFloat16 || tensor.scalar_type() == at::kHalf; }

// (sequences + 1) int32: where each sequence begins in the row, and its end. All layers of a batch ask for the same: it is copied once,
// through pinned memory, without waiting for the device.
static Tensor cumulativeLengths(at::IntArrayRef lengths, c10::Device device) {
  struct Last {
    std::vector<int64_t> lengths;
    Tensor starts;
  };
  static thread_local auto* last = new Last();  // never destroyed: the device may be gone by then
  if (last->starts.defined() && last->starts.device() == device && at::IntArrayRef(last->lengths) == lengths) return last->starts;
  const Tensor host = at::empty({static_cast<int64_t>(lengths.size()) + 1}, at::TensorOptions().dtype(at::kInt).pinned_memory(device.is_cuda()));
  auto* starts = host.data_ptr<int32_t>();
  starts[0] = 0;
  for (size_t i = 0; i < lengths.size(); i++) starts[i + 1] = starts[i] + static_cast<int32_t>(lengths[i]);
  *last = {lengths.vec(), host.to(device, /*non_blocking=*/true)};
  return last->starts;
}

// Packed sequences (1, heads, rows, size) in one call. Query heads share key heads inside of the kernel.
// A function of ours, so that the views around the kernels are not recorded.
struct FlashAttention : torch::autograd::Function<FlashAttention> {
  static Tensor rowsOf(const Tensor& heads) { return dense(heads).squeeze(0).transpose(0, 1); }  // (rows, heads, size)
  static Tensor headsOf(const Tensor& rows) { return rows.transpose(0, 1).unsqueeze(0); }
  static int64_t longest(at::IntArrayRef lengths) { return *std::max_element(lengths.begin(), lengths.end()); }

  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& queryGiven, const Tensor& keyGiven, const Tensor& valueGiven,
                        at::IntArrayRef queries, at::IntArrayRef keys, bool causal) {
    const Tensor query = rowsOf(queryGiven), key = rowsOf(keyGiven), value = rowsOf(valueGiven);
    const Tensor queryStarts = cumulativeLengths(queries, query.device()), keyStarts = cumulativeLengths(keys, query.device());
    const int64_t mostQueries = longest(queries), mostKeys = longest(keys);
    const auto [output, logSums, random, unused, debug] =
        at::_flash_attention_forward(query, key, value, queryStarts, keyStarts, mostQueries, mostKeys, 0.0, causal, false);
    context->save_for_backward({query, key, value, output, logSums, queryStarts, keyStarts, random, unused});
    context->saved_data["queries"] = mostQueries;
    context->saved_data["keys"] = mostKeys;
    context->saved_data["causal"] = causal;
    return headsOf(output);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    refuseSecondDerivative();
    const auto saved = context->get_saved_variables();
    const auto number = [&](const char* name) { return context->saved_data[name].toInt(); };
    const auto [query, key, value] =
        at::_flash_attention_backward(rowsOf(gradients[0]), saved[0], saved[1], saved[2], saved[3], saved[4], saved[5], saved[6], number("queries"),
                                      number("keys"), 0.0, context->saved_data["causal"].toBool(), saved[7], saved[8]);
    return {headsOf(query), headsOf(key), headsOf(value), Tensor(), Tensor(), Tensor()};
  }
};

// What attention keeps and makes, wherever it is computed, as shapes alone: query, key, value, output, and a number for each head and row. For a CPU
// that runs the kernels, also what these take.
struct MetaAttention : torch::autograd::Function<MetaAttention> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& query, const Tensor& key, const Tensor& value,
                        at::IntArrayRef lengths, bool kernel) {
    const Tensor output = emptyHeads(query), logSums = at::empty({query.size(1), query.size(0), query.size(2)}, query.options().dtype(at::kFloat));
    context->save_for_backward({query, key, value, output, logSums});
    context->saved_data["lengths"] = lengths.vec();
    context->saved_data["kernel"] = kernel;
    if (kernel) take(attentionForwardBytes(problemOf(query, key, lengths, false)), query);
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list) {
    const auto saved = context->get_saved_variables();
    const auto lengths = context->saved_data["lengths"].toIntVector();
    const Tensor gradQuery = emptyHeads(saved[0]), gradKey = emptyHeads(saved[1]), gradValue = emptyHeads(saved[2]);
    if (context->saved_data["kernel"].toBool()) take(attentionBackwardBytes(problemOf(saved[0], saved[1], lengths, false)), saved[0]);
    return {gradQuery, gradKey, gradValue, Tensor(), Tensor()};
  }

  // Memory that is gone again at once.
  static void take(int64_t bytes, const Tensor& like) { at::empty({bytes}, like.options().dtype(at::kByte)); }
};

// Whether a GPU and this libtorch have flash attention: only an attempt tells without CUDA's headers. Once for each GPU. The meta device stands
// for a GPU (meta.cc), unless it is told to stand for the CPU.
bool hasFlashAttention(c10::Device device) {
  if (device.is_meta() && metaStandsForCpu()) return false;
  static thread_local std::map<c10::Device, bool, bool (*)(c10::Device, c10::Device)> known(
      +[](c10::Device a, c10::Device b) { return std::pair(a.type(), a.index()) < std::pair(b.type(), b.index()); });
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  bool has = false;
  try {
    const c10::NoGradGuard quiet;
    const Tensor probe = at::zeros({1, 1, 16, 64}, at::TensorOptions().dtype(at::kBFloat16).device(device));
    FlashAttention::apply(probe, probe, probe, at::IntArrayRef({16}), at::IntArrayRef({16}), true);
    has = true;
  } catch (const c10::Error&) {
  }
  return known[device] = has;
}

static bool isForFlash(const Tensor& query) {
  const int64_t size = query.size(3);
  return (query.is_cuda() || query.is_meta()) && isHalf(query) && size % 8 == 0 && size <= 256 && query.numel() > 0 && hasFlashAttention(query.device());
}

// The kernels that GPUs have for float32 want a key head for each query head.
static Tensor headForEach(const Tensor& tensor, int64_t heads) {
  return tensor.size(1) == heads ? tensor : tensor.repeat_interleave(heads / tensor.size(1), 1);
}

static Tensor attention(const Tensor& query, const Tensor& key, const Tensor& value, at::OptionalIntArrayRef lengths,
                        at::OptionalIntArrayRef queryLengths, bool causal) {
  check(query, key, value, lengths, queryLengths, causal);
  const bool kernel = (query.is_cpu() || (query.is_meta() && metaStandsForCpu())) && isForKernel(query, key) && !queryLengths;
  if (kernel && query.is_cpu()) return TiledAttention::apply(query, key, value, lengths.value_or(at::IntArrayRef()), causal);
  const bool flash = isForFlash(query);
  if (flash && lengths) return FlashAttention::apply(query, key, value, queryLengths.value_or(*lengths), *lengths, causal);
  if (query.is_meta()) return MetaAttention::apply(query, key, value, lengths.value_or(at::IntArrayRef()), kernel);
  const bool grouped = query.size(1) != key.size(1), expands = grouped && query.is_cuda() && !flash;
  // With keys before the queries, the last query sees the last key.
  const int64_t before = key.size(2) - query.size(2);
  const bool masks = causal && before > 0 && query.size(2) > 1, squarely = causal && before == 0;
  std::optional<Tensor> mask;
  if (masks) mask = at::ones({query.size(2), key.size(2)}, query.options().dtype(at::kBool)).tril_(before);
  const auto plain = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
    if (expands) return at::scaled_dot_product_attention(q, headForEach(k, q.size(1)), headForEach(v, q.size(1)), mask, 0.0, squarely);
    return at::scaled_dot_product_attention(q, k, v, mask, 0.0, squarely, {}, grouped);
  };
  if (!lengths) return plain(query, key, value);
  const auto queries = query.split_with_sizes(queryLengths.value_or(*lengths), 2), keys = key.split_with_sizes(*lengths, 2), values = value.split_with_sizes(*lengths, 2);
  std::vector<Tensor> outputs;
  for (size_t i = 0; i < queries.size(); i++) outputs.push_back(plain(queries[i], keys[i], values[i]));
  return at::cat(outputs, 2);
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("attention(Tensor query, Tensor key, Tensor value, *, int[]? lengths=None, int[]? query_lengths=None, bool is_causal=False) -> Tensor", attention);
}

}  // namespace minicpm
