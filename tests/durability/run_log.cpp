#include "tests/durability/run_log.h"

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace neox::testing {

StepRecords read_steps(const std::string& metrics_file) {
  StepRecords steps;
  std::ifstream in(metrics_file);
  for (std::string line; std::getline(in, line);) {
    if (in.eof()) break;  // cut short by a kill
    const auto json = nlohmann::json::parse(line);
    if (!json.contains("train/lm_loss")) continue;
    const StepRecord record{json.at("train/lm_loss"), json.at("train/consumed_tokens")};
    EXPECT_TRUE(steps.emplace(json.at("step").get<std::int64_t>(), record).second)
        << "step " << json.at("step") << " appears twice in " << metrics_file;
  }
  return steps;
}

Comparison compare_steps(const StepRecords& steps, std::int64_t first,
                         const StepRecords& reference) {
  Comparison result;
  std::int64_t expected = first;
  for (auto it = steps.lower_bound(first); it != steps.end(); ++it, ++expected) {
    const auto& [step, record] = *it;
    const auto other = reference.find(step);
    if (step != expected || other == reference.end()) {
      result.problem = fmt::format("step {} is logged where step {} should be", step, expected);
      return result;
    }
    if (record.consumed_tokens != other->second.consumed_tokens) {
      result.problem = fmt::format("step {} ends at token {} instead of {}", step,
                                   record.consumed_tokens, other->second.consumed_tokens);
      return result;
    }
    double difference = std::abs(record.loss - other->second.loss) / std::abs(other->second.loss);
    if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
    if (difference > result.worst) {
      result.worst = difference;
      result.worst_step = step;
    }
    ++result.steps;
  }
  return result;
}

std::vector<std::int64_t> numbers_after(const std::string& text, const std::string& before) {
  std::vector<std::int64_t> numbers;
  for (std::size_t at = 0; (at = text.find(before, at)) != std::string::npos;) {
    at += before.size();
    numbers.push_back(std::strtoll(text.c_str() + at, nullptr, 10));
  }
  return numbers;
}

}  // namespace neox::testing
