#include "core/model/parameter_store.h"

#include <numeric>

#include <gtest/gtest.h>

namespace neox {
namespace {

ParameterSpec spec(const std::string& name, Shape shape, bool decay = true) {
  ParameterSpec s;
  s.name = name;
  s.global = shape;
  s.slice = Slice::whole(shape);
  s.decay = decay;
  return s;
}

void build(ParameterStore& store) {
  store.begin_block("embedding");
  store.add(spec("word", {31, 6}));
  store.begin_block("layer");
  ParameterSpec norm = spec("norm", {6}, false);
  norm.sum = GradientSum::tensor;
  store.add(norm);
  store.add_fused({spec("q", {5, 6}), spec("k", {3, 6}), spec("v", {3, 6})});
  ParameterSpec bias = spec("bias", {6}, false);
  bias.sum = GradientSum::tensor;
  bias.counted = false;
  store.add(spec("dense", {6, 5}));
  store.add(bias);
  store.begin_block("head");
  store.add(spec("out", {31, 6}));
}

ParameterStore committed(const ShardPlan& plan, bool dry_run = false) {
  ParameterStore store;
  build(store);
  store.commit(Device{}, DType::f32, StoreMode::training, dry_run, plan);
  return store;
}

TEST(ParameterStore, BucketsCoverTheBlocksInBackwardOrder) {
  for (const int size : {1, 2, 3, 7}) {
    for (const std::int64_t elements : {1, 64, 200, 1 << 20}) {
      const ParameterStore store = committed({0, size, 0, elements});
      std::int64_t at = 0;
      for (int block = store.block_count() - 1; block >= 0; --block) {
        EXPECT_EQ(store.block_range(block).begin, at);
        for (const Bucket& bucket : store.block_buckets(block)) {
          EXPECT_EQ(bucket.begin, at);
          EXPECT_EQ(bucket.size() % (size * 64), 0);
          EXPECT_GT(bucket.size(), 0);
          EXPECT_LT(bucket.size(), elements + 64 * size);
          at = bucket.end;
        }
        EXPECT_EQ(store.block_range(block).end, at);
      }
      EXPECT_EQ(store.numel(), at);
      EXPECT_EQ(store.owned_numel() * size, at);
    }
  }
}

// Tensor ranks hold tables of different sizes, and sum the gradients of a norm behind them.
TEST(ParameterStore, ReservedElementsLayOutBlocksAlike) {
  const auto layout = [](std::int64_t rows, std::int64_t reserve) {
    ParameterStore store;
    store.begin_block("head");
    ParameterSpec table = spec("out", {rows, 32});
    table.reserve = reserve;
    store.add(table);
    ParameterSpec norm = spec("norm", {640}, false);
    norm.sum = GradientSum::tensor;
    const ParameterId id = store.add(norm);
    store.commit(Device{}, DType::f32, StoreMode::training, true, {1, 2, 1, 1 << 20});
    std::vector<std::int64_t> sizes{store.numel(), store.parameter_count()};
    for (const ParameterPiece& p : store.owned_pieces(id)) sizes.push_back(p.piece.size);
    return sizes;
  };
  const std::vector<std::int64_t> large = layout(20, 20 * 32), small = layout(8, 20 * 32);
  EXPECT_EQ(small[0], large[0]);
  EXPECT_EQ(small[1], large[1] - 12 * 32);
  EXPECT_EQ(std::vector(small.begin() + 2, small.end()),
            std::vector(large.begin() + 2, large.end()));
  EXPECT_NE(layout(8, 0)[0], large[0]);
}

TEST(ParameterStore, RanksOwnEveryElementOnce) {
  for (const int size : {1, 2, 3, 7}) {
    for (int stage = 0; stage <= 3; ++stage) {
      std::vector<std::vector<int>> owners;
      for (int rank = 0; rank < size; ++rank) {
        const ParameterStore store = committed({rank, size, stage, 200}, true);
        owners.resize(static_cast<std::size_t>(store.size()));
        std::int64_t owned = 0;
        for (ParameterId id = 0; id < store.size(); ++id) {
          auto& count = owners[static_cast<std::size_t>(id)];
          count.resize(static_cast<std::size_t>(store.spec(id).global.numel()));
          for (const ParameterPiece& p : store.owned_pieces(id)) {
            owned += p.piece.size;
            EXPECT_LE(p.piece.owned + p.piece.size, store.owned_numel());
            EXPECT_EQ(p.piece.decay, store.spec(id).decay);
            EXPECT_EQ(p.piece.counted, store.spec(id).counted);
            for (std::int64_t e = 0; e < p.piece.size; ++e) {
              ++count[static_cast<std::size_t>(p.begin + e)];
            }
          }
        }
        for (const StatePiece& p : store.owned_pieces()) owned -= p.size;
        EXPECT_EQ(owned, 0);
        std::int64_t updated = 0;
        for (const StatePiece& p : store.update_pieces()) updated += p.size;
        if (stage == 0 || size == 1) {
          EXPECT_EQ(updated, 31 * 6 * 2 + 11 * 6 + 30 + 12);
        }
      }
      for (const auto& count : owners) {
        EXPECT_EQ(count, std::vector<int>(count.size(), 1)) << size << " ranks";
      }
    }
  }
}

TEST(ParameterStore, FusedParametersAreOneTensor) {
  const ParameterStore store = committed({});
  const ParameterId q = store.find("q");
  EXPECT_EQ(store.fused_weight(q, 3).shape, (Shape{11, 6}));
  EXPECT_EQ(store.fused_weight(q, 3).data, store.weight(q).data);
  EXPECT_EQ(store.weight(q + 1).data, store.weight(q).data + 5 * 6 * 4);
  EXPECT_EQ(store.fused_grad(q, 3).slice(8, 11).data, store.grad(q + 2).data);
}

TEST(ParameterStore, ParametersToSumLieTogether) {
  const ParameterStore store = committed({});
  const auto pieces =
      store.update_pieces_of([](const ParameterSpec& s) { return s.sum == GradientSum::tensor; });
  std::int64_t elements = 0;
  for (const StatePiece& p : pieces) elements += p.size;
  EXPECT_EQ(elements, 12);
  EXPECT_LE(pieces.back().flat + pieces.back().size - pieces.front().flat, 128);
}

// Two pipeline stages with different blocks cut a tied table alike, so that owned parts match.
TEST(ParameterStore, TiedTablesAreCutAlike) {
  for (int rank = 0; rank < 3; ++rank) {
    ParameterStore first, last;
    ParameterSpec table = spec("word", {31, 6});
    table.tied_across_stages = true;
    first.begin_block("embedding");
    first.add(spec("positions", {9, 6}));
    first.add(table);
    last.begin_block("layer");
    last.add(spec("dense", {7, 9}));
    last.begin_block("head");
    last.add(spec("norm", {6}, false));
    last.add(table);
    for (ParameterStore* store : {&first, &last}) {
      store->commit(Device{}, DType::f32, StoreMode::training, true, {rank, 3, 2, 100});
    }
    const auto a = first.owned_pieces(first.find("word"));
    const auto b = last.owned_pieces(last.find("word"));
    ASSERT_EQ(a.size(), b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      EXPECT_EQ(a[i].begin, b[i].begin);
      EXPECT_EQ(a[i].piece.size, b[i].piece.size);
    }
  }
}

TEST(ParameterStore, OneRankHasNothingToShare) {
  const ParameterStore store = committed({0, 1, 3, 200});
  EXPECT_EQ(store.plan().zero_stage, 0);
  EXPECT_EQ(store.weights().numel(), store.numel());
  EXPECT_EQ(store.main_shard(0).local.shape, (Shape{31, 6}));
}

TEST(ParameterStore, SharedBlocksStayWhole) {
  ParameterStore store;
  store.begin_block("embedding");
  const ParameterId word = store.add(spec("word", {31, 6}));
  store.begin_block("head");
  store.add(spec("norm", {6}, false));
  EXPECT_THROW(store.share(1), Error);
  store.share(word);
  store.commit(Device{}, DType::bf16, StoreMode::training, false, {1, 2, 3, 200});
  EXPECT_NO_THROW(static_cast<void>(store.weight(word)));
  EXPECT_NO_THROW(static_cast<void>(store.grad(word)));
  EXPECT_THROW(static_cast<void>(store.weight(1)), Error);
  EXPECT_THROW(static_cast<void>(store.weights()), Error);
  EXPECT_THROW(static_cast<void>(store.main_shard(word)), Error);
  const auto table = static_cast<std::size_t>(store.block_range(0).size());
  const auto n = static_cast<std::size_t>(store.numel());
  EXPECT_EQ(store.memory().weights, n + 2 * table);
  EXPECT_EQ(store.memory().gradients, n * 2 + 4 * table);
  EXPECT_EQ(store.memory().main, n * 2);
  EXPECT_EQ(store.memory().optimizer, n * 4);
  EXPECT_FALSE(store.accumulates(word));
  store.set_shared_accumulates(1, true);
  EXPECT_TRUE(store.accumulates(word));
  EXPECT_FALSE(store.accumulates(1));
}

TEST(ParameterStore, CountsParametersOnce) {
  EXPECT_EQ(committed({}).parameter_count(), 31 * 6 * 2 + 11 * 6 + 30 + 6);
}

}  // namespace
}  // namespace neox
