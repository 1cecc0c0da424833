#pragma once
// model.attention_config: the kinds of attention of a model's layers.

#include <string>
#include <string_view>
#include <vector>

#include "core/base/model_types.h"
#include "core/config/config.h"

namespace neox {

/// "global", "sparse_fixed", ...
std::string_view name_of(AttentionKind kind);
/// "" when all words of `words` are kinds ("flash" is GPT-NeoX's other word for global); else what
/// was expected.
std::string check_attention_kinds(const std::vector<std::string>& words);

/// What is wrong with the options of windows and block patterns: for the user, one line each.
std::vector<std::string> attention_problems(const ModelConfig& model);

/// Of each layer: model.attention_config over and over. A window without a kind "window" is, as in
/// GPT-NeoX, that of all global layers. The configuration must be valid.
std::vector<AttentionKind> attention_kinds(const ModelConfig& model);
/// Whether any layer has it.
bool has_attention(const ModelConfig& model, AttentionKind kind);
bool has_sparse_attention(const ModelConfig& model);

}  // namespace neox
