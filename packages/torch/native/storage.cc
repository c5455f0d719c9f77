// Memory that comes and goes behind tensors that stay. A buffer gives its memory back and gets other memory later, and the tensors that
// are pieces of it remain valid objects with their shapes, types and places in graphs.
#include <ATen/ATen.h>

#include "handles.h"

namespace minicpm {

static c10::StorageImpl* ownStorage(const at::Tensor& tensor) {
  auto* storage = tensor.storage().unsafeGetStorageImpl();
  TORCH_CHECK(storage->allocator() != nullptr, "Expected a tensor that libtorch allocated: the memory of a mapped file stays");
  return storage;
}

static void dropStorage(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "dropStorage", [&] {
    const at::Tensor& tensor = tensorOf(info[0]);
    ownStorage(tensor)->set_data_ptr_noswap(c10::DataPtr(nullptr, tensor.device()));
  });
}

// The new memory holds no particular values.
static void fillStorage(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "fillStorage", [&] {
    auto* storage = ownStorage(tensorOf(info[0]));
    if (storage->data_ptr().get() == nullptr) storage->set_data_ptr_noswap(storage->allocator()->allocate(storage->nbytes()));
  });
}

static Napi::Value hasStorage(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "hasStorage", [&]() -> Napi::Value {
    const at::Tensor& tensor = tensorOf(info[0]);
    return Napi::Boolean::New(info.Env(), tensor.is_meta() || tensor.storage().data_ptr().get() != nullptr);
  });
}

// Whether libtorch allocated a tensor's memory: not for pages of a mapped file.
static Napi::Value ownsStorage(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "ownsStorage", [&]() -> Napi::Value {
    return Napi::Boolean::New(info.Env(), tensorOf(info[0]).storage().unsafeGetStorageImpl()->allocator() != nullptr);
  });
}

// (flat, start, shape) -> handle. Numbers `start`… of a flat tensor, without a graph and with a version of its own: what is written to the flat
// tensor is no change that autograd would refuse.
static Napi::Value piece(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "piece", [&]() -> Napi::Value {
    const at::Tensor& flat = tensorOf(info[0]);
    const auto shape = integersOf(info[2]);
    const int64_t count = c10::multiply_integers(shape);
    const at::Tensor view = flat.narrow(0, info[1].As<Napi::Number>().Int64Value(), count).view(shape);
    return Napi::Number::New(info.Env(), handles(info.Env()).add(view.variable_data()));
  });
}

void registerStorage(Napi::Env env, Napi::Object exports) {
  exports.Set("dropStorage", Napi::Function::New(env, dropStorage));
  exports.Set("fillStorage", Napi::Function::New(env, fillStorage));
  exports.Set("hasStorage", Napi::Function::New(env, hasStorage));
  exports.Set("ownsStorage", Napi::Function::New(env, ownsStorage));
  exports.Set("piece", Napi::Function::New(env, piece));
}

}  // namespace minicpm
