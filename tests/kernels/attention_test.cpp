#include "kernels/cpu/attention.h"

#include <cmath>
#include <cstring>
#include <random>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/tensor/buffer.h"
#include "tests/kernels/attention_reference.h"
#include "tests/kernels/mask_form.h"

namespace neox {
namespace {

using cpu::AttentionKernels;
using test::attention_reference;
using test::AttentionReference;
using test::Reference;

// How q, k and v lie in memory.
enum class Layout { separate, fused_per_head, fused_blocks, cache };

struct Case {
  std::int64_t batch, queries, keys, heads, kv_heads, dim;
  Layout layout = Layout::separate;
  float dropout = 0.0f;
  float spread = 1.0f;  // standard deviation of q: large values give sharp softmaxes
  test::MaskForm mask{};
};

std::string describe(const Case& c, DType dtype, AttentionKernels kernels) {
  return fmt::format("{} {} b{} {}x{} heads {}/{} dim {} layout {} dropout {}{}", name_of(dtype),
                     kernels == AttentionKernels::best ? "best" : "portable", c.batch, c.queries,
                     c.keys, c.heads, c.kv_heads, c.dim, static_cast<int>(c.layout), c.dropout,
                     describe(c.mask));
}

double get(const std::byte* data, DType dtype, std::int64_t i) {
  return visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    return static_cast<double>(static_cast<float>(reinterpret_cast<const T*>(data)[i]));
  });
}

// Inputs and outputs of one problem in the memory layout of the case.
struct Inputs {
  AttentionProblem problem;
  DType dtype;
  OwnedTensor memory[3], gradient[3];  // one fused tensor, or q, k, v apart
  Heads q, k, v, dq, dk, dv;
  OwnedTensor out, lse, dout, workspace;
  test::OwnedMask mask;

  Inputs(const Case& c, DType type, std::uint64_t seed = 7) : dtype(type) {
    problem = {c.batch,
               c.queries,
               c.keys,
               c.heads,
               c.kv_heads,
               c.dim,
               1.0f / std::sqrt(static_cast<float>(c.dim))};
    problem.dropout = {c.dropout, RngKey{0x1234567890abcdefull}, 3, 2, c.heads + 5};
    mask = test::OwnedMask(c.mask, problem);
    problem.mask = mask.view();
    place(c, memory, q, k, v);
    place(c, gradient, dq, dk, dv);
    std::mt19937_64 random(seed);
    fill(random, q, c.queries, c.heads, c.spread);
    fill(random, k, c.keys, c.kv_heads, 1.0f);
    fill(random, v, c.keys, c.kv_heads, 1.0f);
    out = OwnedTensor({c.batch, c.queries, c.heads * c.dim}, dtype);
    dout = OwnedTensor({c.batch, c.queries, c.heads * c.dim}, dtype);
    lse = OwnedTensor({c.batch, c.heads, c.queries}, DType::f32);
    fill(random,
         Heads(dout.tensor.reshape({c.batch * c.queries, c.heads * c.dim}), c.queries, 0, c.dim),
         c.queries, c.heads, 1.0f);
  }

  // Tensors are 0xff bytes (NaN) where no head lies, so that reading past a head shows.
  Tensor make(OwnedTensor& t, Shape shape) {
    t = OwnedTensor(shape, dtype);
    if (t.tensor.bytes() > 0) std::memset(t.tensor.data, 0xff, t.tensor.bytes());
    return t.tensor;
  }
  void place(const Case& c, OwnedTensor (&m)[3], Heads& hq, Heads& hk, Heads& hv) {
    const std::int64_t group = c.heads / c.kv_heads;
    switch (c.layout) {
      case Layout::separate:
        hq = Heads(make(m[0], {c.batch * c.queries, c.heads * c.dim}), c.queries, 0, c.dim);
        hk = Heads(make(m[1], {c.batch * c.keys, c.kv_heads * c.dim}), c.keys, 0, c.dim);
        hv = Heads(make(m[2], {c.batch * c.keys, c.kv_heads * c.dim}), c.keys, 0, c.dim);
        return;
      case Layout::fused_per_head: {  // [heads, (q, k, v), dim]; heads == kv_heads
        EXPECT_EQ(group, 1);
        const Tensor t = make(m[0], {c.batch * c.keys, c.heads * 3 * c.dim});
        hq = Heads(t, c.keys, 0, 3 * c.dim);
        hk = Heads(t, c.keys, c.dim, 3 * c.dim);
        hv = Heads(t, c.keys, 2 * c.dim, 3 * c.dim);
        return;
      }
      case Layout::fused_blocks: {  // [q of all heads | k | v]
        const Tensor t = make(m[0], {c.batch * c.keys, (c.heads + 2 * c.kv_heads) * c.dim});
        hq = Heads(t, c.keys, 0, c.dim);
        hk = Heads(t, c.keys, c.heads * c.dim, c.dim);
        hv = Heads(t, c.keys, (c.heads + c.kv_heads) * c.dim, c.dim);
        return;
      }
      case Layout::cache: {  // room for more positions than are filled
        const std::int64_t capacity = c.keys + 9;
        hq = Heads(make(m[0], {c.batch * c.queries, c.heads * c.dim}), c.queries, 0, c.dim);
        hk = Heads(make(m[1], {c.batch * capacity, c.kv_heads * c.dim}), capacity, 0, c.dim);
        hv = Heads(make(m[2], {c.batch * capacity, c.kv_heads * c.dim}), capacity, 0, c.dim);
        return;
      }
    }
  }
  template <class F>
  void each(const ConstHeads& h, std::int64_t length, std::int64_t heads, F f) const {
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      for (std::int64_t s = 0; s < length; ++s) {
        for (std::int64_t a = 0; a < heads; ++a) {
          for (std::int64_t d = 0; d < problem.head_dim; ++d) {
            f(b * h.batch_stride + s * h.row_stride + a * h.head_stride + d);
          }
        }
      }
    }
  }
  void fill(std::mt19937_64& random, const Heads& h, std::int64_t length, std::int64_t heads,
            float spread) {
    std::normal_distribution<float> normal(0.0f, spread);
    visit_float(dtype, [&](auto zero) {
      using T = decltype(zero);
      each(h, length, heads, [&](std::int64_t at) {
        reinterpret_cast<T*>(h.data)[at] = static_cast<T>(normal(random));
      });
    });
  }
  std::vector<double> read(const ConstHeads& h, std::int64_t length, std::int64_t heads) const {
    std::vector<double> values;
    each(h, length, heads, [&](std::int64_t at) { values.push_back(get(h.data, dtype, at)); });
    return values;
  }
  static std::vector<double> read(const ConstTensor& t) {
    std::vector<double> values;
    for (std::int64_t i = 0; i < t.numel(); ++i) values.push_back(get(t.data, t.dtype, i));
    return values;
  }
  std::vector<double> queries(const Heads& h) const {
    return read(h, problem.query_length, problem.heads);
  }
  std::vector<double> keys(const Heads& h) const {
    return read(h, problem.key_length, problem.kv_heads);
  }

  void forward(AttentionKernels kernels = AttentionKernels::best) {
    cpu::attention_forward(problem, q, k, v, out, lse, kernels);
  }
  void backward(AttentionKernels kernels = AttentionKernels::best) {
    const auto bytes = static_cast<std::int64_t>(cpu::attention_backward_workspace(problem));
    if (workspace.tensor.numel() != bytes) workspace = OwnedTensor({bytes}, DType::u8);
    if (bytes > 0) std::memset(workspace.tensor.data, 0xff, workspace.tensor.bytes());
    cpu::attention_backward(problem, q, k, v, out, lse, dout, dq, dk, dv, workspace, kernels);
  }
  // Everything computed, as bytes.
  std::string results() const {
    std::string bytes;
    for (const Tensor& t :
         {out.tensor, lse.tensor, gradient[0].tensor, gradient[1].tensor, gradient[2].tensor}) {
      bytes.append(reinterpret_cast<const char*>(t.data), t.data == nullptr ? 0 : t.bytes());
    }
    return bytes;
  }
};

void expect_close(const char* what, const std::vector<double>& got, const Reference& want,
                  double tolerance, const std::string& about) {
  ASSERT_EQ(got.size(), want.value.size()) << what;
  double worst = 0;
  std::size_t where = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double error = std::abs(got[i] - want.value[i]) / (want.magnitude[i] + 1e-3);
    if (!(error <= worst)) {
      worst = error;
      where = i;
    }
  }
  EXPECT_LE(worst, tolerance) << what << " of " << about << ": element " << where << " is "
                              << got[where] << ", expected " << want.value[where];
}

// Errors are relative to the sum of the magnitudes of an element's terms, in units of u = half the
// spacing of numbers at 1.
// f32: 1e-5, as asked. Large scores amplify the rounding of q.k: exp(s + e) = exp(s) (1 + e).
// f16 (u = 2^-11): products and sums are f32; the result is rounded, and so is the output from
// which backward computes delta. bf16 (u = 2^-8): probabilities and their gradients are rounded as
// well.
double tolerance(const Case& c, DType dtype) {
  const double f32 = 1e-5 * std::max(1.0, static_cast<double>(c.spread) / 8.0);
  return dtype == DType::f32 ? f32 : dtype == DType::f16 ? 2 * 0x1p-11 : 3 * 0x1p-8;
}

void check(const Case& c, DType dtype, AttentionKernels kernels) {
  const std::string about = describe(c, dtype, kernels);
  Inputs s(c, dtype);
  s.forward(kernels);
  const bool backward = c.layout != Layout::cache;
  const auto dout = Inputs::read(s.dout.tensor);
  const AttentionReference ref = attention_reference(
      s.problem, s.queries(s.q), s.keys(s.k), s.keys(s.v), backward ? dout : std::vector<double>{});
  const double limit = tolerance(c, dtype);
  expect_close("out", Inputs::read(s.out.tensor), ref.out, limit, about);
  // Scores are f32 sums of exact products in every dtype.
  expect_close("lse", Inputs::read(s.lse.tensor), ref.lse, 1e-5, about);
  if (!backward) return;
  s.backward(kernels);
  expect_close("dq", s.queries(s.dq), ref.dq, limit, about);
  expect_close("dk", s.keys(s.dk), ref.dk, limit, about);
  expect_close("dv", s.keys(s.dv), ref.dv, limit, about);
}

void check_all(const std::vector<Case>& cases) {
  for (const auto kernels : {AttentionKernels::best, AttentionKernels::portable}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      for (const Case& c : cases) check(c, dtype, kernels);
    }
  }
}

TEST(Attention, LengthsThatAreNoMultipleOfABlock) {
  std::vector<Case> cases;
  for (const std::int64_t t : {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 129, 200}) {
    cases.push_back({2, t, t, 2, 2, 32});
  }
  check_all(cases);
}

TEST(Attention, HeadDimensions) {
  std::vector<Case> cases;
  for (const std::int64_t d :
       {1, 2, 7, 16, 17, 20, 32, 33, 40, 48, 63, 64, 80, 96, 100, 112, 128, 160, 256}) {
    cases.push_back({1, 70, 70, 1, 1, d});
  }
  check_all(cases);
}

TEST(Attention, FusedProjections) {
  check_all({{2, 50, 50, 3, 3, 64, Layout::fused_per_head},
             {2, 130, 130, 2, 2, 33, Layout::fused_per_head},
             {2, 50, 50, 3, 3, 64, Layout::fused_blocks},
             {2, 75, 75, 6, 2, 40, Layout::fused_blocks}});
}

TEST(Attention, GroupedQueries) {
  check_all({{1, 70, 70, 4, 2, 32},
             {2, 130, 130, 8, 1, 16},
             {1, 65, 65, 6, 1, 64},
             {3, 20, 20, 10, 2, 64}});
}

TEST(Attention, MoreKeysThanQueries) {
  check_all({{1, 5, 70, 2, 2, 64},
             {2, 64, 129, 2, 1, 32},
             {1, 70, 200, 2, 2, 32},
             {1, 33, 64, 4, 2, 64},
             {1, 2, 300, 1, 1, 80},
             {2, 7, 90, 4, 2, 64, Layout::cache}});
}

TEST(Attention, DecodingOneQuery) {
  check_all({{1, 1, 1, 2, 2, 64, Layout::cache},
             {2, 1, 17, 2, 2, 64, Layout::cache},
             {2, 1, 64, 4, 2, 80, Layout::cache},
             {1, 1, 1024, 2, 1, 64, Layout::cache},
             {3, 1, 1025, 6, 2, 128, Layout::cache},
             {1, 1, 3000, 2, 2, 33, Layout::cache},
             {1, 1, 100, 2, 2, 7},
             {1, 1, 100, 2, 2, 64, Layout::cache, 0.25f}});
}

TEST(Attention, Dropout) {
  check_all({{2, 70, 70, 2, 2, 32, Layout::separate, 0.2f},
             {1, 130, 130, 4, 2, 64, Layout::fused_blocks, 0.2f},
             {1, 40, 61, 2, 1, 16, Layout::separate, 0.5f}});
}

// Windows and documents shorter and longer than blocks of queries and keys.
TEST(Attention, SlidingWindows) {
  std::vector<Case> cases;
  for (const std::int64_t window : {1, 5, 15, 16, 63, 64, 127, 128, 200, 1000}) {
    cases.push_back({1, 330, 330, 2, 1, 32, Layout::fused_blocks, 0.0f, 1.0f, {window}});
  }
  cases.push_back({2, 70, 200, 2, 2, 20, Layout::separate, 0.0f, 1.0f, {40}});
  cases.push_back({1, 150, 150, 2, 2, 64, Layout::separate, 0.3f, 1.0f, {33}});
  cases.push_back({1, 150, 150, 2, 2, 16, Layout::separate, 0.0f, 20.0f, {100}});
  check_all(cases);
}

TEST(Attention, Documents) {
  std::vector<Case> cases;
  for (const std::int64_t length : {1, 3, 20, 64, 150, 400}) {
    cases.push_back({2, 330, 330, 4, 2, 32, Layout::fused_blocks, 0.0f, 1.0f, {0, length}});
  }
  cases.push_back({2, 70, 200, 2, 2, 20, Layout::separate, 0.0f, 1.0f, {0, 30}});
  cases.push_back({1, 150, 150, 2, 2, 64, Layout::separate, 0.3f, 1.0f, {20, 50}});
  check_all(cases);
}

TEST(Attention, BlockPatterns) {
  std::vector<Case> cases;
  for (const std::int64_t block : {16, 32, 48, 64, 128, 160}) {
    cases.push_back({1, 330, 330, 4, 2, 32, Layout::fused_blocks, 0.0f, 1.0f, {0, 0, block}});
    cases.push_back({2, 150, 150, 2, 1, 20, Layout::separate, 0.0f, 1.0f, {0, 0, block, true}});
  }
  cases.push_back({2, 75, 200, 2, 2, 40, Layout::separate, 0.0f, 1.0f, {0, 0, 32}});
  cases.push_back({1, 150, 150, 2, 2, 64, Layout::separate, 0.3f, 1.0f, {40, 60, 16, true}});
  check_all(cases);
}

TEST(Attention, DecodingWithMasks) {
  std::vector<Case> cases;
  for (const test::MaskForm& mask :
       {test::MaskForm{1}, {64}, {100}, {1024}, {0, 200}, {0, 0, 16}, {0, 0, 64, true}}) {
    cases.push_back({2, 1, 1500, 4, 2, 48, Layout::cache, 0.0f, 1.0f, mask});
    cases.push_back({1, 1, 37, 2, 2, 64, Layout::cache, 0.0f, 1.0f, mask});
  }
  check_all(cases);
}

TEST(Attention, LongSequence) {
  check_all({{1, 1000, 1000, 1, 1, 64, Layout::fused_per_head}});
}

TEST(Attention, SharpSoftmaxes) {
  // Scores of +-150 and more: exp would overflow without the running maximum.
  check_all({{1, 150, 150, 2, 2, 64, Layout::separate, 0.0f, 40.0f}});
}

// The gradients of the reference are those of its own forward.
TEST(Attention, ReferenceAgreesWithFiniteDifferences) {
  for (const Case& c : {Case{1, 5, 7, 4, 2, 3}, Case{2, 6, 6, 2, 2, 4, Layout::separate, 0.3f}}) {
    const Inputs s(c, DType::f32);
    std::vector<double> inputs[3] = {s.queries(s.q), s.keys(s.k), s.keys(s.v)};
    const auto dout = Inputs::read(s.dout.tensor);
    const auto loss = [&] {
      const auto out =
          attention_reference(s.problem, inputs[0], inputs[1], inputs[2], {}).out.value;
      double sum = 0;
      for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * dout[i];
      return sum;
    };
    const auto ref = attention_reference(s.problem, inputs[0], inputs[1], inputs[2], dout);
    const std::vector<double>* analytic[3] = {&ref.dq.value, &ref.dk.value, &ref.dv.value};
    for (std::size_t n = 0; n < 3; ++n) {
      for (std::size_t i = 0; i < inputs[n].size(); ++i) {
        const double kept = inputs[n][i], h = 1e-5;
        inputs[n][i] = kept + h;
        const double above = loss();
        inputs[n][i] = kept - h;
        const double below = loss();
        inputs[n][i] = kept;
        EXPECT_NEAR((above - below) / (2 * h), (*analytic[n])[i], 1e-8);
      }
    }
  }
}

class Threads {
 public:
  Threads() : before_(omp_get_max_threads()) {}
  ~Threads() { omp_set_num_threads(before_); }

 private:
  int before_;
};

TEST(Attention, SameBitsForAnyNumberOfThreads) {
  const Threads restore;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const Case& c :
         {Case{1, 300, 300, 3, 3, 64}, Case{2, 200, 230, 4, 2, 64},
          Case{1, 150, 150, 2, 2, 40, Layout::separate, 0.1f}, Case{1, 1, 3000, 2, 1, 64},
          Case{1, 400, 400, 4, 2, 32, Layout::separate, 0.0f, 1.0f, {70, 150, 32, true}}}) {
      std::string first;
      for (const int threads : {1, 2, 3, 7, 2}) {  // 1: fused; 7: two passes
        omp_set_num_threads(threads);
        Inputs s(c, dtype);
        s.forward();
        s.backward();
        if (first.empty()) first = s.results();
        EXPECT_TRUE(first == s.results()) << threads << " threads";
      }
    }
  }
}

TEST(Attention, TwoPassesAgreeWithTheReference) {
  const Threads restore;
  omp_set_num_threads(5);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    check({1, 150, 150, 2, 1, 64}, dtype, AttentionKernels::best);
    check({1, 330, 330, 4, 1, 64, Layout::separate, 0.0f, 1.0f, {100}}, dtype,
          AttentionKernels::best);
    check({1, 330, 330, 2, 1, 64, Layout::separate, 0.0f, 1.0f, {0, 90, 32, true}}, dtype,
          AttentionKernels::best);
    check({1, 70, 100, 4, 2, 80}, dtype, AttentionKernels::portable);
  }
}

TEST(Attention, LaterKeysDoNotReachEarlierQueries) {
  const Case c{1, 150, 150, 1, 1, 64};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Inputs s(c, dtype);
    s.forward();
    const auto before = Inputs::read(s.out.tensor);
    for (std::int64_t j = 97; j < 150; ++j) {
      std::memset(s.k.data + static_cast<std::size_t>(j * 64) * size_of(dtype), 0x41,
                  64 * size_of(dtype));
      std::memset(s.v.data + static_cast<std::size_t>(j * 64) * size_of(dtype), 0x42,
                  64 * size_of(dtype));
    }
    s.forward();
    const auto after = Inputs::read(s.out.tensor);
    for (std::size_t i = 0; i < 97 * 64; ++i) ASSERT_EQ(before[i], after[i]) << i / 64;
    EXPECT_NE(before[97 * 64], after[97 * 64]);
  }
}

TEST(Attention, NotANumberStaysOne) {
  for (const auto kernels : {AttentionKernels::best, AttentionKernels::portable}) {
    for (const std::int64_t queries : {1, 40}) {
      Inputs s({1, queries, 40, 1, 1, 64}, DType::f32);
      reinterpret_cast<float*>(s.q.data)[(queries - 1) * 64 + 5] = std::nanf("");
      s.forward(kernels);
      const auto out = Inputs::read(s.out.tensor);
      EXPECT_TRUE(std::isnan(out.back()));
      EXPECT_TRUE(std::isnan(Inputs::read(s.lse.tensor).back()));
      EXPECT_EQ(std::isnan(out.front()), queries == 1);
    }
  }
}

TEST(Attention, SteadyStateAllocatesNothing) {
  for (const Case& c : {Case{2, 200, 200, 4, 2, 64}, Case{2, 1, 200, 4, 2, 64}}) {
    Inputs s(c, DType::f32);
    const auto run = [&] {
      s.forward();
      s.backward();
    };
    run();
    const auto calls = allocation_counts().calls;
    for (int i = 0; i < 3; ++i) run();
    EXPECT_EQ(allocation_counts().calls, calls);
  }
}

TEST(Attention, WithoutLse) {
  Inputs s({1, 30, 30, 2, 2, 64}, DType::f32), t({1, 30, 30, 2, 2, 64}, DType::f32);
  s.forward();
  cpu::attention_forward(t.problem, t.q, t.k, t.v, t.out, Tensor{});
  EXPECT_EQ(Inputs::read(s.out.tensor), Inputs::read(t.out.tensor));
}

TEST(Attention, EmptyBatch) {
  Inputs s({0, 30, 30, 2, 2, 64}, DType::f32);
  EXPECT_NO_THROW(s.forward());
  EXPECT_NO_THROW(s.backward());
}

TEST(Attention, RefusesWhatDoesNotFit) {
  Inputs s({1, 30, 30, 2, 2, 64}, DType::f32);
  const auto forward_fails = [&](auto change) {
    Inputs t({1, 30, 30, 2, 2, 64}, DType::f32);
    change(t);
    EXPECT_THROW(t.forward(), Error);
  };
  forward_fails([](Inputs& t) { t.problem.key_length = 29; });
  forward_fails([](Inputs& t) { t.problem.kv_heads = 3; });
  forward_fails([](Inputs& t) { t.problem.scale = std::nanf(""); });
  forward_fails([](Inputs& t) { t.problem.dropout.p = 1.0f; });
  forward_fails([](Inputs& t) { t.k.dtype = DType::bf16; });
  forward_fails([](Inputs& t) { t.out.tensor.shape = {1, 30, 64}; });
  forward_fails([](Inputs& t) { t.lse.tensor.dtype = DType::f64; });
  s.forward();
  EXPECT_THROW(cpu::attention_backward(s.problem, s.q, s.k, s.v, s.out, s.lse, s.dout, s.dq, s.dk,
                                       s.dv, Tensor{}),
               Error);
}

}  // namespace
}  // namespace neox
