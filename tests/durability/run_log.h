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
  std::vector<std::int64_t> samples{};  ///< ids, sorted; empty when the run did not log them
};
using StepRecords = std::map<std::int64_t, StepRecord>;

/// Training steps in a metrics.jsonl, and their samples where a samples.jsonl stands beside it; a
/// last line without its end is left out. Fails the test when a step appears twice.
StepRecords read_steps(const std::string& metrics_file);

/// The option by which neox_train logs the samples of every step; empty when it has none.
std::string log_samples();
/// Whether the steps' samples are 0, 1, 2, ... in this order: none lost, none repeated.
bool samples_are_continuous(const StepRecords& steps);

struct Comparison {
  std::int64_t steps = 0;               ///< compared
  std::int64_t steps_with_samples = 0;  ///< of them, those whose samples were compared too
  double worst = 0.0;                   ///< largest relative difference of a loss; infinite for NaN
  std::int64_t worst_step = -1;
  std::string problem;  ///< empty: every step is there, once, with the same position
};
/// `steps` must be first, first + 1, ... and equal `reference` there: position, samples, loss.
Comparison compare_steps(const StepRecords& steps, std::int64_t first,
                         const StepRecords& reference);

/// Every occurrence of `before` in `text`: the digits right after it.
std::vector<std::int64_t> numbers_after(const std::string& text, const std::string& before);

}  // namespace neox::testing
