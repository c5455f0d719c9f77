// Process-wide state: threads, allocator, devices, versions.
#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <sys/resource.h>
#include <torch/version.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "handles.h"

namespace minicpm {

static Napi::Value threads(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), at::get_num_threads());
}

static void setThreads(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "setThreads", [&] { at::set_num_threads(info[0].As<Napi::Number>().Int32Value()); });
}

// Keeps freed blocks for the next use: those of tensors in allocator.cc, those that operators take for themselves in glibc's heap.
static void tuneAllocator(const Napi::CallbackInfo&) {
  keepFreedBlocks();
#if defined(__GLIBC__)
  constexpr int kHeapBlock = 1 << 30;  // bytes; larger ones are mapped and given back at every free
  mallopt(M_MMAP_THRESHOLD, kHeapBlock);
  mallopt(M_TRIM_THRESHOLD, kHeapBlock);
#endif
}

static void trimMemory(const Napi::CallbackInfo&) {
  giveBackKeptBlocks();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

static Napi::Value memoryBlocks(const Napi::CallbackInfo& info) {
  const auto [inUse, kept, peak] = blockBytes();
  auto result = Napi::Object::New(info.Env());
  result.Set("inUse", static_cast<double>(inUse));
  result.Set("kept", static_cast<double>(kept));
  result.Set("peak", static_cast<double>(peak));
  return result;
}

static Napi::Value peakResidentBytes(const Napi::CallbackInfo& info) {
  struct rusage usage {};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return Napi::Number::New(info.Env(), static_cast<double>(usage.ru_maxrss));
#else
  return Napi::Number::New(info.Env(), static_cast<double>(usage.ru_maxrss) * 1024.0);
#endif
}

static Napi::Value about(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("version", TORCH_VERSION);
  result.Set("cpuCapability", at::get_cpu_capability());
  result.Set("cuda", at::globalContext().hasCUDA());
  result.Set("mps", at::globalContext().hasMPS());
  result.Set("mkldnn", at::globalContext().hasMKLDNN());
  return result;
}

static void setDeterministic(const Napi::CallbackInfo& info) {
  at::globalContext().setDeterministicAlgorithms(info[0].As<Napi::Boolean>().Value(), false);
}

void registerProcess(Napi::Env env, Napi::Object exports) {
  exports.Set("threads", Napi::Function::New(env, threads));
  exports.Set("setThreads", Napi::Function::New(env, setThreads));
  exports.Set("tuneAllocator", Napi::Function::New(env, tuneAllocator));
  exports.Set("trimMemory", Napi::Function::New(env, trimMemory));
  exports.Set("blockBytes", Napi::Function::New(env, memoryBlocks));
  exports.Set("peakResidentBytes", Napi::Function::New(env, peakResidentBytes));
  exports.Set("about", Napi::Function::New(env, about));
  exports.Set("setDeterministic", Napi::Function::New(env, setDeterministic));
}

}  // namespace minicpm
