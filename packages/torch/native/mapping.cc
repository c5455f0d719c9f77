// Files mapped into memory as tensors, without a copy. Pages are read when they are touched.
//
// A file that is there is mapped privately (copy on write): writing to such a tensor changes this process's memory, never the file. A new file is
// memory that the system may write to the disk and read again: it has no name, and is gone with its tensor, however the process ends.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

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

// A new file in a folder, without a name.
static int unnamedFile(const std::string& folder) {
#if defined(O_TMPFILE)
  const int unnamed = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (unnamed >= 0) return unnamed;
#endif
  std::string path = folder + "/.minicpm-offload-XXXXXX";  // some file systems want a name first
  const int named = mkstemp(path.data());
  if (named >= 0) {
    unlink(path.c_str());
    fcntl(named, F_SETFD, FD_CLOEXEC);
  }
  return named;
}

// Takes the disk's space now: a full disk is an error here, and not a signal when a page is written.
static int takeSpace(int file, off_t bytes) {
#if defined(__APPLE__)
  fstore_t store{F_ALLOCATEALL, F_PEOFPOSMODE, 0, bytes, 0};
  return fcntl(file, F_PREALLOCATE, &store) == -1 || ftruncate(file, bytes) != 0 ? errno : 0;
#else
  return posix_fallocate(file, 0, bytes);
#endif
}

// Deleter of a tensor that has a file of its own. Its address marks such tensors.
static void unmapFile(void* held) {
  const auto* mapping = static_cast<Mapping*>(held);
  delete mapping;
}

static Napi::Value fileTensor(const Napi::CallbackInfo& info) {  // (folder, shape, dtype) -> handle of zeros
  return guarded(info.Env(), "fileTensor", [&]() -> Napi::Value {
    const auto folder = info[0].As<Napi::String>().Utf8Value();
    const auto shape = integersOf(info[1]);
    const auto dtype = static_cast<at::ScalarType>(info[2].As<Napi::Number>().Int32Value());
    size_t bytes = c10::elementSize(dtype);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    TORCH_CHECK(bytes > 0, "expected a tensor with numbers");
    const int file = unnamedFile(folder);
    TORCH_CHECK(file >= 0, folder, ": ", std::strerror(errno));
    const int full = takeSpace(file, static_cast<off_t>(bytes));
    void* data = full == 0 ? mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0) : MAP_FAILED;
    const int reason = full == 0 ? errno : full;
    close(file);
    TORCH_CHECK(data != MAP_FAILED, folder, ": ", bytes, " bytes: ", std::strerror(reason));
    auto* mapping = new Mapping();
    mapping->data = data;
    mapping->size = bytes;
    c10::Storage storage(c10::Storage::use_byte_size_t(), bytes, c10::DataPtr(data, mapping, &unmapFile, c10::Device(c10::DeviceType::CPU)),
                         nullptr, false);
    at::Tensor tensor = at::empty({0}, at::TensorOptions().dtype(dtype)).set_(storage, 0, shape);
    return Napi::Number::New(info.Env(), handles(info.Env()).add(std::move(tensor)));
  });
}

// (handle, ahead): of a tensor with a file of its own, or a part of one: starts reading the file's pages, or gives the process's memory of them
// back. What was written to them stays: the system brings it to the disk when it wants the memory.
static void adviseFile(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "adviseFile", [&] {
    const auto& data = tensorOf(info[0]).storage().data_ptr();
    TORCH_CHECK(data.get_deleter() == &unmapFile, "expected a tensor with a file of its own");  // else what was written could be lost
    const auto* mapping = static_cast<Mapping*>(data.get_context());
    madvise(mapping->data, mapping->size, info[1].As<Napi::Boolean>().Value() ? MADV_WILLNEED : MADV_DONTNEED);
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
  exports.Set("fileTensor", Napi::Function::New(env, fileTensor));
  exports.Set("adviseFile", Napi::Function::New(env, adviseFile));
}

}  // namespace minicpm
