// NCCL's interface over host memory and sockets, with as much of it as a group calls. As NCCL does, it works in the background, and over
// memory that ranks share it does not notice that a peer is gone: only ncclCommAbort ends it then.
//
// NCCL_TEST_KILL=<rank> kills that rank in the middle of its first transfer; with NCCL_TEST_NOTICE=1 the others get an error for it.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kSuccess = 0, kInvalidArgument = 4, kRemoteError = 6, kInProgress = 7;

struct Id {
  char text[128];
};

struct Config {
  size_t size;
  unsigned int magic, version;
  int blocking;
};

struct Piece {
  int peer;
  char* data;
  size_t bytes;
  bool send;
};

struct Communicator {
  int rank, size;
  std::map<int, int> sockets;
  std::vector<Piece> pieces;  // of the group that is open
  std::atomic<int> state{kInProgress};
  std::atomic<bool> aborted{false};
  std::thread worker;
};

thread_local Communicator* current = nullptr;

sockaddr_un addressOf(const Id& id, int rank) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%.60s/%d", id.text, rank);  // an abstract name: no file
  return address;
}

// Every rank takes connections of the ranks above it, which say who they are.
void connectAll(Communicator* own, Id id) {
  const int listening = socket(AF_UNIX, SOCK_STREAM, 0);
  auto address = addressOf(id, own->rank);
  bind(listening, reinterpret_cast<sockaddr*>(&address), sizeof address);
  listen(listening, own->size);
  for (int peer = 0; peer < own->rank; peer++) {
    address = addressOf(id, peer);
    const int to = socket(AF_UNIX, SOCK_STREAM, 0);
    while (connect(to, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 && !own->aborted) usleep(1000);
    if (write(to, &own->rank, sizeof own->rank) != sizeof own->rank) return;
    own->sockets[peer] = to;
  }
  for (int peer = own->rank + 1; peer < own->size; peer++) {
    for (pollfd ready{listening, POLLIN, 0}; poll(&ready, 1, 10) == 0;)
      if (own->aborted) return;
    const int from = accept(listening, nullptr, nullptr);
    int rank = 0;
    if (read(from, &rank, sizeof rank) != sizeof rank) return;
    own->sockets[rank] = from;
  }
  close(listening);
  own->state = kSuccess;
}

// The pieces of each pair of ranks in their order, all pairs at once.
void transfer(Communicator* own, std::vector<Piece> pieces) {
  const char* const kill_ = std::getenv("NCCL_TEST_KILL");
  if (kill_ != nullptr && std::atoi(kill_) == own->rank) raise(SIGKILL);
  const bool notices = std::getenv("NCCL_TEST_NOTICE") != nullptr;
  std::vector<std::thread> pairs;
  for (const auto& [peer, to] : own->sockets)
    for (const bool send : {true, false})
      pairs.emplace_back([own, peer = peer, to = to, send, notices, &pieces] {
        for (Piece piece : pieces) {
          if (piece.peer != peer || piece.send != send) continue;
          while (piece.bytes > 0 && !own->aborted) {
            pollfd ready{to, static_cast<short>(send ? POLLOUT : POLLIN), 0};
            if (poll(&ready, 1, 10) == 0) continue;
            const auto moved = send ? ::send(to, piece.data, piece.bytes, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(to, piece.data, piece.bytes, MSG_DONTWAIT);
            if (moved > 0) {
              piece.data += moved;
              piece.bytes -= static_cast<size_t>(moved);
            } else if (moved == 0 || errno != EAGAIN) {
              if (notices) own->state = kRemoteError;
              while (!own->aborted) usleep(1000);
            }
          }
        }
      });
  for (auto& pair : pairs) pair.join();
  int working = kInProgress;
  own->state.compare_exchange_strong(working, kSuccess);
}

int add(Piece piece, Communicator* own) {
  if (own->rank == piece.peer || piece.peer >= own->size) return kInvalidArgument;
  current = own;
  own->pieces.push_back(piece);
  return kSuccess;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) {
  *version = 22800;
  return kSuccess;
}

int ncclGetUniqueId(Id* id) {
  std::memset(id, 0, sizeof *id);
  std::snprintf(id->text, sizeof id->text, "minicpm-test-%d-%ld", getpid(), random());
  return kSuccess;
}

int ncclCommInitRankConfig(Communicator** made, int size, Id id, int rank, Config* config) {
  if (config->size < sizeof(Config) || config->magic != 0xcafebeef || config->blocking != 0) return kInvalidArgument;
  auto* own = new Communicator{rank, size, {}, {}, {}, {}, {}};
  own->state = kInProgress;
  own->worker = std::thread(connectAll, own, id);
  *made = own;
  return kInProgress;
}

int ncclCommAbort(Communicator* own) {
  own->aborted = true;
  if (own->worker.joinable()) own->worker.join();
  for (const auto& [peer, to] : own->sockets) close(to);
  delete own;
  return kSuccess;
}

int ncclCommDestroy(Communicator* own) { return ncclCommAbort(own); }

int ncclCommGetAsyncError(Communicator* own, int* state) {
  *state = own->state;
  return kSuccess;
}

int ncclGroupStart() { return kSuccess; }

int ncclSend(const void* data, size_t bytes, int, int peer, Communicator* own, void*) {
  return add({peer, static_cast<char*>(const_cast<void*>(data)), bytes, true}, own);
}

int ncclRecv(void* data, size_t bytes, int, int peer, Communicator* own, void*) {
  return add({peer, static_cast<char*>(data), bytes, false}, own);
}

int ncclGroupEnd() {
  Communicator* const own = current;
  current = nullptr;
  if (own == nullptr) return kSuccess;
  if (own->worker.joinable()) own->worker.join();
  own->state = kInProgress;
  own->worker = std::thread(transfer, own, std::move(own->pieces));
  own->pieces.clear();
  return kInProgress;
}

const char* ncclGetErrorString(int result) { return result == kRemoteError ? "remote process exited" : "invalid argument"; }
const char* ncclGetLastError(Communicator*) { return ""; }
}
