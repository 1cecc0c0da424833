// The embedding family of the CUDA backend, on the GPU where there is one and on the host
// everywhere: against the references of the operator harness, and bit for bit against the CPU
// engine on larger shapes.

#include <cstring>

#include "core/tensor/buffer.h"
#include "tests/gpu/gpu_support.h"
#include "tests/kernels/op_cases.h"

namespace neox::testing {
namespace {

const std::vector<DType> kDTypes = {DType::f32, DType::bf16, DType::f16};

std::vector<OpCase> cases() {
  std::vector<OpCase> all;
  for (const DType dtype : kDTypes) {
    for (OpCase& test : embedding_cases(dtype, CaseSize::small)) all.push_back(std::move(test));
  }
  return all;
}

class CudaEmbeddingCase : public OnGpu, public ::testing::WithParamInterface<OpCase> {};
class SimulatedEmbeddingCase : public ::testing::TestWithParam<OpCase> {};

TEST_P(CudaEmbeddingCase, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kGpu), GetParam()), "");
  EXPECT_EQ(check_gradient(cuda_kernels_on(kGpu), GetParam()), "");
}
TEST_P(SimulatedEmbeddingCase, MatchesTheReference) {
  EXPECT_EQ(check_value(cuda_kernels_on(kSimulated), GetParam()), "");
  EXPECT_EQ(check_gradient(cuda_kernels_on(kSimulated), GetParam()), "");
}

std::string id_of(const ::testing::TestParamInfo<OpCase>& info) {
  return info.param.id();
}
INSTANTIATE_TEST_SUITE_P(Embedding, CudaEmbeddingCase, ::testing::ValuesIn(cases()), id_of);
INSTANTIATE_TEST_SUITE_P(Embedding, SimulatedEmbeddingCase, ::testing::ValuesIn(cases()), id_of);

// ---- against the CPU engine ------------------------------------------------------------------

/// A tensor on a device, `skip` elements behind an aligned address.
struct Placed {
  OwnedTensor memory;
  Tensor tensor;
  Placed(Device device, Shape shape, DType dtype, std::int64_t skip)
      : memory({shape.numel() + skip}, dtype, device),
        tensor(memory.tensor.slice(skip, skip + shape.numel()).reshape(shape)) {}
  Placed(Stream& stream, Shape shape, DType dtype, std::int64_t skip, const Array& values)
      : Placed(stream.device(), shape, dtype, skip) {
    OwnedTensor host(shape, dtype);
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (dtype == DType::i32) {
        host.tensor.ptr<std::int32_t>()[i] = static_cast<std::int32_t>(values[i]);
      } else {
        visit_float(dtype, [&](auto zero) {
          using T = decltype(zero);
          host.tensor.ptr<T>()[i] = T(static_cast<float>(values[i]));
        });
      }
    }
    copy(stream, host, tensor);
    stream.synchronize();
  }
  std::vector<std::byte> bytes(Stream& stream) const {
    OwnedTensor host(tensor.shape, tensor.dtype);
    copy(stream, tensor, host);
    stream.synchronize();
    return {host.tensor.data, host.tensor.data + host.tensor.bytes()};
  }
};

struct Form {
  std::int64_t rows, vocabulary, width, skip;
};

/// y and both gradients, as bytes.
std::vector<std::byte> compute(const Backend& ops, Device device, const Form& f, DType dtype) {
  const auto stream = make_stream(device);
  const std::int64_t n = f.vocabulary / 2, first = f.vocabulary / 4, places = 7;
  // Squares of uniform numbers: small ids are frequent, as the words of a language are.
  Array draws = whole_values(f.rows, 1, f.vocabulary);
  for (double& id : draws) {
    id =
        static_cast<double>(static_cast<std::int64_t>(id * id / static_cast<double>(f.vocabulary)));
  }
  const Placed ids(*stream, {f.rows}, DType::i32, 0, draws),
      positions(*stream, {f.rows}, DType::i32, 0, whole_values(f.rows, 2, places)),
      table(*stream, {n, f.width}, dtype, f.skip, normal_values(n * f.width, 3)),
      places_table(*stream, {places, f.width}, dtype, f.skip, normal_values(places * f.width, 4)),
      dy(*stream, {f.rows, f.width}, dtype, f.skip, normal_values(f.rows * f.width, 5)),
      y(device, {f.rows, f.width}, dtype, f.skip),
      dtable(*stream, {n, f.width}, DType::f32, f.skip, normal_values(n * f.width, 6)),
      dplaces(*stream, {places, f.width}, DType::f32, f.skip, normal_values(places * f.width, 7));
  ops.embedding(*stream, ids.tensor, table.tensor, first, positions.tensor, places_table.tensor,
                y.tensor);
  ops.embedding_backward(*stream, ids.tensor, dy.tensor, first, dtable.tensor);
  ops.embedding_backward(*stream, positions.tensor, dy.tensor, 0, dplaces.tensor);
  std::vector<std::byte> all = y.bytes(*stream);
  for (const Placed* more : {&dtable, &dplaces}) {
    const auto bytes = more->bytes(*stream);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return all;
}

void expect_bits_of_cpu(Device device) {
  std::vector<Form> forms = {{1, 4, 8, 0},       {3000, 50, 24, 0},  {257, 5000, 256, 0},
                             {400, 40, 1000, 8}, {400, 40, 1000, 3}, {333, 300, 35, 0}};
  if (device == kGpu) {
    forms.push_back({16384, 50304, 1024, 0});
    forms.push_back({70000, 300, 72, 0});  // more rows than a grid's y axis holds
  }
  for (const DType dtype : kDTypes) {
    for (const Form& form : forms) {
      const auto want = compute(cpu_backend(), Device{}, form, dtype);
      const auto got = compute(cuda_kernels_on(device), device, form, dtype);
      ASSERT_EQ(got.size(), want.size());
      EXPECT_TRUE(got == want) << name_of(dtype) << " " << form.rows << " rows of "
                               << form.vocabulary << "x" << form.width << " skip " << form.skip;
    }
  }
}

class CudaEmbeddingBits : public OnGpu {};
TEST_F(CudaEmbeddingBits, AreTheCpuEngines) {
  expect_bits_of_cpu(kGpu);
}
TEST(SimulatedEmbeddingBits, AreTheCpuEngines) {
  expect_bits_of_cpu(kSimulated);
}

void expect_no_allocation(Device device) {
  const Backend& ops = cuda_kernels_on(device);
  const Form longest{600, 40, 16, 0}, shorter{200, 40, 16, 0};
  compute(ops, device, longest, DType::f32);
  const auto before = allocation_counts(MemoryOwner::backend).calls;
  compute(ops, device, shorter, DType::bf16);
  compute(ops, device, longest, DType::f32);
  EXPECT_EQ(allocation_counts(MemoryOwner::backend).calls, before);
}
class CudaEmbeddingMemory : public OnGpu {};
TEST_F(CudaEmbeddingMemory, IsAllocatedOnce) {
  expect_no_allocation(kGpu);
}
TEST(SimulatedEmbeddingMemory, IsAllocatedOnce) {
  expect_no_allocation(kSimulated);
}

}  // namespace
}  // namespace neox::testing
