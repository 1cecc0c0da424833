#pragma once
// Matrix products on the CPU: oneDNN's kernels on operands that we pack.
//
// oneDNN is fastest when the right-hand side lies in its own blocked layout and the left-hand side
// in rows; given plain matrices it repacks inside every call and in every thread. So operands are
// packed here, slice by slice into a scratch buffer that stays in cache, by our own vectorised
// code; weights that are used again before weights_changed() keep their packed copy. Packed once or
// each time, the same kernel sees the same bytes: results are bit-identical, and depend on inputs
// and thread count only.

#include <cstdint>
#include <unordered_map>

#include "kernels/cpu/matmul.h"

namespace neox {

/// The products behind CpuBackend's linear operators; same argument conventions (kernels/linear.h).
/// `w` must be weights, whose packed copies are found again by address: nothing may write them
/// without a weights_changed() before the next product. Not thread-safe: one caller at a time,
/// which itself runs on all OpenMP threads.
class CpuGemm {
 public:
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
  void weights_changed() { ++generation_; }
  /// Bytes of packed weights kept between calls.
  std::int64_t kept_bytes() const { return kept_bytes_; }

  /// Packed copies beyond this are made at each use instead of being kept.
  static constexpr std::int64_t kMaxKeptBytes = std::int64_t{512} << 20;

 private:
  // A product with weights: b is w^T (forward: transposed) or w (backward_input: rows).
  struct WeightProduct {
    MatmulProblem plain;
    const std::byte* a = nullptr;
    ConstTensor w;
    const std::byte* bias = nullptr;
    std::byte* c = nullptr;
    bool keep = true;  // w outlives the call
  };
  struct KeptKey {
    const std::byte* weights;
    std::int64_t out, in;
    DType dtype;
    Rhs use;
    bool operator==(const KeptKey&) const = default;
  };
  struct KeptHash {
    std::size_t operator()(const KeptKey& key) const;
  };
  struct Kept {
    Buffer buffer;
    std::int64_t generation = 0;  // of the weights that were counted or packed last
    std::int64_t uses = 0;        // in that generation
    bool packed = false;          // the buffer holds that generation's weights
  };

  void multiply_weights(const WeightProduct& product);
  const std::byte* packed_weights(const WeightProduct& product, const PackedLayout& layout,
                                  std::size_t bytes);
  Kept* kept_copy(const WeightProduct& product, std::size_t bytes);
  void weight_gradient(ConstTensor dy, ConstTensor x, Tensor dw, Tensor db, bool accumulate);
  void weight_gradient_packed(const MatmulProblem& slice, PackedLayout layout, ConstTensor dy,
                              ConstTensor x, Tensor dw, Tensor db, bool accumulate);
  ConstTensor converted(ConstTensor t, ScratchBuffer& scratch) const;

  Matmul matmul_;
  std::unordered_map<KeptKey, Kept, KeptHash> kept_;
  std::int64_t generation_ = 1;
  std::int64_t kept_bytes_ = 0;
  ScratchBuffer packed_, transposed_, left_, right_, bias_, result_;
};

}  // namespace neox
