#include "core/optim/update_rule.h"

#include <cmath>

#include "core/base/error.h"

namespace neox {
namespace {

AdamWRule adam_rule(const OptimizerConfig& config, double lr, std::int64_t step, double decay) {
  AdamW hyper;
  hyper.lr = static_cast<float>(lr);
  hyper.beta1 = static_cast<float>(config.betas.at(0));
  hyper.beta2 = static_cast<float>(config.betas.at(1));
  hyper.eps = static_cast<float>(config.eps);
  hyper.weight_decay = static_cast<float>(decay);
  hyper.step = step;
  return adamw_rule(hyper);
}

UpdateRule lion_rule(const OptimizerConfig& config, double lr, double decay) {
  const double b1 = config.betas.at(0), b2 = config.betas.at(1);
  return LionRule{static_cast<float>(b1),       static_cast<float>(b2),
                  static_cast<float>(1.0 - b1), static_cast<float>(1.0 - b2),
                  static_cast<float>(lr),       static_cast<float>(lr * decay)};
}

// The learning rate of MADGRAD's authors, and of GPT-NeoX, is lr + eps: it is never 0.
UpdateRule madgrad_rule(const OptimizerConfig& config, double lr, std::int64_t step, double decay) {
  const double rate = lr + config.eps;
  const auto lamb = static_cast<float>(rate * std::sqrt(static_cast<double>(step)));
  const auto eps = static_cast<float>(config.eps), shrink = static_cast<float>(rate * decay);
  if (config.momentum == 0) return MadgradPlainRule{lamb, eps, shrink};
  return MadgradRule{lamb, eps, static_cast<float>(1.0 - config.momentum), shrink, step == 1};
}

}  // namespace

std::vector<std::string> optimizer_states(const OptimizerConfig& config) {
  const bool momentum = config.momentum > 0;
  if (config.type == "adam" || config.type == "lamb") return {"exp_avg", "exp_avg_sq"};
  if (config.type == "lion") return {"exp_avg"};
  if (config.type == "sgd" || config.type == "sm3") {
    return momentum ? std::vector<std::string>{"momentum_buffer"} : std::vector<std::string>{};
  }
  if (config.type == "madgrad_wd") {
    return momentum ? std::vector<std::string>{"grad_sum_sq", "s", "x0"}
                    : std::vector<std::string>{"grad_sum_sq", "s"};
  }
  fail("optimizer.type is '{}': it must be adam, lion, sgd, madgrad_wd, lamb or sm3", config.type);
}

std::vector<std::string> shared_optimizer_states(const OptimizerConfig& config) {
  if (config.type != "sm3") return {};
  return {"accumulator_0", "accumulator_1"};
}

UpdateRule update_rule(const OptimizerConfig& config, double lr, std::int64_t step, bool decay) {
  const double weight_decay = decay ? config.weight_decay : 0.0;
  const auto l2 = static_cast<float>(weight_decay);
  if (config.type == "adam") {
    if (config.adam_w_mode) return adam_rule(config, lr, step, weight_decay);
    return AdamL2Rule{adam_rule(config, lr, step, 0.0), l2};
  }
  if (config.type == "lamb") return LambUpdateRule{adam_rule(config, 1.0, step, 0.0), l2};
  if (config.type == "lion") return lion_rule(config, lr, weight_decay);
  if (config.type == "madgrad_wd") return madgrad_rule(config, lr, step, weight_decay);
  require(config.type == "sgd", "internal error: no rule for optimizer.type = {}", config.type);
  if (config.momentum == 0) return SgdRule{static_cast<float>(lr), l2};
  return MomentumRule{static_cast<float>(lr), l2, static_cast<float>(config.momentum),
                      config.nesterov};
}

}  // namespace neox
