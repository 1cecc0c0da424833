#include "core/train/run_vocabulary.h"

#include "core/base/error.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {

void complete_from_tokenizer(Config& config) {
  const TokenizerConfig& t = config.tokenizer;
  const bool has_tokenizer = !t.vocab_file.empty() || t.tokenizer_type == "CharLevelTokenizer";
  if (has_tokenizer) {
    const auto tokenizer = load_tokenizer(t.tokenizer_type, t.vocab_file, t.merge_file);
    const std::int64_t size = tokenizer->vocab_size();
    if (config.model.vocab_size == 0) config.model.vocab_size = size;
    require(size <= config.model.vocab_size,
            "the tokenizer {} has {} tokens, but model.vocab_size is {}; raise it or leave it out",
            t.vocab_file.empty() ? t.tokenizer_type : t.vocab_file, size, config.model.vocab_size);
    if (config.data.eod_token < 0) config.data.eod_token = tokenizer->eod_id().value_or(-1);
  }
  require(config.model.vocab_size > 0,
          "the vocabulary size is not known: set tokenizer.vocab_file (the tokenizer that made the "
          "data), or model.vocab_size");
  for (const auto& [key, wanted] : {std::pair{"eod_mask_loss", config.data.eod_mask_loss},
                                    std::pair{"mask_documents", config.data.mask_documents},
                                    std::pair{"reset_positions", config.data.reset_positions}}) {
    require(!wanted || config.data.eod_token >= 0,
            "data.{} needs the end-of-document token: set tokenizer.vocab_file or data.eod_token",
            key);
  }
}

}  // namespace neox
