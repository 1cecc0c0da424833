#pragma once

#include "core/config/config.h"

namespace neox {

/// Fills what a run takes from its tokenizer: model.vocab_size when it is 0, data.eod_token when it
/// is open. Throws Error when the tokenizer is larger than model.vocab_size, when nothing says how
/// large the vocabulary is, or when data.eod_mask_loss has no end-of-document token.
void complete_from_tokenizer(Config& config);

}  // namespace neox
