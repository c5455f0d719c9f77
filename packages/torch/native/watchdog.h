// What the watchdog (watchdog.cc) tells of this process. Cheap; without a watchdog nothing happens.
#pragma once
#include <string>

namespace minicpm {

// The operation of the group that is under way.
void watchOperation(const std::string& label);

// While it lives, this process waits for the operation under way.
class Waiting {
 public:
  Waiting();
  ~Waiting();
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
};

}  // namespace minicpm
