// Caching allocator for the memory of CPU tensors. A training step allocates and frees the same sizes over and over.
// Fresh pages from the system cost a fault each, and in glibc's heap freed and used blocks mix until the peak grows
// from step to step. Here freed blocks of 256 KiB and more are cached, handed out again best fit first, split, and
// joined with free neighbours. Caching never raises the peak: before mapping new memory, cached blocks are returned to
// the system until live plus cached bytes fit within the highest live total so far.
#include <c10/core/CPUAllocator.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#if defined(__APPLE__)
#include <malloc/malloc.h>
#else
#include <malloc.h>
#endif

#include "handles.h"

namespace minicpm {

namespace {

constexpr size_t kLarge = 256 << 10;      // smaller blocks come from malloc
constexpr size_t kGranule = 64 << 10;     // sizes of large blocks are multiples of this
constexpr size_t kPage = 4096;            // mapped blocks start at a page
constexpr size_t kAlignment = 64;         // of small blocks: a cache line, an AVX-512 vector
constexpr size_t kHugePage = 2048 << 10;  // blocks from here on ask for huge pages

std::atomic<size_t> allInUse{0}, allPeak{0};  // bytes of blocks of every size

void countMore(size_t bytes) {
  const size_t now = allInUse += bytes;
  size_t most = allPeak;
  while (now > most && !allPeak.compare_exchange_weak(most, now)) continue;
}

// What malloc gave for a small block.
size_t sizeOf(void* block) {
#if defined(__APPLE__)
  return malloc_size(block);
#else
  return malloc_usable_size(block);
#endif
}

class Blocks {
 public:
  void* take(size_t bytes) {
    const size_t size = (bytes + kGranule - 1) / kGranule * kGranule;
    const std::lock_guard<std::mutex> lock(mutex_);
    inUse_ += size;
    if (inUse_ > peak_) peak_ = inUse_;
    char* block = reuse(size);
    if (block == nullptr) block = map(size);
    if (block == nullptr) {
      inUse_ -= size;
      return nullptr;
    }
    used_[block] = size;
    countMore(size);
    return block;
  }

  // False when the block is not one of these.
  bool give(void* pointer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = used_.find(pointer);
    if (found == used_.end()) return false;
    inUse_ -= found->second;
    allInUse -= found->second;
    keep(static_cast<char*>(pointer), found->second);
    used_.erase(found);
    return true;
  }

  BlockBytes bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return {inUse_, kept_, peak_};
  }

  void trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    unmap(kept_);
  }

 private:
  char* reuse(size_t size) {
    const auto found = bySize_.lower_bound({size, nullptr});
    if (found == bySize_.end()) return nullptr;
    const auto [whole, block] = *found;
    forget(block, whole);
    if (whole > size) remember(block + size, whole - size);
    return block;
  }

  char* map(size_t size) {
    const size_t total = inUse_ + kept_;  // with the new block
    if (total > peak_) unmap(total - peak_);
    void* block = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    if (size >= kHugePage) madvise(block, size, MADV_HUGEPAGE);
#endif
    return static_cast<char*>(block);
  }

  // Gives kept blocks back, largest first, `bytes` or all there is.
  void unmap(size_t bytes) {
    while (bytes > 0 && !bySize_.empty()) {
      const auto [size, block] = *bySize_.rbegin();
      const size_t part = size < bytes ? size : (bytes + kGranule - 1) / kGranule * kGranule;
      forget(block, size);
      munmap(block + (size - part), part);
      if (size > part) remember(block, size - part);
      bytes -= part < bytes ? part : bytes;
    }
  }

  // Joins a freed block with free neighbours.
  void keep(char* block, size_t size) {
    const auto next = byAddress_.lower_bound(block);
    if (next != byAddress_.end() && next->first == block + size) {
      const size_t more = next->second;
      forget(next->first, more);
      size += more;
    }
    const auto after = byAddress_.lower_bound(block);
    if (after != byAddress_.begin()) {
      const auto [before, length] = *std::prev(after);
      if (before + length == block) {
        forget(before, length);
        block = before;
        size += length;
      }
    }
    remember(block, size);
  }

  void remember(char* block, size_t size) {
    byAddress_[block] = size;
    bySize_.insert({size, block});
    kept_ += size;
  }

  void forget(char* block, size_t size) {
    byAddress_.erase(block);
    bySize_.erase({size, block});
    kept_ -= size;
  }

  std::mutex mutex_;
  std::unordered_map<void*, size_t> used_;
  std::map<char*, size_t> byAddress_;          // kept blocks
  std::set<std::pair<size_t, char*>> bySize_;  // the same
  size_t inUse_ = 0, kept_ = 0, peak_ = 0;     // bytes
};

// Never destroyed: tensors may be freed after everything else.
Blocks& blocks() {
  static auto* all = new Blocks();
  return *all;
}

void release(void* pointer) {
  const bool atPage = reinterpret_cast<uintptr_t>(pointer) % kPage == 0;
  if (atPage && blocks().give(pointer)) return;
  allInUse -= sizeOf(pointer);
  std::free(pointer);
}

class KeepingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    void* data = nullptr;
    if (bytes >= kLarge) {
      data = blocks().take(bytes);
    } else if (bytes > 0 && posix_memalign(&data, kAlignment, bytes) == 0) {
      countMore(sizeOf(data));
    } else {
      data = nullptr;
    }
    TORCH_CHECK(data != nullptr || bytes == 0, "not enough memory: you tried to allocate ", bytes, " bytes");
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

}  // namespace

// From here on, new CPU tensors have their memory from KeepingAllocator.
void keepFreedBlocks() {
  static KeepingAllocator allocator;
  c10::SetCPUAllocator(&allocator, 1);
}

void giveBackKeptBlocks() { blocks().trim(); }

BlockBytes blockBytes() { return blocks().bytes(); }

static Napi::Value tensorBytes(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  result.Set("inUse", static_cast<double>(allInUse));
  result.Set("peak", static_cast<double>(allPeak));
  return result;
}

// The most is counted anew, from what is in use now.
static void resetTensorPeak(const Napi::CallbackInfo&) { allPeak = allInUse.load(); }

void registerAllocator(Napi::Env env, Napi::Object exports) {
  exports.Set("tensorBytes", Napi::Function::New(env, tensorBytes));
  exports.Set("resetTensorPeak", Napi::Function::New(env, resetTensorPeak));
}

}  // namespace minicpm
