#include "kernels/cuda/gemm.h"

#include <bit>
#include <cmath>

#include "core/base/error.h"
#include "kernels/cuda/plan_cache.h"

namespace neox {
namespace {

void check(bool fits, const char* what, ConstTensor a, ConstTensor b, ConstTensor d) {
  if (!fits) {
    fail("internal error: {} of {} and {} cannot give {}", what, a.shape.str(), b.shape.str(),
         d.shape.str());
  }
}

GemmKey key_of(ConstTensor a, ConstTensor b, Tensor d, GemmOperands& operands) {
  operands = {a.data, b.data, d.data, nullptr};
  GemmKey key;
  key.operand = a.dtype;
  key.result = d.dtype;
  key.lda = a.cols();
  key.ldb = b.cols();
  key.ldd = d.cols();
  key.align_a = alignment_of(a.data);
  key.align_b = alignment_of(b.data);
  key.align_d = alignment_of(d.data);
  return key;
}

}  // namespace

std::size_t GemmKey::hash() const {
  std::uint64_t hash = 0;
  mix_hash(hash, static_cast<std::int64_t>(operand) | static_cast<std::int64_t>(result) << 8 |
                     static_cast<std::int64_t>(epilogue) << 16 | std::int64_t{transpose_a} << 24 |
                     std::int64_t{transpose_b} << 25 | std::int64_t{accumulate} << 26);
  for (const std::int64_t value : {m, n, k, lda, ldb, ldd}) mix_hash(hash, value);
  mix_hash(hash, std::int64_t{align_a} | std::int64_t{align_b} << 16 | std::int64_t{align_d} << 32 |
                     std::int64_t{align_vector} << 48);
  return hash;
}

std::int16_t alignment_of(const void* address) {
  const auto bits = reinterpret_cast<std::uintptr_t>(address) | 256u;
  return static_cast<std::int16_t>(1 << std::countr_zero(bits));
}

GemmKey forward_product(ConstTensor x, ConstTensor w, Tensor y, GemmOperands& operands) {
  check(x.cols() == w.cols() && y.rows() == x.rows() && y.cols() == w.rows(), "the product", x, w,
        y);
  GemmKey key = key_of(w, x, y, operands);
  key.transpose_a = true;
  key.m = w.rows();
  key.n = x.rows();
  key.k = x.cols();
  return key;
}

GemmKey input_gradient_product(ConstTensor dy, ConstTensor w, Tensor dx, GemmOperands& operands) {
  check(dy.cols() == w.rows() && dx.rows() == dy.rows() && dx.cols() == w.cols(),
        "the input gradient", dy, w, dx);
  GemmKey key = key_of(w, dy, dx, operands);
  key.m = w.cols();
  key.n = dy.rows();
  key.k = w.rows();
  return key;
}

GemmKey weight_gradient_product(ConstTensor dy, ConstTensor x, Tensor dw, GemmOperands& operands) {
  check(dy.rows() == x.rows() && dw.rows() == dy.cols() && dw.cols() == x.cols(),
        "the weight gradient", dy, x, dw);
  GemmKey key = key_of(x, dy, dw, operands);
  key.transpose_b = true;
  key.m = x.cols();
  key.n = dy.cols();
  key.k = dy.rows();
  return key;
}

std::size_t choose_candidate(std::span<const double> seconds) {
  constexpr double kScatter = 0.02;
  std::size_t best = 0;
  for (std::size_t i = 1; i < seconds.size(); ++i) {
    if (seconds[i] < seconds[best] * (1 - kScatter)) best = i;
  }
  require(!seconds.empty() && std::isfinite(seconds[best]),
          "none of the {} algorithms that cuBLASLt proposed for a matrix product runs",
          seconds.size());
  return best;
}

}  // namespace neox
