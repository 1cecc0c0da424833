#include "core/train/progress.h"

#include <cmath>
#include <cstdlib>
#include <fcntl.h>
#include <limits>
#include <poll.h>
#include <string_view>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/log.h"

namespace neox {
namespace {

using testing::HasSubstr;
using testing::Not;

StepReport report_at(std::int64_t step) {
  StepReport report;
  report.step = step;
  report.total_steps = 2000;
  report.consumed_tokens = 4096 * step;
  report.loss = 3.21434;
  report.lr = 9.8765e-4;
  report.grad_norm = 0.5123;
  report.seconds = 0.1523;
  report.tokens_per_second = 11234;
  report.flops_per_second = 0.4123e12;
  return report;
}

// Columns on a terminal: every character of ours is one column wide; escape sequences are none.
int columns_of(std::string_view text) {
  int columns = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\x1b') {
      i = text.find('m', i);
    } else if ((static_cast<unsigned char>(text[i]) & 0xc0u) != 0x80u) {
      ++columns;
    }
  }
  return columns;
}

TEST(StepLine, HasEveryNumber) {
  StepReport report = report_at(740);
  EXPECT_EQ(step_line(report),
            "step 740/2000 | loss 3.2143 | lr 9.877e-04 | grad norm 0.512 | 152.3 ms | "
            "11.2 K tokens/s | 0.41 TFLOP/s | 3.03 M tokens");
  report.loss_scale = 65536;
  EXPECT_THAT(step_line(report), HasSubstr("| 0.41 TFLOP/s | loss scale 65536 | 3.03 M tokens"));
  report.loss_scale = 0x1p32;
  EXPECT_THAT(step_line(report), HasSubstr("| loss scale 4294967296 |"));
  report.loss_scale = 0.5;
  EXPECT_THAT(step_line(report), HasSubstr("| loss scale 0.5 |"));
  report.peak_flops_per_second = 1e12;
  report.seconds = 12.345;
  EXPECT_THAT(step_line(report), HasSubstr("| 12.35 s |"));
  EXPECT_THAT(step_line(report), HasSubstr("| 0.41 TFLOP/s | MFU 41.2% |"));
}

TEST(ProgressText, LeavesOutTheLeastImportant) {
  StepReport report = report_at(740);
  report.peak_flops_per_second = 1e12;
  const auto text = [&](int columns) {
    return progress_bar(report, 125, {columns, true, false, ""});
  };
  EXPECT_EQ(text(130),
            " 37% ━━━━━━━━━╸────────────────   740/2000  loss  3.214  lr 9.9e-04  norm 0.51  "
            "11.2 K tok/s  0.41 TFLOP/s  MFU 41.2%  ETA   2:05");
  EXPECT_THAT(text(100), Not(HasSubstr("MFU")));
  EXPECT_THAT(text(100), HasSubstr("norm"));
  EXPECT_EQ(text(80),
            " 37% ━━━━────────   740/2000  loss  3.214  lr 9.9e-04  11.2 K tok/s  ETA   2:05");
  EXPECT_EQ(text(60), " 37% ━━━━━━╸───────────   740/2000  loss  3.214  ETA   2:05");
  EXPECT_EQ(text(20), " 37%   740/2000");
  EXPECT_EQ(text(10), " 37%   74");
}

TEST(ProgressText, AlwaysFits) {
  const double numbers[] = {
      0, 1e-30, 1, 12345.678, 1e30, -1, std::numeric_limits<double>::infinity(), std::nan("")};
  for (int columns = 0; columns < 200; ++columns) {
    for (const double number : numbers) {
      for (const bool unicode : {false, true}) {
        StepReport report = report_at(740);
        report.loss = report.lr = report.grad_norm = report.seconds = number;
        report.tokens_per_second = report.flops_per_second = number;
        report.peak_flops_per_second = number;
        for (const auto& line :
             {progress_bar(report, number, {columns, unicode, true, ""}),
              progress_bar(report, number, {columns, unicode, true, "saving"})}) {
          ASSERT_LT(columns_of(line), std::max(columns, 1)) << line;
          ASSERT_EQ(line.find('\n'), std::string::npos);
        }
      }
    }
  }
}

TEST(ProgressText, BarGrows) {
  const auto bar = [](std::int64_t step, bool unicode) {
    const std::string text = progress_bar(report_at(step), -1, {60, unicode, false, ""});
    return text.substr(5, text.find("  ", 5) - 5);
  };
  EXPECT_EQ(bar(0, false), "[----------------]");
  EXPECT_EQ(bar(1000, false), "[========--------]");
  EXPECT_EQ(bar(1999, false), "[===============-]");
  EXPECT_EQ(bar(2000, false), "[================]");
  EXPECT_EQ(bar(3000, false), "[================]");  // a run longer than it says
  EXPECT_EQ(bar(1060, true), "━━━━━━━━━╸────────");
}

TEST(ProgressText, ActivityTakesThePlaceOfTheEta) {
  const std::string text = progress_bar(report_at(740), 125, {80, false, false, "validating"});
  EXPECT_THAT(text, HasSubstr("validating"));
  EXPECT_THAT(text, Not(HasSubstr("ETA")));
  EXPECT_EQ(columns_of(text),
            columns_of(progress_bar(report_at(740), 125, {80, false, false, ""})));
  EXPECT_EQ(progress_bar(StepReport{}, -1, {80, false, false, "validating"}), "validating");
  EXPECT_THAT(progress_bar(report_at(1), -1, {80, false, false, ""}), HasSubstr("ETA  --:--"));
}

/// stderr is a terminal while it lives.
class Terminal {
 public:
  explicit Terminal(unsigned short columns) : saved_(::dup(STDERR_FILENO)) {
    master_ = ::posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    EXPECT_GE(master_, 0);
    EXPECT_EQ(::grantpt(master_) | ::unlockpt(master_), 0);
    const int slave = ::open(::ptsname(master_), O_RDWR | O_NOCTTY);
    winsize size{};
    size.ws_col = columns;
    size.ws_row = 24;
    EXPECT_EQ(::ioctl(slave, TIOCSWINSZ, &size), 0);
    ::dup2(slave, STDERR_FILENO);
    ::close(slave);
    ::setenv("TERM", "xterm", 1);
    ::setenv("LC_ALL", "C.UTF-8", 1);
    ::setenv("NO_COLOR", "1", 1);
  }
  ~Terminal() {
    ::dup2(saved_, STDERR_FILENO);
    ::close(saved_);
    ::close(master_);
  }
  /// What was written since the last call.
  std::string written() const {
    // The kernel hands a terminal's bytes over a little later than they are written.
    constexpr int kQuietMilliseconds = 100;
    std::string text;
    pollfd ready{master_, POLLIN, 0};
    while (::poll(&ready, 1, kQuietMilliseconds) > 0) {
      char part[65536];
      const ssize_t count = ::read(master_, part, sizeof part);
      if (count <= 0) break;
      text.append(part, static_cast<std::size_t>(count));
    }
    return text;
  }

 private:
  int saved_, master_ = -1;
};

TEST(ProgressBar, DrawsInPlaceBelowTheLog) {
  const Terminal terminal(80);
  {
    ProgressBar bar(0, true);
    ASSERT_TRUE(bar.active());
    EXPECT_EQ(terminal.written(), "");
    bar.set_activity("validating");
    EXPECT_EQ(terminal.written(), "\rvalidating\x1b[K");
    bar.set_activity("");
    EXPECT_EQ(terminal.written(), "\r\x1b[K");
    bar.update(report_at(1));
    const std::string first = terminal.written();
    EXPECT_THAT(first, testing::StartsWith("\r  0% "));
    EXPECT_THAT(first, testing::EndsWith("\x1b[K"));
    EXPECT_EQ(first.find('\n'), std::string::npos);

    log_info("a line of the log");
    const std::string logged = terminal.written();
    EXPECT_THAT(logged, testing::StartsWith("\r\x1b[K"));
    EXPECT_THAT(logged, testing::ContainsRegex("a line of the log.*\r\n\r  0% "));

    for (std::int64_t step = 2; step < 2000; ++step) bar.update(report_at(step));
    EXPECT_LT(terminal.written().size(), 5000u) << "2000 steps in no time are not drawn one by one";
    bar.update(report_at(2000));
    EXPECT_THAT(terminal.written(), testing::StartsWith("\r100% "));
  }
  const std::string last = terminal.written();
  EXPECT_THAT(last, HasSubstr("took "));
  EXPECT_THAT(last, testing::EndsWith("\x1b[K\r\n"));
  log_info("afterwards");
  EXPECT_THAT(terminal.written(), Not(HasSubstr("\x1b[K")));
}

TEST(ProgressBar, FollowsTheTerminalsWidth) {
  const Terminal terminal(60);
  ProgressBar bar(0, true);
  bar.update(report_at(1));
  std::string text = terminal.written();
  EXPECT_THAT(text, Not(HasSubstr("tok/s")));
  winsize size{};
  size.ws_col = 120;
  ASSERT_EQ(::ioctl(STDERR_FILENO, TIOCSWINSZ, &size), 0);
  bar.update(report_at(2000));
  EXPECT_THAT(terminal.written(), HasSubstr("tok/s"));
}

TEST(ProgressBar, SaysNothingWithoutATerminal) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar(0, true);
    EXPECT_FALSE(bar.active());
    bar.update(report_at(1));
    bar.set_activity("saving");
    bar.update(report_at(2000));
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressBar, SaysNothingWhenDisabledOrOnADumbTerminal) {
  const Terminal terminal(80);
  {
    ProgressBar bar(0, false);
    bar.update(report_at(2000));
    EXPECT_FALSE(bar.active());
  }
  ::setenv("TERM", "dumb", 1);
  {
    ProgressBar bar(0, true);
    bar.update(report_at(2000));
    EXPECT_FALSE(bar.active());
  }
  EXPECT_EQ(terminal.written(), "");
}

}  // namespace
}  // namespace neox
