#include "core/base/trace.h"

#include <string>

#include <gtest/gtest.h>

namespace neox::trace {
namespace {

std::string& seen() {
  static std::string text;
  return text;
}

constexpr Sink kSink{[](std::string_view name, std::int64_t number) {
                       seen() += "<" + std::string(name) +
                                 (number < 0 ? "" : " " + std::to_string(number));
                     },
                     [] { seen() += ">"; }};

TEST(TraceRange, GoesNowhereUnlessShown) {
  { const Range range("silent"); }
  EXPECT_EQ(seen(), "");
  show_in(&kSink);
  {
    const Range step("step", 7);
    { const Range inner("optimizer"); }
    show_in(nullptr);  // a range that is open closes where it was opened
    { const Range silent("silent"); }
  }
  EXPECT_EQ(seen(), "<step 7<optimizer>>");
}

}  // namespace
}  // namespace neox::trace
