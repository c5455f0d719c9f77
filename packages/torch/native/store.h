// Texts and counters that all processes of a run share. c10d's TCPStore.
#pragma once
#include <c10/util/intrusive_ptr.h>
#include <napi.h>

#include <cstdint>

namespace c10d {
class Store;
}

namespace minicpm {

// By its number in JavaScript.
const c10::intrusive_ptr<c10d::Store>& storeOf(int64_t number);

void registerStore(Napi::Env env, Napi::Object exports);

}  // namespace minicpm
