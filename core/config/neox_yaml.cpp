#include "core/config/neox_yaml.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "core/config/neox_yaml_internal.h"
#include "core/config/resolve.h"

namespace neox::detail {

std::string lower_case(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

bool is_null(const YAML::Node& node) {
  return node.IsNull() || (node.IsScalar() && node.Tag() != "!" && node.Scalar() == "None");
}

std::string text_of(const YAML::Node& node) {
  if (!node.IsDefined() || is_null(node)) return "null";
  if (node.IsScalar()) {
    const std::string folded = lower_case(node.Scalar());
    const bool quoted = node.Tag() == "!";
    // YAML 1.1, which GPT-NeoX's reader speaks, has these words too.
    if (folded == "true" || (!quoted && (folded == "yes" || folded == "on"))) return "true";
    if (folded == "false" || (!quoted && (folded == "no" || folded == "off"))) return "false";
    return node.Scalar();
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

bool is_true(const YAML::Node& node) {
  return text_of(node) == "true";
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

// GPT-NeoX then saves nothing, whatever the other keys say; here they would contradict that.
void Translation::without_save() {
  if (!config_.checkpoint.save.empty()) return;
  for (const char* name : {"checkpoint.checkpoint_factor", "checkpoint.checkpoint_scale",
                           "checkpoint.extra_save_iters"}) {
    drop(name, "nothing is saved without the key save");
  }
}

// The files say fp16, the command line another precision.
void Translation::without_loss_scale() {
  if (config_.precision.scales_loss()) return;
  for (const char* name : loss_scale_options()) drop(name, "only fp16 needs loss scaling");
}

void Translation::drop(const char* name, std::string_view reason) {
  if (origins_.erase(name) == 0) return;
  const Option& option = *find_option(name);
  comments_.push_back(fmt::format("{} = {}: {}", option.name, value_text(option, config_), reason));
  static_cast<void>(set_value(option, config_, default_text(option)));
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

namespace {

std::string place(const std::string& file, const YAML::Node& node) {
  return fmt::format("{}:{}", file, node.Mark().line + 1);
}

void read_file(const std::string& file, Keys& keys, Problems& problems) {
  std::error_code error;
  std::ifstream in(file, std::ios::binary);
  if (std::filesystem::is_directory(file, error) || !in.good()) {
    problems.add(fmt::format("cannot read {}: expected a GPT-NeoX configuration", file));
    return;
  }
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  try {
    const YAML::Node root = YAML::Load(text);
    if (!root.IsDefined() || !root.IsMap()) {
      problems.add(fmt::format("{}: expected keys with values", file));
      return;
    }
    for (const auto& pair : root) {
      const std::string name = lower_case(normalised_key(pair.first.as<std::string>()));
      const std::string where = place(file, pair.first);
      const auto [known, fresh] = keys.try_emplace(name, Key{name, pair.second, where});
      if (fresh) continue;
      problems.add(fmt::format("{}: '{}' stands in {} already; every key may be given once", where,
                               name, known->second.where));
    }
  } catch (const YAML::Exception& failure) {
    problems.add(
        fmt::format("{}:{}: this is not YAML: {}", file, failure.mark.line + 1, failure.msg));
  }
}

}  // namespace
}  // namespace neox::detail

namespace neox {

std::string ini_from_neox_yaml(const std::vector<std::string>& files,
                               const ParsedCommand& command) {
  detail::Keys keys;
  detail::Problems problems;
  for (const std::string& file : files) detail::read_file(file, keys, problems);
  problems.throw_if_any();
  detail::Translation translation(std::move(keys), std::move(problems));
  try {
    translation.run();
  } catch (const YAML::Exception& failure) {  // a list where a word was expected
    fail("{}: line {}: {}", fmt::join(files, ", "), failure.mark.line + 1, failure.msg);
  }
  translation.override_with(command);
  translation.without_save();
  translation.without_loss_scale();
  translation.check();
  translation.finish();
  return translation.ini(files);
}

}  // namespace neox
