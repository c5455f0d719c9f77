// Sequences in the rows of a (batches, rows, …) tensor. Each batch entry is one, or one row holds several, one after another.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace minicpm {

// Where a sequence is.
struct RowRange {
  int64_t batch, start, length;
};

// `lengths`: of the sequences of the one row of `x`. Without them, each batch entry is a sequence.
inline std::vector<RowRange> rowRanges(const at::Tensor& x, at::OptionalIntArrayRef lengths) {
  std::vector<RowRange> ranges;
  if (!lengths) {
    for (int64_t batch = 0; batch < x.size(0); batch++) ranges.push_back({batch, 0, x.size(1)});
    return ranges;
  }
  int64_t start = 0;
  for (const int64_t length : *lengths) {
    TORCH_CHECK(length > 0, "expected lengths above 0 but received ", *lengths);
    ranges.push_back({0, start, length});
    start += length;
  }
  TORCH_CHECK(x.size(0) == 1 && start == x.size(1), "expected one row of sequences of lengths ", *lengths, " but received ", x.sizes());
  return ranges;
}

// States are carried from call to call: one for each sequence, dense, of one shape and type. They are read and overwritten, and no gradient flows.
inline void checkStates(at::TensorList states, size_t sequences, at::IntArrayRef shape, at::ScalarType type, const at::Tensor& like, bool grows) {
  if (states.empty()) return;
  TORCH_CHECK(states.size() == sequences, "expected a state for each of ", sequences, " sequences but received ", states.size());
  TORCH_CHECK(!grows, "has no gradient with states");
  for (const at::Tensor& state : states)
    TORCH_CHECK(state.sizes() == shape && state.scalar_type() == type && state.is_contiguous() && state.device() == like.device(),
                "expected dense states ", shape, " of type ", type, " on ", like.device(), " but received ", state.sizes(), " of type ",
                state.scalar_type(), " on ", state.device());
}

}  // namespace minicpm
