// NCCL: moves pieces between the memory of devices. A group's second way for bytes, beside Gloo.
//
// The library comes with libtorch's CUDA builds. It is looked up when a group asks for it, by names that NCCL keeps stable, so the addon needs no
// headers of CUDA or NCCL and is the same for all builds. Only sending and receiving are NCCL's: sums are ours, in the order of the ranks.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace minicpm {

// One message of an operation: to or from `peer`, `bytes` long at `data`.
struct Piece {
  int peer;
  char* data;
  size_t bytes;
};

struct NcclFunctions;

class Nccl {
 public:
  // Called between looks at what is under way; throws to end the waiting.
  using Check = std::function<void()>;

  // Loads the library: that of libtorch's CUDA build, unless a path is given.
  Nccl(c10::Device device, const std::string& library);
  ~Nccl();
  Nccl(const Nccl&) = delete;
  Nccl& operator=(const Nccl&) = delete;

  c10::Device device() const { return device_; }

  // A text by which the ranks of a group find each other: one of them makes it.
  std::string newId() const;
  void join(const std::string& id, int rank, int size, const Check& check);

  // When work of the device's current stream, of this thread, is done; none on the CPU.
  std::optional<c10::Event> now() const;
  // While the guard lives, this thread's work goes to the group's own stream, which waits for the event first.
  c10::OptionalStreamGuard begin(const std::optional<c10::Event>& ready) const;
  // Puts the pieces on the stream. Those of one pair of ranks arrive in order.
  void move(const std::vector<Piece>& sent, const std::vector<Piece>& received, const Check& check);
  // Returns when the stream has done all.
  void finish(const Check& check) const;

  // Ends what is under way: the group is of no use after it.
  void abort();

 private:
  void ok(int result, const char* what) const;
  // Waits while NCCL works in the background.
  void settle(int result, const char* what, const Check& check) const;
  void leave(bool aborts);

  const c10::Device device_;
  const NcclFunctions* functions_;
  std::optional<c10::Stream> stream_;  // none on the CPU
  void* handle_ = nullptr;             // of the stream, as CUDA knows it
  void* communicator_ = nullptr;
};

}  // namespace minicpm
