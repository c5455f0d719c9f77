// minicpm::rows_low_rank_: low-rank adapters on some rows. Each group of rows of a layer has factors of its own.
//
// The same products and the same sum as of rows_linear and rows_add one by one, so the same bits.
#include <vector>

#include "own-operators.h"
#include "rows.h"

namespace minicpm {

using at::Tensor;

void addLowRank(const Tensor& y, const Tensor& x, c10::ArrayRef<LowRank> groups) {
  for (const auto& [from, count, down, up, scaling] : groups) {
    TORCH_CHECK(x.dim() > 0 && from >= 0 && count >= 0 && from + count <= x.size(0) && y.size(0) == x.size(0) && y.is_contiguous() && up.size(0) == y.size(-1),
                "expected factors for some of the rows but received rows ", from, " to ", from + count, " of ", x.sizes(), " for ", y.sizes(), " and ", up.sizes());
    if (count == 0) continue;
    const Tensor update = rowsLinear(rowsLinear(x.narrow(0, from, count), down, {}, {}, false, false), up, {}, {}, false, false);
    const Tensor rows = y.narrow(0, from, count);
    TORCH_CHECK(rows.scalar_type() == update.scalar_type(), "expected factors of the output's type but received ", update.scalar_type(), " and ", rows.scalar_type());
    const auto alpha = static_cast<float>(scaling);
    const auto type = rows.scalar_type();
    if (!rows.is_cpu()) rows.copy_(rowsAdd(rows, update, scaling));
    else if (type == at::kFloat) addOf(rows.const_data_ptr<float>(), update.const_data_ptr<float>(), alpha, rows.numel(), rows.mutable_data_ptr<float>());
    else addOf(rows.const_data_ptr<c10::BFloat16>(), update.const_data_ptr<c10::BFloat16>(), alpha, rows.numel(), rows.mutable_data_ptr<c10::BFloat16>());
  }
}

std::vector<std::vector<LowRank>> lowRanks(size_t layers, at::IntArrayRef places, at::TensorList factors, at::ArrayRef<double> scalings) {
  const size_t count = scalings.size();
  TORCH_CHECK(places.size() == 3 * count && factors.size() == 2 * count, "expected a layer, a first row and rows, and two factors for each of ", count,
              " scalings but received ", places.size(), " and ", factors.size());
  std::vector<std::vector<LowRank>> all(layers);
  for (size_t i = 0; i < count; i++) {
    const int64_t layer = places[3 * i];
    TORCH_CHECK(layer >= 0 && static_cast<size_t>(layer) < layers, "expected one of ", layers, " layers but received ", layer);
    all[static_cast<size_t>(layer)].push_back({places[3 * i + 1], places[3 * i + 2], factors[2 * i], factors[2 * i + 1], scalings[i]});
  }
  return all;
}

static Tensor rowsLowRank(Tensor y, const Tensor& x, at::IntArrayRef places, at::TensorList factors, at::ArrayRef<double> scalings) {
  addLowRank(y, x, lowRanks(1, places, factors, scalings)[0]);
  return y;
}

TORCH_LIBRARY_FRAGMENT(minicpm, library) {
  library.def("rows_low_rank_(Tensor(a!) y, Tensor x, int[] places, Tensor[] factors, float[] scalings) -> Tensor(a!)", rowsLowRank);
}

}  // namespace minicpm
