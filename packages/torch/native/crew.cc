// The threads of generation (crew.h).
#include "crew.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

namespace minicpm {

namespace {

constexpr int64_t kMostThreads = 255;
constexpr auto kAwake = std::chrono::microseconds(200);  // a thread without work sleeps after this
constexpr int64_t kLine = 64, kLinesAtOnce = 12;  // fetched between two pauses: of more, processors leave out most

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// A thread's share of what comes next. Fetching never faults, whatever the address.
class Fetching {
 public:
  Fetching() = default;
  Fetching(const Upcoming& upcoming, int64_t thread)
      : next_(upcoming.data + std::min(upcoming.bytes, thread * upcoming.share)),
        end_(upcoming.data + std::min(upcoming.bytes, (thread + 1) * upcoming.share)) {}

  // False: all is fetched.
  bool some() {
    for (int64_t i = 0; i < kLinesAtOnce && next_ < end_; i++, next_ += kLine) __builtin_prefetch(next_, 0, 2);
    return next_ < end_;
  }

 private:
  const char *next_ = nullptr, *end_ = nullptr;
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
  void run(int64_t threads, c10::function_ref<void(int64_t)> work, const Upcoming& upcoming) {
    const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock() || threads <= 1 || threads > kMostThreads) {
      for (int64_t i = 0; i < threads; i++) work(i);
      return;
    }
    for (; size_ < threads; size_++) std::thread(&Crew::serve, this, size_, ticket_.load()).detach();
    work_ = &work;
    upcoming_ = upcoming;
    error_ = nullptr;
    running_.store(static_cast<uint32_t>(threads - 1), std::memory_order_relaxed);
    ticket_.store((ticket_.load(std::memory_order_relaxed) & ~0xffu) + 0x100 + static_cast<uint32_t>(threads), std::memory_order_release);
    ticket_.notify_all();
    call(0);
    Fetching fetching(upcoming, 0);
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
      fetching = Fetching(upcoming_, thread);
      call(thread);
      if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
    }
  }

  std::mutex mutex_, errorMutex_;
  int64_t size_ = 1;                   // threads, with the caller's
  std::atomic<uint32_t> ticket_{0};    // the number of the work, and in the last byte for how many threads it is
  std::atomic<uint32_t> running_{0};   // threads that are not done
  c10::function_ref<void(int64_t)>* work_ = nullptr;
  Upcoming upcoming_;
  std::exception_ptr error_;
};

// Never destroyed: its threads live until the process ends.
Crew& crew() {
  static auto* all = new Crew();
  return *all;
}

}  // namespace

void runCrew(int64_t threads, c10::function_ref<void(int64_t)> work, const Upcoming& upcoming) { crew().run(threads, work, upcoming); }

void crewFor(int64_t count, int64_t grain, c10::function_ref<void(int64_t, int64_t)> work) {
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), (count + grain - 1) / grain);
  if (threads <= 1) return work(0, count);
  runCrew(threads, [&](int64_t thread) { work(count * thread / threads, count * (thread + 1) / threads); });
}

}  // namespace minicpm
