// Bytes of meta tensors, counted as if they had memory. A step that runs on the meta device computes nothing: what it would
// take on a device, and at most, is known from this count.
#include <ATen/ATen.h>
#include <c10/core/Allocator.h>

#include <algorithm>
#include <atomic>

#include "handles.h"
#include "own-operators.h"

namespace minicpm {

namespace {

std::atomic<size_t> inUse{0}, peak{0};
std::atomic<bool> standsForCpu{false};

// Meta storages have no data; the context of their pointer is the count that ends with them.
void forget(void* context) {
  auto* const bytes = static_cast<size_t*>(context);
  inUse -= *bytes;
  delete bytes;
}

class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    const size_t now = inUse += bytes;
    size_t most = peak;
    while (now > most && !peak.compare_exchange_weak(most, now)) {
    }
    return {nullptr, new size_t(bytes), &forget, c10::Device(c10::kMeta)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &forget; }
  void copy_data(void*, const void*, std::size_t) const override {}
};

CountingAllocator counting;

// Counts the meta tensors that are made from now on; (standsForCpu): as tensors of the CPU or of a GPU.
void countMetaBytes(const Napi::CallbackInfo& info) {
  standsForCpu = info[0].ToBoolean().Value();
  c10::SetAllocator(c10::kMeta, &counting, 100);
}

Napi::Value metaBytes(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("inUse", static_cast<double>(inUse));
  result.Set("peak", static_cast<double>(peak));
  return result;
}

void resetMetaPeak(const Napi::CallbackInfo&) { peak = inUse.load(); }

}  // namespace

bool metaStandsForCpu() { return standsForCpu; }

void registerMetaBytes(Napi::Env env, Napi::Object exports) {
  exports.Set("countMetaBytes", Napi::Function::New(env, countMetaBytes));
  exports.Set("metaBytes", Napi::Function::New(env, metaBytes));
  exports.Set("resetMetaPeak", Napi::Function::New(env, resetMetaPeak));
}

}  // namespace minicpm
