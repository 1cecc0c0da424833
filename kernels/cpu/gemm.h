#pragma once
// Matrix products on the CPU: oneDNN's kernels on operands that we pack.
//
// oneDNN is fastest when the right-hand side lies in its own blocked layout and the left-hand side in
// rows; given plain matrices it repacks inside every call and in every thread. So operands are packed
// here, slice by slice into a scratch buffer that stays in cache, by our own vectorised code; weights
// that are used again before weights_changed() keep their packed copy. Packed once or each time, the
// same kernel sees the same bytes: results are bit-identical, and depend on inputs and thread count only.

#include <cstdint>
#include <memory>

#include "core/tensor/buffer.h"

namespace neox {

/// A buffer that only grows, so that steady state allocates nothing.
class ScratchBuffer {
 public:
  std::byte* at_least(std::size_t bytes);
  std::size_t bytes() const { return buffer_.bytes(); }

 private:
  Buffer buffer_;
};

/// The products behind CpuBackend's linear operators; same argument conventions (kernels/linear.h).
/// Not thread-safe: one caller at a time, which itself runs on all OpenMP threads.
class CpuGemm {
 public:
  CpuGemm();
  ~CpuGemm();
  CpuGemm(const CpuGemm&) = delete;
  CpuGemm& operator=(const CpuGemm&) = delete;

  /// True for f32, and for bf16 where the CPU multiplies bf16 (AVX512-BF16, AMX). Other types are
  /// converted to f32 first.
  bool fast(DType dtype) const;

  /// y[rows, out] = x[rows, in] w[out, in]^T + bias[out].
  void forward(ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y);
  /// dx[rows, in] (+)= dy[rows, out] w[out, in].
  void backward_input(ConstTensor dy, ConstTensor w, Tensor dx, bool accumulate);
  /// dw[out, in] (+)= dy[rows, out]^T x[rows, in]; db[out] (+)= column sums of dy.
  void backward_weight(ConstTensor dy, ConstTensor x, Tensor dw, Tensor db, bool accumulate);

  /// Marks packed copies as stale. Their memory is kept for the next ones.
  void weights_changed();
  /// Bytes of packed weights kept between calls; never more than kMaxKeptBytes.
  std::int64_t kept_bytes() const;

  /// Packed copies beyond this are made at each use instead of being kept.
  static constexpr std::int64_t kMaxKeptBytes = std::int64_t{512} << 20;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace neox
