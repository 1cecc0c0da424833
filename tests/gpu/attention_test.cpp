// The attention family of the CUDA backend, on the GPU where there is one and on the host
// everywhere: against the references of the operator harness, against attention in float64 on other
// lengths, head sizes and layouts, and against the CPU engine's dropout masks.

#include <cmath>
#include <cstring>
#include <limits>

#include "core/tensor/buffer.h"
#include "kernels/cuda/family.h"
#include "kernels/cuda/host_block.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/attention_reference.h"
#include "tests/kernels/mask_form.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

using test::attention_reference;
using test::AttentionReference;
using test::Reference;

const std::vector<DType> kDTypes = {DType::f32, DType::bf16, DType::f16};

std::vector<OpCase> cases() {
  std::vector<OpCase> all;
  for (const DType dtype : kDTypes) {
    for (OpCase& test : attention_cases(dtype, CaseSize::small)) all.push_back(std::move(test));
  }
  return all;
}

class CudaAttentionCase : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class SimulatedAttentionCase : public ::testing::TestWithParam<OpCase> {};

void check_case(Device device, const OpCase& test) {
  EXPECT_EQ(check_value(cuda_kernels_on(device), test), "");
  if (!test.backward) return;
  EXPECT_EQ(check_gradient(cuda_kernels_on(device), test), "");
}
TEST_P(CudaAttentionCase, MatchesTheReference) {
  check_case(kGpu, GetParam());
}
TEST_P(SimulatedAttentionCase, MatchesTheReference) {
  check_case(kSimulated, GetParam());
}

std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Attention, CudaAttentionCase, ::testing::ValuesIn(cases()), id_of);
INSTANTIATE_TEST_SUITE_P(Attention, SimulatedAttentionCase, ::testing::ValuesIn(cases()), id_of);

// ---- other shapes ----------------------------------------------------------------------------

/// How heads lie in memory: packed; as q, k or v of [heads, (q, k, v), dim]; in the first rows of a
/// longer cache; an element behind an aligned address.
enum class Layout { packed, fused, cache, unaligned };

struct Form {
  std::int64_t batch, queries, keys, heads, kv_heads, dim;
  Layout layout = Layout::packed;
  float dropout = 0.0f;
  test::MaskForm mask{};
  std::int64_t alibi_heads = 0;
};

std::string text_of(const Form& f, DType dtype) {
  return fmt::format("{} batch {} {}x{} heads {}/{} dim {} layout {} dropout {}{}", name_of(dtype),
                     f.batch, f.queries, f.keys, f.heads, f.kv_heads, f.dim,
                     static_cast<int>(f.layout), f.dropout, describe(f.mask));
}

/// Heads on a device; whatever lies between them is NaN, and must stay it.
class PlacedHeads {
 public:
  PlacedHeads(Stream& stream, const Form& f, DType dtype, std::int64_t length, std::int64_t heads)
      : stream_(stream), batch_(f.batch), length_(length), count_(heads), dim_(f.dim) {
    const bool fused = f.layout == Layout::fused;
    const std::int64_t step = fused ? 3 * f.dim : f.dim,
                       rows = f.layout == Layout::cache ? length + 9 : length,
                       skip = fused                           ? f.dim
                              : f.layout == Layout::unaligned ? 1
                                                              : 0;
    memory_ = OwnedTensor({f.batch * rows * heads * step + skip}, dtype, stream.device());
    host_ = OwnedTensor(memory_.tensor.shape, dtype);
    std::memset(host_.tensor.data, 0xff, host_.tensor.bytes());
    heads_.data = memory_.tensor.data + static_cast<std::size_t>(skip) * size_of(dtype);
    heads_.dtype = dtype;
    heads_.device = stream.device();
    heads_.batch_stride = rows * heads * step;
    heads_.row_stride = heads * step;
    heads_.head_stride = step;
    first_ = skip;
    copy(stream, host_, memory_);
    stream.synchronize();
  }
  operator Heads() const { return heads_; }         // NOLINT: implicit on purpose
  operator ConstHeads() const { return {heads_}; }  // NOLINT: implicit on purpose

  void write(std::uint64_t seed) {
    const Array values = normal_values(batch_ * length_ * count_ * dim_, seed);
    std::size_t i = 0;
    each([&](auto& element) {
      using T = std::remove_reference_t<decltype(element)>;
      element = T(static_cast<float>(values[i++]));
    });
    copy(stream_, host_, memory_);
    stream_.synchronize();
  }
  /// All channels of one row of the only head.
  void set_row(std::int64_t row, double value) {
    std::int64_t i = 0;
    each([&](auto& element) {
      using T = std::remove_reference_t<decltype(element)>;
      if (i++ / dim_ == row) element = T(static_cast<float>(value));
    });
    copy(stream_, host_, memory_);
    stream_.synchronize();
  }
  Array read() {
    copy(stream_, memory_, host_);
    stream_.synchronize();
    Array values;
    each([&](auto& element) {
      values.push_back(static_cast<double>(static_cast<float>(element)));
      std::memset(static_cast<void*>(&element), 0xff, sizeof element);
    });
    for (std::size_t i = 0; i < host_.tensor.bytes(); ++i) {
      if (host_.tensor.data[i] != std::byte{0xff}) values.push_back(1e30);  // a stray write
    }
    return values;
  }

 private:
  template <class F>
  void each(F f) {
    visit_float(heads_.dtype, [&](auto zero) {
      using T = decltype(zero);
      T* data = host_.tensor.ptr<T>() + first_;
      for (std::int64_t i = 0; i < batch_ * length_ * count_; ++i) {
        const std::int64_t head = i % count_, row = i / count_ % length_,
                           sample = i / count_ / length_;
        T* at = data + sample * heads_.batch_stride + row * heads_.row_stride +
                head * heads_.head_stride;
        for (std::int64_t d = 0; d < dim_; ++d) f(at[d]);
      }
    });
  }
  Stream& stream_;
  std::int64_t batch_, length_, count_, dim_, first_ = 0;
  OwnedTensor memory_, host_;
  Heads heads_;
};

Array read(Stream& stream, ConstTensor tensor) {
  OwnedTensor host(tensor.shape, tensor.dtype);
  copy(stream, tensor, host);
  stream.synchronize();
  Array values;
  visit_float(tensor.dtype, [&](auto zero) {
    for (const auto v : host.tensor.span<decltype(zero)>()) {
      values.push_back(static_cast<double>(static_cast<float>(v)));
    }
  });
  return values;
}

struct Results {
  Array q, k, v, dout;  // the inputs, as the dtype holds them
  Array out, lse, dq, dk, dv;
};

AttentionProblem problem_of(const Form& f) {
  AttentionProblem p{f.batch,
                     f.queries,
                     f.keys,
                     f.heads,
                     f.kv_heads,
                     f.dim,
                     1.0f / std::sqrt(static_cast<float>(f.dim))};
  p.dropout = {f.dropout, RngKey{0x1234567890abcdefu}, 3, 2, f.heads + 5};
  p.alibi = {0, f.alibi_heads};
  return p;
}

Results compute(const Backend& ops, Device device, const Form& f, DType dtype) {
  const auto stream = make_stream(device);
  AttentionProblem p = problem_of(f);
  const test::OwnedMask mask = test::OwnedMask(f.mask, p).on(*stream);
  p.mask = mask.view();
  PlacedHeads q(*stream, f, dtype, f.queries, f.heads), k(*stream, f, dtype, f.keys, f.kv_heads),
      v(*stream, f, dtype, f.keys, f.kv_heads), dq(*stream, f, dtype, f.queries, f.heads),
      dk(*stream, f, dtype, f.keys, f.kv_heads), dv(*stream, f, dtype, f.keys, f.kv_heads);
  Form plain = f;
  plain.layout = Layout::packed;
  PlacedHeads dout(*stream, plain, dtype, f.queries, f.heads);
  q.write(1);
  k.write(2);
  v.write(3);
  dout.write(4);
  const Shape shape{f.batch, f.queries, f.heads * f.dim};
  const OwnedTensor out(shape, dtype, device),
      lse({f.batch, f.heads, f.queries}, DType::f32, device);
  const Tensor d(Heads(dout).data, shape, dtype, device);
  ops.attention(*stream, p, q, k, v, out, lse);
  const OwnedTensor workspace(
      {static_cast<std::int64_t>(ops.attention_backward_workspace(p, dtype))}, DType::u8, device);
  ops.attention_backward(*stream, p, q, k, v, out, lse, d, dq, dk, dv, workspace);
  return {q.read(),           k.read(),  v.read(),  dout.read(), read(*stream, out),
          read(*stream, lse), dq.read(), dk.read(), dv.read()};
}

/// Relative to the sum of the magnitudes of an element's terms.
void expect_close(const char* what, const Array& got, const Reference& want, double tolerance,
                  const std::string& about) {
  ASSERT_EQ(got.size(), want.value.size()) << what << " of " << about << ": stray writes";
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

void check(const Backend& ops, Device device, const Form& f, DType dtype,
           const test::ScoreBias& bias = {}) {
  const std::string about = text_of(f, dtype);
  const Results got = compute(ops, device, f, dtype);
  AttentionProblem problem = problem_of(f);
  const test::OwnedMask mask(f.mask, problem);
  problem.mask = mask.view();
  const AttentionReference want = attention_reference(problem, got.q, got.k, got.v, got.dout, bias);
  // 16-bit: probabilities, their gradients, out and the result are rounded to the dtype.
  const double u = dtype == DType::f16 ? 0x1p-11 : 0x1p-8;
  const double limit = dtype == DType::f32 ? 1e-5 : 3 * u;
  expect_close("out", got.out, want.out, limit, about);
  expect_close("lse", got.lse, want.lse, 1e-5, about);
  expect_close("dq", got.dq, want.dq, limit, about);
  expect_close("dk", got.dk, want.dk, limit, about);
  expect_close("dv", got.dv, want.dv, limit, about);
}

/// Tiles have 16 to 128 rows; widths are padded to 32, 64, 128 and 256.
std::vector<Form> forms(Device device, DType dtype) {
  std::vector<Form> all = {{1, 1, 1, 1, 1, 64},
                           {2, 33, 33, 2, 2, 20, Layout::fused},
                           {1, 130, 130, 1, 1, 40, Layout::unaligned},
                           {1, 20, 20, 6, 2, 64, Layout::fused},
                           {1, 17, 90, 4, 2, 33, Layout::cache},
                           {2, 1, 130, 4, 1, 64, Layout::cache},
                           {1, 65, 65, 1, 1, 80},
                           {1, 300, 300, 1, 1, 32},
                           {1, 20, 20, 1, 1, 96},
                           {1, 5, 33, 2, 1, 112, Layout::unaligned, 0.1f},
                           {1, 36, 36, 1, 1, 160, Layout::fused, 0.2f},
                           {1, 17, 17, 1, 1, 1},
                           {1, 19, 36, 2, 1, 128, Layout::cache, 0.3f},
                           {1, 40, 40, 1, 1, 256, Layout::fused},
                           {1, 70, 72, 2, 1, 24, Layout::packed, 0.2f},
                           {1, 66, 69, 1, 1, 64, Layout::unaligned, 0.5f}};
  if (dtype != DType::f32) {
    all.push_back({1, 150, 150, 1, 1, 128});
    all.push_back({1, 20, 40, 1, 1, 200, Layout::packed, 0.2f});
  }
  if (device == kGpu) {
    for (const std::int64_t dim : {1, 2, 7, 16, 32, 48, 64, 96, 112, 128, 160, 192, 256}) {
      all.push_back({2, 300, 300, 4, 2, dim, Layout::fused});
      all.push_back({1, 130, 257, 2, 2, dim, Layout::cache, 0.1f});
    }
    all.push_back({1, 1000, 1000, 2, 1, 128});
    all.push_back({3, 1, 3000, 8, 2, 128, Layout::cache});
  }
  return all;
}

class CudaAttentionShapes : public OnGpu, public ::testing::WithParamInterface<DType> {};
class SimulatedAttentionShapes : public ::testing::TestWithParam<DType> {};
TEST_P(CudaAttentionShapes, MatchFloat64) {
  for (const Form& f : forms(kGpu, GetParam())) check(cuda_kernels_on(kGpu), kGpu, f, GetParam());
}
TEST_P(SimulatedAttentionShapes, MatchFloat64) {
  for (const Form& f : forms(kSimulated, GetParam()))
    check(cuda_kernels_on(kSimulated), kSimulated, f, GetParam());
}
std::string name_of_dtype(const ::testing::TestParamInfo<DType>& info) {
  return std::string(name_of(info.param));
}
INSTANTIATE_TEST_SUITE_P(Attention, CudaAttentionShapes, ::testing::ValuesIn(kDTypes),
                         name_of_dtype);
INSTANTIATE_TEST_SUITE_P(Attention, SimulatedAttentionShapes, ::testing::ValuesIn(kDTypes),
                         name_of_dtype);

// ---- masks -----------------------------------------------------------------------------------

/// Windows, documents and blocks shorter and longer than tiles of queries and keys.
std::vector<Form> masked_forms() {
  std::vector<Form> all;
  const auto add = [&](Form form, const test::MaskForm& mask, std::int64_t alibi_heads = 0) {
    form.mask = mask;
    form.alibi_heads = alibi_heads;
    all.push_back(form);
  };
  for (const std::int64_t window : {1, 40, 90, 1000}) {
    add({1, 150, 150, 2, 1, 20}, {window});
    add({1, 70, 205, 2, 2, 32}, {window}, 4);
  }
  for (const std::int64_t length : {3, 50, 200}) add({2, 150, 150, 2, 1, 40}, {0, length});
  add({1, 70, 205, 2, 2, 32}, {0, 60}, 4);
  for (const std::int64_t block : {16, 48, 64, 128}) {
    add({1, 300, 300, 2, 1, 20}, {0, 0, block});
    add({1, 70, 205, 2, 1, 32, Layout::fused}, {0, 0, block, true});
  }
  add({2, 130, 130, 4, 2, 64, Layout::packed, 0.3f}, {60, 70, 32, true}, 4);
  add({1, 1, 205, 2, 1, 64, Layout::cache}, {100});
  add({1, 1, 205, 2, 1, 64, Layout::cache}, {0, 0, 32});
  add({1, 60, 60, 1, 1, 200}, {20, 30});
  return all;
}

void check_masks(Device device, DType dtype) {
  for (const Form& f : masked_forms()) {
    const auto bias = [&](std::int64_t head, std::int64_t query, std::int64_t key) {
      if (f.alibi_heads == 0) return 0.0;
      const double slope = double{alibi_slope({0, f.alibi_heads}, head)};
      return -slope * static_cast<double>(query + f.keys - f.queries - key);
    };
    check(cuda_kernels_on(device), device, f, dtype, bias);
  }
}
class CudaAttentionMasks : public OnGpu, public ::testing::WithParamInterface<DType> {};
class SimulatedAttentionMasks : public ::testing::TestWithParam<DType> {};
TEST_P(CudaAttentionMasks, MatchFloat64) {
  check_masks(kGpu, GetParam());
}
TEST_P(SimulatedAttentionMasks, MatchFloat64) {
  check_masks(kSimulated, GetParam());
}
INSTANTIATE_TEST_SUITE_P(Attention, CudaAttentionMasks, ::testing::ValuesIn(kDTypes),
                         name_of_dtype);
INSTANTIATE_TEST_SUITE_P(Attention, SimulatedAttentionMasks, ::testing::ValuesIn(kDTypes),
                         name_of_dtype);

// ---- against the CPU engine ------------------------------------------------------------------

/// One wrong bit of a mask would be an error of the size of the values.
void expect_cpu_masks(Device device) {
  for (const Form& f : {Form{2, 50, 52, 3, 3, 16, Layout::packed, 0.5f},
                        Form{1, 70, 71, 2, 1, 16, Layout::packed, 0.5f}}) {
    const Results want = compute(cpu_backend(), Device{}, f, DType::f32);
    const Results got = compute(cuda_kernels_on(device), device, f, DType::f32);
    EXPECT_LT(error_of(got.out, want.out), 1e-5) << text_of(f, DType::f32);
    EXPECT_LT(error_of(got.dq, want.dq), 1e-5) << text_of(f, DType::f32);
    EXPECT_LT(error_of(got.dk, want.dk), 1e-5) << text_of(f, DType::f32);
    EXPECT_LT(error_of(got.dv, want.dv), 1e-5) << text_of(f, DType::f32);
  }
}
class CudaAttentionDropout : public OnGpu {};
TEST_F(CudaAttentionDropout, MasksAreTheCpuEngines) {
  expect_cpu_masks(kGpu);
}
TEST(SimulatedAttentionDropout, MasksAreTheCpuEngines) {
  expect_cpu_masks(kSimulated);
}

// ---- values that are not finite --------------------------------------------------------------

/// One head of 16 channels whose last query has a NaN and whose last key is huge: both only reach
/// the last query.
void check_not_finite(Device device) {
  for (const DType dtype : kDTypes) {
    const auto stream = make_stream(device);
    const Backend& ops = cuda_kernels_on(device);
    const Form f{1, 70, 70, 1, 1, 16};
    const auto run = [&](bool spoiled) {
      PlacedHeads q(*stream, f, dtype, 70, 1), k(*stream, f, dtype, 70, 1),
          v(*stream, f, dtype, 70, 1);
      q.write(1);
      k.write(2);
      v.write(3);
      if (spoiled) {
        q.set_row(69, std::numeric_limits<double>::quiet_NaN());
        k.set_row(69, 1e4);
        v.set_row(69, -6e4);
      }
      const OwnedTensor out({1, 70, 16}, dtype, device), lse({1, 1, 70}, DType::f32, device);
      ops.attention(*stream, problem_of(f), q, k, v, out, lse);
      Array all = read(*stream, out);
      const Array more = read(*stream, lse);
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    const Array want = run(false), got = run(true);
    for (std::size_t i = 0; i < want.size(); ++i) {
      const bool last = (i >= 69 * 16 && i < 70 * 16) || i + 1 == want.size();
      if (last) {
        EXPECT_TRUE(std::isnan(got[i])) << name_of(dtype) << " " << i;
      } else {
        ASSERT_EQ(got[i], want[i]) << name_of(dtype) << " " << i;
      }
    }
  }
}
class CudaAttentionNotFinite : public OnGpu {};
TEST_F(CudaAttentionNotFinite, StaysWhereItIsSeen) {
  check_not_finite(kGpu);
}
TEST(SimulatedAttentionNotFinite, StaysWhereItIsSeen) {
  check_not_finite(kSimulated);
}

// ---- races -----------------------------------------------------------------------------------

bool same(const Results& a, const Results& b) {
  return a.out == b.out && a.lse == b.lse && a.dq == b.dq && a.dk == b.dk && a.dv == b.dv;
}

// A barrier that is missing shows when the threads between two barriers run in another order.
TEST(SimulatedAttention, DoesNotDependOnTheOrderOfThreads) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Form f{1, 70, 140, 2, 1, 24, Layout::packed, 0.2f};
    const auto run = [&] { return compute(cuda_kernels_on(kSimulated), kSimulated, f, dtype); };
    const Results want = run();
    cuda::set_host_order(cuda::HostOrder::backward);
    const Results backward = run();
    cuda::set_host_order(cuda::HostOrder::random, 5);
    const Results random = run();
    cuda::set_host_order(cuda::HostOrder::forward);
    EXPECT_TRUE(same(want, backward)) << name_of(dtype);
    EXPECT_TRUE(same(want, random)) << name_of(dtype);
  }
}

class CudaAttentionBits : public OnGpu {};
TEST_F(CudaAttentionBits, AreTheSameInEveryRun) {
  const Form f{2, 700, 700, 8, 2, 64, Layout::fused, 0.1f};
  const auto run = [&] { return compute(cuda_kernels_on(kGpu), kGpu, f, DType::bf16); };
  const Results want = run();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(same(want, run()));
}

TEST(CudaAttention, RefusesWhatItCannotCompute) {
  const Backend& ops = cuda_kernels_on(kSimulated);
  EXPECT_THROW(compute(ops, kSimulated, {1, 4, 4, 1, 1, 257}, DType::f32), Error);
  EXPECT_THROW(compute(ops, kSimulated, {1, 4, 3, 1, 1, 8}, DType::f32), Error);
  EXPECT_THROW(compute(ops, kSimulated, {1, 4, 4, 3, 2, 8}, DType::f32), Error);
}

}  // namespace
}  // namespace neox::testing
