#include <gtest/gtest.h>

#include "kernels/dry_run/dry_run_backend.h"

namespace neox {
namespace {

struct DryRun : ::testing::Test {
  std::unique_ptr<Backend> real = make_backend(Device{});
  std::unique_ptr<Stream> stream = make_stream(Device{});
  DryRunBackend dry{Device{DeviceKind::cuda, 3}, *real};

  // A tensor without memory.
  Tensor absent(Shape shape, DType dtype) const { return {nullptr, shape, dtype, dry.device()}; }
};

TEST_F(DryRun, PretendsToBeTheDevice) {
  EXPECT_EQ(dry.device(), (Device{DeviceKind::cuda, 3}));
  EXPECT_EQ(dry.fast(DType::bf16), real->fast(DType::bf16));
}

TEST_F(DryRun, CountsTheProductsOfALinearLayer) {
  const Tensor x = absent({10, 6}, DType::bf16), w = absent({8, 6}, DType::bf16);
  const Tensor y = absent({10, 8}, DType::bf16), b = absent({8}, DType::bf16);
  const Tensor dw = absent({8, 6}, DType::f32), db = absent({8}, DType::f32);
  dry.linear(*stream, x, w, b, y);
  OperatorCounts c = dry.counts(OperatorFamily::linear);
  EXPECT_EQ(c.calls, 1);
  EXPECT_EQ(c.flops, 2.0 * 10 * 6 * 8);
  EXPECT_EQ(c.bytes_read, 2 * (10 * 6 + 8 * 6 + 8));
  EXPECT_EQ(c.bytes_written, 2 * 10 * 8);
  dry.linear_backward_input(*stream, y, w, x, false);
  dry.linear_backward_weight(*stream, y, x, dw, db, true);
  c = dry.counts(OperatorFamily::linear);
  EXPECT_EQ(c.calls, 3);
  EXPECT_EQ(c.flops, 3 * 2.0 * 10 * 6 * 8);
  EXPECT_EQ(c.bytes_written, 2 * (80 + 60) + 4 * (48 + 8));
  EXPECT_EQ(c.bytes_read, 2 * (116 + 80 + 48 + 80 + 60) + 4 * (48 + 8));
  dry.reset_counts();
  EXPECT_EQ(dry.total().calls, 0);
}

TEST_F(DryRun, CountsAttentionCausally) {
  AttentionProblem p;
  p.batch = 2;
  p.query_length = 3;
  p.key_length = 5;
  p.heads = 4;
  p.kv_heads = 2;
  p.head_dim = 8;
  const Tensor q = absent({6, 32}, DType::f32), kv = absent({10, 16}, DType::f32);
  const Tensor out = absent({2, 3, 32}, DType::f32), lse = absent({2, 4, 3}, DType::f32);
  const Heads queries(q, 3, 0, 8), keys(kv, 5, 0, 8);
  dry.attention(*stream, p, queries, keys, keys, out, lse);
  const double pairs = 3 + 4 + 5;  // keys seen by the three queries
  EXPECT_EQ(dry.counts(OperatorFamily::attention).flops, 2 * 4 * pairs * 8 * 4);
  EXPECT_EQ(dry.counts(OperatorFamily::attention).bytes_read, 4 * (192 + 2 * 160));
  const Tensor workspace = absent(
      {static_cast<std::int64_t>(dry.attention_backward_workspace(p, DType::f32))}, DType::u8);
  dry.attention_backward(*stream, p, queries, keys, keys, out, lse, out, queries, keys, keys,
                         workspace);
  EXPECT_EQ(dry.total().flops, 3 * 2 * 4 * pairs * 8 * 4);
}

TEST_F(DryRun, EmbeddingsCountTheRowsTheyTouch) {
  const Tensor ids = absent({7}, DType::i32), table = absent({1000, 4}, DType::f32);
  const Tensor y = absent({7, 4}, DType::f32);
  dry.embedding(*stream, ids, table, 0, {}, {}, y);
  EXPECT_EQ(dry.counts(OperatorFamily::embedding).bytes_read, 7 * 4 + 7 * 16);
  dry.embedding_backward(*stream, ids, y, 0, table);
  EXPECT_EQ(dry.counts(OperatorFamily::embedding).bytes_written, 7 * 16 + 7 * 16);
}

TEST_F(DryRun, OptionalTensorsCountNothing) {
  const Tensor x = absent({2, 8}, DType::bf16), w = absent({8}, DType::bf16);
  const Tensor rows = absent({2}, DType::f32);
  dry.layer_norm(*stream, x, w, {}, 1e-5f, x, rows, rows);
  EXPECT_EQ(dry.counts(OperatorFamily::norm).bytes_read, 2 * (16 + 8));
  dry.cross_entropy(*stream, x, rows, rows, 8, rows, {});
  EXPECT_EQ(dry.counts(OperatorFamily::loss).bytes_written, 8);
  EXPECT_EQ(name_of(OperatorFamily::loss), "loss");
}

TEST_F(DryRun, CountsTheHalvesOfANormBackward) {
  const Tensor x = absent({2, 8}, DType::bf16), w = absent({8}, DType::bf16);
  const Tensor rows = absent({2}, DType::f32), dw = absent({8}, DType::f32);
  const auto norm = [&] { return dry.counts(OperatorFamily::norm); };
  dry.layer_norm_backward(*stream, x, x, w, rows, rows, x, x, {}, {}, true);
  EXPECT_EQ(norm().bytes_read, 3 * 32 + 16 + 2 * 8);
  EXPECT_EQ(norm().bytes_written, 32);
  dry.reset_counts();
  dry.layer_norm_backward(*stream, x, x, w, rows, rows, x, {}, dw, dw, true);
  EXPECT_EQ(norm().bytes_read, 2 * 32 + 2 * 8 + 2 * 32);
  EXPECT_EQ(norm().bytes_written, 2 * 32);
  dry.reset_counts();
  dry.rms_norm_backward(*stream, x, x, w, rows, {}, {}, dw, false);
  EXPECT_EQ(norm().bytes_read, 2 * 32 + 8);
  EXPECT_EQ(norm().bytes_written, 32);
}

TEST_F(DryRun, CountsTheParallelLossAndHashes) {
  const Tensor z = absent({4, 6}, DType::bf16), rows = absent({4}, DType::f32);
  const Tensor stats = absent({4, 2}, DType::f64), parts = absent({2, 4, 2}, DType::f64);
  const auto loss = [&] { return dry.counts(OperatorFamily::loss); };
  dry.cross_entropy_partial(*stream, z, rows, rows, 6, 5, stats);
  EXPECT_EQ(loss().bytes_read, 48 + 2 * 16);
  EXPECT_EQ(loss().bytes_written, 64);
  dry.reset_counts();
  dry.cross_entropy_combine(*stream, z, rows, rows, 6, 5, parts, rows, z);
  EXPECT_EQ(loss().bytes_read, 48 + 2 * 16 + 128);
  EXPECT_EQ(loss().bytes_written, 16 + 48);
  dry.reset_counts();
  dry.cross_entropy_combine(*stream, z, rows, rows, 6, 5, parts, rows, {});
  EXPECT_EQ(loss().bytes_read, 2 * 16 + 128);
  EXPECT_EQ(loss().bytes_written, 16);
  const Tensor out = absent({1}, DType::u64);
  dry.hash(*stream, z, out, false);
  dry.hash(*stream, z, out, true);
  EXPECT_EQ(dry.counts(OperatorFamily::hash).calls, 2);
  EXPECT_EQ(dry.counts(OperatorFamily::hash).bytes_read, 2 * 48 + 8);
  EXPECT_EQ(dry.counts(OperatorFamily::hash).bytes_written, 16);
  EXPECT_EQ(name_of(OperatorFamily::hash), "hash");
}

TEST_F(DryRun, AnAbsentResidualIsNotRead) {
  const Tensor x = absent({2, 8}, DType::bf16);
  dry.residual_add(*stream, {}, x, {}, {}, {}, x);
  EXPECT_EQ(dry.counts(OperatorFamily::elementwise).bytes_read, 32);
}

}  // namespace
}  // namespace neox
