// Files mapped into memory as tensors, without a copy. Pages are read when they are touched.
//
// The mapping is private (copy on write): writing to such a tensor changes this process's memory, never the file.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "handles.h"

namespace minicpm {

struct Mapping {
  void* data = nullptr;
  size_t size = 0;
  ~Mapping() {
    if (data != nullptr) munmap(data, size);
  }
};

static Napi::Value mapFile(const Napi::CallbackInfo& info) {  // (path) -> External<shared_ptr<Mapping>>
  const auto path = info[0].As<Napi::String>().Utf8Value();
  return guarded(info.Env(), "mapFile", [&]() -> Napi::Value {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    TORCH_CHECK(file >= 0, path, ": ", std::strerror(errno));
    struct stat status {};
    const bool known = fstat(file, &status) == 0;
    auto mapping = std::make_shared<Mapping>();
    mapping->size = known ? static_cast<size_t>(status.st_size) : 0;
    void* data = mapping->size > 0 ? mmap(nullptr, mapping->size, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0) : MAP_FAILED;
    const int reason = errno;
    close(file);
    TORCH_CHECK(data != MAP_FAILED, path, ": ", mapping->size == 0 ? "the file is empty" : std::strerror(reason));
    mapping->data = data;
    return Napi::External<std::shared_ptr<Mapping>>::New(
        info.Env(), new std::shared_ptr<Mapping>(mapping), [](Napi::Env, std::shared_ptr<Mapping>* held) { delete held; });
  });
}

static Napi::Value mappedTensor(const Napi::CallbackInfo& info) {  // (mapping, byte offset, shape, dtype) -> handle
  return guarded(info.Env(), "mappedTensor", [&]() -> Napi::Value {
    const auto mapping = *info[0].As<Napi::External<std::shared_ptr<Mapping>>>().Data();
    const auto offset = static_cast<size_t>(info[1].As<Napi::Number>().Int64Value());
    const auto shape = integersOf(info[2]);
    const auto dtype = static_cast<at::ScalarType>(info[3].As<Napi::Number>().Int32Value());
    size_t bytes = c10::elementSize(dtype);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    TORCH_CHECK(offset + bytes <= mapping->size, "the tensor ends after the end of the file");
    at::Tensor tensor = at::from_blob(static_cast<char*>(mapping->data) + offset, shape, [mapping](void*) {},
                                      at::TensorOptions().dtype(dtype));
    if (offset % c10::elementSize(dtype) != 0) {  // allowed by the format, not by the processor: the one case that copies
      at::Tensor copy = at::empty(shape, at::TensorOptions().dtype(dtype));
      std::memcpy(copy.data_ptr(), static_cast<char*>(mapping->data) + offset, bytes);
      tensor = std::move(copy);
    }
    return Napi::Number::New(info.Env(), handles(info.Env()).add(std::move(tensor)));
  });
}

void registerMapping(Napi::Env env, Napi::Object exports) {
  exports.Set("mapFile", Napi::Function::New(env, mapFile));
  exports.Set("mappedTensor", Napi::Function::New(env, mappedTensor));
}

}  // namespace minicpm
