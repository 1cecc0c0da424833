#include "core/parallel/schedule_drawing.h"

#include <algorithm>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string text(const Schedule& s, const PassCosts& costs, const TextDrawing& options) {
  return draw_text(s, simulate(s, costs), options);
}

std::ptrdiff_t count(const std::string& all, const std::string& part) {
  std::ptrdiff_t found = 0;
  for (std::size_t at = all.find(part); at != std::string::npos; at = all.find(part, at + 1)) {
    ++found;
  }
  return found;
}

TEST(ScheduleDrawing, Text) {
  EXPECT_EQ(text(make_schedule(ScheduleKind::one_f_one_b, 2, 1, 2), {1, 1, 1}, {}),
            "stage 0 F0 F1 ...BW0   ...BW1   \n"
            "stage 1 ...F0 B0 W0 F1 B1 W1 ...\n"
            "time    0              5\n"
            "F forward   B backward: input gradient   W backward: weight gradient   "
            "BW backward, both halves   . idle\n");
}

TEST(ScheduleDrawing, ChunksHaveLetters) {
  const std::string chart =
      text(make_schedule(ScheduleKind::interleaved, 2, 2, 2), {1, 1, 1}, {.width = 200});
  EXPECT_THAT(chart, StartsWith("stage 0 F0a F1a F0b F1b "));
  EXPECT_THAT(chart, HasSubstr("a-b chunks"));
}

TEST(ScheduleDrawing, LongChartsGoOnBelowAndFitTheWidth) {
  for (const int width : {60, 80, 100, 133}) {
    for (const int micro_batches : {1, 8, 24, 64}) {
      for (const PassCosts& costs : {PassCosts{1, 1, 1}, {2, 3, 1}, {100, 130, 70}}) {
        const Schedule s = make_schedule(ScheduleKind::zb_h1, 4, 1, micro_batches);
        const std::string chart = text(s, costs, {.width = width});
        EXPECT_LE(count(chart, "time "), 5);
        const std::string rows = chart.substr(0, chart.find("F forward"));
        std::size_t begin = 0;
        for (std::size_t end; (end = rows.find('\n', begin)) != std::string::npos;
             begin = end + 1) {
          EXPECT_LE(end - begin, static_cast<std::size_t>(width))
              << rows.substr(begin, end - begin);
        }
        // Every label is there, or none.
        const bool labelled = chart.find("F0") != std::string::npos;
        for (int i = 0; i < micro_batches && labelled; ++i) {
          EXPECT_THAT(chart, HasSubstr("F" + std::to_string(i)));
        }
      }
    }
  }
}

TEST(ScheduleDrawing, ColoursOnlyOnRequest) {
  const Schedule s = make_schedule(ScheduleKind::gpipe, 2, 1, 2);
  EXPECT_THAT(text(s, {}, {}), Not(HasSubstr("\033[")));
  EXPECT_THAT(text(s, {}, {.colour = true}), HasSubstr("\033[30;48;5;153mF0"));
}

TEST(ScheduleDrawing, Svg) {
  const Schedule s = make_schedule(ScheduleKind::interleaved, 3, 2, 4);
  const std::string image = draw_svg(s, simulate(s, {2, 2, 1}), "a < b & c");
  EXPECT_THAT(image, StartsWith("<svg xmlns="));
  EXPECT_THAT(image, HasSubstr("a &lt; b &amp; c"));
  EXPECT_EQ(count(image, "<svg"), count(image, "</svg>"));
  EXPECT_EQ(count(image, "<text"), count(image, "</text>"));
  EXPECT_EQ(count(image, ">F"), 3 * 2 * 4 + 1);  // every forward, and the legend
  EXPECT_EQ(count(image, ">stage "), 3);
  const Schedule large = make_schedule(ScheduleKind::zb_h1, 64, 1, 1024);
  EXPECT_THROW(draw_svg(large, simulate(large, {}), ""), Error);
}

}  // namespace
}  // namespace neox
