#include "core/base/log.h"

#include <memory>
#include <mutex>

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include "core/base/error.h"

namespace neox {
namespace {

struct LogState {
  std::mutex mutex;
  int rank = 0;
  void (*before)() = nullptr;
  void (*after)() = nullptr;
  // stderr: standard output belongs to the programs' results.
  std::shared_ptr<spdlog::sinks::stderr_color_sink_mt> console =
      std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
  spdlog::logger logger{"neox", console};

  LogState() {
    logger.set_pattern("[%H:%M:%S] %^%v%$");
    logger.flush_on(spdlog::level::info);
  }
};

LogState& state() {
  static LogState instance;
  return instance;
}

spdlog::level::level_enum to_spdlog(LogLevel level) {
  switch (level) {
    case LogLevel::debug:
      return spdlog::level::debug;
    case LogLevel::info:
      return spdlog::level::info;
    case LogLevel::warning:
      return spdlog::level::warn;
    case LogLevel::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void set_log_rank(int rank, int world_size) {
  auto& s = state();
  s.rank = rank;
  if (rank != 0) s.logger.set_level(spdlog::level::warn);
  if (world_size > 1) s.logger.set_pattern(fmt::format("[%H:%M:%S] [rank {}] %^%v%$", rank));
}

void set_log_level(LogLevel level) {
  if (state().rank == 0) state().logger.set_level(to_spdlog(level));
}

void add_log_file(const std::string& path) {
  auto& sinks = state().logger.sinks();
  if (sinks.size() > 1) sinks.resize(1);
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(path);
    sink->set_pattern("[%Y-%m-%d %H:%M:%S] [%l] %v");
    sinks.push_back(sink);
  } catch (const spdlog::spdlog_ex& e) {
    fail("cannot open the log file {}: {}", path, e.what());
  }
}

void log_line(LogLevel level, std::string_view text) {
  auto& s = state();
  const auto spd_level = to_spdlog(level);
  if (!s.logger.should_log(spd_level)) return;
  const std::lock_guard lock(s.mutex);
  if (s.before) s.before();
  const char* mark = level == LogLevel::warning ? "warning: "
                     : level == LogLevel::error ? "error: "
                                                : "";
  s.logger.log(spd_level, "{}{}", mark, text);
  if (s.after) s.after();
}

void log_file_only(std::string_view text) {
  auto& s = state();
  const std::lock_guard lock(s.mutex);
  for (std::size_t i = 1; i < s.logger.sinks().size(); ++i) {
    s.logger.sinks()[i]->log(spdlog::details::log_msg("neox", spdlog::level::info, text));
    s.logger.sinks()[i]->flush();
  }
}

void set_log_interlude(void (*before)(), void (*after)()) {
  auto& s = state();
  const std::lock_guard lock(s.mutex);
  s.before = before;
  s.after = after;
}

}  // namespace neox
