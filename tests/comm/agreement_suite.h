#pragma once
// check_equal with as many ranks as the program was started with.

#include <functional>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/agreement.h"
#include "comm/host_name.h"
#include "comm/mpi.h"

namespace neox {

class AgreementTest : public ::testing::Test {
 protected:
  /// The error, which must be the same on all ranks; empty when all agreed.
  std::string compare(const std::vector<Fact>& facts) const {
    std::string message;
    try {
      check_equal(*group_, facts);
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_THAT(group_->host_all_gather(message), ::testing::Each(message));
    return message;
  }
  static std::vector<Fact> facts(const std::string& version, const std::string& config) {
    return {{"program version", version, "install one version everywhere"},
            {"configuration", config, "start all ranks with the same command"}};
  }

  std::unique_ptr<Communicator> group_ = make_world_communicator();
  int rank = group_->rank(), size = group_->size();
};

TEST_F(AgreementTest, EqualFactsAgree) {
  EXPECT_EQ(compare({}), "");
  EXPECT_EQ(compare(facts("1.0", "a=1\nb=2\n")), "");
}

TEST_F(AgreementTest, TheOneThatDiffersIsNamedWithItsFirstLine) {
  for (int odd = 0; odd < size; ++odd) {
    const bool me = rank == odd;
    const std::string message = compare(facts("1.0", me ? "a=1\nb=3\nc=5\n" : "a=1\nb=2\nc=4\n"));
    if (size == 1) {
      EXPECT_EQ(message, "");
    } else {
      // Two ranks have no majority: the higher one is said to differ.
      const bool tie = size == 2;
      const int named = tie ? 1 : odd;
      const std::string theirs = named == odd ? "b=3" : "b=2", ours = named == odd ? "b=2" : "b=3";
      EXPECT_EQ(message,
                fmt::format("rank {} ({}) differs from the others in the configuration: it has "
                            "'{}' where rank {} ({}) has '{}'; start all ranks with the same "
                            "command",
                            named, host_name(), theirs, named == 0 ? 1 : 0, host_name(), ours));
    }
  }
}

TEST_F(AgreementTest, TheFirstFactThatDiffersIsShown) {
  if (size == 1) return;
  const bool last = rank == size - 1;
  EXPECT_THAT(compare(facts(last ? "1.1" : "1.0", last ? "x" : "y")),
              ::testing::HasSubstr("in the program version: it has '1.1' where rank 0 "));
  EXPECT_THAT(compare(facts("1.0", last ? "a=1\nb=2\n" : "a=1\n")),
              ::testing::HasSubstr("it has 'b=2' where rank 0 "));
  EXPECT_THAT(compare(facts("1.0", last ? "a=1\n" : "a=1")), ::testing::HasSubstr("configuration"));
}

TEST_F(AgreementTest, ListsOfDifferentLengthAreNoticed) {
  if (size == 1) return;
  auto list = facts("1.0", "a=1\n");
  if (rank == size - 1) list.pop_back();
  EXPECT_THAT(compare(list), ::testing::HasSubstr("number of things to compare: it has '1'"));
}

TEST_F(AgreementTest, SeveralThatDifferAreListed) {
  if (size != 4) return;
  EXPECT_THAT(compare(facts("1.0", rank == 3   ? "x"
                                   : rank == 0 ? "y"
                                               : "z")),
              ::testing::AllOf(::testing::HasSubstr("ranks 0, 3 ("),
                               ::testing::HasSubstr("rank 0 has 'y' where rank 1 ")));
  EXPECT_THAT(compare(facts("1.0", rank == 0 ? "x" : fmt::format("{}", rank))),
              ::testing::HasSubstr("ranks 1-3 ("));
}

}  // namespace neox
