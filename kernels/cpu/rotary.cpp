#include <omp.h>

#include "core/base/error.h"
#include "kernels/cpu/attention_common.h"
#include "kernels/cpu/cpu_backend.h"

namespace neox {
namespace cpu {
namespace {

template <class T>
void rotate_row(T* x, const float* cosines, const float* sines, std::int64_t half, float sign) {
  using S = simd::Best;
  for (std::int64_t c = 0; c < half; c += kLanes) {
    const std::int64_t n = half - c;
    const auto a = S::load_elements(x + c, n);
    const auto b = S::load_elements(x + half + c, n);
    const auto cosine = S::load_elements(cosines + c, n);
    const auto sine = S::load_elements(sines + c, n) * simd::broadcast(sign);
    S::store_elements(x + c, a * cosine - b * sine, n);
    S::store_elements(x + half + c, b * cosine + a * sine, n);
  }
}

}  // namespace

void rotary(Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
            ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table, bool inverse) {
  const std::int64_t half = cos_table.cols();
  require(x.device.is_cpu(), "rotary on the CPU got heads on {}", name_of(x.device));
  require(cos_table.shape == sin_table.shape,
          "rotary's tables differ in shape: cosines {}, sines {}", cos_table.shape.str(),
          sin_table.shape.str());
  require(heads <= 1 || 2 * half <= x.head_stride,
          "rotary's tables turn {} channels, but heads lie {} elements apart", 2 * half,
          x.head_stride);
  const std::int64_t rows = batch * seq;
  require(positions.numel() == rows, "rotary got {} positions for {} x {} tokens",
          positions.numel(), batch, seq);
  const std::int32_t* at = positions.ptr<std::int32_t>();
  const std::int64_t limit = cos_table.rows();
  for (std::int64_t r = 0; r < rows; ++r) {
    require(at[r] >= 0 && at[r] < limit,
            "position {} of token {} lies outside the rotary tables, which hold {} positions",
            at[r], r, limit);
  }
  const float* cosines = cos_table.ptr<float>();
  const float* sines = sin_table.ptr<float>();
  const float sign = inverse ? -1.0f : 1.0f;
  visit_float(x.dtype, [&](auto zero) {
    using T = decltype(zero);
#pragma omp parallel for schedule(static) if (rows * heads * half > 8192)
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* c = cosines + at[r] * half;
      const float* s = sines + at[r] * half;
      for (std::int64_t a = 0; a < heads; ++a) {
        rotate_row(row_of<T>(x, r / seq, r % seq, a), c, s, half, sign);
      }
    }
  });
}

}  // namespace cpu

void CpuBackend::rotary(Stream&, Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
                        ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table,
                        bool inverse) const {
  cpu::rotary(x, batch, seq, heads, positions, cos_table, sin_table, inverse);
}

}  // namespace neox
