// attention_config and sparsity_config.

#include <algorithm>

#include "core/base/format.h"
#include "core/config/attention_kinds.h"
#include "core/config/neox_yaml_internal.h"

namespace neox::detail {
namespace {

// The shortest list that, repeated, is `kinds`.
std::string shortest(const std::vector<std::string>& kinds) {
  std::size_t period = 1;
  const auto repeats = [&] {
    if (kinds.size() % period != 0) return false;
    for (std::size_t i = period; i < kinds.size(); ++i) {
      if (kinds[i] != kinds[i - period]) return false;
    }
    return true;
  };
  while (!repeats()) ++period;
  return fmt::format("{}",
                     fmt::join(kinds.begin(), kinds.begin() + static_cast<long>(period), ", "));
}

// "[1, 2]" -> "1, 2"
std::string list_text(const YAML::Node& node) {
  std::string text = text_of(node);
  std::erase_if(text, [](char c) { return c == '[' || c == ']'; });
  return text;
}

}  // namespace

// [[[kind, ...], count], ...]: each list of kinds count times; one with "all" instead, as in
// GPT-NeoX, is the pattern of all layers, whatever stands before it.
std::optional<std::vector<std::string>> Translation::attention_of_layers(const Key& key) {
  const YAML::Node* given = look("num_layers");
  std::int64_t layers = 0;
  if (given != nullptr) YAML::convert<std::int64_t>::decode(*given, layers);
  std::vector<std::string> kinds;
  for (const YAML::Node& entry : key.value) {
    const bool good = entry.IsSequence() && entry.size() == 2 && entry[0].IsSequence() &&
                      entry[0].size() > 0 && entry[1].IsScalar();
    if (!good) {
      problem(key, "expected lists of kinds with how often they come, as [[[\"flash\"], 6]]");
      return std::nullopt;
    }
    const auto size = static_cast<std::int64_t>(entry[0].size());
    std::int64_t count = 0;
    const bool all = text_of(entry[1]) == "all";
    if (all) {
      kinds.clear();
      count = layers / size;
    } else if (!YAML::convert<std::int64_t>::decode(entry[1], count) || count < 1) {
      problem(key, fmt::format("'{}' is neither a number of times nor all", text_of(entry[1])));
      return std::nullopt;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      for (const YAML::Node& name : entry[0]) {
        const std::string kind = text_of(name);
        kinds.push_back(kind == "flash" ? "global" : kind);
      }
    }
    if (all) break;
  }
  for (const std::string& kind : kinds) {
    if (check_attention_kinds({kind}).empty()) continue;
    problem(key, fmt::format("attention of kind '{}' is not supported; {}", kind,
                             check_attention_kinds({})));
    return std::nullopt;
  }
  if (layers > 0 && static_cast<std::int64_t>(kinds.size()) != layers) {
    problem(key, fmt::format("these are the kinds of {} layers, num_layers is {}", kinds.size(),
                             layers));
    return std::nullopt;
  }
  return kinds;
}

void Translation::attention() {
  const auto sparsity = take("sparsity_config");
  const auto key = take("attention_config");
  std::vector<std::string> kinds;
  if (key) {
    if (!key->value.IsSequence()) return problem(*key, "expected a list, as [[[\"flash\"], 6]]");
    const auto found = attention_of_layers(*key);
    if (!found || found->empty()) return;
    kinds = *found;
    if (shortest(kinds) == "global") {
      comment("attention_config", key->value, "every layer has global causal attention");
    } else {
      set(*key, "model.attention_config", shortest(kinds));
    }
  }
  const auto uses = [&](std::string_view kind) {
    return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
  };
  if (sparsity) block_patterns(*sparsity, uses("local"), uses("sparse_fixed"));
}

void Translation::block_patterns(const Key& key, bool local, bool fixed) {
  if (!key.value.IsMap()) return problem(key, "expected a dictionary");
  bool has_local_blocks = false;
  for (const auto& entry : key.value) {
    const std::string name = text_of(entry.first);
    const Key part{"sparsity_config." + name, entry.second, key.where};
    const std::string option = "model.sparse_" + name;
    if (is_null(entry.second)) continue;
    if (name == "num_local_blocks") has_local_blocks = true;
    if (find_option(option) == nullptr) {
      problem(part, "no such setting of a sparsity pattern");
    } else {
      set(part, option, list_text(entry.second));
    }
  }
  // GPT-NeoX's local layers take either of two settings.
  const YAML::Node sliding = key.value["num_sliding_window_blocks"];
  if (!local || has_local_blocks || !sliding) return;
  const Key part{"sparsity_config.num_sliding_window_blocks", sliding, key.where};
  if (fixed && text_of(sliding) != "4") {
    return problem(part, "local layers and sparse_fixed layers share sparse_num_local_blocks here");
  }
  set(part, "model.sparse_num_local_blocks", text_of(sliding));
}

}  // namespace neox::detail
