// A group of processes, each with a rank. They are connected by Gloo, and by NCCL where their tensors are on devices. Operations run in
// order, on a thread of the group; those with tensors on a device go to a stream of the group, and are done when that stream is.
//
// Every operation begins with a header to and from each peer: what it is and how many bytes follow. Gloo ends the process when
// sizes differ; here ranks that do different things get an error that names them, before any data travels.
#pragma once
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

#include "nccl.h"

namespace c10d {
class ProcessGroupGloo;
class Store;
}  // namespace c10d

namespace minicpm {

class Group {
 public:
  using Run = std::function<void(Group&)>;

  struct Options {
    int rank, size;
    std::string address;  // at which other ranks reach this one
    int64_t timeoutMs;
    std::optional<c10::Device> device;  // whose tensors the group moves, too
    std::string nccl;                   // path of the library for them; empty: libtorch's
  };

  Group(const c10::intrusive_ptr<c10d::Store>& store, const Options& options);
  ~Group();

  int rank() const { return rank_; }
  int size() const { return size_; }
  // The device besides the host whose tensors the group moves.
  std::optional<c10::Device> device() const;

  // Queues an operation on tensors of a device, after what the device's current stream has to do now; returns its number.
  int64_t submit(c10::Device device, Run run);
  bool done(int64_t operation);
  // Blocks until it is done; throws what it threw. Each operation is waited for once.
  void wait(int64_t operation);

  // On the group's thread: agrees with each peer on the operation, then moves the pieces. `sends[r]` and `receives[r]` are the bytes
  // of the whole operation to and from rank r.
  void agree(const std::string& label, const std::vector<uint64_t>& sends, const std::vector<uint64_t>& receives);
  // Whether the operation under way is on that device: its work goes to the current stream.
  bool onDevice() const { return onDevice_; }
  // In host memory when it returns; on a device in the order of the current stream.
  void move(const std::vector<Piece>& sent, const std::vector<Piece>& received);

 private:
  struct Operation {
    Run run;
    bool onDevice = false;
    std::optional<c10::Event> ready;  // its tensors
    bool done = false;
    std::exception_ptr error;
  };
  struct Listening;

  void joinDevices(c10d::Store& store);
  void work();
  void perform(const Operation& operation);
  void performOnDevice(const Operation& operation);
  void moveByGloo(const std::vector<Piece>& sent, const std::vector<Piece>& received);
  void listen();
  void check();
  void throwOthersFailure();

  const int rank_;
  const int size_;
  const std::chrono::milliseconds timeout_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
  std::unique_ptr<Nccl> nccl_;
  int tag_ = 0;  // of the next message: equal on all ranks, as operations are

  // Of the operation under way.
  std::string label_;
  bool onDevice_ = false;
  std::chrono::steady_clock::time_point started_;  // the moving of its pieces
  int doneTag_ = 0;                                // of the words that it is done
  std::shared_ptr<Listening> listening_;           // to the other ranks, where it takes long

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
