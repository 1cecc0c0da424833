#pragma once
// The self-check of conversions: what a model computes before and after.

#include <functional>
#include <string>
#include <vector>

#include "core/model/transformer.h"

namespace neox {

/// Fills all weights of a model that computes in f32 on the CPU.
using WeightLoader = std::function<void(Transformer&, const Backend&, Stream&)>;

/// Logits [tokens, vocab_size] of a fixed sequence of up to 32 tokens that covers the vocabulary
/// from end to end. The model exists only inside.
std::vector<float> check_logits(const ModelConfig& model, const WeightLoader& load);

/// Throws Error, with what to do, when this machine has less free memory than the check needs.
void require_memory_for_check(const ModelConfig& model);

/// Compares and returns "largest difference … of logits up to …". Throws Error when they differ by
/// more than 1e-5 of the largest, or are not finite.
std::string compare_logits(const std::vector<float>& before, const std::vector<float>& after);

/// Largest absolute difference, and largest magnitude of `before`.
struct LogitDifference {
  double difference = 0, magnitude = 0;
  bool finite = true;
};
LogitDifference measure_difference(const std::vector<float>& before,
                                   const std::vector<float>& after);

}  // namespace neox
