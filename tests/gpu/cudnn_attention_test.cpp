// Attention by cuDNN. Without a GPU: which graphs cuDNN has plans for, on descriptions of GPUs
// (ctest runs these with the toolkit's stub of libcuda.so.1), and what is refused before cuDNN is
// asked. On a GPU: values and gradients against the CPU engine.

#include "kernels/cuda/cudnn_attention.h"

#include <cmath>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <set>
#include <vector>

#include "core/tensor/buffer.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_harness.h"

namespace neox::testing {
namespace {

struct Shapes {
  std::int64_t batch, heads, kv_heads, query_length, key_length, head_dim;
};

std::string text_of(const Shapes& s) {
  return fmt::format("batch {}, heads {}/{}, lengths {}/{}, head size {}", s.batch, s.heads,
                     s.kv_heads, s.query_length, s.key_length, s.head_dim);
}

// ---- plans, without a GPU --------------------------------------------------------------------

/// Heads side by side in rows of q, k and v: [q heads | k heads | v heads].
CudnnAttentionKey key_of(const Shapes& s, DType dtype, bool backward) {
  const std::int64_t width = (s.heads + 2 * s.kv_heads) * s.head_dim;
  CudnnAttentionKey key;
  key.dtype = dtype;
  key.backward = backward;
  key.batch = s.batch;
  key.query_length = s.query_length;
  key.key_length = s.key_length;
  key.heads = s.heads;
  key.kv_heads = s.kv_heads;
  key.head_dim = s.head_dim;
  key.scale = 0.125f;
  key.q = key.dq = {s.query_length * width, width, s.head_dim};
  key.k = key.v = key.dk = key.dv = {s.key_length * width, width, s.head_dim};
  return key;
}

class CudnnPlans : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!cudnn_problem().empty()) GTEST_SKIP() << cudnn_problem();
    if (dlopen("libcuda.so.1", RTLD_LAZY) == nullptr) {
      GTEST_SKIP()
          << "there is no libcuda.so.1 (ctest -R cudnn_plans runs this with the toolkit's)";
    }
  }
  static std::string device(const char* name) {
    std::ifstream in(fmt::format("{}/tests/fixtures/cudnn_{}.json", NEOX_SOURCE_DIR, name));
    return {std::istreambuf_iterator<char>(in), {}};
  }
  /// How many plans there are; none is an error of the test.
  static void expect_plans(const char* gpu, const Shapes& shapes) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const bool backward : {false, true}) {
        for (const bool deterministic : {false, true}) {
          const CudnnPlan plan =
              check_attention(key_of(shapes, dtype, backward), deterministic, device(gpu));
          EXPECT_EQ(plan.reason, "");
          EXPECT_GT(plan.candidates, 0)
              << gpu << ' ' << name_of(dtype) << (backward ? " backward, " : " forward, ")
              << text_of(shapes);
        }
      }
    }
  }
};

TEST_F(CudnnPlans, HopperHasHeadsUpTo256) {
  for (const std::int64_t head_dim : {64, 80, 96, 128, 256}) {
    expect_plans("h200", {2, 16, 16, 1024, 1024, head_dim});
    expect_plans("h200", {2, 16, 4, 2048, 2048, head_dim});
  }
}

TEST_F(CudnnPlans, AmpereHasHeadsUpTo128) {
  for (const std::int64_t head_dim : {64, 96, 128}) {
    expect_plans("a100", {2, 16, 16, 1024, 1024, head_dim});
    expect_plans("a100", {2, 16, 4, 2048, 2048, head_dim});
  }
  const CudnnPlan forward = check_attention(
      key_of({2, 16, 16, 1024, 1024, 256}, DType::bf16, false), false, device("a100"));
  EXPECT_GT(forward.candidates, 0) << forward.reason;
  const CudnnPlan backward = check_attention(
      key_of({2, 16, 16, 1024, 1024, 256}, DType::bf16, true), false, device("a100"));
  EXPECT_EQ(backward.candidates, 0);
  EXPECT_NE(backward.reason, "");
}

TEST_F(CudnnPlans, OddAndUnequalLengths) {
  expect_plans("h200", {3, 12, 12, 1000, 1000, 64});
  expect_plans("h200", {1, 8, 2, 512, 2048, 128});
  expect_plans("h200", {1, 8, 8, 77, 333, 128});
}

/// As fused projections have them: q, k and v of one head lie together.
TEST_F(CudnnPlans, HeadsMayBeInterleaved) {
  for (const bool backward : {false, true}) {
    CudnnAttentionKey key = key_of({2, 16, 16, 2048, 2048, 128}, DType::bf16, backward);
    for (auto* strides : {&key.q, &key.k, &key.v, &key.dq, &key.dk, &key.dv}) {
      (*strides)[2] = 3 * key.head_dim;
    }
    const CudnnPlan plan = check_attention(key, true, device("h200"));
    EXPECT_GT(plan.candidates, 0) << plan.reason;
  }
}

TEST_F(CudnnPlans, SaysWhatItDoesNotHave) {
  for (const bool backward : {false, true}) {
    const CudnnPlan plan = check_attention(
        key_of({2, 16, 16, 1024, 1024, 100}, DType::bf16, backward), false, device("h200"));
    EXPECT_EQ(plan.candidates, 0);
    EXPECT_NE(plan.reason.find("multiple of 8"), std::string::npos) << plan.reason;
  }
}

TEST(CudnnKey, EveryFieldCounts) {
  const CudnnAttentionKey key = key_of({2, 16, 4, 1024, 1024, 64}, DType::bf16, true);
  std::vector<CudnnAttentionKey> others(1, key);
  const auto add = [&](auto&& change) {
    others.push_back(key);
    change(others.back());
  };
  add([](auto& k) { k.dtype = DType::f16; });
  add([](auto& k) { k.backward = false; });
  add([](auto& k) { k.scale = 0.25f; });
  for (auto field :
       {&CudnnAttentionKey::batch, &CudnnAttentionKey::query_length, &CudnnAttentionKey::key_length,
        &CudnnAttentionKey::heads, &CudnnAttentionKey::kv_heads, &CudnnAttentionKey::head_dim}) {
    add([&](auto& k) { ++(k.*field); });
  }
  for (auto field : {&CudnnAttentionKey::q, &CudnnAttentionKey::k, &CudnnAttentionKey::v,
                     &CudnnAttentionKey::dq, &CudnnAttentionKey::dk, &CudnnAttentionKey::dv}) {
    for (std::size_t axis = 0; axis < 3; ++axis) {
      add([&](auto& k) { ++(k.*field)[axis]; });
    }
  }
  std::set<std::size_t> hashes;
  for (std::size_t i = 0; i < others.size(); ++i) {
    hashes.insert(others[i].hash());
    EXPECT_EQ(others[i] == key, i == 0);
  }
  EXPECT_EQ(others.size(), 28u);
  EXPECT_EQ(hashes.size(), others.size());
}

// ---- what is refused -------------------------------------------------------------------------

TEST(CudnnAttention, RefusesWhatItCannotComputeWithAReason) {
  const OwnedTensor half({2 * 64, 3 * 4 * 64}, DType::bf16, kSimulated);
  const OwnedTensor full({2 * 64, 3 * 4 * 64}, DType::f32, kSimulated);
  AttentionProblem problem{2, 64, 64, 4, 4, 64, 0.125f, {}};
  const auto heads = [](ConstTensor t, std::int64_t offset) {
    return ConstHeads(t, 64, offset, 3 * 64);
  };
  const auto refusal = [&](ConstTensor t, std::int64_t offset) {
    return cudnn_refusal(problem, {heads(t, 0), heads(t, offset), heads(t, 128)});
  };
  EXPECT_EQ(refusal(half.tensor, 64), "");
  EXPECT_NE(refusal(full.tensor, 64).find("bf16 and f16"), std::string::npos);
  EXPECT_NE(refusal(half.tensor, 63).find("16 bytes"), std::string::npos);
  ConstHeads odd = heads(half.tensor, 64);
  odd.head_stride = 190;
  EXPECT_NE(cudnn_refusal(problem, {odd}).find("16 bytes"), std::string::npos);
  problem.dropout.p = 0.1f;
  EXPECT_NE(refusal(half.tensor, 64).find("dropout"), std::string::npos);
  problem.dropout.p = 0.0f;
  problem.query_length = 1;
  EXPECT_NE(refusal(half.tensor, 64).find("generation"), std::string::npos);
  problem.query_length = 64;
  problem.batch = 0;
  EXPECT_NE(refusal(half.tensor, 64), "");
}

TEST(CudnnAttention, SimulatedDevicesHaveNone) {
  const CudnnAttention cudnn(kSimulated, false);
  const AttentionProblem problem{2, 64, 64, 4, 4, 64, 0.125f, {}};
  const OwnedTensor qkv({2 * 64, 3 * 4 * 64}, DType::bf16, kSimulated);
  const ConstHeads q(qkv, 64, 0, 64);
  EXPECT_NE(cudnn.why_not(problem, q, q, q).find("simulated:0"), std::string::npos);
  EXPECT_EQ(cudnn.plans().misses(), 0);
  const auto stream = make_stream(kSimulated);
  EXPECT_THROW(cudnn.attention(*stream, problem, q, q, q, qkv, qkv), Error);
}

// ---- on a GPU --------------------------------------------------------------------------------

class CudnnAttentionOn : public OnGpu {
 protected:
  void SetUp() override {
    OnGpu::SetUp();
    if (!IsSkipped() && !cudnn_problem().empty()) GTEST_SKIP() << cudnn_problem();
  }
};

/// One attention layer: queries of the last query_length positions, keys and values of all.
struct Layer {
  AttentionProblem problem;
  OwnedTensor q, kv, out, lse, dout, dq, dkv;
  ConstHeads key_heads(ConstTensor t, std::int64_t which) const {
    const AttentionProblem& p = problem;
    return ConstHeads(t, p.key_length, which * p.head_dim, 2 * p.head_dim);
  }
  Heads key_heads(Tensor t, std::int64_t which) const {
    const AttentionProblem& p = problem;
    return Heads(t, p.key_length, which * p.head_dim, 2 * p.head_dim);
  }
};

OwnedTensor random_tensor(Stream& stream, Device device, Shape shape, DType dtype,
                          std::uint64_t seed) {
  OwnedTensor tensor(shape, dtype, device), host(shape, dtype);
  const Array values = normal_values(shape.numel(), seed);
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto to = host.tensor.span<T>();
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = T(static_cast<float>(values[i]));
  });
  copy(stream, host, tensor);
  stream.synchronize();
  return tensor;
}

Layer make_layer(Stream& stream, Device device, const Shapes& s, DType dtype) {
  const Shape q{s.batch * s.query_length, s.heads * s.head_dim};
  const Shape kv{s.batch * s.key_length, 2 * s.kv_heads * s.head_dim};
  const float scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim));
  const auto tensor = [&](Shape shape, std::uint64_t seed) {
    return random_tensor(stream, device, shape, dtype, seed);
  };
  return {{s.batch, s.query_length, s.key_length, s.heads, s.kv_heads, s.head_dim, scale, {}},
          tensor(q, 1),
          tensor(kv, 2),
          tensor(q, 3),
          random_tensor(stream, device, {s.batch, s.heads, s.query_length}, DType::f32, 4),
          tensor(q, 5),
          tensor(q, 6),
          tensor(kv, 7)};
}

/// Calls forward and backward with everything that both engines take.
template <class Forward, class Backward>
void run_layer(const Layer& l, const Forward& forward, const Backward& backward) {
  const AttentionProblem& p = l.problem;
  const Tensor dq_rows = l.dq, dkv_rows = l.dkv;
  const ConstHeads q(ConstTensor(l.q), p.query_length, 0, p.head_dim);
  const ConstHeads k = l.key_heads(ConstTensor(l.kv), 0), v = l.key_heads(ConstTensor(l.kv), 1);
  const Heads dq(dq_rows, p.query_length, 0, p.head_dim), dk = l.key_heads(dkv_rows, 0),
                                                          dv = l.key_heads(dkv_rows, 1);
  forward(p, q, k, v);
  backward(p, q, k, v, dq, dk, dv);
}

Array values_of(Stream& stream, ConstTensor tensor) {
  OwnedTensor host(tensor.shape, tensor.dtype);
  copy(stream, tensor, host);
  stream.synchronize();
  Array values;
  visit_float(tensor.dtype, [&](auto zero) {
    for (const auto value : host.tensor.span<decltype(zero)>()) {
      values.push_back(static_cast<double>(static_cast<float>(value)));
    }
  });
  return values;
}

void compute_on_cpu(Stream& stream, const Layer& l) {
  const Backend& cpu = cpu_backend();
  const auto bytes =
      static_cast<std::int64_t>(cpu.attention_backward_workspace(l.problem, l.q.tensor.dtype));
  const OwnedTensor workspace({bytes}, DType::u8);
  run_layer(
      l,
      [&](const auto& p, auto q, auto k, auto v) {
        cpu.attention(stream, p, q, k, v, l.out, l.lse);
      },
      [&](const auto& p, auto q, auto k, auto v, auto dq, auto dk, auto dv) {
        cpu.attention_backward(stream, p, q, k, v, l.out, l.lse, l.dout, dq, dk, dv, workspace);
      });
}

void compute_by_cudnn(Stream& stream, const Layer& l, const CudnnAttention& cudnn) {
  run_layer(
      l,
      [&](const auto& p, auto q, auto k, auto v) {
        ASSERT_EQ(cudnn.why_not(p, q, k, v), "");
        cudnn.attention(stream, p, q, k, v, l.out, l.lse);
      },
      [&](const auto& p, auto q, auto k, auto v, auto dq, auto dk, auto dv) {
        ASSERT_EQ(cudnn.why_not_backward(p, q, k, v, dq, dk, dv), "");
        cudnn.attention_backward(stream, p, q, k, v, l.out, l.lse, l.dout, dq, dk, dv);
      });
}

TEST_F(CudnnAttentionOn, MatchesTheCpuEngine) {
  const auto host = make_stream(Device{}), stream = make_stream(kGpu);
  for (const bool deterministic : {false, true}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      const CudnnAttention cudnn(kGpu, deterministic);
      for (const Shapes& s : {Shapes{2, 4, 4, 256, 256, 64}, Shapes{1, 4, 2, 200, 200, 96},
                              Shapes{2, 6, 2, 128, 384, 128}, Shapes{1, 3, 3, 77, 333, 80},
                              Shapes{1, 2, 1, 512, 512, 128}}) {
        SCOPED_TRACE(fmt::format("{} {}", name_of(dtype), text_of(s)));
        const Layer want = make_layer(*host, Device{}, s, dtype);
        const Layer got = make_layer(*stream, kGpu, s, dtype);
        compute_on_cpu(*host, want);
        compute_by_cudnn(*stream, got, cudnn);
        const auto error = [&](const OwnedTensor& a, const OwnedTensor& b) {
          return error_of(values_of(*stream, a), values_of(*host, b));
        };
        EXPECT_LT(error(got.lse, want.lse), 1e-4);
        EXPECT_LT(error(got.out, want.out), 2e-2);
        EXPECT_LT(error(got.dq, want.dq), 4e-2);
        EXPECT_LT(error(got.dkv, want.dkv), 4e-2);
      }
    }
  }
}

TEST_F(CudnnAttentionOn, RepeatsBitForBitWhenAsked) {
  const auto stream = make_stream(kGpu);
  const CudnnAttention cudnn(kGpu, true);
  const Layer layer = make_layer(*stream, kGpu, {4, 8, 8, 1024, 1024, 64}, DType::bf16);
  Array first;
  for (int repeat = 0; repeat < 5; ++repeat) {
    compute_by_cudnn(*stream, layer, cudnn);
    Array all = values_of(*stream, layer.dq);
    const Array more = values_of(*stream, layer.dkv);
    all.insert(all.end(), more.begin(), more.end());
    if (repeat == 0) first = all;
    EXPECT_EQ(all, first);
  }
}

TEST_F(CudnnAttentionOn, SteadyStateMakesNoPlansAndAllocatesNothing) {
  const auto stream = make_stream(kGpu);
  const CudnnAttention cudnn(kGpu, false);
  const Layer layer = make_layer(*stream, kGpu, {2, 8, 2, 512, 512, 128}, DType::bf16);
  compute_by_cudnn(*stream, layer, cudnn);
  EXPECT_EQ(cudnn.plans().misses(), 2);
  const AllocationCounts before = allocation_counts();
  for (int i = 0; i < 3; ++i) compute_by_cudnn(*stream, layer, cudnn);
  EXPECT_EQ(cudnn.plans().misses(), 2);
  EXPECT_EQ(allocation_counts().calls, before.calls);
}

/// A problem more than there are plans for goes to another engine.
TEST_F(CudnnAttentionOn, MakesNoPlansForEver) {
  const auto stream = make_stream(kGpu);
  const CudnnAttention cudnn(kGpu, false);
  int made = 0;
  for (std::int64_t length = 64; length < 64 + 20; ++length) {
    const Layer layer = make_layer(*stream, kGpu, {1, 2, 2, length, length, 64}, DType::bf16);
    run_layer(
        layer,
        [&](const auto& p, auto q, auto k, auto v) { made += cudnn.why_not(p, q, k, v).empty(); },
        [](const auto&...) {});
  }
  EXPECT_EQ(made, 16);
}

}  // namespace
}  // namespace neox::testing
