#pragma once
// Content hashes, to find replicas of a tensor that have drifted apart.

#include "core/tensor/tensor.h"

namespace neox {

class HashOps {
 public:
  virtual ~HashOps() = default;

  /// out u64 [1] = H(x), or with `accumulate` mix(out * K + H(x)): a hash of a list of tensors, in
  /// which order counts. x: any dtype and shape; only its bytes count (so -0 is not +0).
  /// H(x) = mix(bytes * K + sum_i mix(word_i + (i + 1) * K)) modulo 2^64 over the 64-bit
  /// little-endian words of x, the last filled up with zero bytes; K = 0x9e3779b97f4a7c15; mix is
  /// the finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA'14), a bijection. The terms do not
  /// depend on each other, so every number of threads and every device computes the same H, and
  /// tensors that differ in one word never agree. Not for adversaries.
  virtual void hash(Stream& stream, ConstTensor x, Tensor out, bool accumulate) const = 0;
};

}  // namespace neox
