// The threads of generation. They stay awake between pieces of work that follow within microseconds, as its layers do.
//
// Who waits fetches into its cache the memory that the next piece of work will read: memory is never idle, though small operators and JavaScript run
// between two products with large weights.
#pragma once
#include <c10/util/ArrayRef.h>
#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace minicpm {

// Memory that a piece of work reads. Each thread begins `stride` bytes after the one before, and reads those bytes in so many streams.
struct Reads {
  const char* data = nullptr;
  int64_t bytes = 0, stride = 0, streams = 1;
};

// Calls work(0) to work(threads - 1), each on a thread of its own, and returns when all are done; one after the other where the threads are taken by
// another caller. Meanwhile and afterwards, those that wait fetch what was read after the last of `reads` the last time. What a call throws is thrown here.
void runCrew(int64_t threads, c10::function_ref<void(int64_t)> work, c10::ArrayRef<Reads> reads = {});

// work(begin, end) for parts of 0 to `count`, at least `grain` in each, for as many threads as libtorch has.
void crewFor(int64_t count, int64_t grain, c10::function_ref<void(int64_t, int64_t)> work);

}  // namespace minicpm
