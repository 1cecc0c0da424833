#include <gtest/gtest.h>

#include "comm/mpi.h"

namespace neox {
namespace {

TEST(MpiEnvironment, KnowsTheWorldAndTheNode) {
  MpiEnvironment mpi(nullptr, nullptr);  // MPI runs already: the environment must not end it
  EXPECT_EQ(mpi.size(), 2);
  EXPECT_EQ(mpi.local_size(), 2);
  EXPECT_EQ(mpi.local_rank(), mpi.rank());
  EXPECT_FALSE(mpi.host().empty());
  mpi.world().barrier();
}

}  // namespace
}  // namespace neox
