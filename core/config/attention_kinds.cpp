#include "core/config/attention_kinds.h"

#include <algorithm>
#include <array>
#include <optional>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::array<std::pair<std::string_view, AttentionKind>, 8> kKinds = {
    {{"global", AttentionKind::global},
     {"flash", AttentionKind::global},
     {"window", AttentionKind::window},
     {"local", AttentionKind::local},
     {"sparse_fixed", AttentionKind::sparse_fixed},
     {"sparse_variable", AttentionKind::sparse_variable},
     {"bigbird", AttentionKind::bigbird},
     {"bslongformer", AttentionKind::bslongformer}}};

std::optional<AttentionKind> kind_of(std::string_view word) {
  const auto found = std::find_if(kKinds.begin(), kKinds.end(),
                                  [&](const auto& kind) { return kind.first == word; });
  if (found == kKinds.end()) return std::nullopt;
  return found->second;
}

}  // namespace

std::string_view name_of(AttentionKind kind) {
  const auto found = std::find_if(kKinds.begin(), kKinds.end(),
                                  [&](const auto& known) { return known.second == kind; });
  return found->first;
}

std::string check_attention_kinds(const std::vector<std::string>& words) {
  const bool good = !words.empty() && std::all_of(words.begin(), words.end(), [](const auto& w) {
    return kind_of(w).has_value();
  });
  if (good) return "";
  std::string known;
  for (const auto& [word, kind] : kKinds) {
    if (word != "flash") known += fmt::format("{}{}", known.empty() ? "" : ", ", word);
  }
  return "expected kinds of attention separated by commas, of " + known;
}

std::vector<std::string> attention_problems(const ModelConfig& m) {
  std::vector<std::string> problems;
  const auto check = [&](bool good, const std::string& text) {
    if (!good) problems.push_back(text);
  };
  const auto uses = [&](AttentionKind kind) { return has_attention(m, kind); };
  const auto length = static_cast<std::int64_t>(m.attention_config.size());
  check(
      m.num_layers % length == 0,
      fmt::format("model.attention_config has {} kinds, which do not divide model.num_layers = {}",
                  length, m.num_layers));
  check(!uses(AttentionKind::window) || m.sliding_window_width > 0,
        "model.attention_config has layers of kind window: set model.sliding_window_width");
  if (m.sliding_window_width > 0) {
    check(uses(AttentionKind::window),
          "model.sliding_window_width is set, but no layer is of kind window or global");
  }
  check(m.sparse_block % 16 == 0,
        fmt::format("model.sparse_block = {} is not a multiple of 16", m.sparse_block));
  if (uses(AttentionKind::sparse_fixed)) {
    const std::int64_t global = m.sparse_num_global_blocks;
    const bool divides = global > 0 && m.sparse_num_local_blocks % global == 0;
    check(divides, fmt::format("sparse_fixed: model.sparse_num_global_blocks = {} does not divide "
                               "model.sparse_num_local_blocks = {}",
                               global, m.sparse_num_local_blocks));
    const std::int64_t patterns = m.sparse_num_different_global_patterns;
    check(!divides || patterns <= m.sparse_num_local_blocks / global,
          fmt::format("sparse_fixed: a window of {} blocks has fewer than "
                      "model.sparse_num_different_global_patterns = {} choices of {} global ones",
                      m.sparse_num_local_blocks, patterns, global));
    check(patterns == 1 || m.sparse_different_layout_per_head,
          "model.sparse_num_different_global_patterns above 1 needs "
          "model.sparse_different_layout_per_head = true");
  }
  const auto& begins = m.sparse_global_block_indices;
  const auto& ends = m.sparse_global_block_end_indices;
  bool ranges = ends.empty() || ends.size() == begins.size();
  for (std::size_t i = 0; ranges && i < ends.size(); ++i) ranges = begins[i] < ends[i];
  check(ranges,
        "model.sparse_global_block_end_indices must have a greater number for each of "
        "model.sparse_global_block_indices");
  check(!uses(AttentionKind::sparse_variable) || !m.sparse_local_window_blocks.empty(),
        "sparse_variable needs model.sparse_local_window_blocks");
  return problems;
}

std::vector<AttentionKind> attention_kinds(const ModelConfig& model) {
  const std::string problem = check_attention_kinds(model.attention_config);
  require(problem.empty(), "model.attention_config: {}", problem);
  std::vector<AttentionKind> pattern;
  for (const std::string& word : model.attention_config) pattern.push_back(*kind_of(word));
  const bool everywhere =
      model.sliding_window_width > 0 &&
      std::find(pattern.begin(), pattern.end(), AttentionKind::window) == pattern.end();
  if (everywhere) {
    std::replace(pattern.begin(), pattern.end(), AttentionKind::global, AttentionKind::window);
  }
  std::vector<AttentionKind> kinds;
  for (std::int64_t layer = 0; layer < model.num_layers; ++layer) {
    kinds.push_back(pattern[static_cast<std::size_t>(layer) % pattern.size()]);
  }
  return kinds;
}

bool has_attention(const ModelConfig& model, AttentionKind kind) {
  const auto kinds = attention_kinds(model);
  return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
}

bool has_sparse_attention(const ModelConfig& model) {
  const auto kinds = attention_kinds(model);
  return std::any_of(kinds.begin(), kinds.end(), is_sparse);
}

}  // namespace neox
