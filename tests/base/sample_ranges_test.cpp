#include "core/base/sample_ranges.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::string error_of(const std::string& word) {
  try {
    parse_sample_ranges(std::vector{word});
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(SampleRanges, Parse) {
  EXPECT_THAT(parse_sample_ranges(std::vector<std::string>{"100-199", "5-5", "0-0"}),
              ElementsAre(SampleRange{100, 199}, SampleRange{5, 5}, SampleRange{0, 0}));
  EXPECT_THAT(parse_sample_ranges({}), IsEmpty());
}

TEST(SampleRanges, WhatIsNoRangeIsRefused) {
  for (const char* word :
       {"", "7", "-", "7-", "-7", "-5-9", "5--9", "5-+9", "a-b", "5-9x", "5-9-12", "5 - 9", "1.5-2",
        "99999999999999999999-1", "1-99999999999999999999"}) {
    EXPECT_EQ(error_of(word),
              fmt::format("'{}' is no range; expected first-last, two whole numbers from 0 on, as "
                          "in 1000-1999",
                          word));
  }
  EXPECT_EQ(error_of("9-5"), "'9-5' ends before it begins; expected 5-9");
  EXPECT_THAT(error_of("0-2000000000000000"), HasSubstr("goes beyond sample 1000000000000000"));
}

TEST(SampleRanges, MergedTouchNorOverlap) {
  EXPECT_THAT(merged({{20, 29}, {5, 9}, {10, 12}, {25, 26}, {14, 15}, {5, 6}}),
              ElementsAre(SampleRange{5, 12}, SampleRange{14, 15}, SampleRange{20, 29}));
  EXPECT_THAT(merged({}), IsEmpty());
}

TEST(SampleRanges, TextIsReadBack) {
  const std::vector<SampleRange> ranges = {{0, 3}, {100, 100}, {1000, 123456789012}};
  EXPECT_EQ(text_of(ranges), "0-3, 100-100, 1000-123456789012");
  EXPECT_EQ(read_sample_ranges(text_of(ranges)), ranges);
  EXPECT_THAT(read_sample_ranges(""), IsEmpty());
  EXPECT_THROW(read_sample_ranges("0-3; 4-5"), Error);
}

}  // namespace
}  // namespace neox
