// ZeRO stages on four ranks: data-parallel all, or two by two beside another kind of group.
#include <gtest/gtest.h>

#include "comm/mpi.h"
#include "tests/parallel/fake_model.h"

namespace neox::testing {
namespace {

class Zero4 : public ::testing::Test {
 protected:
  std::unique_ptr<Communicator> world = make_world_communicator();
  std::unique_ptr<Communicator> alone = make_self_communicator();
  std::unique_ptr<Communicator> model = world->split(
      [](int r) {
        return SplitPlace{r / 2, r};
      },
      "pair");
  std::unique_ptr<Communicator> data = world->split(
      [](int r) {
        return SplitPlace{r % 2, r};
      },
      "data");
};

TEST_F(Zero4, StagesEqualTheOracle) {
  FakeCase what;
  what.micro_batches = 2;
  for (const bool tied : {false, true}) {
    what.tied = tied;
    expect_all_stages(what, *world, *world, *alone);
  }
}

TEST_F(Zero4, TensorGroupsSumWhatTheyHoldAlike) {
  FakeCase what;
  what.beside = Beside::tensor;
  for (const std::int64_t micro_batches : {1, 2}) {
    what.micro_batches = micro_batches;
    what.tied = micro_batches == 2;
    expect_all_stages(what, *world, *data, *model);
  }
}

TEST_F(Zero4, SharedKeyValueHeadsAreSummed) {
  FakeCase what;
  what.beside = Beside::key_value;
  what.micro_batches = 2;
  what.compute = DType::bf16;
  expect_all_stages(what, *world, *data, *model);
}

TEST_F(Zero4, TiedTablesOfTwoStagesAreSummed) {
  FakeCase what;
  what.beside = Beside::embedding;
  for (const std::int64_t elements : {128, 1000}) {
    what.bucket_elements = elements;
    what.micro_batches = 2;
    expect_all_stages(what, *world, *data, *model);
  }
}

TEST_F(Zero4, SumsWithoutDataParallelism) {
  FakeCase what;
  what.beside = Beside::tensor;
  what.micro_batches = 2;
  expect_all_stages(what, *model, *alone, *model);
}

}  // namespace
}  // namespace neox::testing
