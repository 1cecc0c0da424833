#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/rng.h"

namespace neox {

/// GPT-NeoX's keys and rules: all three 0 is greedy (smallest id of equal maxima). Otherwise logits
/// are divided by temperature when it is > 0; then only the top_k largest stay (equals of the k-th
/// too); then, sorted by probability, a token is dropped when those before it already exceed top_p.
struct SamplingOptions {
  double temperature = 0.0;
  std::int64_t top_k = 0;
  double top_p = 0.0;
};

/// Chooses the next token. Keeps its buffers, so that a generation allocates once.
class Sampler {
 public:
  /// `uniform` in [0, 1) decides among what the options leave. Throws Error when no logit is
  /// finite.
  std::int32_t choose(std::span<const float> logits, const SamplingOptions& options,
                      double uniform);

 private:
  std::vector<std::int32_t> order_;
  std::vector<double> probability_;
};

}  // namespace neox
