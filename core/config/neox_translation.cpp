#include <algorithm>
#include <set>

#include "core/base/format.h"
#include "core/config/neox_yaml_internal.h"
#include "core/config/resolve.h"
#include "core/config/suggest.h"

namespace neox::detail {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else {
      out += c;
    }
  }
  return out + "\"";
}

}  // namespace

void Translation::run() {
  precision();
  optimizer();
  zero();
  mlp();
  attention();
  norms();
  load();
  packing();
  for (const auto& [name, key] : keys_) plain(key);
  defaults();
}

void Translation::set_text(const Key& key, const std::string& name, const std::string& text) {
  const Option* option = find_option(name);
  require(option != nullptr, "internal error: no option {}", name);
  const std::string wrong = set_value(*option, config_, text);
  if (!wrong.empty()) {
    problem(key, fmt::format("[{}] {} does not take {}: {}", option->section, option->name, text,
                             wrong));
    return;
  }
  origins_[option->key()] = key.where;
}

void Translation::set(const Key& key, const std::string& name, const YAML::Node& value) {
  const Option* option = find_option(name);
  require(option != nullptr, "internal error: no option {}", name);
  const std::string type = type_text(*option);
  const bool strings = type == "string" || type == "list of string";
  const auto element = [&](const YAML::Node& node) {
    return strings ? quoted(node.IsScalar() ? node.Scalar() : text_of(node)) : text_of(node);
  };
  if (!value.IsSequence()) return set_text(key, name, element(value));
  std::string text;
  for (const YAML::Node& node : value) text += (text.empty() ? "" : ", ") + element(node);
  set_text(key, name, text);
}

std::int64_t Translation::number(const std::string& name, std::int64_t fallback) {
  const auto key = take(name);
  if (!key) return fallback;
  std::int64_t value = fallback;
  try {
    value = key->value.as<std::int64_t>();
  } catch (const YAML::Exception&) {
    problem(*key, "expected a whole number");
  }
  if (value < 1) problem(*key, "expected a whole number, at least 1");
  return std::max<std::int64_t>(value, 1);
}

// ---- precision, ZeRO ----------------------------------------------------------------------------

void Translation::half_precision(const Key& key) {
  const bool fp16 = key.name == "fp16";
  if (!key.value.IsMap()) return problem(key, "expected settings, as {enabled: true}");
  const bool enabled = is_true(key.value["enabled"]) || (fp16 && is_true(key.value["fp16"]));
  if (!enabled) return comment(key.name, key.value, "not enabled");
  const std::string word = fp16 ? "fp16" : "bfloat16";
  if (origins_.contains("precision.precision")) {
    const Option& option = *find_option("precision.precision");
    if (value_text(option, config_) != word) {
      problem(key, fmt::format("contradicts {}", origins_.at("precision.precision")));
    }
  }
  set(key, "precision.precision", word);
  for (const auto& pair : key.value) {
    const auto name = pair.first.as<std::string>();
    if (name == "enabled" || name == "fp16" || name == "type" || is_null(pair.second)) continue;
    const auto scaling = loss_scale_options();
    const std::string option = "precision." + name;
    if (fp16 && std::find(scaling.begin(), scaling.end(), option) != scaling.end()) {
      set(Key{key.name + "." + name, pair.second, key.where}, option, pair.second);
    } else {
      comment(key.name + "." + name, pair.second,
              fp16 ? "loss scaling has no such option here" : "bfloat16 needs no loss scaling");
    }
  }
}

void Translation::precision() {
  if (const auto key = take("precision")) set(*key, "precision.precision", key->value);
  for (const char* name : {"fp16", "bf16"}) {
    if (const auto key = take(name)) half_precision(*key);
  }
}

void Translation::zero() {
  const auto key = take("zero_optimization");
  if (!key) return;
  if (!key->value.IsMap()) return problem(*key, "expected settings, as {stage: 1}");
  for (const auto& pair : key->value) {
    const std::string name = normalised_key(pair.first.as<std::string>());
    const Key part{"zero_optimization." + name, pair.second, key->where};
    if (name == "stage") {
      set(part, "parallel.zero_stage", pair.second);
    } else if (name == "cpu_offload" || name == "cpu_offload_params" ||
               name == "cpu_offload_use_pin_memory") {
      if (is_true(pair.second)) problem(part, "offloading to host memory is not supported");
    } else if (name.starts_with("offload_")) {
      const bool none = !pair.second.IsMap() || text_of(pair.second["device"]) == "none" ||
                        text_of(pair.second["device"]) == "null";
      if (!none) problem(part, "offloading to host memory is not supported");
    } else if (name == "reduce_bucket_size" || name == "allgather_bucket_size") {
      comment(part.name, pair.second, "see parallel.gradient_bucket_mb");
    } else {
      comment(part.name, pair.second, "ZeRO overlaps and partitions by itself");
    }
  }
}

// ---- model --------------------------------------------------------------------------------------

// GPT-NeoX's widths: what its configuration means, not what it says.
void Translation::width(bool gated) {
  const auto given = look("intermediate_size") != nullptr ? keys_.at("intermediate_size") : Key{};
  const auto expansion = take("expansion_factor");
  const YAML::Node* hidden = look("hidden_size");
  std::int64_t h = 0;
  if (hidden == nullptr || !YAML::convert<std::int64_t>::decode(*hidden, h)) return;
  std::int64_t full = number("intermediate_size", 4 * h);
  if (expansion) {
    double factor = 0;
    if (!YAML::convert<double>::decode(expansion->value, factor)) {
      return problem(*expansion, "expected a number");
    }
    full = static_cast<std::int64_t>(factor * static_cast<double>(h));
  }
  const std::int64_t unit = number("mlp_multiple_of", 1);
  const auto up = [](std::int64_t n, std::int64_t m) { return (n + m - 1) / m * m; };
  const Key at = expansion ? *expansion
                           : Key{"intermediate_size", YAML::Node(full),
                                 given.where.empty() ? "GPT-NeoX's default" : given.where};
  const std::int64_t narrow = gated ? full * 2 / 3 : full;
  const std::int64_t first = up(narrow, 2 * unit), second = up(gated ? narrow / 2 : narrow, unit);
  if ((gated ? first / 2 : first) != second) {
    return problem(at, fmt::format("with mlp_multiple_of = {} the two matrices of GPT-NeoX's MLP "
                                   "do not fit each other ({} and {})",
                                   unit, gated ? first / 2 : first, second));
  }
  if (!gated && second == 4 * h) return;  // the default of both
  set(at, "model.intermediate_size", fmt::format("{}", second));
  if (gated) {
    comments_.push_back(fmt::format(
        "intermediate_size is the real width here; GPT-NeoX makes {} of its {}", second, full));
  }
}

void Translation::mlp() {
  const auto activation = take("activation"), fusion = take("bias_gelu_fusion");
  const auto type = take("mlp_type");
  std::string word = activation ? lower_case(text_of(activation->value)) : "gelu";
  Key at = activation ? *activation : fusion ? *fusion : Key{"activation", YAML::Node(word), ""};
  if (type && text_of(type->value) == "llama") {
    problem(*type, "write the gated activation, as swiglu, and the width in intermediate_size");
  } else if (type && text_of(type->value) != "regular") {
    problem(*type, "expected regular, or a gated activation in its place");
  }
  if (fusion && is_true(fusion->value) && word == "gelu") {
    word = "gelu_tanh";
    at = *fusion;
    comment("bias_gelu_fusion", fusion->value, "its gelu is the tanh form: activation = gelu_tanh");
  } else if (fusion) {
    comment("bias_gelu_fusion", fusion->value, "fusions are chosen by the engine");
  }
  if (activation || word != "gelu") set(at, "model.activation", word);
  width(config_.model.gated);
}

void Translation::norms() {
  if (const auto key = take("norm")) {
    const std::string word = lower_case(text_of(key->value));
    const bool engine = word.starts_with("te_");  // the same formula and epsilon
    set_text(*key, "model.norm", engine ? word.substr(3) : word);
    if (engine) comment("norm", key->value, "Transformer Engine is not used");
  }
  if (const auto key = take("use_qk_layernorm")) {
    set(*key, "model.use_qk_layernorm", key->value);
    if (is_true(key->value)) {
      comment("use_qk_layernorm", key->value,
              "each head is normalised by itself here; GPT-NeoX normalises all heads of a rank "
              "together, so that its result depends on model_parallel_size");
    }
  }
  if (const auto key = take("use_bias_in_norms")) {
    comment("use_bias_in_norms", key->value,
            "GPT-NeoX never reads it: its layernorms have biases, and so have these");
  }
}

void Translation::load() {
  const auto key = take("load");
  if (!key) return;
  const YAML::Node* save = look("save");
  if (save != nullptr && text_of(*save) == text_of(key->value)) {
    return comment("load", key->value, "a run continues from checkpoint.save by itself");
  }
  set(*key, "checkpoint.load", key->value);
}

void Translation::packing() {
  const auto chopped = take("allow_chopped");
  if (!chopped) return;
  const YAML::Node* packing = look("pack_impl");
  if (packing == nullptr || text_of(*packing) == "packed") {
    return comment("allow_chopped", chopped->value, "not read with pack_impl = packed");
  }
  set(*chopped, "data.allow_chopped", chopped->value);
}

// ---- the rest -----------------------------------------------------------------------------------

namespace {

// "section.name" of a key with an option of its own; "" without.
std::string option_of(const std::string& key) {
  for (const SameKeys& same : same_keys()) {
    for (const std::string& word : split_words(same.names)) {
      const std::size_t equal = word.find('=');
      if (word.substr(0, equal) != key) continue;
      return fmt::format("{}.{}", same.section,
                         equal == std::string::npos ? word : word.substr(equal + 1));
    }
  }
  return "";
}

}  // namespace

void Translation::absent(const Key& key, const AbsentKey& entry) {
  const std::string value = text_of(key.value);
  bool harmless = entry.harmless == "*";
  for (std::string_view rest = entry.harmless; !harmless && !rest.empty();) {
    const std::size_t end = std::min(rest.find('|'), rest.size());
    const std::string_view word = rest.substr(0, end);
    harmless = value == word || (word == "disabled" && key.value.IsMap() &&
                                 text_of(key.value["enabled"]) == "false");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  if (!harmless) return problem(key, std::string(entry.reason));
  comment(key.name, key.value, entry.reason);
}

void Translation::unknown(const Key& key) {
  std::vector<std::string> names = split_words(kTranslatedKeys);
  for (const SameKeys& same : same_keys()) {
    for (const std::string& word : split_words(same.names))
      names.push_back(word.substr(0, word.find('=')));
  }
  for (const AbsentKey& entry : absent_keys()) names.emplace_back(entry.name);
  const std::string nearest = nearest_name(key.name, names);
  problems_.add(fmt::format("{}: unknown key '{}'{}", key.where, key.name,
                            nearest.empty() ? "; GPT-NeoX has none of this name"
                                            : fmt::format("; did you mean '{}'?", nearest)));
}

void Translation::plain(const Key& key) {
  const std::string option = option_of(key.name);
  if (!option.empty()) {
    if (is_null(key.value)) return comment(key.name, key.value, "the default");
    return set(key, option, key.value);
  }
  const auto absents = absent_keys();
  const auto found = std::find_if(absents.begin(), absents.end(),
                                  [&](const AbsentKey& entry) { return entry.name == key.name; });
  if (found != absents.end()) return absent(key, *found);
  unknown(key);
}

// Where leaving a key out means something else in GPT-NeoX.
void Translation::defaults() {
  static constexpr std::pair<const char*, const char*> kDefaults[] = {
      {"model.pos_emb", "learned"},
      {"parallel.sequence_parallel", "false"},
      {"tokenizer.tokenizer_type", "GPT2BPETokenizer"},
      {"logging.log_interval", "100"}};
  for (const auto& [name, value] : kDefaults) {
    if (origins_.contains(name)) continue;
    set_text({name, YAML::Node(value), "GPT-NeoX's default"}, name, value);
    comments_.push_back(fmt::format("{} = {}: GPT-NeoX's default", name, value));
  }
}

}  // namespace neox::detail
