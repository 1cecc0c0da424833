// What tensor parallelism asks of the operators beyond their values (op_test.cpp): the parts that
// ranks compute fit together, to the bit where kernels/*.h says so.

#include <cmath>
#include <limits>

#include "tests/kernels/cpu_ops_fixture.h"

namespace neox {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr DType kComputeTypes[] = {DType::f32, DType::bf16, DType::f16};

OwnedTensor labels_below(std::int64_t rows, std::int64_t limit) {
  OwnedTensor labels({rows}, DType::i32);
  for (std::int64_t r = 0; r < rows; ++r) {
    labels.tensor.ptr<std::int32_t>()[r] = static_cast<std::int32_t>((r * 7919 + 5) % limit);
  }
  return labels;
}

OwnedTensor copy_of(Stream& stream, ConstTensor from) {
  OwnedTensor to(from.shape, from.dtype);
  copy(stream, from, to);
  return to;
}

/// Columns [first, first + n) of a matrix.
OwnedTensor columns_of(ConstTensor all, std::int64_t first, std::int64_t n) {
  OwnedTensor part({all.rows(), n}, all.dtype);
  const auto element = static_cast<std::int64_t>(size_of(all.dtype));
  for (std::int64_t row = 0; row < all.rows(); ++row) {
    std::memcpy(part.tensor.data + row * n * element,
                all.data + (row * all.cols() + first) * element,
                static_cast<std::size_t>(n * element));
  }
  return part;
}

struct LossResult {
  OwnedTensor losses, dlogits;
};

struct LossProblem {
  OwnedTensor logits, labels, weights;
  std::int64_t valid;
  std::int64_t rows() const { return weights.tensor.numel(); }
};

LossProblem loss_problem(std::int64_t rows, std::int64_t columns, std::int64_t valid, DType t) {
  LossProblem p{filled({rows, columns}, t, 1), labels_below(rows, valid),
                filled({rows}, DType::f32, 2), valid};
  p.weights.tensor.ptr<float>()[rows / 2] = 0.0f;
  return p;
}

LossResult whole_loss(const Backend& ops, Stream& s, const LossProblem& p, DType gradient) {
  LossResult result{{{p.rows()}, DType::f32}, {p.logits.tensor.shape, gradient}};
  ops.cross_entropy(s, p.logits, p.labels, p.weights, p.valid, result.losses, result.dlogits);
  return result;
}

/// The results of each of `ranks` ranks that hold equal parts of the columns.
std::vector<LossResult> parallel_loss(const Backend& ops, Stream& s, const LossProblem& p,
                                      std::int64_t ranks, DType gradient) {
  const std::int64_t columns = p.logits.tensor.cols() / ranks;
  const auto valid = [&](std::int64_t rank) {
    return std::clamp<std::int64_t>(p.valid - rank * columns, 0, columns);
  };
  OwnedTensor parts({ranks, p.rows(), 2}, DType::f64);
  std::vector<LossResult> results;
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    ops.cross_entropy_partial(s, columns_of(p.logits, rank * columns, columns), p.labels, p.weights,
                              rank * columns, valid(rank),
                              parts.tensor.slice(rank, rank + 1).reshape({p.rows(), 2}));
  }
  for (std::int64_t rank = 0; rank < ranks; ++rank) {
    LossResult result{{{p.rows()}, DType::f32}, {{p.rows(), columns}, gradient}};
    ops.cross_entropy_combine(s, columns_of(p.logits, rank * columns, columns), p.labels, p.weights,
                              rank * columns, valid(rank), parts, result.losses, result.dlogits);
    results.push_back(std::move(result));
  }
  return results;
}

TEST_F(CpuOps, CrossEntropyOfOneRankHasTheBitsOfTheFusedOne) {
  for (const DType t : kComputeTypes) {
    for (const Shape shape : {Shape{7, 37}, Shape{5, 5003}, Shape{3, 1}, Shape{40, 1024}}) {
      const LossProblem p = loss_problem(shape[0], shape[1], (shape[1] + 1) * 3 / 4, t);
      for (const DType gradient : {t, DType::f32}) {
        const LossResult want = whole_loss(*ops, *stream, p, gradient);
        const LossResult got = std::move(parallel_loss(*ops, *stream, p, 1, gradient)[0]);
        EXPECT_TRUE(same_bits(want.losses, got.losses)) << shape.str();
        EXPECT_TRUE(same_bits(want.dlogits, got.dlogits)) << shape.str();
      }
    }
  }
}

TEST_F(CpuOps, CrossEntropyOfManyRanksAgreesWithTheFusedOne) {
  for (const std::int64_t ranks : {2, 4, 8}) {
    const LossProblem p = loss_problem(33, 4096, 3500, DType::f32);  // of 8, the last is padding
    const LossResult want = whole_loss(*ops, *stream, p, DType::f32);
    const std::vector<LossResult> got = parallel_loss(*ops, *stream, p, ranks, DType::f32);
    for (std::int64_t rank = 0; rank < ranks; ++rank) {
      const LossResult& here = got[static_cast<std::size_t>(rank)];
      EXPECT_TRUE(same_bits(here.losses, got[0].losses)) << "ranks differ";
      for (std::int64_t r = 0; r < p.rows(); ++r) {
        const float a = here.losses.tensor.ptr<float>()[r], b = want.losses.tensor.ptr<float>()[r];
        EXPECT_NEAR(a, b, 2e-7f * std::abs(b));
      }
      const std::int64_t columns = 4096 / ranks;
      const OwnedTensor part = columns_of(want.dlogits, rank * columns, columns);
      for (std::int64_t i = 0; i < part.tensor.numel(); ++i) {
        const float a = here.dlogits.tensor.ptr<float>()[i], b = part.tensor.ptr<float>()[i];
        ASSERT_NEAR(a, b, 1e-6f * std::abs(b)) << "rank " << rank << " element " << i;
      }
    }
  }
}

TEST_F(CpuOps, ParallelCrossEntropyInPlaceHasTheSameBits) {
  const LossProblem p = loss_problem(9, 74, 70, DType::bf16);
  const std::vector<LossResult> want = parallel_loss(*ops, *stream, p, 2, DType::bf16);
  OwnedTensor parts({1, 9, 2}, DType::f64), losses({9}, DType::f32);
  const OwnedTensor z = copy_of(*stream, p.logits);
  const LossResult whole = whole_loss(*ops, *stream, p, DType::bf16);
  ops->cross_entropy_partial(*stream, z, p.labels, p.weights, 0, 70, parts.tensor.reshape({9, 2}));
  ops->cross_entropy_combine(*stream, z, p.labels, p.weights, 0, 70, parts, losses, z);
  EXPECT_TRUE(same_bits(z, whole.dlogits));
  ops->cross_entropy_combine(*stream, p.logits, p.labels, p.weights, 0, 70, parts, losses, {});
  EXPECT_TRUE(same_bits(losses, whole.losses));
}

TEST_F(CpuOps, ParallelCrossEntropyOfExtremeLogits) {
  // Two ranks of four columns. Rank 1 holds nothing but -inf, then much larger logits.
  LossProblem p{{{1, 8}, DType::f32}, {{1}, DType::i32}, {{1}, DType::f32}, 8};
  float* z = p.logits.tensor.ptr<float>();
  *p.labels.tensor.ptr<std::int32_t>() = 1;
  *p.weights.tensor.ptr<float>() = 1.0f;
  std::fill_n(z, 8, -kInf);
  z[0] = z[1] = 2.0f;
  std::vector<LossResult> got = parallel_loss(*ops, *stream, p, 2, DType::f32);
  EXPECT_NEAR(*got[0].losses.tensor.ptr<float>(), std::log(2.0), 1e-6);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(got[1].dlogits.tensor.ptr<float>()[i], 0.0f);
  std::fill_n(z + 4, 4, 1e30f);
  got = parallel_loss(*ops, *stream, p, 2, DType::f32);
  EXPECT_FLOAT_EQ(*got[1].losses.tensor.ptr<float>(), 1e30f);
  EXPECT_EQ(got[0].dlogits.tensor.ptr<float>()[1], -1.0f);
  EXPECT_EQ(got[0].dlogits.tensor.ptr<float>()[0], 0.0f);
  for (const float bad : {kInf, std::nanf("")}) {
    z[7] = bad;
    got = parallel_loss(*ops, *stream, p, 2, DType::f32);
    EXPECT_TRUE(std::isnan(*got[0].losses.tensor.ptr<float>()));
    EXPECT_TRUE(std::isnan(got[0].dlogits.tensor.ptr<float>()[0]));
  }
}

TEST_F(CpuOps, ParallelCrossEntropyDoesNotDependOnThreads) {
  const LossProblem p = loss_problem(67, 2048, 2000, DType::f32);
  omp_set_num_threads(1);
  const std::vector<LossResult> one = parallel_loss(*ops, *stream, p, 2, DType::f32);
  omp_set_num_threads(3);
  const std::vector<LossResult> many = parallel_loss(*ops, *stream, p, 2, DType::f32);
  for (std::size_t rank = 0; rank < 2; ++rank) {
    EXPECT_TRUE(same_bits(one[rank].losses, many[rank].losses));
    EXPECT_TRUE(same_bits(one[rank].dlogits, many[rank].dlogits));
  }
}

// Each id lies in one slice, the others add exact zeros: no rounding anywhere.
TEST_F(CpuOps, EmbeddingSlicesFitTogetherToTheBit) {
  constexpr std::int64_t kRows = 200, kVocab = 48, kWidth = 130;
  for (const DType t : kComputeTypes) {
    const OwnedTensor ids = labels_below(kRows, kVocab), dy = filled({kRows, kWidth}, t, 1);
    const OwnedTensor table = filled({kVocab, kWidth}, t, 2);
    OwnedTensor y({kRows, kWidth}, t), sum({kRows, kWidth}, t), part({kRows, kWidth}, t);
    OwnedTensor grad({kVocab, kWidth}, DType::f32), grads({kVocab, kWidth}, DType::f32);
    for (const OwnedTensor* zero : {&sum, &grad, &grads}) fill_zero(*stream, *zero);
    ops->embedding(*stream, ids, table, 0, {}, {}, y);
    ops->embedding_backward(*stream, ids, dy, 0, grad);
    for (std::int64_t first = 0; first < kVocab; first += 16) {
      ops->embedding(*stream, ids, table.tensor.slice(first, first + 16), first, {}, {}, part);
      ops->add_into(*stream, part, sum);
      ops->embedding_backward(*stream, ids, dy, first, grads.tensor.slice(first, first + 16));
    }
    EXPECT_TRUE(same_bits(y, sum));
    EXPECT_TRUE(same_bits(grad, grads));
  }
}

struct NormProblem {
  OwnedTensor x, dy, w, residual, mean, rstd;
};

NormProblem norm_problem(const Backend& ops, Stream& s, Shape shape, DType t, bool centered) {
  NormProblem p{filled(shape, t, 1), filled(shape, t, 2),      filled({shape[1]}, t, 3),
                filled(shape, t, 4), {{shape[0]}, DType::f32}, {{shape[0]}, DType::f32}};
  OwnedTensor y(shape, t);
  if (centered) ops.layer_norm(s, p.x, p.w, {}, 1e-5f, y, p.mean, p.rstd);
  if (!centered) ops.rms_norm(s, p.x, p.w, 1e-5f, y, p.rstd);
  return p;
}

// The pipeline's split backward calls one half now and the other later.
TEST_F(CpuOps, HalvesOfANormBackwardHaveTheBitsOfTheWhole) {
  for (const DType t : kComputeTypes) {
    for (const Shape shape : {Shape{1, 1}, Shape{5, 33}, Shape{100, 768}, Shape{37, 301}}) {
      const Shape width{shape[1]};
      for (const bool residual : {false, true}) {
        const NormProblem p = norm_problem(*ops, *stream, shape, t, true);
        const ConstTensor added = residual ? ConstTensor(p.residual) : ConstTensor();
        OwnedTensor dx(shape, t), dw(width, DType::f32), db(width, DType::f32);
        OwnedTensor dx2(shape, t), dw2(width, DType::f32), db2(width, DType::f32);
        ops->layer_norm_backward(*stream, p.dy, p.x, p.w, p.mean, p.rstd, added, dx, dw, db, false);
        ops->layer_norm_backward(*stream, p.dy, p.x, p.w, p.mean, p.rstd, added, dx2, {}, {},
                                 false);
        ops->layer_norm_backward(*stream, p.dy, p.x, {}, p.mean, p.rstd, {}, {}, dw2, db2, false);
        EXPECT_TRUE(same_bits(dx, dx2)) << shape.str();
        EXPECT_TRUE(same_bits(dw, dw2) && same_bits(db, db2)) << shape.str();
        ops->layer_norm_backward(*stream, p.dy, p.x, {}, p.mean, p.rstd, {}, {}, dw2, {}, false);
        EXPECT_TRUE(same_bits(dw, dw2)) << shape.str();
        const NormProblem q = norm_problem(*ops, *stream, shape, t, false);
        ops->rms_norm_backward(*stream, q.dy, q.x, q.w, q.rstd, added, dx, dw, false);
        ops->rms_norm_backward(*stream, q.dy, q.x, q.w, q.rstd, added, dx2, {}, false);
        ops->rms_norm_backward(*stream, q.dy, q.x, {}, q.rstd, {}, {}, dw2, false);
        EXPECT_TRUE(same_bits(dx, dx2) && same_bits(dw, dw2)) << shape.str();
      }
    }
  }
}

TEST_F(CpuOps, DropoutOfShardsOfFlatRowsIsThatOfTheWhole) {
  // Three samples of 7 positions; shards of 5 rows begin and end inside samples.
  const Shape whole{21, 37};
  const OwnedTensor x = filled(whole, DType::f32, 1);
  OwnedTensor all(whole, DType::f32), sum(whole, DType::f32), part({5, 37}, DType::f32);
  Dropout d{0.5f, RngKey{9}, 10, 7, 0, 7};
  ops->dropout(*stream, x, d, all);
  ops->residual_add(*stream, x, x, d, {}, {}, sum);
  for (std::int64_t first = 0; first + 5 <= 21; ++first) {
    d.first_position = first;
    const Tensor rows = x.tensor.slice(first, first + 5);
    ops->dropout(*stream, rows, d, part);
    EXPECT_TRUE(same_bits(part, all.tensor.slice(first, first + 5))) << first;
    ops->residual_add(*stream, rows, rows, d, {}, {}, part);
    EXPECT_TRUE(same_bits(part, sum.tensor.slice(first, first + 5))) << first;
  }
}

TEST_F(CpuOps, SquareSumsOfPiecesAddUpInOneOrder) {
  constexpr std::int64_t kPiece = 40001, kPieces = 5;
  const OwnedTensor x = filled({kPieces * kPiece}, DType::f32, 1);
  OwnedTensor running({1}, DType::f64), apart({kPieces}, DType::f64);
  double later = 0;
  for (std::int64_t i = 0; i < kPieces; ++i) {
    const Tensor piece = x.tensor.slice(i * kPiece, (i + 1) * kPiece);
    omp_set_num_threads(2);
    ops->square_sum(*stream, piece, running, i > 0);
    omp_set_num_threads(1);
    ops->square_sum(*stream, piece, apart.tensor.slice(i, i + 1), false);
    later += apart.tensor.ptr<double>()[i];
  }
  EXPECT_EQ(*running.tensor.ptr<double>(), later);
}

}  // namespace
}  // namespace neox
