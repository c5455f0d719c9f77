// Groups of processes (group.h). The thread, the agreement on sizes, and the moving of bytes by Gloo or NCCL.
#define USE_C10D_GLOO
#include "group.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <cstring>
#include <set>

#include "watchdog.h"

namespace minicpm {

namespace {

constexpr size_t kLabel = 104;
constexpr size_t kLongestMessage = size_t{64} << 20;
constexpr size_t kLarge = size_t{64} << 10;  // more than this may not fit into the buffers of a connection
constexpr std::chrono::milliseconds kListens{50};
constexpr std::chrono::seconds kVerdict{2};

// What each rank says to each peer before an operation.
struct Header {
  uint64_t operation;
  uint64_t sends;
  uint64_t receives;
  char label[kLabel];
};
static_assert(sizeof(Header) == 128);

at::Tensor bytesAt(char* data, size_t bytes) {
  return at::from_blob(data, {static_cast<int64_t>(bytes)}, at::TensorOptions().dtype(at::kByte));
}

// The first line of what libtorch throws, without its source file and stack.
std::string brief(const char* what) {
  std::string text(what);
  text = text.substr(0, std::min(text.find('\n'), text.find(". This is typically")));
  const auto bracket = text.rfind("] ", std::min(text.size(), size_t{120}));
  return text.rfind('[', 0) == 0 && bracket != std::string::npos ? text.substr(bracket + 2) : text;
}

using Gloo = c10::intrusive_ptr<c10d::ProcessGroupGloo>;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

template <typename Ranks>
std::string listOf(const Ranks& ranks) {
  std::string list;
  for (const int rank : ranks) list += (list.empty() ? "" : ", ") + std::to_string(rank);
  return list;
}

std::string lateText(const std::set<int>& late, const std::string& label, milliseconds timeout) {
  return c10::str("Expected rank ", listOf(late), " at ", label, " within ", timeout.count() / 1000.0, " s but it did not come");
}

// Messages under way.
class Messages {
 public:
  explicit Messages(Gloo gloo) : gloo_(std::move(gloo)) {}

  // A message that cannot start, because its peer is gone, keeps no other peer waiting for theirs.
  void start(const Piece& piece, bool send, int tag) { start(send ? sent_ : received_, piece, send, tag); }

  // A word of one byte: what is received is waited for before other messages.
  void startWord(int peer, char* word, bool send, int tag) { start(send ? sent_ : words_, {peer, word, 1}, send, tag); }

  // Waits for what is received so far.
  void receive(milliseconds timeout) {
    wait(words_, timeout);
    wait(received_, timeout);
  }

  // Waits for all, also after one failed: the messages' memory is in use until then. Returns what went wrong; empty: nothing.
  std::string finish(const std::string& label, milliseconds timeout) {
    receive(timeout);
    wait(sent_, timeout);
    if (!late_.empty()) return lateText(late_, label, timeout);
    return gone_.empty() ? "" : c10::str("Expected rank ", listOf(gone_), " at ", label, " but its connection is closed (", reason_, ")");
  }

  bool late() const { return !late_.empty(); }

 private:
  struct Waiting {
    int peer;
    c10::intrusive_ptr<c10d::Work> work;
  };

  void start(std::vector<Waiting>& list, const Piece& piece, bool send, int tag) {
    for (size_t done = 0; done < piece.bytes; done += kLongestMessage) {
      std::vector<at::Tensor> message{bytesAt(piece.data + done, std::min(kLongestMessage, piece.bytes - done))};
      try {
        list.push_back({piece.peer, send ? gloo_->send(message, piece.peer, tag) : gloo_->recv(message, piece.peer, tag)});
      } catch (const std::exception& error) {
        note(piece.peer, error.what());
        return;
      }
    }
  }

  // A closed connection uses no memory: none of its messages is waited for. A wait that was too long has closed all connections.
  void wait(std::vector<Waiting>& messages, milliseconds timeout) {
    for (auto& [peer, work] : messages) {
      if (!late_.empty() || gone_.count(peer) > 0) continue;
      try {
        work->wait(timeout);
      } catch (const std::exception& error) {
        note(peer, error.what());
      }
    }
    messages.clear();
  }

  void note(int peer, const char* what) {
    reason_ = brief(what);
    (reason_.find("imed out") != std::string::npos ? late_ : gone_).insert(peer);
  }

  Gloo gloo_;
  std::vector<Waiting> words_, received_, sent_;
  std::set<int> late_, gone_;
  std::string reason_;
};

}  // namespace

// For a word from each peer that it is done with an operation on devices. That a peer is gone shows here: NCCL does not always notice. One
// thread for each, as Gloo's waiting for one message tells nothing of another, and cannot be ended.
struct Group::Listening {
  std::mutex mutex;
  std::set<int> missing;  // who has not said it yet
  std::string failure;    // the first one
};

Group::Group(const c10::intrusive_ptr<c10d::Store>& store, const Options& given)
    : rank_(given.rank), size_(given.size), timeout_(given.timeoutMs) {
  if (given.device) nccl_ = std::make_unique<Nccl>(*given.device, given.nccl);
  auto options = c10d::ProcessGroupGloo::Options::create(timeout_);
  options->threads = 2;
  // Never the default device: it takes the address of the host's name, which is often the loopback's.
  options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(given.address)};
  gloo_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank_, size_, options);
  if (nccl_) joinDevices(*store);
  thread_ = std::thread([this] { work(); });
}

std::optional<c10::Device> Group::device() const { return nccl_ ? std::optional(nccl_->device()) : std::nullopt; }

void Group::joinDevices(c10d::Store& store) {
  label_ = "the joining of devices";
  started_ = Clock::now();
  if (rank_ == 0) store.set("nccl", nccl_->newId());
  nccl_->join(store.get_to_str("nccl"), rank_, size_, [this] { check(); });
}

Group::~Group() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int64_t Group::submit(c10::Device device, Run run) {
  auto operation = std::make_shared<Operation>();
  operation->run = std::move(run);
  operation->onDevice = this->device() == device;
  if (operation->onDevice) operation->ready = nccl_->now();
  const std::lock_guard<std::mutex> lock(mutex_);
  const int64_t number = next_++;
  operations_[number] = operation;
  queue_.push_back(std::move(operation));
  changed_.notify_all();
  return number;
}

bool Group::done(int64_t number) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = operations_.find(number);
  return found == operations_.end() || found->second->done;
}

void Group::wait(int64_t number) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto found = operations_.find(number);
  TORCH_CHECK(found != operations_.end(), "operation ", number, " of the group was waited for before, or never started");
  const auto operation = found->second;
  operations_.erase(found);
  if (!operation->done) {
    const minicpm::Waiting waiting;
    changed_.wait(lock, [&] { return operation->done; });
  }
  if (operation->error) std::rethrow_exception(operation->error);
}

void Group::work() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return leaving_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const auto operation = queue_.front();
    queue_.pop_front();
    if (!failure_) {
      lock.unlock();
      std::exception_ptr error;
      try {
        perform(*operation);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      failure_ = error;
    }
    operation->run = nullptr;  // frees the tensors it holds
    operation->ready.reset();
    operation->error = failure_;
    operation->done = true;
    changed_.notify_all();
  }
}

void Group::perform(const Operation& operation) {
  onDevice_ = operation.onDevice;
  if (!onDevice_) return operation.run(*this);
  try {
    performOnDevice(operation);
  } catch (...) {
    nccl_->abort();
    throw;
  }
}

void Group::performOnDevice(const Operation& operation) {
  const at::AutoDispatchBelowADInplaceOrView withoutGraph;
  const auto stream = nccl_->begin(operation.ready);
  started_ = Clock::time_point::max();  // no piece moves before all agree
  try {
    operation.run(*this);
    nccl_->finish([this] { check(); });
  } catch (const std::exception&) {
    throwOthersFailure();
    throw;
  }
  // All are done when each has told the others so.
  Messages words(gloo_);
  std::vector<char> received(static_cast<size_t>(size_));
  char done = 1;
  for (int peer = 0; peer < size_; peer++) {
    if (peer == rank_) continue;
    if (!listening_) words.start({peer, &received[static_cast<size_t>(peer)], 1}, false, doneTag_);
    words.start({peer, &done, 1}, true, doneTag_);
  }
  const auto failure = words.finish(label_, timeout_);
  TORCH_CHECK(failure.empty(), failure);
  if (!listening_) return;
  for (bool all = false; !all; std::this_thread::sleep_for(std::chrono::microseconds(50))) {
    check();
    const std::lock_guard<std::mutex> lock(listening_->mutex);
    all = listening_->missing.empty();
  }
  listening_ = nullptr;
}

void Group::listen() {
  listening_ = std::make_shared<Listening>();
  for (int peer = 0; peer < size_; peer++)
    if (peer != rank_) listening_->missing.insert(peer);
  for (int peer = 0; peer < size_; peer++) {
    if (peer == rank_) continue;
    std::thread([peer, own = listening_, gloo = gloo_, label = label_, timeout = timeout_, tag = doneTag_] {
      Messages words(gloo);
      char done = 0;
      words.start({peer, &done, 1}, false, tag);
      const auto failure = words.finish(label, timeout);
      const std::lock_guard<std::mutex> lock(own->mutex);
      if (failure.empty()) own->missing.erase(peer);
      else if (own->failure.empty()) own->failure = words.late() ? lateText(own->missing, label, timeout) : failure;
    }).detach();
  }
}

// While NCCL works: whether a peer is gone or late.
void Group::check() {
  const auto now = Clock::now();
  if (onDevice_ && !listening_ && now - kListens > started_) listen();
  if (listening_) {
    const std::lock_guard<std::mutex> lock(listening_->mutex);
    TORCH_CHECK(listening_->failure.empty(), listening_->failure);
  }
  TORCH_CHECK(now - timeout_ - kVerdict < started_, "Expected the devices of all ranks at ", label_, " within ", timeout_.count() / 1000.0,
              " s but they are not done");
}

// NCCL tells that something is wrong; Gloo tells, a little later, which rank it is.
void Group::throwOthersFailure() {
  if (started_ == Clock::time_point::max()) return;
  if (!listening_) listen();
  for (const auto end = Clock::now() + kVerdict; Clock::now() < end; std::this_thread::sleep_for(milliseconds(10))) check();
}

void Group::agree(const std::string& label, const std::vector<uint64_t>& sends, const std::vector<uint64_t>& receives) {
  label_ = label;
  watchOperation(label);
  std::vector<Header> own(size_), other(size_);
  std::vector<Piece> sent, received;
  for (int peer = 0; peer < size_; peer++) {
    if (peer == rank_) continue;
    Header& header = own[peer];
    std::memset(&header, 0, sizeof(Header));
    header.operation = static_cast<uint64_t>(tag_);
    header.sends = sends[peer];
    header.receives = receives[peer];
    label.copy(header.label, kLabel - 1);
    sent.push_back({peer, reinterpret_cast<char*>(&header), sizeof(Header)});
    received.push_back({peer, reinterpret_cast<char*>(&other[peer]), sizeof(Header)});
  }
  moveByGloo(sent, received);
  for (int peer = 0; peer < size_; peer++) {
    if (peer == rank_) continue;
    Header& header = other[peer];
    header.label[kLabel - 1] = 0;
    const bool same = label.compare(0, kLabel - 1, header.label) == 0;
    TORCH_CHECK(same && header.sends == receives[peer] && header.receives == sends[peer], "Expected the same operation on all ranks but rank ",
                rank_, " is at ", label, " (", sends[peer], " bytes to rank ", peer, ", ", receives[peer], " from it) and rank ", peer, " at ",
                header.label, " (", header.receives, " bytes expected, ", header.sends, " sent)");
  }
  if (!onDevice_) return;
  doneTag_ = tag_++;
  started_ = Clock::now();
}

void Group::move(const std::vector<Piece>& sent, const std::vector<Piece>& received) {
  if (!onDevice_) return moveByGloo(sent, received);
  nccl_->move(sent, received, [this] { check(); });
}

void Group::moveByGloo(const std::vector<Piece>& sent, const std::vector<Piece>& received) {
  Messages messages(gloo_);
  const int tag = tag_++, sentTag = tag_++, gotTag = tag_++;
  // Gloo does not tell a message that is on its way that the connection is closed: it would be waited for until the timeout. One that has not
  // begun is told. So a word follows a large piece, and its receiver, when it has all, sends a word back: these are waited for first.
  std::vector<char> after(received.size()), back(sent.size());
  char word = 1;
  for (const Piece& piece : received) messages.start(piece, false, tag);
  for (size_t i = 0; i < received.size(); i++)
    if (received[i].bytes >= kLarge) messages.startWord(received[i].peer, &after[i], false, sentTag);
  for (const Piece& piece : sent) messages.start(piece, true, tag);
  for (const Piece& piece : sent)
    if (piece.bytes >= kLarge) messages.startWord(piece.peer, &word, true, sentTag);
  messages.receive(timeout_);
  for (size_t i = 0; i < sent.size(); i++)
    if (sent[i].bytes >= kLarge) messages.startWord(sent[i].peer, &back[i], false, gotTag);
  for (const Piece& piece : received)
    if (piece.bytes >= kLarge) messages.startWord(piece.peer, &word, true, gotTag);
  const auto failure = messages.finish(label_, timeout_);
  TORCH_CHECK(failure.empty(), failure);
}

}  // namespace minicpm
