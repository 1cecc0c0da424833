#pragma once
// What a layer needs besides its weights: where to compute, where to put things, with whom it
// shares the work, and which micro-batch this is.

#include <cstdint>

#include "core/base/rng.h"
#include "core/model/parameter_store.h"
#include "core/model/tensor_parallel.h"
#include "core/tensor/arena.h"
#include "kernels/backend.h"

namespace neox {

/// The tokens a call works on: all of the micro-batch's rows, on every tensor-parallel rank.
struct MicroBatchView {
  std::int64_t batch = 0;         ///< sequences
  std::int64_t seq = 0;           ///< tokens per sequence
  std::int64_t first_sample = 0;  ///< index of sequence 0 in the global batch: keys dropout
  ConstTensor ids{};              ///< i32 [batch*seq]
  ConstTensor positions{};        ///< i32 [batch*seq]
  /// i32 [batch*seq]: where in its sequence each token's document begins; empty: attention sees
  /// across documents.
  ConstTensor documents{};
  ConstTensor labels{};           ///< i32 [batch*seq]; empty without a loss
  ConstTensor weights{};  ///< f32 [batch*seq]: weight of each token's loss; empty without a loss
  std::int64_t rows() const { return batch * seq; }
};

/// Activations that forward leaves away and backward computes again, with the same bits.
enum class Recompute : std::uint8_t {
  none,
  selective,  ///< outputs of norms and activation functions: cheap to repeat
  full        ///< everything but the layer's input
};

struct NormTables;
class BlockPatterns;

struct Context {
  const Backend& ops;
  Stream& stream;
  const ParameterStore& parameters;
  const TensorParallel& tensor;
  Arena& keep;     ///< what backward needs
  Arena& scratch;  ///< temporaries: taken and released inside one call
  /// What the weight gradients need besides `keep`: scratch, unless they are computed later.
  Arena& gradients;
  const MicroBatchView& batch;
  bool training = false;   ///< dropout on
  bool selective = false;  ///< Recompute::selective
  std::uint64_t dropout_seed = 0;
  std::int64_t step = 0;
  /// In device memory, for work that is recorded: instead of step and batch.first_sample.
  const DropoutPosition* dropout_position = nullptr;
  const NormTables* norms = nullptr;
  const BlockPatterns* patterns = nullptr;

  DType dtype() const { return parameters.compute_dtype(); }
  /// Weight gradients are a call of their own: what they need stays in `gradients`.
  bool split_backward() const { return &gradients != &scratch; }

  /// Rows of the residual stream held here.
  std::int64_t local_rows() const { return tensor.local_rows(batch.rows()); }

  /// Key of one dropout of a layer; a stem where a position goes with it.
  RngKey dropout_key(RngPurpose purpose, std::int64_t layer) const {
    const auto l = static_cast<std::uint64_t>(layer);
    return dropout_position != nullptr
               ? RngKey::stem(dropout_seed, purpose, l)
               : RngKey::make(dropout_seed, purpose, l, static_cast<std::uint64_t>(step));
  }

  /// Dropout of the residual stream's local rows, and of all rows.
  Dropout dropout(double p, RngPurpose purpose, std::int64_t layer) const {
    return dropout_from(tensor.first_row(batch.rows()), p, purpose, layer);
  }
  Dropout dropout_all_rows(double p, RngPurpose purpose, std::int64_t layer) const {
    return dropout_from(0, p, purpose, layer);
  }

 private:
  Dropout dropout_from(std::int64_t row, double p, RngPurpose purpose, std::int64_t layer) const {
    if (!training || p == 0.0) return {};
    // A first position beyond the first sequence is meant: element indices are linear in the row.
    return {static_cast<float>(p),
            dropout_key(purpose, layer),
            batch.first_sample,
            batch.seq,
            row,
            batch.seq,
            dropout_position};
  }
};

/// Gives back what was taken from Context::gradients, where weight gradients are not computed
/// later.
class GradientScope {
 public:
  explicit GradientScope(const Context& ctx) : ctx_(ctx), mark_(ctx.gradients.mark()) {}
  ~GradientScope() {
    if (!ctx_.split_backward()) ctx_.gradients.release(mark_);
  }
  GradientScope(const GradientScope&) = delete;
  GradientScope& operator=(const GradientScope&) = delete;

 private:
  const Context& ctx_;
  std::size_t mark_;
};

}  // namespace neox
