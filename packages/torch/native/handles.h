// Handles: numbers that stand for tensors in JavaScript.
//
// A handle is `generation * 2^26 + slot`, so a handle that was freed never reaches a later tensor of the same slot.
// One table per Node environment (main thread or worker thread); no locking, a table never leaves its thread.
#pragma once
#include <ATen/core/Tensor.h>
#include <napi.h>

#include <cstdint>
#include <vector>

namespace minicpm {

class Handles {
 public:
  int64_t add(at::Tensor tensor);
  const at::Tensor& get(int64_t handle) const;
  void free(int64_t handle);  // a stale handle is ignored: the garbage collector may come late

  size_t live() const { return live_; }
  size_t bytes() const;  // unique storages only

 private:
  static constexpr int64_t kSlots = int64_t{1} << 26;
  struct Slot {
    at::Tensor tensor;
    int64_t generation = 1;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> unused_;
  size_t live_ = 0;
};

struct Environment {
  Handles handles;
};

Handles& handles(Napi::Env env);

// The one border between C++ exceptions and JavaScript: whatever libtorch throws becomes an Error without a C++ backtrace.
// (`where` is the operator's name with its operands, or the native function's name.)
[[noreturn]] void rethrow(Napi::Env env, const std::string& where);

template <typename Function>
auto guarded(Napi::Env env, const char* where, Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    rethrow(env, where);
  }
}

at::Tensor tensorOf(const Napi::Value& value);
std::vector<int64_t> integersOf(const Napi::Value& value);
std::string describe(const at::Tensor& tensor);  // "float32[2, 3]"

// How often this thread read a tensor's values, or had a copy to or from the CPU done before it went on: on a GPU, each of these waits
// until the device has done all that was asked of it before. On the CPU they are counted just so, that it can be tested there.
int64_t deviceWaits();
void countDeviceWait();

// Whether packed sequences run in flash attention there (attention.cc).
bool hasFlashAttention(c10::Device device);

// Memory of CPU tensors (allocator.cc): blocks of tensors now, freed blocks kept for the next ones, the most that tensors ever took.
struct BlockBytes {
  size_t inUse, kept, peak;
};
void keepFreedBlocks();
void giveBackKeptBlocks();
BlockBytes blockBytes();

// Each file of this folder registers what it offers.
void registerTensor(Napi::Env env, Napi::Object exports);
void registerDispatch(Napi::Env env, Napi::Object exports);
void registerAutograd(Napi::Env env, Napi::Object exports);
void registerMapping(Napi::Env env, Napi::Object exports);
void registerProcess(Napi::Env env, Napi::Object exports);
void registerSignals(Napi::Env env, Napi::Object exports);
void registerDevice(Napi::Env env, Napi::Object exports);
void registerGroup(Napi::Env env, Napi::Object exports);
void registerStorage(Napi::Env env, Napi::Object exports);
void registerWatchdog(Napi::Env env, Napi::Object exports);
void registerMetaBytes(Napi::Env env, Napi::Object exports);
void registerAllocator(Napi::Env env, Napi::Object exports);

}  // namespace minicpm
