// GPT-NeoX's `optimizer`: the optimizers of its get_optimizer, and DeepSpeed's lamb.

#include <algorithm>
#include <array>

#include "core/config/neox_yaml_internal.h"

namespace neox::detail {
namespace {

struct Parameter {
  std::string_view optimizers;  // of ours
  std::string_view name;
  std::string_view option;  // of [optimizer]
};

constexpr Parameter kParameters[] = {
    {"adam lion sgd madgrad_wd lamb sm3", "lr", "lr"},
    {"adam lion sgd madgrad_wd lamb", "weight_decay", "weight_decay"},
    {"adam lion lamb", "betas", "betas"},
    {"adam madgrad_wd lamb sm3", "eps", "eps"},
    {"adam", "adam_w_mode", "adam_w_mode"},
    {"adam", "adamw_mode", "adam_w_mode"},  // DeepSpeedCPUAdam's name
    {"sgd madgrad_wd sm3", "momentum", "momentum"},
    {"sgd", "nesterov", "nesterov"},
    {"lamb", "max_coeff", "max_coeff"},
    {"lamb", "min_coeff", "min_coeff"},
    {"sm3", "beta", "sm3_beta"}};

// Values of GPT-NeoX's optimizers where ours has others.
constexpr std::array<std::string_view, 3> kDefaults[] = {{"lion", "betas", "0.9, 0.99"},
                                                         {"sgd", "momentum", "0"},
                                                         {"madgrad_wd", "eps", "1e-6"},
                                                         {"sm3", "momentum", "0"},
                                                         {"sm3", "eps", "1e-30"}};

bool lists(std::string_view words, std::string_view word) {
  return (" " + std::string(words) + " ").find(" " + std::string(word) + " ") != std::string::npos;
}

bool is_number(const YAML::Node& node, double wanted) {
  double value = 0;
  return YAML::convert<double>::decode(node, value) && value == wanted;
}

// Switches of one value only, here and in effect: "true" or "0".
bool is_usual(const std::string& name, const YAML::Node& value) {
  if (name == "bias_correction") return is_true(value);
  if (name == "amsgrad" || name == "maximize") return !is_true(value);
  return name == "dampening" && is_number(value, 0);
}

}  // namespace

std::string Translation::optimizer_type(const Key& key, const YAML::Node& type) {
  const Key part{"optimizer.type", type, key.where};
  const std::string name = lower_case(text_of(type));
  if (name == "onebitadam") {
    problem(part, "1-bit Adam's compressed gradients are not supported; adam is the same without");
    return "";
  }
  // GPT-NeoX asks the wrong variable for cpu_torch_adam, so that it too is DeepSpeedCPUAdam: AdamW.
  const bool on_host = name == "cpu_adam" || name == "cpu_torch_adam";
  if (on_host) comment(part.name, type, "adam, where the model is: nothing is moved to the host");
  set(part, part.name, on_host ? "adam" : name);
  return value_text(*find_option("optimizer.type"), config_);
}

void Translation::optimizer_parameter(const std::string& type, const Key& part) {
  const std::string name = part.name.substr(part.name.rfind('.') + 1);
  if (name == "weight_decay") {
    const YAML::Node* outer = look(name);
    if (outer != nullptr && text_of(*outer) != text_of(part.value)) {
      problem(part, "the key weight_decay gives another value; leave one of them out");
    }
  }
  for (const Parameter& known : kParameters) {
    if (known.name != name || !lists(known.optimizers, type)) continue;
    return set(part, "optimizer." + std::string(known.option), part.value);
  }
  if (lists("freeze_step cuda_aware comm_backend_name", name)) {
    comment(part.name, part.value, "only read by 1-bit Adam");
  } else if (lists("torch_adam fused foreach capturable set_grad_none", name)) {
    comment(part.name, part.value, "how it is computed, not what");
  } else if (is_usual(name, part.value)) {
    comment(part.name, part.value, "always so");
  } else if (name == "momentum" && is_number(part.value, 0)) {
    comment(part.name, part.value, fmt::format("not read by {}", type));
  } else {
    problem(part, fmt::format("{} has no such option here", type));
  }
}

void Translation::optimizer() {
  const auto key = take("optimizer");
  if (!key) return;
  if (!key->value.IsMap() || !key->value["type"]) return problem(*key, "expected type and params");
  const std::string type = optimizer_type(*key, key->value["type"]);
  if (type.empty()) return;
  for (const auto& [optimizer, option, value] : kDefaults) {
    if (optimizer != type) continue;
    const Key usual{"optimizer." + std::string(option), YAML::Node(std::string(value)), key->where};
    set(usual, usual.name, std::string(value));
  }
  // GPT-NeoX's takes no weight decay: the key stands for the other optimizers.
  if (type == "sm3") {
    const Key decay = take("weight_decay").value_or(Key{"weight_decay", {}, key->where});
    comment(decay.name, decay.value, "GPT-NeoX's sm3 does not decay weights");
    set(decay, "optimizer.weight_decay", "0");
  }
  for (const auto& pair : key->value) {
    const auto name = pair.first.as<std::string>();
    if (name == "type") continue;
    if (name != "params" || !(pair.second.IsMap() || is_null(pair.second))) {
      problem(Key{"optimizer." + name, pair.second, key->where}, "expected type and params");
      continue;
    }
    if (!pair.second.IsMap()) continue;
    for (const auto& parameter : pair.second) {
      if (is_null(parameter.second)) continue;
      const std::string inner = normalised_key(parameter.first.as<std::string>());
      optimizer_parameter(type, {"optimizer.params." + inner, parameter.second, key->where});
    }
  }
}

}  // namespace neox::detail
