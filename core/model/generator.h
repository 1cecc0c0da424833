#pragma once
// Autoregressive generation with a KV cache.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/model/sampler.h"
#include "core/model/transformer.h"

namespace neox {

struct GenerationOptions {
  SamplingOptions sampling;
  std::int64_t maximum_tokens = 64;
  std::int32_t stop_token = -1;  ///< ends the text and is not part of it; -1: none
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  ///< another number, another sample
  bool recompute = false;    ///< no KV cache: the whole sequence again for every token
};

enum class GenerationEnd : std::uint8_t { stop_token, maximum_tokens, context_full, caller };

class Generator {
 public:
  /// Sequences up to `max_length` tokens (prompt and generated).
  Generator(Transformer& model, const Backend& ops, Stream& stream, std::int64_t max_length);

  /// Continues `prompt` (not empty, shorter than max_length). `on_token` sees every new token and
  /// returns false to stop. Throws Error when the prompt does not fit, or holds ids outside the
  /// vocabulary.
  GenerationEnd generate(std::span<const std::int32_t> prompt, const GenerationOptions& options,
                         const std::function<bool(std::int32_t)>& on_token);

  /// Throws Error when the prompt is empty, too long, or has ids outside the vocabulary.
  void check_prompt(std::span<const std::int32_t> prompt) const;

 private:
  std::span<const float> next_logits(std::span<const std::int32_t> tokens);
  void measure();
  Execution execution(const Backend& ops);

  Transformer& model_;
  const Backend& ops_;
  Stream& stream_;
  std::int64_t max_length_;
  Arena keep_, recompute_, scratch_;
  std::vector<OwnedTensor> cache_memory_;
  std::vector<KvCache> caches_;
  OwnedTensor ids_, positions_, logits_, host_logits_;
  std::vector<std::int32_t> sequence_, host_positions_;
  Sampler sampler_;
};

}  // namespace neox
