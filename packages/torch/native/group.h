// A group of processes: each with a rank, connected by Gloo. Operations run in order, on a thread of the group.
//
// Every operation begins with a header to and from each peer: what it is and how many bytes follow. Gloo ends the process when
// sizes differ; here ranks that do different things get an error that names them, before any data travels.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace c10d {
class ProcessGroupGloo;
class Store;
class Work;
}  // namespace c10d

namespace minicpm {

// One message of an operation: to or from `peer`, `bytes` long at `data`.
struct Piece {
  int peer;
  char* data;
  size_t bytes;
};

class Group {
 public:
  using Run = std::function<void(Group&)>;

  Group(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, const std::string& address, int64_t timeoutMs);
  ~Group();

  int rank() const { return rank_; }
  int size() const { return size_; }

  // Queues an operation and returns its number.
  int64_t submit(Run run);
  bool done(int64_t operation);
  // Blocks until it is done; throws what it threw. Each operation is waited for once.
  void wait(int64_t operation);

  // On the group's thread: agrees with each peer on the operation, then moves the pieces. `sends[r]` and `receives[r]` are the bytes
  // of the whole operation to and from rank r.
  void agree(const std::string& label, const std::vector<uint64_t>& sends, const std::vector<uint64_t>& receives);
  void move(const std::vector<Piece>& sent, const std::vector<Piece>& received);

 private:
  struct Operation {
    Run run;
    bool done = false;
    std::exception_ptr error;
  };
  struct Waiting {
    int peer;
    c10::intrusive_ptr<c10d::Work> work;
  };

  void work();
  void finish(std::vector<Waiting>& waiting, const std::string& label);

  const int rank_;
  const int size_;
  const std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
  std::string label_;  // of the operation under way
  int tag_ = 0;        // of the next message: equal on all ranks, as operations are

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<int64_t, std::shared_ptr<Operation>> operations_;
  std::deque<std::shared_ptr<Operation>> queue_;
  int64_t next_ = 1;
  bool leaving_ = false;
  std::exception_ptr failure_;  // the first one: a group that failed does nothing more
  std::thread thread_;
};

}  // namespace minicpm
