#include "core/train/time_limit.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <system_error>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr double kLargestShareOfMargin = 0.25;

std::int64_t end_from_slurm() {
  const char* text = std::getenv("SLURM_JOB_END_TIME");
  if (text == nullptr || *text == '\0') return 0;
  const std::string_view view(text);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  require(error == std::errc() && end == view.data() + view.size() && value >= 0,
          "the environment variable SLURM_JOB_END_TIME is \"{}\", which is no UNIX time in "
          "seconds; give the job's end as train.job_end (-1: it has none)",
          view);
  return value;
}

}  // namespace

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

TimeLimit::TimeLimit(double end, double margin, double now) : end_(end), margin_(margin) {
  if (!unlimited()) {
    margin_ = std::clamp((end - now) * kLargestShareOfMargin, 0.0, std::max(margin, 0.0));
  }
}

bool TimeLimit::reached(double now, double save_seconds) {
  if (last_call_ >= 0) longest_round_ = std::max(longest_round_, now - last_call_);
  last_call_ = now;
  return !unlimited() && now + longest_round_ + save_seconds + margin_ >= end_;
}

TimeLimit time_limit_of(const TrainConfig& config) {
  const std::int64_t end = config.job_end == 0 ? end_from_slurm() : config.job_end;
  return {static_cast<double>(std::max<std::int64_t>(end, 0)), config.exit_margin, unix_seconds()};
}

}  // namespace neox
