#pragma once
// The translation of GPT-NeoX's keys. Includes yaml-cpp, so only neox_*.cpp include it.

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>
#include <yaml-cpp/yaml.h>

#include <fmt/format.h>

#include "core/config/neox_keys.h"
#include "core/config/option.h"
#include "core/config/parse.h"
#include "core/config/problems.h"

namespace neox::detail {

/// A key of the files with its value.
struct Key {
  std::string name;  // with '_'
  YAML::Node value;
  std::string where;  // "run.yml:12"
};
using Keys = std::map<std::string, Key>;

std::string lower_case(std::string text);
/// Null, or Python's None.
bool is_null(const YAML::Node& node);
/// The value as one line: "true", "0.1", "[1, 2]", "{stage: 1}", "null".
std::string text_of(const YAML::Node& node);
bool is_true(const YAML::Node& node);

/// Takes the keys one after the other, and makes options, comments and problems of them.
class Translation {
 public:
  Translation(Keys keys, Problems problems)
      : keys_(std::move(keys)), problems_(std::move(problems)) {}

  void run();
  void override_with(const ParsedCommand& command);
  void without_save();
  void without_loss_scale();
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
  /// Back to the default, with a comment, where the files set it.
  void drop(const char* option, std::string_view reason);

  // ---- translations ---------------------------------------------------------------------------
  void precision();
  void half_precision(const Key& key);
  void optimizer();
  std::string optimizer_type(const Key& key, const YAML::Node& type);
  void optimizer_parameter(const std::string& type, const Key& part);
  void zero();
  void mlp();
  void width(bool gated);
  void attention();
  std::optional<std::vector<std::string>> attention_of_layers(const Key& key);
  void block_patterns(const Key& key, bool local, bool fixed);
  void norms();
  void load();
  void plain(const Key& key);
  void absent(const Key& key, const AbsentKey& entry);
  void unknown(const Key& key);
  void defaults();

  Keys keys_;
  Problems problems_;
  Config config_;
  Origins origins_;
  std::vector<std::string> comments_;
};

}  // namespace neox::detail
