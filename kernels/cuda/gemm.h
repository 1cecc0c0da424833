#pragma once
// Matrix products as cuBLAS sees them, without its headers: the description of a product, which is
// also the key of its plan, and the interface of what computes it.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "core/tensor/tensor.h"

namespace neox {

enum class GemmEpilogue : std::uint8_t {
  none,
  bias,          ///< D gets bias[m], of D's dtype, added to every column
  bias_gradient  ///< also writes sums[n], f32: op(B) summed over k
};

/// D[m, n] = op(A)[m, k] op(B)[k, n], plus D when `accumulate`. Matrices are column-major, as BLAS
/// has them: element (i, j) of D is at d[j * ldd + i]. So a row-major [rows, cols] tensor is a
/// [cols, rows] matrix here. Sums in f32.
struct GemmKey {
  DType operand = DType::f32;  ///< of A and B
  DType result = DType::f32;   ///< of D
  bool transpose_a = false;    ///< op(A) = A^T: A is stored [k, m]
  bool transpose_b = false;    ///< op(B) = B^T: B is stored [n, k]
  bool accumulate = false;
  GemmEpilogue epilogue = GemmEpilogue::none;
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t lda = 0, ldb = 0, ldd = 0;
  /// Bytes that divide the addresses, at most 256: algorithms need more or less of it.
  std::int16_t align_a = 256, align_b = 256, align_d = 256, align_vector = 256;

  bool operator==(const GemmKey&) const = default;
  std::size_t hash() const;
  double flops() const { return 2.0 * double(m) * double(n) * double(k); }
};

struct GemmOperands {
  const void* a = nullptr;
  const void* b = nullptr;
  void* d = nullptr;
  void* vector = nullptr;  ///< the bias, which is only read, or the sums of the epilogue
};

/// Largest power of two up to 256 that divides the address; 256 for null.
std::int16_t alignment_of(const void* address);

/// The products of kernels/linear.h. Alignments are those of `operands`, which they fill.
/// Weights [out, in]; y[rows, out] = x[rows, in] w^T.
GemmKey forward_product(ConstTensor x, ConstTensor w, Tensor y, GemmOperands& operands);
/// dx[rows, in] = dy[rows, out] w.
GemmKey input_gradient_product(ConstTensor dy, ConstTensor w, Tensor dx, GemmOperands& operands);
/// dw[out, in] = dy^T x[rows, in].
GemmKey weight_gradient_product(ConstTensor dy, ConstTensor x, Tensor dw, GemmOperands& operands);

/// Which candidate to take, given the seconds of each in the order of the library's own estimate
/// (infinite: it failed). An earlier one wins unless a later one is faster by more than 2 %, which
/// is what measurements scatter. Throws Error when all failed.
std::size_t choose_candidate(std::span<const double> seconds);

/// How one product is computed.
class GemmPlan {
 public:
  virtual ~GemmPlan() = default;
  /// Queues the product on the stream. The device is current.
  virtual void run(Stream& stream, const GemmOperands& operands) = 0;
  /// What it took when it was chosen; 0 when nothing was measured.
  virtual double seconds() const { return 0; }
};

class GemmEngine {
 public:
  virtual ~GemmEngine() = default;
  /// Chooses how products of this key are computed, perhaps by trying some on `operands`, of which
  /// only D is written to, and only unless `accumulate`. Null when the epilogue is not supported;
  /// without an epilogue it throws Error instead.
  virtual std::unique_ptr<GemmPlan> make_plan(const GemmKey& key, const GemmOperands& operands,
                                              Stream& stream) = 0;
  /// Seconds of the work that a function queues on the stream, the least of a few runs; 0 where
  /// nothing is measured.
  virtual double time(Stream&, const std::function<void()>&) { return 0; }
};

}  // namespace neox
