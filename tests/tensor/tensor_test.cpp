#include "core/tensor/tensor.h"

#include <gtest/gtest.h>

#include "core/tensor/arena.h"
#include "core/tensor/shard.h"

namespace neox {
namespace {

TEST(Tensor, ViewsShareMemoryAndCheckTheirShape) {
  OwnedTensor owned({4, 3}, DType::f32);
  for (int i = 0; i < 12; ++i) owned.tensor.ptr<float>()[i] = static_cast<float>(i);
  const Tensor row = owned.tensor.slice(2, 3);
  EXPECT_EQ(row.ptr<float>()[0], 6.0f);
  EXPECT_EQ(owned.tensor.reshape({2, 6}).shape.str(), "[2, 6]");
  EXPECT_THROW(owned.tensor.reshape({5}), Error);
  EXPECT_THROW(owned.tensor.ptr<int>(), Error);
  EXPECT_THROW(owned.tensor.slice(3, 5), Error);
  EXPECT_FALSE(Tensor{});
}

TEST(Buffer, AllocationsAreCounted) {
  const auto before = allocation_counts();
  {
    Buffer a(1000, {});
    EXPECT_EQ(allocation_counts().calls, before.calls + 1);
    EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live + 1000);
    Buffer b = std::move(a);
    EXPECT_EQ(a.data(), nullptr);  // NOLINT: moved-from on purpose
  }
  EXPECT_EQ(allocation_counts().bytes_live, before.bytes_live);
}

TEST(Buffer, PinnedMemoryIsHostMemoryAndCounted) {
  const auto before = allocation_counts(MemoryOwner::backend);
  {
    Buffer a = Buffer::pinned(1000, Device{}, MemoryOwner::backend);
    EXPECT_EQ(allocation_counts(MemoryOwner::backend).calls, before.calls + 1);
    EXPECT_EQ(allocation_counts(MemoryOwner::backend).bytes_live, before.bytes_live + 1000);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 256, 0u);
    a.view({250}, DType::f32).ptr<float>()[249] = 1.0f;  // a host tensor
    Buffer b = std::move(a);
    EXPECT_EQ(a.data(), nullptr);  // NOLINT: moved-from on purpose
    Buffer c(10, {}, MemoryOwner::run);
    c = std::move(b);
    EXPECT_EQ(c.view({250}, DType::f32).ptr<float>()[249], 1.0f);
    EXPECT_THROW(c.view({251}, DType::f32), Error);
  }
  EXPECT_EQ(allocation_counts(MemoryOwner::backend).bytes_live, before.bytes_live);
}

TEST(Arena, MeasuresThenHandsOutTheSameOffsets) {
  Arena arena{Device{}};
  const auto pass = [&] {
    const std::size_t mark = arena.mark();
    const Tensor kept = arena.take({100}, DType::f32);
    std::byte* inner = nullptr;
    {
      ArenaScope scope(arena);
      inner = arena.take({1000}, DType::bf16).data;
    }
    const Tensor reused = arena.take({10}, DType::f32);
    EXPECT_EQ(reused.data, inner);
    arena.release(mark);
    return kept;
  };
  EXPECT_EQ(pass().data, nullptr);
  EXPECT_EQ(arena.high_water(), 512u + 2048u);
  arena.commit();
  const auto calls = allocation_counts().calls;
  EXPECT_NE(pass().data, nullptr);
  EXPECT_EQ(allocation_counts().calls, calls);
  EXPECT_THROW(arena.take({10000}, DType::f32), Error);
}

TEST(Slice, Intersection) {
  const Slice a{{0, 4}, {8, 4}}, b{{6, 0}, {4, 6}};
  const auto both = intersect(a, b);
  ASSERT_TRUE(both);
  EXPECT_EQ(both->offset, (Shape{6, 4}));
  EXPECT_EQ(both->extent, (Shape{2, 2}));
  EXPECT_FALSE(intersect(a, Slice{{8, 0}, {1, 8}}));
}

TEST(DryRun, TakesNoMemoryButKeepsToTheMeasure) {
  const auto calls = allocation_counts().calls;
  const OwnedTensor tensor({1 << 20, 1 << 20}, DType::f32, {}, true);
  EXPECT_EQ(tensor.tensor.data, nullptr);
  EXPECT_EQ(tensor.tensor.bytes(), std::size_t{1} << 42);
  Arena arena(Device{}, true);
  arena.take({1 << 20, 1 << 20}, DType::f32);
  arena.release(0);
  arena.commit();
  EXPECT_EQ(arena.take({1 << 20, 1 << 20}, DType::f32).data, nullptr);
  EXPECT_THROW(arena.take({1}, DType::f32), Error);
  EXPECT_EQ(allocation_counts().calls, calls);
}

TEST(Allocations, AreCountedByOwner) {
  restart_allocation_peaks();
  const auto run = allocation_counts(MemoryOwner::run);
  const auto backend = allocation_counts(MemoryOwner::backend);
  const auto all = allocation_counts();
  {
    const Buffer mine(1000, Device{});
    Buffer theirs(500, Device{}, MemoryOwner::backend);
    const Buffer moved = std::move(theirs);
  }
  { const Buffer mine(200, Device{}); }
  EXPECT_EQ(allocation_counts(MemoryOwner::run).bytes_peak, run.bytes_live + 1000);
  EXPECT_EQ(allocation_counts(MemoryOwner::backend).bytes_peak, backend.bytes_live + 500);
  EXPECT_EQ(allocation_counts().bytes_peak, all.bytes_live + 1500);
  EXPECT_EQ(allocation_counts(MemoryOwner::run).bytes_live, run.bytes_live);
  EXPECT_EQ(allocation_counts(MemoryOwner::backend).bytes_live, backend.bytes_live);
  restart_allocation_peaks();
  EXPECT_EQ(allocation_counts().bytes_peak, all.bytes_live);
}

}  // namespace
}  // namespace neox
