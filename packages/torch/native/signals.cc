// SIGINT and SIGTERM during a step that blocks Node. Node runs signal handlers between two turns of the event loop, and
// a training step is one long turn. The first signal is answered at once and handed on to Node; the second ends the
// process where it stands.
#include <csignal>
#include <ctime>
#include <unistd.h>

#include <atomic>
#include <string>

#include "handles.h"

namespace minicpm {

static constexpr int kSignals[] = {SIGINT, SIGTERM};
static constexpr int kExit = 130;
// A launcher (npm, a shell script) may hand on the signal that the terminal sent to all: that is not a second request.
static constexpr int64_t kSameRequestNs = 500'000'000;

static struct sigaction before[2];
static std::string answer;
static std::atomic<int64_t> first{0};

static int64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// Only what POSIX allows in a signal handler.
static void onSignal(int signal, siginfo_t* info, void* context) {
  int64_t none = 0;
  const int64_t time = now();
  if (first.compare_exchange_strong(none, time)) {
    [[maybe_unused]] const auto written = write(STDERR_FILENO, answer.data(), answer.size());
  } else if (time - none > kSameRequestNs) {
    _exit(kExit);
  }
  const struct sigaction& old = before[signal == kSignals[0] ? 0 : 1];
  if (old.sa_flags & SA_SIGINFO) old.sa_sigaction(signal, info, context);
  else if (old.sa_handler != SIG_DFL && old.sa_handler != SIG_IGN) old.sa_handler(signal);
}

// (text): puts itself before the handlers that are there. The text is written to standard error at the first signal.
static void watchSignals(const Napi::CallbackInfo& info) {
  answer = info[0].As<Napi::String>().Utf8Value();
  first = 0;
  struct sigaction action {};
  action.sa_sigaction = onSignal;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigfillset(&action.sa_mask);
  for (int i = 0; i < 2; i++) sigaction(kSignals[i], &action, &before[i]);
}

static void unwatchSignals(const Napi::CallbackInfo&) {
  for (int i = 0; i < 2; i++) sigaction(kSignals[i], &before[i], nullptr);
}

void registerSignals(Napi::Env env, Napi::Object exports) {
  exports.Set("watchSignals", Napi::Function::New(env, watchSignals));
  exports.Set("unwatchSignals", Napi::Function::New(env, unwatchSignals));
}

}  // namespace minicpm
