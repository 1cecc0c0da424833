#include "core/train/progress.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <string_view>
#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

#include "core/base/format.h"
#include "core/base/log.h"

namespace neox {
namespace {

constexpr std::chrono::milliseconds kRedrawInterval{50};
constexpr std::string_view kClearLine = "\r\x1b[K";

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Where stderr is shown: itself, or, below mpirun on the same node, mpirun's stderr, into which it
// copies ours. -1: not on a terminal that can redraw a line.
int find_terminal() {
  const std::string type = environment("TERM");
  if (type.empty() || type == "dumb") return -1;
  if (::isatty(STDERR_FILENO) == 1) return ::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  const std::string parent = fmt::format("/proc/{}", ::getppid());
  std::string name;
  std::getline(std::ifstream(parent + "/comm"), name);
  static constexpr std::array kLaunchers = {"mpirun", "mpiexec", "orterun", "prterun"};
  if (std::none_of(kLaunchers.begin(), kLaunchers.end(),
                   [&](const char* launcher) { return name.starts_with(launcher); })) {
    return -1;
  }
  const int fd = ::open((parent + "/fd/2").c_str(), O_RDONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd >= 0 && ::isatty(fd) == 1) return fd;
  if (fd >= 0) ::close(fd);
  return -1;
}

bool locale_is_utf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const std::string value = environment(name);
    if (value.empty()) continue;
    return value.find("UTF-8") != std::string::npos || value.find("utf8") != std::string::npos;
  }
  return false;
}

void print(std::string_view text) {
  // A terminal that went away is no reason to stop training.
  if (::write(STDERR_FILENO, text.data(), text.size()) < 0) return;
}

ProgressBar* shown = nullptr;  // set before the interlude is installed, cleared after it is removed

}  // namespace

void ProgressBar::clear_before_log_lines() {
  const int terminal = find_terminal();
  if (terminal < 0) return;
  ::close(terminal);
  set_log_interlude([] { print(kClearLine); }, nullptr);
}

ProgressBar::ProgressBar(std::int64_t first_step, bool enabled) {
  report_.step = first_step;
  if (enabled) terminal_ = find_terminal();
  if (terminal_ < 0) return;
  unicode_ = locale_is_utf8();
  color_ = environment("NO_COLOR").empty();  // https://no-color.org
  shown = this;
  set_log_interlude(
      [] {
        const std::lock_guard lock(shown->mutex_);
        shown->clear();
      },
      [] {
        const std::lock_guard lock(shown->mutex_);
        shown->draw();
      });
}

ProgressBar::~ProgressBar() {
  if (terminal_ < 0) return;
  set_log_interlude(nullptr, nullptr);
  shown = nullptr;
  if (report_.total_steps > 0 && report_.step >= report_.total_steps) {
    const std::chrono::duration<double> took = Clock::now() - start_;
    activity_ = "took " + format_duration(took.count());
  }
  draw();
  if (drawn_) print("\n");
  ::close(terminal_);
}

void ProgressBar::update(const StepReport& report) {
  if (terminal_ < 0) return;
  const std::lock_guard lock(mutex_);
  const auto now = Clock::now();
  const bool first = first_report_step_ < 0, last = report.step >= report.total_steps;
  if (first) {
    first_report_step_ = report.step;
    first_report_ = now;
  }
  report_ = report;
  if (first || last || now - last_draw_ >= kRedrawInterval) draw();
}

void ProgressBar::set_activity(const std::string& activity) {
  if (terminal_ < 0) return;
  const std::lock_guard lock(mutex_);
  activity_ = activity;
  draw();
}

void ProgressBar::clear() {
  if (drawn_) print(kClearLine);
  drawn_ = false;
}

void ProgressBar::draw() {
  last_draw_ = Clock::now();
  winsize size{};
  const bool known = ::ioctl(terminal_, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  const std::string line =
      progress_bar(report_, eta_seconds(), {known ? size.ws_col : 80, unicode_, color_, activity_});
  if (line.empty()) return clear();
  print("\r" + line + "\x1b[K");
  drawn_ = true;
}

// The mean over this process's steps, validation and checkpoints between them included.
double ProgressBar::eta_seconds() const {
  if (first_report_step_ < 0) return -1;
  const auto steps = static_cast<double>(report_.step - first_report_step_);
  const std::chrono::duration<double> elapsed = last_draw_ - first_report_;
  const double per_step = steps > 0 ? elapsed.count() / steps : report_.seconds;
  return per_step * static_cast<double>(report_.total_steps - report_.step);
}

}  // namespace neox
