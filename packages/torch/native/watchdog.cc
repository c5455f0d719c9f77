// Watches the processes of a group. From threads of its own, while JavaScript waits in native code.
//
// One thread talks to the store: every `interval` it says that this process is alive, where it is and whether it waits, and looks whether
// a process has failed. Another decides, so that a store that does not answer holds nothing up: it names who holds the others up when
// this process waits for longer than `patience`, and ends this process when another one failed or its launcher is gone.
#include "watchdog.h"

#include <poll.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "handles.h"

namespace minicpm {

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using Milliseconds = std::chrono::milliseconds;

constexpr char kField = '\x1f';
constexpr Milliseconds kTick{200};
constexpr Milliseconds kGrace{1000};  // after another's failure: time for JavaScript to end by itself
constexpr int kMissed = 3;            // intervals without a word after which a process does not answer

int64_t since(Time start) { return std::chrono::duration_cast<Milliseconds>(Clock::now() - start).count(); }

struct Peer {
  bool known = false;
  std::string said;  // its last words, and when they came
  Time heard;
  bool waits = false;
  int64_t waitMs = 0, whereMs = 0;
  std::string host, where, operation;
};

struct Ending {
  Time at;
  int code;
  std::string text;
};

// Never destroyed: threads use it until the process is gone.
struct Watch {
  std::mutex mutex;
  int launcher = -1;  // a socket that ends with the launcher; messages to it are lines of JSON
  int rank = 0, size = 1;
  std::string host, prefix;
  Milliseconds interval{2000}, patience{50000};

  std::string where = "the start", operation;
  Time whereSince = Clock::now();
  std::optional<Time> waitSince;

  std::vector<Peer> peers;
  std::optional<Time> inStore;  // since when the store has not answered
  std::optional<Ending> ending;
  int64_t reportedMs = 0;  // length of this wait when it was reported last

  bool guarding = false;
  std::atomic<bool> stopping{false};
  std::thread talker;
};

Watch& watch() {
  static auto* one = new Watch();
  return *one;
}

std::string quoted(const std::string& text) {
  std::ostringstream out;
  out << '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') out << '\\' << c;
    else if (c == '\n') out << "\\n";
    else if (static_cast<unsigned char>(c) < 0x20) out << ' ';
    else out << c;
  }
  out << '"';
  return out.str();
}

void writeAll(int to, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const auto written = write(to, text.data() + done, text.size() - done);
    if (written <= 0) return;
    done += static_cast<size_t>(written);
  }
}

// To the launcher, which prints it once for all of its processes; else to standard error.
void say(const Watch& own, const char* kind, const std::string& text, int code = 0) {
  if (own.launcher < 0) return writeAll(STDERR_FILENO, "\n" + text + "\n");
  std::ostringstream line;
  line << "{\"kind\":\"" << kind << "\",\"text\":" << quoted(text) << ",\"code\":" << code << ",\"consequence\":true}\n";
  writeAll(own.launcher, line.str());
}

std::string seconds(int64_t ms) {
  std::ostringstream out;
  out << (ms + 500) / 1000 << " s";
  return out.str();
}

std::string ranksText(const std::vector<int>& ranks) {
  std::ostringstream out;
  out << (ranks.size() == 1 ? "rank " : "ranks ");
  for (size_t i = 0; i < ranks.size(); i++) out << (i == 0 ? "" : ", ") << ranks[i];
  return out.str();
}

std::string nameOf(const Watch& own, int rank) {
  const Peer& peer = own.peers[static_cast<size_t>(rank)];
  return "rank " + std::to_string(rank) + (peer.known ? " (" + peer.host + ")" : "");
}

bool answers(const Watch& own, const Peer& peer) { return peer.known && since(peer.heard) < kMissed * own.interval.count(); }

// What is said of a process that the others wait for; empty: it waits, too.
std::string blame(const Watch& own, int rank) {
  const Peer& peer = own.peers[static_cast<size_t>(rank)];
  if (!peer.known) return nameOf(own, rank) + " has not been heard of";
  if (!answers(own, peer)) return nameOf(own, rank) + " has not answered for " + seconds(since(peer.heard)) + ", last at " + peer.where;
  if (peer.waits) return "";
  return nameOf(own, rank) + " is at " + peer.where + " since " + seconds(peer.whereMs + since(peer.heard));
}

// The line about who holds the others up; empty: another process writes it.
std::string lineOf(const Watch& own) {
  if (own.rank != 0 && own.inStore && since(*own.inStore) > kMissed * own.interval.count())
    return nameOf(own, 0) + ", which serves the store, has not answered for " + seconds(since(*own.inStore)) + "; rank " +
           std::to_string(own.rank) + " waits at " + own.operation + ".";
  std::vector<int> waiting;
  std::string blamed;
  for (int r = 0; r < own.size; r++) {
    const Peer& peer = own.peers[static_cast<size_t>(r)];
    const bool waits = r == own.rank || (answers(own, peer) && peer.waits);
    if (waits) waiting.push_back(r);
    else if (const auto text = blame(own, r); !text.empty()) blamed += (blamed.empty() ? "" : "; ") + text;
  }
  if (waiting.empty() || waiting.front() != own.rank) return "";
  const auto wait = (waiting.size() == 1 ? " waits at " : " wait at ") + own.operation;
  if (blamed.empty()) return "all ranks wait at " + own.operation + " since " + seconds(since(*own.waitSince)) + ": look at the network between them.";
  return blamed + "; " + ranksText(waiting) + wait + ".";
}

// Under the mutex. Says who holds this process up, again whenever the wait has doubled.
void report(Watch& own) {
  if (!own.waitSince) {
    own.reportedMs = 0;
    return;
  }
  const int64_t waited = since(*own.waitSince);
  if (own.peers.empty() || waited < std::max(own.patience.count(), 2 * own.reportedMs)) return;
  const auto line = lineOf(own);
  own.reportedMs = waited;
  if (!line.empty()) say(own, "waiting", line);
}

void guardLoop() {
  Watch& own = watch();
  while (true) {
    int launcher;
    {
      const std::lock_guard<std::mutex> lock(own.mutex);
      launcher = own.launcher;
      report(own);
      if (own.ending && Clock::now() >= own.ending->at) {
        say(own, "failed", own.ending->text, own.ending->code);
        _exit(own.ending->code);
      }
    }
    pollfd ends{launcher, POLLIN, 0};  // of a negative one poll takes no notice
    if (poll(&ends, 1, static_cast<int>(kTick.count())) <= 0 || launcher < 0) continue;
    char bytes[64];
    if (read(launcher, bytes, sizeof bytes) <= 0) _exit(1);  // the launcher is gone
  }
}

void startGuard(Watch& own) {
  if (own.guarding) return;
  own.guarding = true;
  std::thread(guardLoop).detach();
}

std::string ownWords(Watch& own, uint64_t count) {
  const std::lock_guard<std::mutex> lock(own.mutex);
  std::ostringstream out;
  out << count << kField << (own.waitSince ? 1 : 0) << kField << (own.waitSince ? since(*own.waitSince) : 0) << kField
      << since(own.whereSince) << kField << own.host << kField << own.where << kField << own.operation;
  return out.str();
}

void hear(Peer& peer, const std::string& said) {
  if (peer.known && peer.said == said) return;
  std::vector<std::string> fields;
  std::istringstream in(said);
  for (std::string field; std::getline(in, field, kField);) fields.push_back(field);
  if (fields.size() < 6) return;
  peer.known = true;
  peer.said = said;
  peer.heard = Clock::now();
  peer.waits = fields[1] == "1";
  peer.waitMs = std::stoll(fields[2]);
  peer.whereMs = std::stoll(fields[3]);
  peer.host = fields[4];
  peer.where = fields[5];
  peer.operation = fields.size() > 6 ? fields[6] : "";
}

void endSoon(Watch& own, Milliseconds in, int code, const std::string& text) {
  const std::lock_guard<std::mutex> lock(own.mutex);
  if (!own.ending) own.ending = Ending{Clock::now() + in, code, text};
}

// Looks for the failure of a process: lines with its exit code, its rank and its machine, then what it printed.
bool lookForFailure(Watch& own, c10d::Store& store) {
  const auto key = own.prefix + "failed";
  if (!store.check({key})) return false;
  std::istringstream in(store.get_to_str(key));
  std::string code, rank, machine, printed;
  std::getline(in, code);
  std::getline(in, rank);
  std::getline(in, machine);
  std::getline(in, printed, '\0');
  store.add(own.prefix + "told", 1);
  endSoon(own, kGrace, std::stoi(code), "rank " + rank + " (" + machine + ") failed:\n" + printed);
  return true;
}

void exchangeWords(Watch& own, c10d::Store& store, uint64_t count) {
  store.set(own.prefix + "alive/" + std::to_string(own.rank), ownWords(own, count));
  for (int r = 0; r < own.size; r++) {
    const auto key = own.prefix + "alive/" + std::to_string(r);
    if (!store.check({key})) continue;
    const auto said = store.get_to_str(key);
    const std::lock_guard<std::mutex> lock(own.mutex);
    hear(own.peers[static_cast<size_t>(r)], said);
  }
}

void talkLoop(const c10::intrusive_ptr<c10d::Store>& store) {
  Watch& own = watch();
  const auto mark = [&](std::optional<Time> time) {
    const std::lock_guard<std::mutex> lock(own.mutex);
    own.inStore = time;
  };
  Time next = Clock::now();
  for (uint64_t count = 0; !own.stopping;) {
    try {
      mark(Clock::now());
      if (Clock::now() >= next) {
        exchangeWords(own, *store, count++);
        next = Clock::now() + own.interval;
      }
      const bool failed = lookForFailure(own, *store);
      mark(std::nullopt);
      if (failed) return;
    } catch (const std::exception&) {
      mark(std::nullopt);
      if (!own.stopping) endSoon(own, 3 * kGrace, 1, "error: " + nameOf(own, 0) + ", which serves the store, is gone.");
      return;
    }
    std::this_thread::sleep_for(std::min(kTick * 2, own.interval));
  }
}

std::string textOf(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value(); }
int64_t integerOf(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

// (socket): ends this process when its other end is closed
void watchLauncher(const Napi::CallbackInfo& info) {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.launcher = static_cast<int>(integerOf(info[0]));
  startGuard(own);
}

// (host and port of the store, timeout in ms, prefix of keys, rank, size, this machine's name, interval and patience in ms)
void startWatch(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "startWatch", [&] {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(integerOf(info[1]));
    options.waitWorkers = false;
    options.timeout = Milliseconds(integerOf(info[2]));
    const auto store = c10::make_intrusive<c10d::TCPStore>(textOf(info[0]), options);
    Watch& own = watch();
    TORCH_CHECK(!own.talker.joinable(), "this process is watched already");
    const std::lock_guard<std::mutex> lock(own.mutex);
    own.prefix = textOf(info[3]);
    own.rank = static_cast<int>(integerOf(info[4]));
    own.size = static_cast<int>(integerOf(info[5]));
    own.host = textOf(info[6]);
    own.interval = Milliseconds(integerOf(info[7]));
    own.patience = Milliseconds(integerOf(info[8]));
    own.peers.assign(static_cast<size_t>(own.size), Peer{});
    own.stopping = false;
    own.ending.reset();
    own.talker = std::thread(talkLoop, store);
    startGuard(own);
  });
}

// (): after it nothing ends this process but the end of its launcher
void stopWatch(const Napi::CallbackInfo&) {
  Watch& own = watch();
  own.stopping = true;
  if (own.talker.joinable()) own.talker.join();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.peers.clear();
  own.ending.reset();
}

// (text): where this process is from now on
void watchAt(const Napi::CallbackInfo& info) {
  Watch& own = watch();
  auto text = textOf(info[0]);
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.where = std::move(text);
  own.whereSince = Clock::now();
}

}  // namespace

void watchOperation(const std::string& label) {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.operation = label;
}

Waiting::Waiting() {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.waitSince = Clock::now();
}

Waiting::~Waiting() {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.waitSince.reset();
}

void registerWatchdog(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  add("watchLauncher", watchLauncher);
  add("startWatch", startWatch);
  add("stopWatch", stopWatch);
  add("watchAt", watchAt);
}

}  // namespace minicpm
