// Tensors from bytes and back, and their metadata. Dtypes travel as c10::ScalarType's numbers.
#include <ATen/ATen.h>

#include <cstring>

#include "handles.h"

namespace minicpm {

// (Uint8Array bytes, int[] shape, int dtype, bool pinned) -> handle. Pinned memory is what a device copies from without waiting; libtorch keeps
// its blocks for the next tensors, and gives one out again only after the device has read it.
static Napi::Value fromBytes(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "fromBytes", [&]() -> Napi::Value {
    const auto bytes = info[0].As<Napi::Uint8Array>();
    const auto dtype = static_cast<at::ScalarType>(info[2].As<Napi::Number>().Int32Value());
    at::Tensor tensor = at::empty(integersOf(info[1]), at::TensorOptions().dtype(dtype).pinned_memory(info[3].As<Napi::Boolean>().Value()));
    TORCH_CHECK(tensor.nbytes() == bytes.ByteLength(), "Expected ", tensor.nbytes(), " bytes for ", describe(tensor),
                " but received ", bytes.ByteLength());
    if (bytes.ByteLength() > 0) std::memcpy(tensor.data_ptr(), bytes.Data(), bytes.ByteLength());
    return Napi::Number::New(info.Env(), handles(info.Env()).add(std::move(tensor)));
  });
}

// Copies `target.length` bytes from `offset` of a contiguous CPU tensor: (handle, offset, Uint8Array target).
static void readBytes(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "readBytes", [&] {
    const at::Tensor tensor = tensorOf(info[0]);
    const auto offset = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
    auto target = info[2].As<Napi::Uint8Array>();
    TORCH_CHECK(tensor.is_cpu() && tensor.is_contiguous(), "only contiguous CPU tensors can be read");
    TORCH_CHECK(offset + target.ByteLength() <= tensor.nbytes(), "Expected at most ", tensor.nbytes(), " bytes");
    if (target.ByteLength() > 0)
      std::memcpy(target.Data(), static_cast<const char*>(tensor.const_data_ptr()) + offset, target.ByteLength());
  });
}

static Napi::Value shapeOf(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "shape", [&]() -> Napi::Value {
    const auto sizes = tensorOf(info[0]).sizes();
    auto result = Napi::Array::New(info.Env(), sizes.size());
    for (uint32_t i = 0; i < sizes.size(); i++) result.Set(i, static_cast<double>(sizes[i]));
    return result;
  });
}

static Napi::Value dtypeOf(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "dtype", [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<int>(tensorOf(info[0]).scalar_type()));
  });
}

static Napi::Value deviceOf(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "device", [&]() -> Napi::Value {
    return Napi::String::New(info.Env(), tensorOf(info[0]).device().str());
  });
}

static Napi::Value isContiguous(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "isContiguous", [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), tensorOf(info[0]).is_contiguous());
  });
}

static Napi::Value item(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "item", [&]() -> Napi::Value {
    countDeviceWait();
    const at::Scalar value = tensorOf(info[0]).item();
    if (value.isBoolean()) return Napi::Boolean::New(info.Env(), value.toBool());
    return Napi::Number::New(info.Env(), value.toDouble());
  });
}

// All elements as doubles, whatever the dtype, strides and device: (handle) -> Float64Array
static Napi::Value doubles(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "doubles", [&]() -> Napi::Value {
    countDeviceWait();
    const at::Tensor tensor = tensorOf(info[0]).detach().to(at::kCPU, at::kDouble).contiguous();
    auto result = Napi::Float64Array::New(info.Env(), static_cast<size_t>(tensor.numel()));
    if (tensor.numel() > 0) std::memcpy(result.Data(), tensor.const_data_ptr(), tensor.nbytes());
    return result;
  });
}

static Napi::Value sameStorage(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "sameStorage", [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), tensorOf(info[0]).storage().is_alias_of(tensorOf(info[1]).storage()));
  });
}

static Napi::Value alias(const Napi::CallbackInfo& info) {  // a second handle of the same tensor
  return guarded(info.Env(), "alias", [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), handles(info.Env()).add(tensorOf(info[0])));
  });
}

static void release(const Napi::CallbackInfo& info) {
  handles(info.Env()).free(info[0].As<Napi::Number>().Int64Value());
}

static Napi::Value live(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("tensors", static_cast<double>(handles(info.Env()).live()));
  result.Set("bytes", static_cast<double>(handles(info.Env()).bytes()));
  return result;
}

void registerTensor(Napi::Env env, Napi::Object exports) {
  exports.Set("fromBytes", Napi::Function::New(env, fromBytes));
  exports.Set("readBytes", Napi::Function::New(env, readBytes));
  exports.Set("shape", Napi::Function::New(env, shapeOf));
  exports.Set("dtype", Napi::Function::New(env, dtypeOf));
  exports.Set("device", Napi::Function::New(env, deviceOf));
  exports.Set("isContiguous", Napi::Function::New(env, isContiguous));
  exports.Set("item", Napi::Function::New(env, item));
  exports.Set("doubles", Napi::Function::New(env, doubles));
  exports.Set("sameStorage", Napi::Function::New(env, sameStorage));
  exports.Set("alias", Napi::Function::New(env, alias));
  exports.Set("release", Napi::Function::New(env, release));
  exports.Set("live", Napi::Function::New(env, live));
}

}  // namespace minicpm
