#include <algorithm>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "core/base/format.h"
#include "core/train/progress.h"

namespace neox {
namespace {

constexpr int kMinBar = 8, kMaxBar = 40;
constexpr std::string_view kBold = "\x1b[1m", kDim = "\x1b[90m", kGreen = "\x1b[32m",
                           kCyan = "\x1b[36m", kYellow = "\x1b[33m", kReset = "\x1b[0m";

std::string tera_flops(double flops) {
  const double tera = flops / 1e12;
  return fmt::format("{:.{}f} TFLOP/s", tera, tera < 0.1 ? 3 : tera < 10 ? 2 : tera < 100 ? 1 : 0);
}

struct Field {
  std::string_view label;
  std::string value;
  std::string_view color;
  int importance;  // the least important is left out first
  int width() const {
    return static_cast<int>(label.size() + (label.empty() ? 0 : 1) + value.size()) + 2;
  }
};

// In the order of display. Values are padded so that the line doesn't jitter.
std::vector<Field> make_fields(const StepReport& r, double eta_seconds,
                               const std::string& activity) {
  const std::string total = fmt::format("{}", r.total_steps);
  std::vector<Field> fields = {
      {"", fmt::format("{:>{}}/{}", r.step, total.size(), total), "", 9},
      {"loss", fmt::format("{:6.3f}", r.loss), kBold, 8},
      {"lr", fmt::format("{:.1e}", r.lr), "", 5},
      {"norm", fmt::format("{:4.{}f}", r.grad_norm, r.grad_norm < 100 ? 2 : 0), "", 4},
      {"", fmt::format("{:>6} tok/s", format_count(r.tokens_per_second)), "", 6},
      {"", tera_flops(r.flops_per_second), "", 3}};
  if (r.peak_flops_per_second > 0) {
    const double mfu = 100 * r.flops_per_second / r.peak_flops_per_second;
    fields.push_back({"MFU", fmt::format("{:4.1f}%", mfu), "", 2});
  }
  // One width for both, so that the others stay where they are.
  if (!activity.empty()) {
    fields.push_back({"", fmt::format("{:<10}", activity), kYellow, 7});
  } else {
    const std::string eta = eta_seconds < 0 ? "--:--" : format_duration(std::max(1.0, eta_seconds));
    fields.push_back({"ETA", fmt::format("{:>6}", eta), kCyan, 7});
  }
  return fields;
}

std::string painted(std::string_view text, std::string_view color, bool enabled) {
  if (!enabled || color.empty()) return std::string(text);
  return fmt::format("{}{}{}", color, text, kReset);
}

std::string repeat(std::string_view piece, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += piece;
  return text;
}

// `width` columns, filled to `done` of 1; with Unicode in half columns.
std::string bar_itself(double done, int width, const BarStyle& style) {
  if (!style.unicode) {
    const int full = static_cast<int>(done * (width - 2));
    return '[' + repeat("=", full) + repeat("-", width - 2 - full) + ']';
  }
  const int halves = static_cast<int>(done * width * 2);
  const int full = halves / 2, half = halves % 2;
  const std::string rest = repeat(style.color ? "━" : "─", width - full - half);
  return painted(repeat("━", full) + (half != 0 ? "╸" : ""), kGreen, style.color) +
         painted(rest, kDim, style.color);
}

}  // namespace

std::string step_line(const StepReport& r) {
  std::string line =
      fmt::format("step {}/{} | loss {:.4f} | lr {:.3e} | grad norm {:.3f} | {} | {} tokens/s | {}",
                  r.step, r.total_steps, r.loss, r.lr, r.grad_norm,
                  r.seconds < 1 ? fmt::format("{:.1f} ms", r.seconds * 1e3)
                                : fmt::format("{:.2f} s", r.seconds),
                  format_count(r.tokens_per_second), tera_flops(r.flops_per_second));
  if (r.peak_flops_per_second > 0) {
    line += fmt::format(" | MFU {:.1f}%", 100 * r.flops_per_second / r.peak_flops_per_second);
  }
  if (r.loss_scale > 0) line += fmt::format(" | loss scale {}", r.loss_scale);
  return line + fmt::format(" | {} tokens", format_count(static_cast<double>(r.consumed_tokens)));
}

std::string progress_bar(const StepReport& report, double eta_seconds, const BarStyle& style) {
  const int width = std::max(0, style.columns - 1);  // the last column would wrap
  if (report.total_steps <= 0) {
    const auto text = std::string_view(style.activity).substr(0, static_cast<std::size_t>(width));
    return painted(text, kYellow, style.color);
  }
  const double done = std::clamp(
      static_cast<double>(report.step) / static_cast<double>(report.total_steps), 0.0, 1.0);
  const std::string percent = fmt::format("{:3}%", static_cast<int>(done * 100));
  std::vector<Field> fields = make_fields(report, eta_seconds, style.activity);
  const auto used = [&] {
    int sum = static_cast<int>(percent.size());
    for (const auto& field : fields) sum += field.width();
    return sum;
  };
  const auto less = [](const Field& a, const Field& b) { return a.importance < b.importance; };
  while (fields.size() > 1 && used() + 1 + kMinBar > width) {
    fields.erase(std::min_element(fields.begin(), fields.end(), less));
  }
  const int room = width - used() - 1;
  if (room < kMinBar) {  // narrower than anyone's terminal: text alone
    return (percent + "  " + fields.front().value).substr(0, static_cast<std::size_t>(width));
  }
  std::string line =
      painted(percent, kBold, style.color) + ' ' + bar_itself(done, std::min(room, kMaxBar), style);
  for (const auto& field : fields) {
    line += "  ";
    if (!field.label.empty()) line += painted(field.label, kDim, style.color) + ' ';
    line += painted(field.value, field.color, style.color);
  }
  return line;
}

}  // namespace neox
