// What the cases of op_test.cpp cannot say: repeatability, allocations, extreme values.

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/kernels/cpu_ops_fixture.h"

namespace neox {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct NormGradients {
  OwnedTensor dx, dw, db;
};

NormGradients norm_gradients(const Backend& ops, Stream& stream) {
  const Shape shape{100, 300};
  const OwnedTensor x = filled(shape, DType::bf16, 1), dy = filled(shape, DType::bf16, 2);
  const OwnedTensor w = filled({300}, DType::bf16, 3);
  OwnedTensor mean({100}, DType::f32), rstd({100}, DType::f32), y(shape, DType::bf16);
  ops.layer_norm(stream, x, w, {}, 1e-5f, y, mean, rstd);
  NormGradients g{{shape, DType::bf16}, {{300}, DType::f32}, {{300}, DType::f32}};
  ops.layer_norm_backward(stream, dy, x, w, mean, rstd, {}, g.dx, g.dw, g.db, false);
  return g;
}

TEST_F(CpuOps, NormGradientsDoNotDependOnThreads) {
  omp_set_num_threads(1);
  const NormGradients one = norm_gradients(*ops, *stream);
  for (const int n : {2, 3, 5}) {
    omp_set_num_threads(n);
    const NormGradients many = norm_gradients(*ops, *stream);
    EXPECT_TRUE(same_bits(one.dx, many.dx) && same_bits(one.dw, many.dw) &&
                same_bits(one.db, many.db))
        << n << " threads";
  }
}

TEST_F(CpuOps, EmbeddingGradientsDoNotDependOnThreads) {
  const Shape shape{500, 200};
  const OwnedTensor dy = filled(shape, DType::f32, 1);
  OwnedTensor ids({500}, DType::i32);
  for (int i = 0; i < 500; ++i) ids.tensor.ptr<std::int32_t>()[i] = i * i % 7;  // many repeats
  OwnedTensor one({7, 200}, DType::f32), many({7, 200}, DType::f32);
  fill_zero(*stream, one);
  fill_zero(*stream, many);
  omp_set_num_threads(1);
  ops->embedding_backward(*stream, ids, dy, 0, one);
  omp_set_num_threads(4);
  ops->embedding_backward(*stream, ids, dy, 0, many);
  EXPECT_TRUE(same_bits(one, many));
}

TEST_F(CpuOps, SteadyStateAllocatesNothing) {
  norm_gradients(*ops, *stream);
  const Shape shape{100, 300};
  const OwnedTensor x = filled(shape, DType::f32, 1), w = filled({300}, DType::f32, 3);
  OwnedTensor mean({100}, DType::f32), rstd({100}, DType::f32), y(shape, DType::f32);
  OwnedTensor dx(shape, DType::f32), dw({300}, DType::f32);
  const std::int64_t before = allocation_counts().calls;
  for (int i = 0; i < 3; ++i) {
    ops->layer_norm(*stream, x, w, {}, 1e-5f, y, mean, rstd);
    ops->layer_norm_backward(*stream, y, x, w, mean, rstd, {}, dx, dw, {}, i > 0);
    ops->rms_norm_backward(*stream, y, x, w, rstd, {}, dx, dw, true);
  }
  EXPECT_EQ(allocation_counts().calls, before);
}

struct OneRow {
  explicit OneRow(std::vector<float> z, std::int64_t padding = 0)
      : logits({1, static_cast<std::int64_t>(z.size()) + padding}, DType::f32),
        gradient(logits.tensor.shape, DType::f32) {
    for (std::int64_t i = 0; i < logits.tensor.numel(); ++i) logits.tensor.ptr<float>()[i] = 1e9f;
    std::copy(z.begin(), z.end(), logits.tensor.ptr<float>());
    *label.tensor.ptr<std::int32_t>() = 1;
    *weight.tensor.ptr<float>() = 2.0f;
  }
  float run(const Backend& ops, Stream& stream, std::int64_t valid) {
    ops.cross_entropy(stream, logits, label, weight, valid, loss, gradient);
    return *loss.tensor.ptr<float>();
  }
  float d(int i) const { return gradient.tensor.ptr<float>()[i]; }
  OwnedTensor logits, gradient;
  OwnedTensor label{{1}, DType::i32}, weight{{1}, DType::f32}, loss{{1}, DType::f32};
};

TEST_F(CpuOps, CrossEntropyOfLargeLogitsAndPadding) {
  OneRow row({1e30f, 1e30f, -1e30f}, 20);  // the padding holds larger logits, which must not count
  EXPECT_FLOAT_EQ(row.run(*ops, *stream, 3), 0.0f);  // log 2 vanishes beside 1e30
  OneRow shifted({10000.0f, 10001.0f, 9999.0f}, 20);
  const double sum = 1 + std::exp(-1.0) + std::exp(-2.0);
  EXPECT_NEAR(shifted.run(*ops, *stream, 3), std::log(sum), 1e-6);
  EXPECT_NEAR(shifted.d(0), 2 * std::exp(-1.0) / sum, 1e-6);
  EXPECT_NEAR(shifted.d(1), 2 * (1 / sum - 1), 1e-6);
  for (int i = 3; i < 23; ++i) EXPECT_EQ(shifted.d(i), 0.0f);
}

TEST_F(CpuOps, CrossEntropyOfInfiniteLogits) {
  OneRow masked({-kInf, 1.0f, 1.0f, -kInf});
  EXPECT_NEAR(masked.run(*ops, *stream, 4), std::log(2.0), 1e-6);
  EXPECT_EQ(masked.d(0), 0.0f);
  EXPECT_NEAR(masked.d(2), 1.0, 1e-6);
  OneRow late(std::vector<float>(5000, -kInf));  // whole blocks of -inf before the first number
  late.logits.tensor.ptr<float>()[4999] = 3.0f;
  *late.label.tensor.ptr<std::int32_t>() = 4999;
  EXPECT_EQ(late.run(*ops, *stream, 5000), 0.0f);
  EXPECT_TRUE(std::isnan(OneRow({1.0f, NAN, 2.0f}).run(*ops, *stream, 3)));
  EXPECT_TRUE(std::isnan(OneRow({1.0f, 2.0f, kInf}).run(*ops, *stream, 3)));
}

TEST_F(CpuOps, DropoutMaskDoesNotDependOnTheLayout) {
  // Four samples of 6 positions held whole, or as two halves of each sample by two ranks.
  const Shape whole{24, 37};
  OwnedTensor ones(whole, DType::f32), all(whole, DType::f32), part({12, 37}, DType::f32);
  for (std::int64_t i = 0; i < whole.numel(); ++i) ones.tensor.ptr<float>()[i] = 1.0f;
  Dropout d{0.5f, RngKey{9}, 10, 6, 0, 6};
  ops->dropout(*stream, ones, d, all);
  for (std::int64_t half = 0; half < 2; ++half) {
    d.local_seq = 3;
    d.first_position = 3 * half;
    ops->dropout(*stream, ones.tensor.slice(0, 12), d, part);
    for (std::int64_t row = 0; row < 12; ++row) {
      const std::int64_t there = row / 3 * 6 + 3 * half + row % 3;
      EXPECT_TRUE(same_bits(part.tensor.slice(row, row + 1), all.tensor.slice(there, there + 1)));
    }
  }
}

TEST_F(CpuOps, OperatorsRefuseOtherDtypes) {
  OwnedTensor x({4}, DType::i32), y({4}, DType::i32);
  EXPECT_THROW(ops->activation(*stream, Activation::relu, x, y), Error);
  EXPECT_THROW(ops->cast(*stream, x, y), Error);
}

}  // namespace
}  // namespace neox
