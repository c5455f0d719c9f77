// NCCL, found at run time (nccl.h).
#include "nccl.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

namespace minicpm {

namespace {

constexpr int kSuccess = 0, kInProgress = 7;
constexpr int kBytes = 1;  // ncclUint8
constexpr int kOldest = 21400;
constexpr size_t kIdBytes = 128;
constexpr std::chrono::seconds kLeaving{10};

struct UniqueId {
  char bytes[kIdBytes];
};

// ncclConfig_t as of NCCL 2.14. Later versions read as much of it as `size` says.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kOldest;
  int blocking = 0;  // calls return at once, so that waiting can be ended
};

using Communicator = void*;

}  // namespace

struct NcclFunctions {
  int (*getVersion)(int*);
  int (*getUniqueId)(UniqueId*);
  int (*initRank)(Communicator*, int, UniqueId, int, Config*);
  int (*send)(const void*, size_t, int, int, Communicator, void*);
  int (*receive)(void*, size_t, int, int, Communicator, void*);
  int (*groupStart)();
  int (*groupEnd)();
  int (*asyncError)(Communicator, int*);
  int (*abort)(Communicator);
  int (*destroy)(Communicator);
  const char* (*errorString)(int);
  const char* (*lastError)(Communicator);
};

namespace {

// libtorch's CUDA library; what it depends on is found through it. Null in a CPU build.
void* cudaLibrary() { return dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD); }

template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  TORCH_CHECK(function != nullptr, "Expected ", name, " in NCCL but this library has none: NCCL 2.14 or newer is needed");
}

void* open(const std::string& path) {
  if (!path.empty()) {
    void* const given = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(given != nullptr, "Expected NCCL in ", path, " but received: ", dlerror());
    return given;
  }
  void* const cuda = cudaLibrary();
  if (cuda != nullptr && dlsym(cuda, "ncclGetVersion") != nullptr) return cuda;
  void* const named = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
  TORCH_CHECK(named != nullptr, "Expected NCCL for a group with tensors on a device but there is none: ", dlerror(),
              ". Run the set-up again for a CUDA build of libtorch, which has it, put the folder of libnccl.so.2 into LD_LIBRARY_PATH, or compute on the CPU");
  return named;
}

const NcclFunctions* functionsOf(const std::string& path) {
  static std::map<std::string, NcclFunctions> loaded;
  const auto found = loaded.find(path);
  if (found != loaded.end()) return &found->second;
  void* const library = open(path);
  NcclFunctions own{};
  find(library, "ncclGetVersion", own.getVersion);
  find(library, "ncclGetUniqueId", own.getUniqueId);
  find(library, "ncclCommInitRankConfig", own.initRank);
  find(library, "ncclSend", own.send);
  find(library, "ncclRecv", own.receive);
  find(library, "ncclGroupStart", own.groupStart);
  find(library, "ncclGroupEnd", own.groupEnd);
  find(library, "ncclCommGetAsyncError", own.asyncError);
  find(library, "ncclCommAbort", own.abort);
  find(library, "ncclCommDestroy", own.destroy);
  find(library, "ncclGetErrorString", own.errorString);
  find(library, "ncclGetLastError", own.lastError);
  return &loaded.emplace(path, own).first->second;
}

// A stream as CUDA makes it, one for each device, kept until the process ends: libtorch's allocator keeps memory by streams. To libtorch it
// is an external stream, whose id is CUDA's handle.
void* streamHandle(c10::Device device) {
  static std::map<c10::DeviceIndex, void*> made;
  void*& handle = made[device.index()];
  if (handle != nullptr) return handle;
  constexpr unsigned int kNonBlocking = 1;  // does not wait for the default stream
  using Create = int (*)(void**, unsigned int);
  const auto create = reinterpret_cast<Create>(dlsym(cudaLibrary(), "cudaStreamCreateWithFlags"));
  TORCH_CHECK(create != nullptr, "Expected CUDA's runtime beside libtorch but cudaStreamCreateWithFlags is not there");
  const c10::DeviceGuard guard(device);
  const int result = create(&handle, kNonBlocking);
  TORCH_CHECK(result == 0, "Expected a stream on ", device, " but received CUDA error ", result);
  return handle;
}

std::string hexOf(const UniqueId& id) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const char byte : id.bytes) {
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

UniqueId idOf(const std::string& text) {
  TORCH_CHECK(text.size() == 2 * kIdBytes, "Expected ", 2 * kIdBytes, " digits for the id of a group but received ", text.size());
  UniqueId id;
  for (size_t i = 0; i < kIdBytes; i++) id.bytes[i] = static_cast<char>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
  return id;
}

// Between looks: short at first, as most waits are.
class Pause {
 public:
  void operator()() {
    if (count_++ < kSpins) return std::this_thread::yield();
    std::this_thread::sleep_for(time_);
    time_ = std::min(2 * time_, kLongest);
  }

 private:
  static constexpr int kSpins = 20;
  static constexpr std::chrono::microseconds kLongest{1000};
  int count_ = 0;
  std::chrono::microseconds time_{20};
};

}  // namespace

Nccl::Nccl(c10::Device device, const std::string& library) : device_(device), functions_(functionsOf(library)) {
  if (device.is_cpu()) return;
  handle_ = streamHandle(device);
  stream_ = c10::Stream(c10::Stream::UNSAFE, device, reinterpret_cast<c10::StreamId>(handle_));
}

Nccl::~Nccl() { leave(false); }

void Nccl::ok(int result, const char* what) const {
  TORCH_CHECK(result == kSuccess || result == kInProgress, "NCCL's ", what, " failed: ", functions_->errorString(result), " (",
              functions_->lastError(communicator_), ")");
}

void Nccl::settle(int result, const char* what, const Check& check) const {
  ok(result, what);
  Pause pause;
  while (result == kInProgress) {
    check();
    pause();
    ok(functions_->asyncError(communicator_, &result), what);
    ok(result, what);
  }
}

std::string Nccl::newId() const {
  UniqueId id;
  ok(functions_->getUniqueId(&id), "ncclGetUniqueId");
  return hexOf(id);
}

void Nccl::join(const std::string& id, int rank, int size, const Check& check) {
  const c10::OptionalDeviceGuard guard(stream_ ? std::optional(device_) : std::nullopt);
  Config config;
  const int result = functions_->initRank(&communicator_, size, idOf(id), rank, &config);
  settle(result, "ncclCommInitRankConfig", check);
}

std::optional<c10::Event> Nccl::now() const {
  if (!stream_) return std::nullopt;
  std::optional<c10::Event> event(std::in_place, device_.type());
  event->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
  return event;
}

c10::OptionalStreamGuard Nccl::begin(const std::optional<c10::Event>& ready) const {
  if (ready) ready->block(*stream_);
  return c10::OptionalStreamGuard(stream_);
}

void Nccl::move(const std::vector<Piece>& sent, const std::vector<Piece>& received, const Check& check) {
  ok(functions_->groupStart(), "ncclGroupStart");
  for (const auto& [peer, data, bytes] : received)
    if (bytes > 0) ok(functions_->receive(data, bytes, kBytes, peer, communicator_, handle_), "ncclRecv");
  for (const auto& [peer, data, bytes] : sent)
    if (bytes > 0) ok(functions_->send(data, bytes, kBytes, peer, communicator_, handle_), "ncclSend");
  settle(functions_->groupEnd(), "ncclGroupEnd", check);
}

void Nccl::finish(const Check& check) const {
  if (!stream_) return;
  const c10::impl::VirtualGuardImpl guard(device_.type());
  for (Pause pause; !guard.queryStream(*stream_); pause()) {
    check();
    int state = kSuccess;
    ok(functions_->asyncError(communicator_, &state), "ncclCommGetAsyncError");
    ok(state, "transfer");
  }
}

void Nccl::abort() { leave(true); }

// On a thread of its own: should NCCL not return, this process ends all the same.
void Nccl::leave(bool aborts) {
  if (communicator_ == nullptr) return;
  struct Leaving {
    std::mutex mutex;
    std::condition_variable changed;
    bool done = false;
  };
  const auto leaving = std::make_shared<Leaving>();
  std::thread([leaving, call = aborts ? functions_->abort : functions_->destroy, communicator = communicator_] {
    call(communicator);
    const std::lock_guard<std::mutex> lock(leaving->mutex);
    leaving->done = true;
    leaving->changed.notify_all();
  }).detach();
  communicator_ = nullptr;
  std::unique_lock<std::mutex> lock(leaving->mutex);
  leaving->changed.wait_for(lock, kLeaving, [&] { return leaving->done; });
}

}  // namespace minicpm
