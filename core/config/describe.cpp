#include "core/config/describe.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/config/attention_kinds.h"
#include "core/config/option.h"
#include "core/config/resolve.h"

namespace neox {

namespace {

constexpr std::size_t kCommentColumn = 48;
constexpr std::size_t kHelpWidth = 100;

std::string line_with_comment(std::string line, const std::string& comment) {
  if (comment.empty()) return line + "\n";
  if (line.size() + 2 < kCommentColumn) line.append(kCommentColumn - line.size() - 2, ' ');
  return fmt::format("{}  # {}\n", line, comment);
}

// "default: 0.001"; where the default stands for something else, that.
std::string default_phrase(const Option& option) {
  if (option.required) return "required";
  if (!option.default_means.empty()) return fmt::format("default: {}", option.default_means);
  const std::string value = default_text(option);
  return "default: " + (value.empty() ? "none" : value);
}

// Fills `text` into lines of kHelpWidth columns: the first follows `head`, the others are indented.
std::string wrapped(std::string head, std::size_t indent, std::string_view text) {
  std::string out;
  std::string line = std::move(head);
  if (!line.empty() && line.size() + 2 > indent) {
    out += line + "\n";
    line.clear();
  }
  line.append(indent - line.size(), ' ');
  bool fresh = true;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (!fresh && line.size() + 1 + end > kHelpWidth) {
      out += line + "\n";
      line.assign(indent, ' ');
      fresh = true;
    }
    line += (fresh ? "" : " ") + std::string(text.substr(0, end));
    fresh = false;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out + line + "\n";
}

constexpr std::size_t kHelpIndent = 44;

std::string help_line(const Option& option) {
  std::string text(option.doc);
  if (!option.choices.empty()) {
    std::string words;
    for (const Choice& choice : option.choices) {
      words += (words.empty() ? "" : ", ") + std::string(choice.word);
    }
    text += ": " + words;
  }
  text += option.unit.empty() ? fmt::format(" [{}]", default_phrase(option))
                              : fmt::format(" [{}; {}]", option.unit, default_phrase(option));
  std::string placeholder = type_text(option);
  if (placeholder.starts_with("list of ")) placeholder = placeholder.substr(8) + ",...";
  if (placeholder == "bool") placeholder = "true|false";
  return wrapped(fmt::format("  --{} {}", option.key(), placeholder), kHelpIndent, text);
}

std::string help_line(const ProgramOption& option) {
  const bool flag = std::holds_alternative<bool*>(option.target);
  const std::string head =
      fmt::format("  --{}{}{}", option.name, flag ? "" : " ", flag ? "" : option.placeholder);
  return wrapped(head, kHelpIndent, option.doc);
}

std::string general_help() {
  return wrapped(
             "  --config FILE", kHelpIndent,
             "INI file with options; several: a later file wins, the command line wins over all") +
         wrapped("  --print-config", kHelpIndent,
                 "show every option with the value in effect, as INI, and exit") +
         wrapped("  --verbose", kHelpIndent, "same as --logging.verbose") +
         wrapped("  --version", kHelpIndent, "show the version and exit") +
         wrapped("  --help, -h", kHelpIndent, "show this text and exit");
}

}  // namespace

std::string effective_ini(const Config& config, const Config& given) {
  std::string text = "# Every option with the value in effect.\n";
  std::string_view section;
  for (const Option& option : options()) {
    if (option.section != section) {
      section = option.section;
      text += fmt::format("\n[{}]\n", section);
    }
    const std::string value = value_text(option, config);
    if (option.required && value == default_text(option)) {  // not given, and 0 is no value of it
      text += line_with_comment(fmt::format("# {} =", option.name), "required");
      continue;
    }
    std::string comment;
    if (value != value_text(option, given)) {
      comment = "derived";
    } else if (const std::string usual = default_text(option); value != usual) {
      if (!option.required) comment = default_phrase(option);
    }
    text += line_with_comment(fmt::format("{} ={}{}", option.name, value.empty() ? "" : " ", value),
                              comment);
  }
  return text;
}

std::string canonical_text(const Config& config) {
  std::string text;
  for (const Option& option : options()) {
    text += fmt::format("{}={}\n", option.key(), value_text(option, config));
  }
  return text;
}

std::string help_text(const Program& program) {
  const std::string usage =
      program.usage.empty() ? fmt::format("{} [OPTION]...{}{}", program.name,
                                          program.positional.empty() ? "" : " ", program.positional)
                            : program.usage;
  std::string text = wrapped("", 0, fmt::format("{}: {}", program.name, program.summary));
  text += fmt::format("\nUsage: {}\n", usage);
  if (!program.options.empty()) {
    text += "\nOptions of this program\n";
    for (const ProgramOption& option : program.options) text += help_line(option);
  }
  text += "\nGeneral\n" + general_help();
  for (const Section& section : sections()) {
    if (std::find(program.sections.begin(), program.sections.end(), section.name) ==
        program.sections.end()) {
      continue;
    }
    text += fmt::format("\n[{}] {}\n", section.name, section.doc);
    for (const Option& option : options()) {
      if (option.section == section.name) text += help_line(option);
    }
  }
  return text;
}

std::vector<std::string> compare_architecture(const ModelConfig& a, const ModelConfig& b) {
  Config left, right;
  left.model = with_derived_values(a);
  right.model = with_derived_values(b);
  const auto both = [&](auto ModelConfig::*member, auto value) {
    return left.model.*member == value && right.model.*member == value;
  };
  const auto either = [&](auto ModelConfig::*member, auto value) {
    return left.model.*member == value || right.model.*member == value;
  };
  const auto matters = [&](const Option& option) {
    const std::string_view name = option.name;
    if (name.starts_with("rotary_")) return both(&ModelConfig::pos_emb, PositionEmbedding::rotary);
    if (name.starts_with("rope_low_") || name.starts_with("rope_high_")) {
      return both(&ModelConfig::rope_scaling, RopeScaling::llama3);
    }
    if (name.starts_with("rope_beta_") || name == "rope_attention_factor") {
      return both(&ModelConfig::rope_scaling, RopeScaling::yarn);
    }
    if (name == "rope_original_max_position") {
      return either(&ModelConfig::rope_scaling, RopeScaling::llama3) ||
             either(&ModelConfig::rope_scaling, RopeScaling::yarn);
    }
    if (name == "max_position_embeddings") {
      return both(&ModelConfig::pos_emb, PositionEmbedding::learned);
    }
    if (name == "attention_config" || name.starts_with("sparse_")) {
      // Different spellings of the same layers, and options of kinds that neither has, are equal.
      if (!has_sparse_attention(left.model) && !has_sparse_attention(right.model)) return false;
    }
    if (name == "layernorm_epsilon") {
      const bool of_heads = either(&ModelConfig::use_qk_layernorm, true);
      return left.model.norm == right.model.norm && left.model.norm != NormKind::rmsnorm &&
             (left.model.norm != NormKind::scalenorm || of_heads);
    }
    if (name == "scalenorm_epsilon") return both(&ModelConfig::norm, NormKind::scalenorm);
    if (name == "rms_norm_epsilon") return both(&ModelConfig::norm, NormKind::rmsnorm);
    if (name == "use_bias_in_norms") return either(&ModelConfig::norm, NormKind::layernorm);
    if (name == "add_qkv_bias") return either(&ModelConfig::use_bias_in_attn_linear, false);
    if (name == "gpt_j_tied") return either(&ModelConfig::gpt_j_residual, true);
    return true;
  };
  std::vector<std::string> differences;
  for (const Option& option : options()) {
    if (!option.architecture || !matters(option)) continue;
    const std::string x = value_text(option, left), y = value_text(option, right);
    if (x != y) differences.push_back(fmt::format("{}: {} / {}", option.name, x, y));
  }
  if (left.model.vocab_size > 0 && left.model.vocab_size == right.model.vocab_size &&
      left.model.padded_vocab_size() != right.model.padded_vocab_size()) {
    differences.push_back(fmt::format("padded vocabulary (make_vocab_size_divisible_by): {} / {}",
                                      left.model.padded_vocab_size(),
                                      right.model.padded_vocab_size()));
  }
  return differences;
}

}  // namespace neox
