#pragma once
// What tests of the CPU operators share beside the harness.

#include <cstring>
#include <memory>

#include <gtest/gtest.h>
#include <omp.h>

#include "core/base/rng.h"
#include "core/tensor/buffer.h"
#include "kernels/backend.h"

namespace neox {

/// The CPU backend; a test may change the number of threads.
struct CpuOps : ::testing::Test {
  ~CpuOps() override { omp_set_num_threads(threads); }
  std::unique_ptr<Backend> ops = make_backend(Device{});
  std::unique_ptr<Stream> stream = make_stream(Device{});
  int threads = omp_get_max_threads();
};

/// Normal values; equal arguments give equal values.
inline OwnedTensor filled(Shape shape, DType dtype, std::uint64_t seed) {
  OwnedTensor tensor(shape, dtype);
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      tensor.tensor.ptr<T>()[i] =
          static_cast<T>(normal_at(RngKey{seed}, static_cast<std::uint64_t>(i)));
    }
  });
  return tensor;
}

inline bool same_bits(ConstTensor a, ConstTensor b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

}  // namespace neox
