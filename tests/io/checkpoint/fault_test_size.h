#pragma once
// How many cases the fault tests run: a sample by default, all of them with NEOX_FAULT_TESTS=full
// in the environment (minutes).

#include <cstdlib>
#include <string_view>
#include <unistd.h>

namespace neox {

inline bool all_faults() {
  const char* wanted = std::getenv("NEOX_FAULT_TESTS");
  return wanted != nullptr && std::string_view(wanted) == "full";
}

/// Ends the program (SIGALRM) when the block takes longer: a rank that hangs fails the test.
class TimeLimit {
 public:
  explicit TimeLimit(unsigned seconds) { alarm(seconds); }
  ~TimeLimit() { alarm(0); }
  TimeLimit(const TimeLimit&) = delete;
  TimeLimit& operator=(const TimeLimit&) = delete;
};

}  // namespace neox
