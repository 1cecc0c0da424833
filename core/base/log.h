#pragma once
// Logging: one console logger, rank-aware. Rank 0 speaks; other ranks only warn and fail.

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace neox {

enum class LogLevel { debug, info, warning, error };

/// Sets this process's rank: ranks other than 0 print warnings and errors only, with their rank.
void set_log_rank(int rank, int world_size);
/// Lowest level printed by rank 0 (default info).
void set_log_level(LogLevel level);
/// Also appends every line to this file (rank 0's log file; one at a time). Throws Error when it
/// can't be opened.
void add_log_file(const std::string& path);

void log_line(LogLevel level, std::string_view text);
/// To the log file alone: lines that the terminal shows in another form.
void log_file_only(std::string_view text);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

/// Called before a line is written to the terminal and after it: the progress bar clears and
/// redraws itself there. Pass empty functions to remove.
void set_log_interlude(void (*before)(), void (*after)());

}  // namespace neox
