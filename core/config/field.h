#pragma once
// From a pointer to member to an option's Field; for options_*.cpp only.

#include <algorithm>
#include <cstddef>

#include "core/base/error.h"
#include "core/config/option.h"

namespace neox::detail {

inline ModelConfig& part(Config& c, ModelConfig*) {
  return c.model;
}
inline ParallelConfig& part(Config& c, ParallelConfig*) {
  return c.parallel;
}
inline PrecisionConfig& part(Config& c, PrecisionConfig*) {
  return c.precision;
}
inline BatchConfig& part(Config& c, BatchConfig*) {
  return c.batch;
}
inline OptimizerConfig& part(Config& c, OptimizerConfig*) {
  return c.optimizer;
}
inline ScheduleConfig& part(Config& c, ScheduleConfig*) {
  return c.schedule;
}
inline TrainConfig& part(Config& c, TrainConfig*) {
  return c.train;
}
inline DataConfig& part(Config& c, DataConfig*) {
  return c.data;
}
inline SystemConfig& part(Config& c, SystemConfig*) {
  return c.system;
}
inline TokenizerConfig& part(Config& c, TokenizerConfig*) {
  return c.tokenizer;
}
inline CheckpointConfig& part(Config& c, CheckpointConfig*) {
  return c.checkpoint;
}
inline GuardsConfig& part(Config& c, GuardsConfig*) {
  return c.guards;
}
inline LoggingConfig& part(Config& c, LoggingConfig*) {
  return c.logging;
}
inline GenerateConfig& part(Config& c, GenerateConfig*) {
  return c.generate;
}

template <auto Member>
struct Access;
template <class S, class T, T S::*Member>
struct Access<Member> {
  static T& get(Config& c) { return part(c, static_cast<S*>(nullptr)).*Member; }
};

/// A field of one of the supported types.
template <auto Member>
Field at() {
  return &Access<Member>::get;
}

/// An enum whose enumerator i is spelled words[i].word.
template <auto Member, const auto& words>
Field enum_at() {
  constexpr auto get = [](const Config& c) -> std::string_view {
    const auto i = static_cast<std::size_t>(Access<Member>::get(const_cast<Config&>(c)));
    require(i < std::size(words), "no option value stands for enumerator {}", i);
    return words[i].word;
  };
  constexpr auto set = [](Config& c, std::string_view word) {
    auto& field = Access<Member>::get(c);
    const auto found = std::find_if(std::begin(words), std::end(words),
                                    [&](const Choice& w) { return w.word == word; });
    field = static_cast<std::remove_reference_t<decltype(field)>>(found - std::begin(words));
  };
  return WordField{get, set};
}

inline constexpr Range kPositive{.min = 0, .above_min = true};
inline constexpr Range kNotNegative{.min = 0};
inline constexpr Range kFraction{.min = 0, .max = 1};
/// A count; the upper end keeps every product of sizes inside 64 bits.
constexpr Range count(double min, double max = 1e9) {
  return {.min = min, .max = max};
}

}  // namespace neox::detail
