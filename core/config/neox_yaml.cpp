#include "core/config/neox_yaml.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <yaml-cpp/yaml.h>

#include <fmt/format.h>

#include "core/config/ini.h"
#include "core/config/neox_keys.h"
#include "core/config/option.h"
#include "core/config/problems.h"
#include "core/config/resolve.h"
#include "core/config/suggest.h"

namespace neox {
namespace {

using detail::Problems;

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// A key of the files with its value.
struct Key {
  std::string name;  // with '_'
  YAML::Node value;
  std::string where;  // "run.yml:12"
};
using Keys = std::map<std::string, Key>;

std::string place(const std::string& file, const YAML::Node& node) {
  return fmt::format("{}:{}", file, node.Mark().line + 1);
}

void read_file(const std::string& file, Keys& keys, Problems& problems) {
  const std::string text = detail::read_config_file(file, problems);
  if (text.empty()) return;
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsMap()) {
      problems.add(fmt::format("{}: expected keys with values", file));
      return;
    }
    for (const auto& pair : root) {
      const std::string name = lower(normalised_key(pair.first.as<std::string>()));
      const std::string where = place(file, pair.first);
      const auto [known, fresh] = keys.try_emplace(name, Key{name, pair.second, where});
      if (fresh) continue;
      problems.add(fmt::format("{}: '{}' stands in {} already; every key may be given once", where,
                               name, known->second.where));
    }
  } catch (const YAML::Exception& error) {
    problems.add(fmt::format("{}:{}: {}", file, error.mark.line + 1, error.msg));
  }
}

bool is_null(const YAML::Node& node) {
  return node.IsNull() || (node.IsScalar() && node.Tag() != "!" && node.Scalar() == "None");
}

/// The value as one line: "true", "0.1", "[1, 2]", "{stage: 1}", "null".
std::string text_of(const YAML::Node& node) {
  if (!node.IsDefined() || is_null(node)) return "null";
  if (node.IsScalar()) {
    const std::string folded = lower(node.Scalar());
    return folded == "true" || folded == "false" ? folded : node.Scalar();
  }
  std::string text;
  if (node.IsSequence()) {
    for (const YAML::Node& element : node) text += (text.empty() ? "" : ", ") + text_of(element);
    return "[" + text + "]";
  }
  for (const auto& pair : node) {
    text += fmt::format("{}{}: {}", text.empty() ? "" : ", ", text_of(pair.first),
                        text_of(pair.second));
  }
  return "{" + text + "}";
}

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

bool is_true(const YAML::Node& node) {
  return text_of(node) == "true";
}

std::vector<std::string> words(std::string_view text) {
  std::vector<std::string> all;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (end > 0) all.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return all;
}

class Translation {
 public:
  Translation(Keys keys, Problems problems)
      : keys_(std::move(keys)), problems_(std::move(problems)) {}

  void run() {
    precision();
    optimizer();
    zero();
    mlp();
    attention();
    norms();
    load();
    for (const auto& [name, key] : keys_) plain(key);
    defaults();
  }
  void override_with(const ParsedCommand& command);
  void check();
  std::string ini(const std::vector<std::string>& files) const;
  void finish() const { problems_.throw_if_any(); }

 private:
  // ---- what the handlers use ------------------------------------------------------------------
  /// Takes the key out, so that it counts as translated.
  std::optional<Key> take(const std::string& name) {
    const auto found = keys_.find(name);
    if (found == keys_.end()) return std::nullopt;
    Key key = found->second;
    keys_.erase(found);
    return is_null(key.value) ? std::nullopt : std::optional(key);
  }
  const YAML::Node* look(const std::string& name) const {
    const auto found = keys_.find(name);
    return found == keys_.end() || is_null(found->second.value) ? nullptr : &found->second.value;
  }
  void problem(const Key& key, const std::string& text) {
    problems_.add(fmt::format("{}: {} = {}: {}", key.where, key.name, text_of(key.value), text));
  }
  void comment(const std::string& name, const YAML::Node& value, std::string_view reason) {
    comments_.push_back(fmt::format("{} = {}: {}", name, text_of(value), reason));
  }
  void set(const Key& key, const std::string& option, const std::string& value) {
    set_text(key, option, value);
  }
  void set(const Key& key, const std::string& option, const YAML::Node& value);
  void set_text(const Key& key, const std::string& option, const std::string& text);
  std::int64_t number(const std::string& name, std::int64_t fallback);

  // ---- translations ---------------------------------------------------------------------------
  void precision();
  void half_precision(const Key& key);
  void optimizer();
  void optimizer_parameters(const Key& key, const YAML::Node& parameters);
  void zero();
  void mlp();
  void width(bool gated);
  void attention();
  void norms();
  void load();
  void plain(const Key& key);
  void absent(const Key& key, const detail::AbsentKey& entry);
  void unknown(const Key& key);
  void defaults();

  Keys keys_;
  Problems problems_;
  Config config_;
  Origins origins_;
  std::vector<std::string> comments_;
};

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

// ---- precision, optimizer, ZeRO -----------------------------------------------------------------

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
    if (name == "enabled" || name == "fp16" || name == "type") continue;
    if (find_option("precision." + name) != nullptr) {
      set(key, "precision." + name, pair.second);
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

void Translation::optimizer_parameters(const Key& key, const YAML::Node& parameters) {
  for (const auto& pair : parameters) {
    const std::string name = normalised_key(pair.first.as<std::string>());
    const Key part{"optimizer.params." + name, pair.second, key.where};
    if (is_null(pair.second)) continue;
    if (name == "lr" || name == "betas" || name == "eps" || name == "weight_decay") {
      const YAML::Node* outer = name == "weight_decay" ? look(name) : nullptr;
      if (outer != nullptr && text_of(*outer) != text_of(pair.second)) {
        problem(part, "the key weight_decay gives another value; leave one of them out");
      }
      set(part, "optimizer." + name, pair.second);
    } else if (name == "freeze_step" || name == "cuda_aware" || name == "comm_backend_name") {
      comment(part.name, pair.second, "only read by 1-bit Adam");
    } else if (name == "adam_w_mode" || name == "torch_adam" || name == "fused" ||
               name == "bias_correction") {
      if (text_of(pair.second) == "false" && (name == "adam_w_mode" || name == "bias_correction")) {
        problem(part, "Adam is AdamW with bias correction here, as GPT-NeoX's default");
      }
      comment(part.name, pair.second, "Adam is AdamW with bias correction, one implementation");
    } else if (name == "momentum" &&
               (text_of(pair.second) == "0" || text_of(pair.second) == "0.0")) {
      comment(part.name, pair.second, "not read by Adam");
    } else {
      problem(part, "this optimizer has no such option here");
    }
  }
}

void Translation::optimizer() {
  const auto key = take("optimizer");
  if (!key) return;
  if (!key->value.IsMap() || !key->value["type"]) return problem(*key, "expected type and params");
  for (const auto& pair : key->value) {
    const auto name = pair.first.as<std::string>();
    if (name == "type") {
      set(Key{"optimizer.type", pair.second, key->where}, "optimizer.type", pair.second);
    } else if (name == "params" && (pair.second.IsMap() || is_null(pair.second))) {
      if (pair.second.IsMap()) optimizer_parameters(*key, pair.second);
    } else {
      problem(Key{"optimizer." + name, pair.second, key->where}, "expected type and params");
    }
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

// GPT-NeoX's widths: what its configuration means, not what it says (neox.md 3.5).
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
  std::string word = activation ? lower(text_of(activation->value)) : "gelu";
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

void Translation::attention() {
  const auto key = take("attention_config");
  if (!key) return;
  if (!key->value.IsSequence()) return problem(*key, "expected a list, as [[[\"flash\"], 6]]");
  std::set<std::string> kinds;
  for (const YAML::Node& entry : key->value) {
    const YAML::Node names = entry.IsSequence() && entry.size() > 0 ? entry[0] : entry;
    if (names.IsSequence()) {
      for (const YAML::Node& name : names) kinds.insert(text_of(name));
    } else {
      kinds.insert(text_of(names));
    }
  }
  for (const std::string& kind : kinds) {
    if (kind != "global" && kind != "flash") {
      problem(*key,
              fmt::format("attention of kind '{}' is not supported; global and flash are", kind));
    }
  }
  comment("attention_config", key->value, "every layer has global causal attention");
}

void Translation::norms() {
  const auto key = take("use_bias_in_norms");
  if (!key) return;
  comment("use_bias_in_norms", key->value,
          "GPT-NeoX never reads it: its layernorms have biases, and so have these");
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

// ---- the rest -----------------------------------------------------------------------------------

// "section.name" of a key with an option of its own; "" without.
std::string option_of(const std::string& key) {
  for (const detail::SameKeys& same : detail::same_keys()) {
    for (const std::string& word : words(same.names)) {
      const std::size_t equal = word.find('=');
      if (word.substr(0, equal) != key) continue;
      return fmt::format("{}.{}", same.section,
                         equal == std::string::npos ? word : word.substr(equal + 1));
    }
  }
  return "";
}

void Translation::absent(const Key& key, const detail::AbsentKey& entry) {
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
  std::vector<std::string> names = words(detail::kTranslatedKeys);
  for (const detail::SameKeys& same : detail::same_keys()) {
    for (const std::string& word : words(same.names))
      names.push_back(word.substr(0, word.find('=')));
  }
  for (const detail::AbsentKey& entry : detail::absent_keys()) names.emplace_back(entry.name);
  const std::string nearest = detail::nearest_name(key.name, names);
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
  const auto absent_keys = detail::absent_keys();
  const auto found =
      std::find_if(absent_keys.begin(), absent_keys.end(),
                   [&](const detail::AbsentKey& entry) { return entry.name == key.name; });
  if (found != absent_keys.end()) return absent(key, *found);
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

// ---- the result ---------------------------------------------------------------------------------

void Translation::override_with(const ParsedCommand& command) {
  for (const auto& [name, origin] : command.origins) {
    const Option* option = find_option(name);
    require(option != nullptr, "internal error: no option {}", name);
    const std::string wrong = set_value(*option, config_, value_text(*option, command.config));
    require(wrong.empty(), "{}: {}: {}", origin, name, wrong);
    origins_[option->key()] = origin;
  }
}

// What the training program would say of it, for the smallest number of ranks.
void Translation::check() {
  if (!problems_.empty()) return;
  const ParallelConfig& p = config_.parallel;
  const BatchConfig& b = config_.batch;
  std::int64_t data_ranks = 1;
  const std::int64_t each = b.train_micro_batch_size_per_gpu * b.gradient_accumulation_steps;
  if (b.train_batch_size > 0 && each > 0) {
    data_ranks = std::max<std::int64_t>(1, b.train_batch_size / each);
  }
  Config copy = config_;
  try {
    resolve(copy,
            std::max<std::int64_t>(p.pipe_parallel_size, 1) * p.model_parallel_size * data_ranks,
            origins_);
  } catch (const Error& error) {
    problems_.add(error.what());
    problems_.add("--section.option VALUE puts another value over the files'");
  }
}

std::string Translation::ini(const std::vector<std::string>& files) const {
  std::string text = "# Made by neox_convert from-yaml of";
  for (const std::string& file : files) text += " " + file;
  text += "\n";
  for (const Section& section : sections()) {
    std::string lines;
    for (const Option& option : options()) {
      if (option.section != section.name || !origins_.contains(option.key())) continue;
      lines += fmt::format("{} = {}\n", option.name, value_text(option, config_));
    }
    if (!lines.empty()) text += fmt::format("\n[{}]\n{}", section.name, lines);
  }
  if (!comments_.empty()) text += "\n# Not options here, or not under this name:\n";
  for (std::string line : comments_) {
    std::replace(line.begin(), line.end(), '\n', ' ');
    text += "# " + line + "\n";
  }
  return text;
}

}  // namespace

std::string ini_from_neox_yaml(const std::vector<std::string>& files,
                               const ParsedCommand& command) {
  Keys keys;
  Problems problems;
  for (const std::string& file : files) read_file(file, keys, problems);
  problems.throw_if_any();
  Translation translation(std::move(keys), std::move(problems));
  translation.run();
  translation.override_with(command);
  translation.check();
  translation.finish();
  return translation.ini(files);
}

}  // namespace neox
