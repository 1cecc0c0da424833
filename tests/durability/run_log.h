#pragma once
// What a run's metrics say, and whether two runs did the same.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace neox::testing {

struct StepRecord {
  double loss = 0.0;
  double consumed_tokens = 0.0;
};
using StepRecords = std::map<std::int64_t, StepRecord>;

/// Training steps in a metrics.jsonl; a last line without its end is left out. Fails the test when
/// a step appears twice.
StepRecords read_steps(const std::string& metrics_file);

struct Comparison {
  std::int64_t steps = 0;  ///< compared
  double worst = 0.0;      ///< largest relative difference of a loss; infinite for NaN
  std::int64_t worst_step = -1;
  std::string problem;  ///< empty: every step is there, once, with the same position
};
/// `steps` must be first, first + 1, ... and equal `reference` there.
Comparison compare_steps(const StepRecords& steps, std::int64_t first,
                         const StepRecords& reference);

/// Every occurrence of `before` in `text`: the digits right after it.
std::vector<std::int64_t> numbers_after(const std::string& text, const std::string& before);

}  // namespace neox::testing
