// The handle table, and C++ exceptions as JavaScript errors. See handles.h.
#include "handles.h"

#include <ATen/ATen.h>
#include <c10/util/Exception.h>

#include <sstream>
#include <unordered_set>

namespace minicpm {

int64_t Handles::add(at::Tensor tensor) {
  uint32_t slot;
  if (unused_.empty()) {
    slot = static_cast<uint32_t>(slots_.size());
    TORCH_CHECK(slot < kSlots, "more than 2^26 live tensors");
    slots_.emplace_back();
  } else {
    slot = unused_.back();
    unused_.pop_back();
  }
  slots_[slot].tensor = std::move(tensor);
  live_++;
  return slots_[slot].generation * kSlots + slot;
}

const at::Tensor& Handles::get(int64_t handle) const {
  const auto slot = static_cast<size_t>(handle % kSlots);
  TORCH_CHECK(handle > 0 && slot < slots_.size() && slots_[slot].generation == handle / kSlots,
              "a tensor that was disposed of is used");
  return slots_[slot].tensor;
}

void Handles::free(int64_t handle) {
  const auto slot = static_cast<size_t>(handle % kSlots);
  if (handle <= 0 || slot >= slots_.size() || slots_[slot].generation != handle / kSlots) return;
  slots_[slot].tensor = at::Tensor();
  slots_[slot].generation++;
  unused_.push_back(static_cast<uint32_t>(slot));
  live_--;
}

size_t Handles::bytes() const {
  std::unordered_set<const void*> seen;
  size_t total = 0;
  for (const Slot& slot : slots_) {
    if (!slot.tensor.defined() || !slot.tensor.has_storage()) continue;
    const auto& storage = slot.tensor.storage();
    // A storage that gave its memory back (storage.cc) has none.
    if (storage.data_ptr().get() == nullptr && !slot.tensor.is_meta()) continue;
    if (seen.insert(storage.unsafeGetStorageImpl()).second) total += storage.nbytes();
  }
  return total;
}

Handles& handles(Napi::Env env) { return env.GetInstanceData<Environment>()->handles; }

void rethrow(Napi::Env env, const std::string& where) {
  std::string message, code = "TORCH";
  try {
    throw;
  } catch (const c10::OutOfMemoryError& error) {
    message = error.what_without_backtrace();
    code = "TORCH_OUT_OF_MEMORY";
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "unknown native error";
  }
  Napi::Error error = Napi::Error::New(env, where + ": " + message);
  error.Set("code", Napi::String::New(env, code));
  throw error;
}

static thread_local int64_t waits = 0;
int64_t deviceWaits() { return waits; }
void countDeviceWait() { waits++; }

at::Tensor tensorOf(const Napi::Value& value) {
  return handles(value.Env()).get(value.As<Napi::Number>().Int64Value());
}

std::vector<int64_t> integersOf(const Napi::Value& value) {
  const auto array = value.As<Napi::Array>();
  std::vector<int64_t> result(array.Length());
  for (uint32_t i = 0; i < result.size(); i++) result[i] = array.Get(i).As<Napi::Number>().Int64Value();
  return result;
}

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "none";
  std::ostringstream out;
  out << c10::toString(tensor.scalar_type()) << tensor.sizes();
  if (!tensor.is_cpu()) out << "@" << tensor.device();
  return out.str();
}

}  // namespace minicpm
