// Random bits of a place. A function of a seed and a number (SplitMix64; Steele et al., 2014).
#pragma once
#include <cstdint>

namespace minicpm {

constexpr uint64_t kStep = 0x9e3779b97f4a7c15u, kFirst = 0xbf58476d1ce4e5b9u, kSecond = 0x94d049bb133111ebu;

inline uint64_t randomBits(uint64_t seed, uint64_t place) {
  uint64_t z = seed + (place + 1) * kStep;
  z = (z ^ (z >> 30)) * kFirst;
  z = (z ^ (z >> 27)) * kSecond;
  return z ^ (z >> 31);
}

}  // namespace minicpm
