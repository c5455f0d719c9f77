// Accelerators: streams, synchronisation, memory figures. Uses c10's generic interfaces alone, so the same code
// compiles without CUDA's headers and serves every backend.
#include "device.h"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <memory>

#include "handles.h"

namespace minicpm {

c10::Device indexed(c10::Device device) {
  if (!device.is_cpu()) at::globalContext().lazyInitDevice(device.type());  // one that was never used has no allocator yet
  if (device.has_index() || device.is_cpu()) return device;
  return c10::Device(device.type(), c10::impl::VirtualGuardImpl(device.type()).getDevice().index());
}

namespace {

c10::Device deviceOf(const Napi::Value& value) { return c10::Device(value.As<Napi::String>().Utf8Value()); }

// JavaScript holds a stream as its id.
c10::Stream streamOf(const Napi::Value& device, const Napi::Value& id) {
  return c10::Stream(c10::Stream::UNSAFE, indexed(deviceOf(device)), id.As<Napi::Number>().Int64Value());
}

Napi::Value idOf(Napi::Env env, const c10::Stream& stream) {
  return Napi::Number::New(env, static_cast<double>(stream.id()));
}

// (device) -> id of a stream of its own
Napi::Value newStream(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "newStream", [&]() -> Napi::Value {
    const auto device = indexed(deviceOf(info[0]));
    return idOf(info.Env(), c10::impl::VirtualGuardImpl(device.type()).getStreamFromGlobalPool(device));
  });
}

// (device, id) -> id of the stream in use before
Napi::Value exchangeStream(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "exchangeStream", [&]() -> Napi::Value {
    const auto stream = streamOf(info[0], info[1]);
    return idOf(info.Env(), c10::impl::VirtualGuardImpl(stream.device_type()).exchangeStream(stream));
  });
}

// (device) -> id of the stream in use
Napi::Value currentStream(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "currentStream", [&]() -> Napi::Value {
    const auto device = indexed(deviceOf(info[0]));
    return idOf(info.Env(), c10::impl::VirtualGuardImpl(device.type()).getStream(device));
  });
}

// (device) -> whether the stream in use has done all that was asked of it
Napi::Value isIdle(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "isIdle", [&]() -> Napi::Value {
    const auto device = deviceOf(info[0]);
    if (device.is_cpu() || device.is_meta()) return Napi::Boolean::New(info.Env(), true);  // their operators are done when they return
    const c10::impl::VirtualGuardImpl guard(device.type());
    return Napi::Boolean::New(info.Env(), guard.queryStream(guard.getStream(indexed(device))));
  });
}

// (device, waiting, awaited): what comes next on `waiting` starts when what is on `awaited` now is done
void streamWaits(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "streamWaits", [&] {
    const auto waiting = streamOf(info[0], info[1]);
    c10::Event event(waiting.device_type());
    event.record(streamOf(info[0], info[2]));
    event.block(waiting);
  });
}

// (device) -> what the stream in use was asked up to now
Napi::Value recordMark(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "recordMark", [&]() -> Napi::Value {
    const auto device = indexed(deviceOf(info[0]));
    auto event = std::make_unique<c10::Event>(device.type());
    event->record(c10::impl::VirtualGuardImpl(device.type()).getStream(device));
    return Napi::External<c10::Event>::New(info.Env(), event.release(), [](Napi::Env, c10::Event* held) { delete held; });
  });
}

// (mark): waits until it is done
void waitForMark(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "waitForMark", [&] { info[0].As<Napi::External<c10::Event>>().Data()->synchronize(); });
}

// (handle, id): the tensor's memory is not handed out again before the stream is done with it
void recordStream(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "recordStream", [&] {
    const auto tensor = tensorOf(info[0]);
    const c10::Stream stream(c10::Stream::UNSAFE, tensor.device(), info[1].As<Napi::Number>().Int64Value());
    c10::impl::VirtualGuardImpl(tensor.device().type()).recordDataPtrOnStream(tensor.storage().data_ptr(), stream);
  });
}

// (device): waits until it has nothing left to do
void synchronize(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "synchronize", [&] {
    const auto device = deviceOf(info[0]);
    if (device.is_cpu() || device.is_meta()) return;  // its operators are done when they return
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(indexed(device).index());
  });
}

// Bytes that are free on a device and that it has; zeros where this libtorch cannot tell.
template <typename Allocator>
std::pair<size_t, size_t> freeAndTotal(Allocator* allocator, c10::DeviceIndex index) {
  if constexpr (requires { allocator->getMemoryInfo(index); }) {
    try {
      return allocator->getMemoryInfo(index);
    } catch (const c10::Error&) {  // declared for all devices, made for some
    }
  }
  return {0, 0};
}

// (device) -> { allocated, peak, reserved, free, total } in bytes
Napi::Value deviceMemory(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "deviceMemory", [&]() -> Napi::Value {
    const auto device = indexed(deviceOf(info[0]));
    auto* allocator = c10::getDeviceAllocator(device.type());
    const auto stats = allocator->getDeviceStats(device.index());
    const auto [free, total] = freeAndTotal(allocator, device.index());
    auto result = Napi::Object::New(info.Env());
    result.Set("free", static_cast<double>(free));
    result.Set("total", static_cast<double>(total));
    result.Set("allocated", static_cast<double>(stats.allocated_bytes[0].current));
    result.Set("peak", static_cast<double>(stats.allocated_bytes[0].peak));
    result.Set("reserved", static_cast<double>(stats.reserved_bytes[0].current));
    return result;
  });
}

// (device): the peak counts from now on
void resetPeakMemory(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "resetPeakMemory", [&] {
    const auto device = indexed(deviceOf(info[0]));
    c10::getDeviceAllocator(device.type())->resetPeakStats(device.index());
  });
}

// (device): gives the memory that its allocator keeps for later back to the driver
void emptyDeviceCache(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "emptyDeviceCache", [&] { c10::getDeviceAllocator(indexed(deviceOf(info[0])).type())->emptyCache(); });
}

// (device) -> whether packed sequences run in one call of flash attention.
Napi::Value flashAttention(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "flashAttention", [&]() -> Napi::Value {
    const auto device = deviceOf(info[0]);
    if (device.is_meta()) return Napi::Boolean::New(info.Env(), hasFlashAttention(device));
    return Napi::Boolean::New(info.Env(), device.is_cuda() && hasFlashAttention(indexed(device)));
  });
}

// (allowed): whether float32 products on NVIDIA GPUs may round their operands to TF32, 10 bits of mantissa. PyTorch's start: products may
// not, convolutions may.
void setTf32(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "setTf32", [&] {
    const bool allowed = info[0].As<Napi::Boolean>().Value();
    at::globalContext().setAllowTF32CuBLAS(allowed);
    at::globalContext().setAllowTF32CuDNN(allowed);
  });
}

Napi::Value waits(const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(deviceWaits())); }

}  // namespace

void registerDevice(Napi::Env env, Napi::Object exports) {
  exports.Set("newStream", Napi::Function::New(env, newStream));
  exports.Set("exchangeStream", Napi::Function::New(env, exchangeStream));
  exports.Set("currentStream", Napi::Function::New(env, currentStream));
  exports.Set("isIdle", Napi::Function::New(env, isIdle));
  exports.Set("streamWaits", Napi::Function::New(env, streamWaits));
  exports.Set("recordMark", Napi::Function::New(env, recordMark));
  exports.Set("waitForMark", Napi::Function::New(env, waitForMark));
  exports.Set("recordStream", Napi::Function::New(env, recordStream));
  exports.Set("synchronize", Napi::Function::New(env, synchronize));
  exports.Set("deviceMemory", Napi::Function::New(env, deviceMemory));
  exports.Set("resetPeakMemory", Napi::Function::New(env, resetPeakMemory));
  exports.Set("emptyDeviceCache", Napi::Function::New(env, emptyDeviceCache));
  exports.Set("flashAttention", Napi::Function::New(env, flashAttention));
  exports.Set("setTf32", Napi::Function::New(env, setTf32));
  exports.Set("deviceWaits", Napi::Function::New(env, waits));
}

}  // namespace minicpm
