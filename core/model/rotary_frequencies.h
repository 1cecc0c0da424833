#pragma once
// The angles of rotary position embedding, also for sequences longer than those of training.

#include <vector>

#include "core/config/config.h"

namespace neox {

/// Angle per position of each pair of channels, and what rotated queries and keys are multiplied
/// by.
struct RotaryFrequencies {
  std::vector<double> angle;  ///< [rotary_dim / 2]
  double amplitude = 1.0;
};

/// With d = rotary_dim, f_i = base^(-2i/d), s = rope_scaling_factor, n = rope_original_length():
///   none    f_i
///   linear  f_i / s (Chen et al. 2023, arXiv:2306.15595)
///   ntk     rope_base()^(-2i/d): static NTK-aware scaling, transformers' "dynamic" at the length
///           where its own factor comes to s
///   llama3  by wavelength w = 2 pi / f: f / s where w > n / low_freq_factor, f where
///           w < n / high_freq_factor, between them f ((1 - t) / s + t) with
///           t = (n / w - low) / (high - low)
///   yarn    f (r / s + 1 - r), r a ramp over i from 0 to 1 between the channels that turn
///   beta_fast
///           and beta_slow times over n positions; amplitude 0.1 ln s + 1 (arXiv:2309.00071)
/// Throws Error when the options contradict each other.
RotaryFrequencies rotary_frequencies(const ModelConfig& model);
/// The base of the wavelengths: of ntk, base s^(d/(d-2)).
double rope_base(const ModelConfig& model);
/// rope_original_max_position, or where that is 0, max_position_embeddings / rope_scaling_factor.
double rope_original_length(const ModelConfig& model);

}  // namespace neox
