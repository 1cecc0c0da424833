#include "core/config/config.h"

#include "core/base/error.h"

namespace neox {

std::int64_t ModelConfig::rotary_dim() const {
  if (pos_emb != PositionEmbedding::rotary) return 0;
  // Truncated in double, as GPT-NeoX does: a checkpoint's rotated channels are those it counted.
  return static_cast<std::int64_t>(static_cast<double>(head_dim()) * rotary_pct);
}

std::int64_t ModelConfig::padded_vocab_size() const {
  require(vocab_size > 0, "model.vocab_size is not known yet: set it, or name a tokenizer");
  require(make_vocab_size_divisible_by > 0,
          "model.make_vocab_size_divisible_by is {}; expected at least 1",
          make_vocab_size_divisible_by);
  const std::int64_t unit = make_vocab_size_divisible_by;
  return (vocab_size + unit - 1) / unit * unit;
}

}  // namespace neox
