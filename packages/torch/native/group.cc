// Groups of processes over Gloo (group.h). The thread, the agreement on sizes, and the moving of bytes.
#define USE_C10D_GLOO
#include "group.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <cstring>

#include "watchdog.h"

namespace minicpm {

namespace {

constexpr size_t kLabel = 104;
constexpr size_t kLongestMessage = size_t{64} << 20;

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

}  // namespace

Group::Group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const std::string& address, int64_t timeoutMs)
    : rank_(rank), size_(size), timeout_(timeoutMs) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout_);
  options->threads = 2;
  // Never the default device: it takes the address of the host's name, which is often the loopback's.
  options->devices = {c10d::ProcessGroupGloo::createDeviceForHostname(address)};
  gloo_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
  thread_ = std::thread([this] { work(); });
}

Group::~Group() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int64_t Group::submit(Run run) {
  auto operation = std::make_shared<Operation>();
  operation->run = std::move(run);
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
        operation->run(*this);
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      failure_ = error;
    }
    operation->run = nullptr;  // frees the tensors it holds
    operation->error = failure_;
    operation->done = true;
    changed_.notify_all();
  }
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
  move(sent, received);
  for (int peer = 0; peer < size_; peer++) {
    if (peer == rank_) continue;
    Header& header = other[peer];
    header.label[kLabel - 1] = 0;
    const bool same = label.compare(0, kLabel - 1, header.label) == 0;
    TORCH_CHECK(same && header.sends == receives[peer] && header.receives == sends[peer], "Expected the same operation on all ranks but rank ",
                rank_, " is at ", label, " (", sends[peer], " bytes to rank ", peer, ", ", receives[peer], " from it) and rank ", peer, " at ",
                header.label, " (", header.receives, " bytes expected, ", header.sends, " sent)");
  }
}

void Group::move(const std::vector<Piece>& sent, const std::vector<Piece>& received) {
  std::vector<Waiting> waiting;
  std::string gone, reason;
  const int tag = tag_++;
  // A message that cannot start, because its peer is gone, keeps no other peer waiting for theirs.
  const auto start = [&](const Piece& piece, bool send) {
    for (size_t done = 0; done < piece.bytes; done += kLongestMessage) {
      std::vector<at::Tensor> message{bytesAt(piece.data + done, std::min(kLongestMessage, piece.bytes - done))};
      try {
        waiting.push_back({piece.peer, send ? gloo_->send(message, piece.peer, tag) : gloo_->recv(message, piece.peer, tag)});
      } catch (const std::exception& error) {
        gone = std::to_string(piece.peer);
        reason = brief(error.what());
        return;
      }
    }
  };
  for (const Piece& piece : received) start(piece, false);
  for (const Piece& piece : sent) start(piece, true);
  finish(waiting, label_);
  TORCH_CHECK(gone.empty(), "Expected rank ", gone, " at ", label_, " but its connection is closed (", reason, ")");
}

// Waits for all, also after one failed: the messages' memory is in use until then.
void Group::finish(std::vector<Waiting>& waiting, const std::string& label) {
  std::string late, gone;
  std::string reason;
  for (auto& [peer, work] : waiting) {
    try {
      work->wait(timeout_);
    } catch (const std::exception& error) {
      reason = brief(error.what());
      std::string& list = reason.find("imed out") != std::string::npos ? late : gone;
      const std::string name = std::to_string(peer);
      if ((", " + list + ",").find(", " + name + ",") == std::string::npos) list += (list.empty() ? "" : ", ") + name;
    }
  }
  TORCH_CHECK(gone.empty() || !late.empty(), "Expected rank ", gone, " at ", label, " but its connection is closed (", reason, ")");
  TORCH_CHECK(late.empty(), "Expected rank ", late, " at ", label, " within ", timeout_.count() / 1000.0, " s but it did not come");
}

}  // namespace minicpm
