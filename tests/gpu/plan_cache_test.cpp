// What the linear family decides before any product runs: descriptions of products, the cache of
// plans, the choice among measured candidates. No GPU is needed.

#include "kernels/cuda/plan_cache.h"

#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

#include "core/tensor/buffer.h"
#include "kernels/cuda/cublaslt_api.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/workspace.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {
namespace {

GemmKey some_key() {
  GemmKey key;
  key.operand = key.result = DType::bf16;
  key.transpose_a = true;
  key.m = 48;
  key.n = 5;
  key.k = 33;
  key.lda = key.ldb = 33;
  key.ldd = 48;
  return key;
}

/// Every key that differs from `key` in one field.
std::vector<GemmKey> neighbours(const GemmKey& key) {
  std::vector<GemmKey> all;
  const auto add = [&](auto&& change) {
    all.push_back(key);
    change(all.back());
  };
  add([](GemmKey& k) { k.operand = DType::f16; });
  add([](GemmKey& k) { k.result = DType::f32; });
  add([](GemmKey& k) { k.transpose_a = false; });
  add([](GemmKey& k) { k.transpose_b = true; });
  add([](GemmKey& k) { k.accumulate = true; });
  add([](GemmKey& k) { k.epilogue = GemmEpilogue::bias; });
  add([](GemmKey& k) { k.epilogue = GemmEpilogue::bias_gradient; });
  for (auto field :
       {&GemmKey::m, &GemmKey::n, &GemmKey::k, &GemmKey::lda, &GemmKey::ldb, &GemmKey::ldd}) {
    add([&](GemmKey& k) { ++(k.*field); });
  }
  for (auto field :
       {&GemmKey::align_a, &GemmKey::align_b, &GemmKey::align_d, &GemmKey::align_vector}) {
    add([&](GemmKey& k) { k.*field = 16; });
  }
  return all;
}

TEST(PlanCache, EveryFieldOfAKeyCounts) {
  const GemmKey key = some_key();
  const auto others = neighbours(key);
  EXPECT_EQ(others.size(), 17u);
  PlanCache<GemmKey, int> cache;
  int made = 0;
  cache.get(key, [&] { return ++made; });
  std::set<std::size_t> hashes{key.hash()};
  for (const GemmKey& other : others) {
    EXPECT_FALSE(other == key);
    hashes.insert(other.hash());
    cache.get(other, [&] { return ++made; });
  }
  EXPECT_EQ(hashes.size(), others.size() + 1);
  EXPECT_EQ(made, static_cast<int>(others.size()) + 1);
  EXPECT_EQ(cache.size(), others.size() + 1);
  EXPECT_EQ(cache.misses(), made);
  EXPECT_EQ(cache.hits(), 0);
  EXPECT_EQ(cache.get(key, [&] { return ++made; }), 1);
  EXPECT_EQ(cache.get(others[3], [&] { return ++made; }), 5);
  EXPECT_EQ(cache.hits(), 2);
  EXPECT_EQ(cache.misses(), made);
}

TEST(PlanCache, KeepsNothingOfAFailure) {
  PlanCache<GemmKey, int> cache;
  EXPECT_THROW(cache.get(some_key(), []() -> int { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_EQ(cache.size(), 0u);
  EXPECT_EQ(cache.get(some_key(), [] { return 7; }), 7);
}

TEST(PlanCache, MakingAPlanMayAskForOthers) {
  PlanCache<GemmKey, int> cache;
  const auto others = neighbours(some_key());
  int* first = &cache.get(some_key(), [&] {
    int sum = 1;
    for (const GemmKey& other : others) sum += cache.get(other, [] { return 1; });
    return sum;
  });
  EXPECT_EQ(*first, 18);
  for (int i = 0; i < 1000; ++i) {
    GemmKey key = some_key();
    key.n = 1000 + i;
    cache.get(key, [] { return 0; });
  }
  EXPECT_EQ(&cache.get(some_key(), [] { return 0; }), first);  // plans keep their addresses
}

TEST(PlanCache, HashesOfShapesSpread) {
  std::set<std::size_t> low;
  for (std::int64_t n = 1; n <= 4096; ++n) {
    GemmKey key = some_key();
    key.n = n;
    low.insert(key.hash() % 65536);
  }
  EXPECT_GT(low.size(), 3800u);  // 4096 random numbers would leave some 3969 different ones
}

TEST(Gemm, ChoosesTheFastestButTrustsTheEstimateWithinScatter) {
  constexpr double kFailed = std::numeric_limits<double>::infinity();
  const auto choose = [](std::vector<double> seconds) { return choose_candidate(seconds); };
  EXPECT_EQ(choose({1.0}), 0u);
  EXPECT_EQ(choose({1.0, 0.9, 0.7, 0.8}), 2u);
  EXPECT_EQ(choose({1.0, 0.99, 0.985}), 0u);
  EXPECT_EQ(choose({kFailed, 3.0, 2.0}), 2u);
  EXPECT_EQ(choose({2.0, kFailed}), 0u);
  EXPECT_THROW(choose({kFailed, kFailed}), Error);
  EXPECT_THROW(choose({}), Error);
}

TEST(Gemm, AlignmentsAreThoseOfTheAddress) {
  const Buffer memory(1024, kSimulated);
  EXPECT_EQ(alignment_of(nullptr), 256);
  EXPECT_EQ(alignment_of(memory.data()), 256);
  EXPECT_EQ(alignment_of(memory.data() + 2), 2);
  EXPECT_EQ(alignment_of(memory.data() + 48), 16);
  EXPECT_EQ(alignment_of(memory.data() + 512), 256);
}

TEST(Gemm, DescribesTheThreeProducts) {
  const OwnedTensor x({5, 33}, DType::bf16, kSimulated), w({48, 33}, DType::bf16, kSimulated),
      y({5, 48}, DType::bf16, kSimulated), dw({48, 33}, DType::f32, kSimulated);
  GemmOperands operands;
  GemmKey key = forward_product(x, w, y, operands);
  EXPECT_TRUE(key == some_key());
  EXPECT_EQ(operands.a, w.tensor.data);
  EXPECT_EQ(operands.b, x.tensor.data);
  EXPECT_EQ(operands.d, y.tensor.data);

  key = input_gradient_product(y, w, x, operands);
  EXPECT_FALSE(key.transpose_a || key.transpose_b);
  EXPECT_EQ((std::vector{key.m, key.n, key.k}), (std::vector<std::int64_t>{33, 5, 48}));
  EXPECT_EQ((std::vector{key.lda, key.ldb, key.ldd}), (std::vector<std::int64_t>{33, 48, 33}));

  key = weight_gradient_product(y, x, dw, operands);
  EXPECT_TRUE(!key.transpose_a && key.transpose_b);
  EXPECT_EQ(key.result, DType::f32);
  EXPECT_EQ((std::vector{key.m, key.n, key.k}), (std::vector<std::int64_t>{33, 48, 5}));
  EXPECT_EQ((std::vector{key.lda, key.ldb, key.ldd}), (std::vector<std::int64_t>{33, 48, 33}));

  EXPECT_THROW(forward_product(w, y, x, operands), Error);
  EXPECT_THROW(input_gradient_product(x, w, y, operands), Error);
  EXPECT_THROW(weight_gradient_product(x, y, dw, operands), Error);
}

TEST(Workspace, GrowsPerStreamAndStays) {
  const auto stream = make_stream(kSimulated);
  Workspace workspace;
  const void* small = workspace.take(*stream, 1000);
  EXPECT_EQ(workspace.take(*stream, 10), small);
  const AllocationCounts before = allocation_counts(MemoryOwner::backend);
  workspace.take(*stream, 100000);
  workspace.take(*stream, 1000);
  const AllocationCounts after = allocation_counts(MemoryOwner::backend);
  EXPECT_EQ(after.calls, before.calls + 1);
  EXPECT_EQ(after.bytes_live, before.bytes_live + 99000);
}

TEST(CublasCheck, NamesTheCallTheStatusAndThePlace) {
  try {
    cublaslt();
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_NO_THROW(cublas_check(CUBLAS_STATUS_SUCCESS, "cublasLtMatmul"));
  try {
    cublas_check(CUBLAS_STATUS_NOT_SUPPORTED, "cublasLtMatmul");
    FAIL() << "no exception";
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("cublasLtMatmul failed with CUBLAS_STATUS_NOT_SUPPORTED (15): "),
              std::string::npos)
        << text;
    EXPECT_NE(std::string(error.where().file_name()).find("plan_cache_test.cpp"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace neox::testing
