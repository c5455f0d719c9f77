// What JavaScript calls of stores. Opening, texts, counters; and the addresses where they are.
#include "store.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sys/socket.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <string>

#include "handles.h"

namespace minicpm {

namespace {

using StorePointer = c10::intrusive_ptr<c10d::Store>;

// By their numbers in JavaScript. Kept until closed; never destroyed at exit, when a thread of theirs may still wait.
struct Open {
  std::map<int64_t, StorePointer> stores;
  int64_t next = 1;
};
Open& opened() {
  static auto* open = new Open();
  return *open;
}

std::string textOf(const Napi::Value& value) { return value.As<Napi::String>().Utf8Value(); }
int64_t integerOf(const Napi::Value& value) { return value.As<Napi::Number>().Int64Value(); }

// (host, port) -> the address of this machine from which the host is reached. Connecting a datagram socket asks the routing table and
// sends nothing.
Napi::Value addressTowards(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "addressTowards", [&]() -> Napi::Value {
    const auto host = textOf(info[0]);
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_DGRAM;
    const int failed = getaddrinfo(host.c_str(), std::to_string(integerOf(info[1])).c_str(), &hints, &found);
    TORCH_CHECK(failed == 0, "unknown host ", host, ": ", gai_strerror(failed));
    char text[NI_MAXHOST] = "";
    for (const addrinfo* each = found; each != nullptr && *text == 0; each = each->ai_next) {
      const int socket_ = socket(each->ai_family, SOCK_DGRAM, 0);
      if (socket_ < 0) continue;
      sockaddr_storage own{};
      socklen_t length = sizeof own;
      if (connect(socket_, each->ai_addr, each->ai_addrlen) == 0 && getsockname(socket_, reinterpret_cast<sockaddr*>(&own), &length) == 0)
        getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST);
      close(socket_);
    }
    freeaddrinfo(found);
    TORCH_CHECK(*text != 0, "no route to ", host);
    return Napi::String::New(info.Env(), text);
  });
}

// (address, port) -> a file descriptor that listens there and nowhere else; minus an error number where it cannot
Napi::Value listenOn(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "listenOn", [&]() -> Napi::Value {
    const auto host = textOf(info[0]);
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    const int failed = getaddrinfo(host.c_str(), std::to_string(integerOf(info[1])).c_str(), &hints, &found);
    TORCH_CHECK(failed == 0, "unknown host ", host, ": ", gai_strerror(failed));
    const int listening = socket(found->ai_family, SOCK_STREAM, 0);
    const int again = 1;
    setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &again, sizeof again);
    const bool ready = bind(listening, found->ai_addr, found->ai_addrlen) == 0 && listen(listening, 1024) == 0;
    const int error = errno;
    freeaddrinfo(found);
    if (!ready) close(listening);
    return Napi::Number::New(info.Env(), ready ? listening : -error);
  });
}

// (host, port, is server, timeout in ms, listening file descriptor or -1) -> store
Napi::Value openStore(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "openStore", [&]() -> Napi::Value {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(integerOf(info[1]));
    options.isServer = info[2].As<Napi::Boolean>().Value();
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(integerOf(info[3]));
    if (const int64_t listening = integerOf(info[4]); listening >= 0) options.masterListenFd = static_cast<int>(listening);
    auto& open = opened();
    open.stores[open.next] = c10::make_intrusive<c10d::TCPStore>(textOf(info[0]), options);
    return Napi::Number::New(info.Env(), static_cast<double>(open.next++));
  });
}

// (store): this process's connection; the server ends with its last one
void closeStore(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "closeStore", [&] { opened().stores.erase(integerOf(info[0])); });
}

// (store, key, text)
void storeSet(const Napi::CallbackInfo& info) {
  guarded(info.Env(), "storeSet", [&] { storeOf(integerOf(info[0]))->set(textOf(info[1]), textOf(info[2])); });
}

// (store, key) -> text, or null when nobody has set it
Napi::Value storeGet(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "storeGet", [&]() -> Napi::Value {
    const auto& store = storeOf(integerOf(info[0]));
    const auto key = textOf(info[1]);
    if (!store->check({key})) return info.Env().Null();
    return Napi::String::New(info.Env(), store->get_to_str(key));
  });
}

// (store, key, amount) -> sum
Napi::Value storeAdd(const Napi::CallbackInfo& info) {
  return guarded(info.Env(), "storeAdd", [&]() -> Napi::Value {
    return Napi::Number::New(info.Env(), static_cast<double>(storeOf(integerOf(info[0]))->add(textOf(info[1]), integerOf(info[2]))));
  });
}

}  // namespace

const StorePointer& storeOf(int64_t number) {
  const auto found = opened().stores.find(number);
  TORCH_CHECK(found != opened().stores.end(), "the store is closed");
  return found->second;
}

void registerStore(Napi::Env env, Napi::Object exports) {
  const auto add = [&](const char* name, auto function) { exports.Set(name, Napi::Function::New(env, function, name)); };
  add("addressTowards", addressTowards);
  add("listenOn", listenOn);
  add("openStore", openStore);
  add("closeStore", closeStore);
  add("storeSet", storeSet);
  add("storeGet", storeGet);
  add("storeAdd", storeAdd);
}

}  // namespace minicpm
