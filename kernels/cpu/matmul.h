#pragma once
// oneDNN matmul primitives, made once per problem and kept.

#include <cstdint>
#include <memory>
#include <optional>

#include "core/base/dtype.h"
#include "core/tensor/buffer.h"
#include "kernels/cpu/pack.h"

namespace neox {

/// A buffer that only grows, so that steady state allocates nothing.
class ScratchBuffer {
 public:
  std::byte* at_least(std::size_t bytes);

 private:
  Buffer buffer_;
};

/// How a right-hand side b[k, n] is given.
enum class Rhs : std::uint8_t {
  packed,      ///< in the layout that Matmul::layout reports
  rows,        ///< row-major [k, n]
  transposed,  ///< row-major [n, k]
};

/// c[m, n] (+)= a[m, k] b[k, n] + bias[n]; a or its transpose, and c, row-major.
struct MatmulProblem {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0;  ///< elements between rows of a as stored
  std::int64_t ldb = 0;  ///< likewise for b; ignored when it is packed
  std::int64_t ldc = 0;
  DType in = DType::f32;   ///< of a, b and bias
  DType out = DType::f32;  ///< of c
  Rhs rhs = Rhs::rows;
  bool transpose_a = false;  ///< a is stored [k, m]
  bool bias = false;
  bool accumulate = false;
  int threads = 0;  ///< set by Matmul
  bool operator==(const MatmulProblem&) const = default;
};

class Matmul {
 public:
  Matmul();
  ~Matmul();
  Matmul(const Matmul&) = delete;
  Matmul& operator=(const Matmul&) = delete;

  /// The layout that rhs == packed wants for this problem, or nothing where the library's fastest
  /// kernel works on plain matrices: then call run() with rows or transposed.
  std::optional<PackedLayout> layout(const MatmulProblem& problem);
  /// Bytes of a packed right-hand side, padding included.
  std::size_t packed_bytes(const MatmulProblem& problem);
  void run(const MatmulProblem& problem, const void* a, const void* b, const void* bias, void* c);

  /// True when the CPU has bf16 dot products that the library uses.
  static bool has_bf16();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace neox
