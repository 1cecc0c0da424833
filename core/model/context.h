#pragma once
// What a layer needs besides its weights: where to compute, where to put things, and which
// micro-batch this is.

#include <cstdint>

#include "core/base/rng.h"
#include "core/model/parameter_store.h"
#include "core/tensor/arena.h"
#include "kernels/backend.h"

namespace neox {

/// The tokens a call works on.
struct MicroBatchView {
  std::int64_t batch = 0;         ///< sequences
  std::int64_t seq = 0;           ///< tokens per sequence
  std::int64_t first_sample = 0;  ///< index of sequence 0 in the global batch: keys dropout
  ConstTensor ids{};              ///< i32 [batch*seq]
  ConstTensor positions{};        ///< i32 [batch*seq]
  ConstTensor labels{};           ///< i32 [batch*seq]; empty without a loss
  ConstTensor weights{};  ///< f32 [batch*seq]: weight of each token's loss; empty without a loss
  std::int64_t rows() const { return batch * seq; }
};

struct Context {
  const Backend& ops;
  Stream& stream;
  const ParameterStore& parameters;
  Arena& keep;     ///< what backward needs
  Arena& scratch;  ///< temporaries: taken and released inside one call
  const MicroBatchView& batch;
  bool training = false;  ///< dropout on
  bool accumulate =
      false;  ///< backward adds to the parameters' gradients instead of overwriting them
  std::uint64_t dropout_seed = 0;
  std::int64_t step = 0;

  DType dtype() const { return parameters.compute_dtype(); }
  /// Dropout of a [rows, width] activation of this micro-batch.
  Dropout dropout(double p, RngPurpose purpose, std::int64_t layer) const {
    if (!training || p == 0.0) return {};
    return {static_cast<float>(p),
            RngKey::make(dropout_seed, purpose, static_cast<std::uint64_t>(layer),
                         static_cast<std::uint64_t>(step)),
            batch.first_sample,
            batch.seq,
            0,
            batch.seq};
  }
};

}  // namespace neox
