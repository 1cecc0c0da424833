#include "tests/comm/communicator_suite.h"
#include "tests/comm/heap_count.h"

namespace neox {
namespace {

TEST_F(CommunicatorTest, SteadyStateAllocatesNothing) {
  OwnedTensor sum({300000}, DType::bf16), part({100}, DType::f32), whole({200}, DType::f32);
  const auto step = [&] {
    std::array<Work, 4> works = {
        group.all_reduce(sum, ReduceOp::max, stream), group.all_gather(part, whole, stream),
        rank == 0 ? group.send(part, 1, stream) : group.recv(part, 0, stream),
        group.reduce_scatter(whole, part, ReduceOp::max, stream)};
    for (const Work& work : works) work.wait(stream);
  };
  for (int i = 0; i < 5; ++i) step();
  const std::int64_t before = heap_calls();
  for (int i = 0; i < 50; ++i) step();
  EXPECT_EQ(heap_calls(), before);
}

}  // namespace
}  // namespace neox
