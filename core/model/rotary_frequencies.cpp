#include "core/model/rotary_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/error.h"

namespace neox {
namespace {

void scale_llama3(const ModelConfig& model, std::vector<double>& angles) {
  const double low = model.rope_low_freq_factor, high = model.rope_high_freq_factor;
  require(high > low,
          "model.rope_high_freq_factor = {} must be greater than model.rope_low_freq_factor = {}",
          high, low);
  for (double& angle : angles) {
    const double turns = rope_original_length(model) * angle / (2 * std::numbers::pi);
    const double kept = std::clamp((turns - low) / (high - low), 0.0, 1.0);
    angle *= (1 - kept) / model.rope_scaling_factor + kept;
  }
}

void scale_yarn(const ModelConfig& model, std::vector<double>& angles) {
  require(model.rope_beta_fast > model.rope_beta_slow,
          "model.rope_beta_fast = {} must be greater than model.rope_beta_slow = {}",
          model.rope_beta_fast, model.rope_beta_slow);
  const auto dim = static_cast<double>(model.rotary_dim());
  // The (fractional) channel that turns so many times over the original length.
  const auto channel = [&](double turns) {
    return dim * std::log(rope_original_length(model) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(model.rotary_emb_base));
  };
  const double first = std::max(std::floor(channel(model.rope_beta_fast)), 0.0);
  double last = std::min(std::ceil(channel(model.rope_beta_slow)), dim - 1);
  if (first == last) last += 0.001;
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - first) / (last - first), 0.0, 1.0);
    angles[i] *= ramp / model.rope_scaling_factor + 1 - ramp;
  }
}

}  // namespace

double rope_original_length(const ModelConfig& model) {
  if (model.rope_original_max_position > 0) {
    return static_cast<double>(model.rope_original_max_position);
  }
  return static_cast<double>(model.max_position_embeddings) / model.rope_scaling_factor;
}

double rope_base(const ModelConfig& model) {
  if (model.rope_scaling != RopeScaling::ntk) return model.rotary_emb_base;
  const auto dim = static_cast<double>(model.rotary_dim());
  require(dim > 2, "rope_scaling = ntk needs more than 2 rotated channels; there are {}", dim);
  return model.rotary_emb_base * std::pow(model.rope_scaling_factor, dim / (dim - 2));
}

RotaryFrequencies rotary_frequencies(const ModelConfig& model) {
  const auto dim = static_cast<double>(model.rotary_dim());
  const double base = rope_base(model);
  RotaryFrequencies result;
  for (double i = 0; i < dim / 2; ++i) result.angle.push_back(std::pow(base, -2.0 * i / dim));
  switch (model.rope_scaling) {
    case RopeScaling::none:
    case RopeScaling::ntk:
      break;
    case RopeScaling::linear:
      for (double& angle : result.angle) angle /= model.rope_scaling_factor;
      break;
    case RopeScaling::llama3:
      scale_llama3(model, result.angle);
      break;
    case RopeScaling::yarn:
      scale_yarn(model, result.angle);
      result.amplitude = model.rope_attention_factor > 0
                             ? model.rope_attention_factor
                             : 0.1 * std::log(model.rope_scaling_factor) + 1.0;
      break;
  }
  return result;
}

}  // namespace neox
