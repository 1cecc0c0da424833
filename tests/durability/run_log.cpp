#include "tests/durability/run_log.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace neox::testing {

namespace {

/// Whole lines of a file: a kill may cut the last one short.
std::vector<nlohmann::json> json_lines(const std::string& file) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line) && !in.eof();) {
    lines.push_back(nlohmann::json::parse(line));
  }
  return lines;
}

}  // namespace

StepRecords read_steps(const std::string& metrics_file) {
  StepRecords steps;
  for (const auto& line : json_lines(metrics_file)) {
    if (!line.contains("train/lm_loss")) continue;
    const StepRecord record{line.at("train/lm_loss"), line.at("train/consumed_tokens")};
    EXPECT_TRUE(steps.emplace(line.at("step").get<std::int64_t>(), record).second)
        << "step " << line.at("step") << " appears twice in " << metrics_file;
  }
  const auto samples_file = std::filesystem::path(metrics_file).parent_path() / "samples.jsonl";
  for (const auto& line : json_lines(samples_file)) {
    const auto step = steps.find(line.at("step"));
    if (step == steps.end()) continue;
    std::vector<std::int64_t>& samples = step->second.samples;
    EXPECT_TRUE(samples.empty()) << "step " << step->first << " appears twice in " << samples_file;
    for (const auto& rank : line.at("ids")) {
      for (const auto& id : rank) samples.push_back(id);
    }
    std::sort(samples.begin(), samples.end());
  }
  return steps;
}

// Programs before that option was made are tested without it.
std::string log_samples() {
  static const bool known =
      std::system(NEOX_BINARY_DIR
                  "/bin/neox_train --print-config-docs | grep -q '^| `log_samples`'") == 0;
  return known ? "--logging.log_samples true " : "";
}

bool samples_are_continuous(const StepRecords& steps) {
  std::int64_t next = 0;
  for (const auto& [step, record] : steps) {
    for (const std::int64_t id : record.samples) {
      if (id != next++) return false;
    }
    if (record.samples.empty()) return false;
  }
  return true;
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
    if (!record.samples.empty()) {
      if (record.samples != other->second.samples) {
        result.problem = fmt::format("step {} was trained on other samples", step);
        return result;
      }
      ++result.steps_with_samples;
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
