// The threads of generation (crew.h).
#include "crew.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <unordered_map>

namespace minicpm {

namespace {

constexpr int64_t kMostThreads = 255;
constexpr auto kAwake = std::chrono::milliseconds(2);  // a thread without work sleeps after this: a token follows the one before within one
constexpr int64_t kLine = 64, kLinesAtOnce = 12;  // fetched between two pauses: of more, processors leave out most
constexpr int64_t kOwnBytes = 3 << 18, kCommonBytes = 8 << 20;  // fetched at most, into a thread's own cache and into that which all have in common

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Memory in the order in which it was read the last time. Threads follow it while its owner changes it, and it is never freed.
struct Reading {
  explicit Reading(const char* data) : data(data) {}
  const char* const data;
  std::atomic<int64_t> bytes{0}, stride{0}, streams{1};
  std::atomic<const Reading*> next{nullptr};
};

class Readings {
 public:
  // What will probably be read after `reads`, which come now.
  const Reading* after(const Reads& reads) {
    if (all_.size() > kMost && all_.find(reads.data) == all_.end()) return nullptr;
    Reading& reading = all_.try_emplace(reads.data, reads.data).first->second;
    reading.bytes.store(reads.bytes, std::memory_order_relaxed);
    reading.stride.store(reads.stride, std::memory_order_relaxed);
    reading.streams.store(reads.streams, std::memory_order_relaxed);
    if (last_ != nullptr) last_->next.store(&reading, std::memory_order_release);
    last_ = &reading;
    return reading.next.load(std::memory_order_relaxed);
  }

 private:
  static constexpr size_t kMost = 1 << 14;
  std::unordered_map<const char*, Reading> all_;
  Reading* last_ = nullptr;
};

// Fetches for a thread what comes next: what it will read first, into its own cache, then its part of all that is read, into the common one. Fetching
// never faults, whatever the address.
class Fetching {
 public:
  Fetching() = default;
  Fetching(const Reading* reading, int64_t thread, int64_t threads) : reading_(reading), ahead_(reading), thread_(thread), threads_(threads) {
    if (reading != nullptr) streams_ = reading->streams.load(std::memory_order_relaxed);
  }

  const Reading* of() const { return reading_; }

  // False: all is fetched.
  bool some() {
    for (int64_t i = 0; i < kLinesAtOnce && next_ < end_; i++, next_ += kLine) __builtin_prefetch(next_, 0, 2);
    return next_ < end_ || own() || follow();
  }

 private:
  void set(int64_t begin, int64_t count) {
    const int64_t bytes = ahead_->bytes.load(std::memory_order_relaxed);
    next_ = ahead_->data + std::min(bytes, begin);
    end_ = ahead_->data + std::min(bytes, begin + count);
  }

  // The beginning of one more of the thread's streams.
  bool own() {
    if (stream_ >= streams_) return false;
    const int64_t stride = reading_->stride.load(std::memory_order_relaxed), part = stride / streams_;
    set(stride * thread_ + part * stream_, std::min(part, kOwnBytes / streams_));
    stream_++;
    return true;
  }

  // The next memory, in parts for all threads but the caller's (0), which never waits for long.
  bool follow() {
    if (ahead_ == nullptr || thread_ == 0 || left_ <= 0) return false;
    const int64_t bytes = std::min(left_, ahead_->bytes.load(std::memory_order_relaxed)), part = (bytes + threads_ - 2) / (threads_ - 1);
    set(part * (thread_ - 1), part);
    left_ -= bytes;
    ahead_ = ahead_->next.load(std::memory_order_acquire);
    return true;
  }

  const Reading *reading_ = nullptr, *ahead_ = nullptr;
  const char *next_ = nullptr, *end_ = nullptr;
  int64_t thread_ = 0, threads_ = 0, stream_ = 0, streams_ = 0, left_ = kCommonBytes;
};

// Waits until `value` is no longer `old`, at first awake.
void await(std::atomic<uint32_t>& value, uint32_t old, Fetching& fetching) {
  while (fetching.some()) {
    pause();
    if (value.load(std::memory_order_acquire) != old) return;
  }
  const auto end = std::chrono::steady_clock::now() + kAwake;
  do {
    for (int i = 0; i < 64; i++) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  value.wait(old, std::memory_order_acquire);
}

class Crew {
 public:
  void run(int64_t threads, c10::function_ref<void(int64_t)> work, c10::ArrayRef<Reads> reads) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || threads <= 1 || threads > kMostThreads) {
      for (int64_t i = 0; i < threads; i++) work(i);
      return;
    }
    for (; size_ < threads; size_++) std::thread(&Crew::serve, this, size_, ticket_.load()).detach();
    work_ = &work;
    for (const Reads& own : reads) upcoming_ = readings_.after(own);
    error_ = nullptr;
    running_.store(static_cast<uint32_t>(threads - 1), std::memory_order_relaxed);
    ticket_.store((ticket_.load(std::memory_order_relaxed) & ~0xffu) + 0x100 + static_cast<uint32_t>(threads), std::memory_order_release);
    ticket_.notify_all();
    call(0);
    Fetching fetching(upcoming_, 0, threads);
    for (uint32_t left = running_.load(std::memory_order_acquire); left > 0; left = running_.load(std::memory_order_acquire)) await(running_, left, fetching);
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void call(int64_t thread) {
    try {
      (*work_)(thread);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(errorMutex_);
      error_ = std::current_exception();
    }
  }

  [[noreturn]] void serve(int64_t thread, uint32_t seen) {
    Fetching fetching;
    for (;;) {
      uint32_t ticket = ticket_.load(std::memory_order_acquire);
      while (ticket == seen) {
        await(ticket_, seen, fetching);
        ticket = ticket_.load(std::memory_order_acquire);
      }
      seen = ticket;
      if (thread >= static_cast<int64_t>(ticket & 0xff)) continue;  // work for fewer threads
      if (fetching.of() != upcoming_) fetching = Fetching(upcoming_, thread, ticket & 0xff);
      call(thread);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    }
  }

  std::mutex mutex_, errorMutex_;
  int64_t size_ = 1;                   // threads, with the caller's
  std::atomic<uint32_t> ticket_{0};    // the number of the work, and in the last byte for how many threads it is
  std::atomic<uint32_t> running_{0};   // threads that are not done
  c10::function_ref<void(int64_t)>* work_ = nullptr;
  Readings readings_;
  const Reading* upcoming_ = nullptr;
  std::exception_ptr error_;
};

// Never destroyed: its threads live until the process ends.
Crew& crew() {
  static auto* all = new Crew();
  return *all;
}

}  // namespace

void runCrew(int64_t threads, c10::function_ref<void(int64_t)> work, c10::ArrayRef<Reads> reads) { crew().run(threads, work, reads); }

void crewFor(int64_t count, int64_t grain, c10::function_ref<void(int64_t, int64_t)> work) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), (count + grain - 1) / grain);
  if (threads <= 1) return work(0, count);
  runCrew(threads, [&](int64_t thread) { work(count * thread / threads, count * (thread + 1) / threads); });
}

}  // namespace minicpm
