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
#include <condition_variable>
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

// What is said, by its place in the texts that JavaScript hands down (watchdog.ts has them in English).
enum Text { kRankOnHost, kStart, kSilent, kBusy, kStoreSilent, kAllWait, kOneWaits, kManyWait, kFailed, kStoreGone };

int64_t since(Time start) { return std::chrono::duration_cast<Milliseconds>(Clock::now() - start).count(); }

// A process of the group. Its first words are those with which all met, before the watch began.
struct Peer {
  std::string machine, where;
  Time heard;  // when its last words came
  std::string said;
  bool waits = false;
  int64_t whereMs = 0;
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
  std::string prefix;
  std::vector<std::string> texts;
  Milliseconds interval{2000}, patience{50000};

  std::string where, operation;
  Time whereSince = Clock::now();
  std::optional<Time> waitSince;

  std::vector<Peer> peers;
  std::optional<Time> inStore;  // since when the store has not answered
  std::optional<Ending> ending;
  int64_t reportedMs = 0;  // length of this wait when it was reported last

  bool guarding = false;
  std::atomic<bool> stopping{false};
  std::thread talker;

  // The talker: whether it runs, and this process's own failure, which it tells the others.
  std::condition_variable talked;
  bool talking = false;
  std::optional<std::string> failure;
  std::optional<bool> first;  // whether that was the first failure of the run, once it is told
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

std::string seconds(int64_t ms) { return std::to_string((ms + 500) / 1000); }

// A text with its holes {1}, {2}, … filled.
std::string filled(const Watch& own, Text text, const std::vector<std::string>& values) {
  std::string out;
  const std::string& pattern = own.texts[text];
  for (size_t i = 0; i < pattern.size(); i++) {
    const size_t hole = pattern[i] == '{' && i + 2 < pattern.size() && pattern[i + 2] == '}' ? static_cast<size_t>(pattern[i + 1] - '1') : values.size();
    if (hole >= values.size()) {
      out += pattern[i];
      continue;
    }
    out += values[hole];
    i += 2;
  }
  return out;
}

std::string listed(const std::vector<int>& ranks) {
  std::ostringstream out;
  for (size_t i = 0; i < ranks.size(); i++) out << (i == 0 ? "" : ", ") << ranks[i];
  return out.str();
}

std::string nameOf(const Watch& own, int rank) {
  return filled(own, kRankOnHost, {std::to_string(rank), own.peers[static_cast<size_t>(rank)].machine});
}

bool answers(const Watch& own, const Peer& peer) { return since(peer.heard) < kMissed * own.interval.count(); }

// What is said of a process that the others wait for; empty: it waits, too.
std::string blame(const Watch& own, int rank) {
  const Peer& peer = own.peers[static_cast<size_t>(rank)];
  const auto name = nameOf(own, rank);
  if (!answers(own, peer)) return filled(own, kSilent, {name, seconds(since(peer.heard)), peer.where});
  if (peer.waits) return "";
  return filled(own, kBusy, {name, peer.where, seconds(peer.whereMs + since(peer.heard))});
}

bool storeAnswers(const Watch& own) {
  return own.rank == 0 || !own.inStore || since(*own.inStore) <= kMissed * own.interval.count();
}

std::string storeLine(const Watch& own) {
  return filled(own, kStoreSilent, {nameOf(own, 0), seconds(since(*own.inStore)), std::to_string(own.rank), own.operation});
}

// The line about who holds the others up; empty: another process writes it.
std::string lineOf(const Watch& own) {
  if (!storeAnswers(own)) return storeLine(own);
  std::vector<int> waiting;
  std::string blamed;
  for (int r = 0; r < own.size; r++) {
    const Peer& peer = own.peers[static_cast<size_t>(r)];
    const bool waits = r == own.rank || (answers(own, peer) && peer.waits);
    if (waits) waiting.push_back(r);
    else if (const auto text = blame(own, r); !text.empty()) blamed += (blamed.empty() ? "" : "; ") + text;
  }
  if (waiting.empty() || waiting.front() != own.rank) return "";
  if (blamed.empty()) return filled(own, kAllWait, {own.operation, seconds(since(*own.waitSince))});
  return blamed + "; " + filled(own, waiting.size() == 1 ? kOneWaits : kManyWait, {listed(waiting), own.operation});
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
  out << count << kField << (own.waitSince ? 1 : 0) << kField << since(own.whereSince) << kField << own.where;
  return out.str();
}

void hear(Peer& peer, const std::string& said) {
  if (peer.said == said) return;
  std::vector<std::string> fields;
  std::istringstream in(said);
  for (std::string field; std::getline(in, field, kField);) fields.push_back(field);
  if (fields.size() != 4) return;
  peer.said = said;
  peer.heard = Clock::now();
  peer.waits = fields[1] == "1";
  peer.whereMs = std::stoll(fields[2]);
  peer.where = fields[3];
}

void endSoon(Watch& own, Milliseconds in, int code, const std::string& text) {
  const std::lock_guard<std::mutex> lock(own.mutex);
  if (!own.ending && !own.failure && !own.stopping) own.ending = Ending{Clock::now() + in, code, text};
}

std::string storeGone(Watch& own) {
  const std::lock_guard<std::mutex> lock(own.mutex);
  return own.peers.empty() ? "" : filled(own, kStoreGone, {nameOf(own, 0)});  // empty: the watch has ended
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
  endSoon(own, kGrace, std::stoi(code), filled(own, kFailed, {filled(own, kRankOnHost, {rank, machine})}) + "\n" + printed);
  return true;
}

void exchangeWords(Watch& own, c10d::Store& store, uint64_t count) {
  store.set(own.prefix + "alive/" + std::to_string(own.rank), ownWords(own, count));
  for (int r = 0; r < own.size; r++) {
    const auto key = own.prefix + "alive/" + std::to_string(r);
    if (!store.check({key})) continue;
    const auto said = store.get_to_str(key);
    const std::lock_guard<std::mutex> lock(own.mutex);
    if (own.peers.empty()) return;  // the watch has ended
    hear(own.peers[static_cast<size_t>(r)], said);
  }
}

// Tells the others of this process's own failure, if there is one. Returns whether there is.
bool tellFailure(Watch& own, c10d::Store& store) {
  std::string failure;
  {
    const std::lock_guard<std::mutex> lock(own.mutex);
    if (!own.failure) return false;
    failure = *own.failure;
  }
  const bool first = store.add(own.prefix + "failures", 1) == 1;
  if (first) {
    store.set(own.prefix + "failed", failure);
    store.check({own.prefix + "failed"});  // an answer: the text has come
  }
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.first = first;
  return true;
}

void talk(Watch& own, c10d::Store& store) {
  const auto mark = [&](std::optional<Time> time) {
    const std::lock_guard<std::mutex> lock(own.mutex);
    own.inStore = time;
  };
  Time next = Clock::now();
  for (uint64_t count = 0; !own.stopping;) {
    try {
      mark(Clock::now());
      if (tellFailure(own, store)) return;
      if (Clock::now() >= next) {
        exchangeWords(own, store, count++);
        next = Clock::now() + own.interval;
      }
      const bool failed = lookForFailure(own, store);
      mark(std::nullopt);
      if (failed) return;
    } catch (const std::exception&) {
      mark(std::nullopt);
      endSoon(own, 3 * kGrace, 1, storeGone(own));
      return;
    }
    std::unique_lock<std::mutex> lock(own.mutex);
    own.talked.wait_for(lock, std::min(kTick * 2, own.interval), [&] { return own.stopping || own.failure; });
  }
}

void talkLoop(const c10::intrusive_ptr<c10d::Store>& store) {
  Watch& own = watch();
  talk(own, *store);
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.talking = false;
  own.talked.notify_all();
}

// Ends the talker. One that waits for a store that does not answer is left behind: nothing of it is used any more.
void endTalker(Watch& own) {
  bool ended;
  {
    std::unique_lock<std::mutex> lock(own.mutex);
    own.stopping = true;
    own.talked.notify_all();
    ended = own.talked.wait_for(lock, kGrace, [&] { return !own.talking; });
    own.peers.clear();
    own.ending.reset();
  }
  if (!own.talker.joinable()) return;
  if (ended) own.talker.join();
  else own.talker.detach();
}

std::string textOf(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value(); }
int64_t integerOf(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

std::vector<std::string> textsOf(const Napi::Value& value) {
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> texts;
  for (uint32_t i = 0; i < array.Length(); i++) texts.push_back(textOf(array.Get(i)));
  return texts;
}

// (socket): ends this process when its other end is closed
void watchLauncher(const Napi::CallbackInfo& info) {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.launcher = static_cast<int>(integerOf(info[0]));
  startGuard(own);
}

// (host and port of the store, timeout in ms, prefix of keys, this rank, the machines of all, interval and patience in ms, texts)
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
    const auto machines = textsOf(info[5]);
    own.size = static_cast<int>(machines.size());
    own.interval = Milliseconds(integerOf(info[6]));
    own.patience = Milliseconds(integerOf(info[7]));
    own.texts = textsOf(info[8]);
    TORCH_CHECK(own.texts.size() == kStoreGone + 1, "Expected ", kStoreGone + 1, " texts but received ", own.texts.size());
    own.where = own.texts[kStart];
    own.whereSince = Clock::now();
    own.peers.clear();
    for (const auto& machine : machines) own.peers.push_back({machine, own.where, own.whereSince});
    own.stopping = false;
    own.ending.reset();
    own.failure.reset();
    own.first.reset();
    own.talking = true;
    own.talker = std::thread(talkLoop, store);
    startGuard(own);
  });
}

// (): after it nothing ends this process but the end of its launcher
void stopWatch(const Napi::CallbackInfo&) { endTalker(watch()); }

// (text for the others, ms that it may take): tells of this process's failure, and stops to watch. Returns whether it was the first one.
Napi::Value failWatched(const Napi::CallbackInfo& info) {
  Watch& own = watch();
  bool first;
  {
    std::unique_lock<std::mutex> lock(own.mutex);
    own.ending.reset();  // it would end this process before it has printed its error
    own.failure = textOf(info[0]);
    own.talked.notify_all();
    own.talked.wait_for(lock, Milliseconds(integerOf(info[1])), [&] { return own.first || !own.talking; });
    first = own.first.value_or(false);
  }
  endTalker(own);
  return Napi::Boolean::New(info.Env(), first);
}

// (): those of the others that do not answer; empty: all do, or it is not known
Napi::Value watchSilent(const Napi::CallbackInfo& info) {
  Watch& own = watch();
  const std::lock_guard<std::mutex> lock(own.mutex);
  std::string silent;
  if (own.peers.empty()) return Napi::String::New(info.Env(), "");
  if (!storeAnswers(own)) return Napi::String::New(info.Env(), storeLine(own));
  for (int r = 0; r < own.size; r++)
    if (r != own.rank && !answers(own, own.peers[static_cast<size_t>(r)])) silent += (silent.empty() ? "" : "; ") + blame(own, r);
  return Napi::String::New(info.Env(), silent.empty() ? "" : silent + ".");
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
  add("failWatched", failWatched);
  add("watchAt", watchAt);
  add("watchSilent", watchSilent);
}

}  // namespace minicpm
