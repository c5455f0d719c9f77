// Registers the native functions of every file in this folder.
//
//   handles.cc   numbers that stand for tensors, and the border where C++ exceptions become JavaScript errors
//   tensor.cc    creating tensors from bytes, reading them back, their metadata
//   dispatch.cc  any operator by name, through the dispatcher
//   attention.cc, decode-attention.cc, rows.cc, fused.cc, dropout.cc, update.cc  operators of our own, where libtorch has none or slow ones
//   autograd.cc  gradients, gradient mode, random number generators
//   storage.cc   memory that comes and goes behind tensors that stay
//   mapping.cc   files mapped into memory as tensors
//   allocator.cc memory of CPU tensors, and how much of it they take
//   process.cc   threads, memory figures, devices
//   group.cc, nccl.cc, group-functions.cc  groups of processes
//   store.cc     texts and counters that processes share
//   signals.cc   SIGINT and SIGTERM in the middle of a step
#include <c10/util/Logging.h>

#include <cstdlib>

#include "handles.h"

namespace minicpm {

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  setenv("TORCH_CPP_LOG_LEVEL", "ERROR", 0);  // its sockets warn of addresses without a name
  c10::initLogging();
  env.SetInstanceData(new Environment());
  registerTensor(env, exports);
  registerDispatch(env, exports);
  registerAutograd(env, exports);
  registerMapping(env, exports);
  registerProcess(env, exports);
  registerSignals(env, exports);
  registerDevice(env, exports);
  registerGroup(env, exports);
  registerStorage(env, exports);
  registerWatchdog(env, exports);
  registerMetaBytes(env, exports);
  registerAllocator(env, exports);
  return exports;
}

}  // namespace minicpm

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) { return minicpm::initialize(env, exports); }

NODE_API_MODULE(torch, Initialize)
