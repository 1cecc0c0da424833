// Each optimizer over 20 steps: against float64 formulas written here, and against published
// implementations (tests/fixtures/optimizers.json, made by optimizers.py).

#include "core/optim/optimizer.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/optim/update_rule.h"

namespace neox {
namespace {

constexpr int kSteps = 20;
constexpr double kLearningRate = 0.02;

// Tensor 0 decays, tensor 1 does not; values as in optimizers.py, exact in f32.
const std::vector<Shape> kShapes = {{5, 7}, {7}};
double first_value(std::size_t k, std::size_t i) {
  return (static_cast<double>((i * 29 + k * 11) % 31) - 15) / 32;
}
double gradient(std::size_t k, std::size_t i, int t) {
  return (static_cast<double>((i * 37 + static_cast<std::size_t>(t) * 101 + k * 53) % 97) - 48) /
         64;
}
double learning_rate(int t) {
  return kLearningRate * (1 + t % 4) / 4;
}

using Values = std::vector<std::vector<double>>;  // tensor, element

class SmallRun {
 public:
  explicit SmallRun(const OptimizerConfig& config, DType compute = DType::f32) {
    store_.declare_optimizer_states(optimizer_states(config));
    for (std::size_t k = 0; k < kShapes.size(); ++k) {
      store_.begin_block("block" + std::to_string(k));
      ParameterSpec spec;
      spec.name = "tensor" + std::to_string(k);
      spec.global = kShapes[k];
      spec.slice = Slice::whole(kShapes[k]);
      spec.decay = k == 0;
      store_.add(spec);
    }
    store_.commit(Device{}, compute, StoreMode::training);
    fill(State::main, first_value);
    store_.refresh_weights(*ops_, *stream_);
    optimizer_ = std::make_unique<Optimizer>(store_, config, *ops_, *stream_);
  }

  void step(int t, double lr) {
    fill(State::gradients, [t](std::size_t k, std::size_t i) { return gradient(k, i, t); });
    EXPECT_TRUE(optimizer_->step(lr).applied);
  }

  Values values(State state = State::main) const {
    Values all;
    for (ParameterId id = 0; id < store_.size(); ++id) {
      const Tensor local = store_.whole_shard(state, id).local;
      std::vector<double>& to = all.emplace_back();
      visit_float(local.dtype, [&](auto zero) {
        using T = decltype(zero);
        for (const T& x : local.span<T>()) to.push_back(double(float(x)));
      });
    }
    return all;
  }

  ParameterStore& store() { return store_; }
  Optimizer& optimizer() { return *optimizer_; }

 private:
  void fill(State state, const std::function<double(std::size_t, std::size_t)>& value) {
    for (ParameterId id = 0; id < store_.size(); ++id) {
      const auto data = store_.whole_shard(state, id).local.span<float>();
      for (std::size_t i = 0; i < data.size(); ++i) {
        data[i] = static_cast<float>(value(static_cast<std::size_t>(id), i));
      }
    }
  }

  std::unique_ptr<Backend> ops_ = make_backend(Device{});
  std::unique_ptr<Stream> stream_ = make_stream(Device{});
  ParameterStore store_;
  std::unique_ptr<Optimizer> optimizer_;
};

// ---- float64 ------------------------------------------------------------------------------------

/// One tensor of an optimizer in float64, element by element from the published formulas.
struct Reference {
  std::vector<double> p, a, b, x0;
  std::vector<double> rows, columns;  // sm3; a vector has no columns
};

double sign(double x) {
  return x > 0 ? 1 : x < 0 ? -1 : 0;
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// rows [R] and columns [C] of a matrix, rows [n] of a vector.
void sm3_step(const OptimizerConfig& o, Reference& r, const std::vector<double>& g, double lr,
              double decay) {
  const double keep = o.sm3_beta > 0 ? o.sm3_beta : 1;
  const std::size_t width = g.size() / r.rows.size();
  // Averages never fall; sums are the largest of this step alone.
  const double floor = o.sm3_beta > 0 ? 1 : 0;
  std::vector<double> rows = r.rows, columns = r.columns;
  for (double& value : rows) value *= floor;
  for (double& value : columns) value *= floor;
  for (std::size_t i = 0; i < g.size(); ++i) {
    const std::size_t row = i / width, column = i % width;
    const double least = r.columns.empty() ? r.rows[row] : std::min(r.rows[row], r.columns[column]);
    const double nu = keep * least + (1 - o.sm3_beta) * g[i] * g[i];
    rows[row] = std::max(rows[row], nu);
    if (!columns.empty()) columns[column] = std::max(columns[column], nu);
    r.a[i] = o.momentum * r.a[i] + (1 - o.momentum) * g[i] / std::sqrt(nu + o.eps);
    r.p[i] -= lr * r.a[i] + lr * decay * r.p[i];
  }
  r.rows = rows;
  r.columns = columns;
}

// g [elements] has the whole tensor; t from 1.
void reference_step(const OptimizerConfig& o, Reference& r, const std::vector<double>& g, double lr,
                    int t, double decay) {
  if (o.type == "sm3") return sm3_step(o, r, g, lr, decay);
  const double b1 = o.betas[0], b2 = o.betas[1];
  std::vector<double> lamb(g.size());
  for (std::size_t i = 0; i < g.size(); ++i) {
    double& p = r.p[i];
    if (o.type == "adam" || o.type == "lamb") {
      const double d = o.adam_w_mode ? g[i] : g[i] + decay * p;
      r.a[i] = b1 * r.a[i] + (1 - b1) * d;
      r.b[i] = b2 * r.b[i] + (1 - b2) * d * d;
      const double m = r.a[i] / (1 - std::pow(b1, t)), v = r.b[i] / (1 - std::pow(b2, t));
      const double step = m / (std::sqrt(v) + o.eps);
      lamb[i] = step + decay * p;
      if (o.type == "adam") p -= lr * (o.adam_w_mode ? step + decay * p : step);
    } else if (o.type == "lion") {
      const double update = sign(b1 * r.a[i] + (1 - b1) * g[i]);
      p = p * (1 - lr * decay) - lr * update;
      r.a[i] = b2 * r.a[i] + (1 - b2) * g[i];
    } else if (o.type == "sgd") {
      const double d = g[i] + decay * p;
      r.a[i] = o.momentum * r.a[i] + d;
      p -= lr * (o.nesterov ? d + o.momentum * r.a[i] : r.a[i]);
    } else {
      const double rate = lr + o.eps, lambda = rate * std::sqrt(t);
      if (t == 1) r.x0[i] = p;
      p *= 1 - rate * decay;
      const double x0 = o.momentum > 0 ? r.x0[i] : p + r.b[i] / (std::cbrt(r.a[i]) + o.eps);
      r.a[i] += lambda * g[i] * g[i];
      r.b[i] += lambda * g[i];
      const double z = x0 - r.b[i] / (std::cbrt(r.a[i]) + o.eps);
      p = o.momentum * p + (1 - o.momentum) * z;
    }
  }
  if (o.type != "lamb") return;
  const double size = norm(r.p), update = norm(lamb);
  const double ratio =
      size == 0 || update == 0 ? 1 : std::clamp(size / update, o.min_coeff, o.max_coeff);
  for (std::size_t i = 0; i < g.size(); ++i) r.p[i] -= lr * ratio * lamb[i];
}

Values reference(const OptimizerConfig& config, int steps = kSteps) {
  Values all;
  for (std::size_t k = 0; k < kShapes.size(); ++k) {
    const auto n = static_cast<std::size_t>(kShapes[k].numel());
    Reference r;
    r.a = r.b = r.x0 = std::vector<double>(n);
    r.rows.resize(static_cast<std::size_t>(kShapes[k][0]));
    if (kShapes[k].rank() > 1) r.columns.resize(static_cast<std::size_t>(kShapes[k][1]));
    for (std::size_t i = 0; i < n; ++i) r.p.push_back(first_value(k, i));
    for (int t = 0; t < steps; ++t) {
      std::vector<double> g;
      for (std::size_t i = 0; i < n; ++i) g.push_back(gradient(k, i, t));
      reference_step(config, r, g, learning_rate(t), t + 1, k == 0 ? config.weight_decay : 0.0);
    }
    all.push_back(r.p);
  }
  return all;
}

double worst_error(const Values& have, const Values& want) {
  EXPECT_EQ(have.size(), want.size());
  double worst = 0;
  for (std::size_t k = 0; k < want.size(); ++k) {
    EXPECT_EQ(have[k].size(), want[k].size());
    for (std::size_t i = 0; i < want[k].size(); ++i) {
      const double error = std::abs(have[k][i] - want[k][i]);
      if (!(error <= worst)) worst = error;
    }
  }
  return worst;
}

struct Case {
  const char* name;
  std::function<void(OptimizerConfig&)> change;
};

OptimizerConfig config_of(const Case& test) {
  OptimizerConfig config;
  config.gradient_clipping = 0;
  test.change(config);
  return config;
}

const std::vector<Case> kCases = {
    {"adamw",
     [](OptimizerConfig& o) {
       o.betas = {0.9, 0.95};
     }},
    {"adam_l2", [](OptimizerConfig& o) { o.adam_w_mode = false; }},
    {"lion",
     [](OptimizerConfig& o) {
       o.type = "lion", o.betas = {0.9, 0.99};
     }},
    {"sgd", [](OptimizerConfig& o) { o.type = "sgd"; }},
    {"sgd_plain", [](OptimizerConfig& o) { o.type = "sgd", o.momentum = 0; }},
    {"sgd_nesterov",
     [](OptimizerConfig& o) { o.type = "sgd", o.momentum = 0.7, o.nesterov = true; }},
    {"madgrad", [](OptimizerConfig& o) { o.type = "madgrad_wd", o.eps = 1e-6; }},
    {"madgrad_plain",
     [](OptimizerConfig& o) { o.type = "madgrad_wd", o.eps = 1e-6, o.momentum = 0; }},
    {"lamb", [](OptimizerConfig& o) { o.type = "lamb", o.eps = 1e-6; }},
    {"sm3", [](OptimizerConfig& o) { o.type = "sm3", o.eps = 1e-30, o.momentum = 0; }},
    {"sm3_average", [](OptimizerConfig& o) { o.type = "sm3", o.momentum = 0.8, o.sm3_beta = 0.9; }},
    {"lamb_limits",
     [](OptimizerConfig& o) { o.type = "lamb", o.max_coeff = 0.3, o.min_coeff = 0.25; }},
};

class EveryOptimizer : public ::testing::TestWithParam<Case> {};

TEST_P(EveryOptimizer, FollowsTheFormulaForTwentySteps) {
  const OptimizerConfig config = config_of(GetParam());
  SmallRun run(config);
  for (int t = 0; t < kSteps; ++t) run.step(t, learning_rate(t));
  const double error = worst_error(run.values(), reference(config));
  EXPECT_LE(error, 5e-6);
  std::printf("    worst error %.1e\n", error);
  // The comparison is sharp: one step less, or no decay, is another result.
  EXPECT_GT(worst_error(run.values(), reference(config, kSteps - 1)), 1e-4);
  OptimizerConfig without = config;
  without.weight_decay = 0;
  EXPECT_GT(worst_error(run.values(), reference(without)), 1e-4);
}

TEST_P(EveryOptimizer, ComputeWeightsAreTheRoundedMainWeights) {
  const OptimizerConfig config = config_of(GetParam());
  SmallRun whole(config), rounded(config, DType::bf16);
  for (int t = 0; t < 3; ++t) {
    whole.step(t, learning_rate(t));
    rounded.step(t, learning_rate(t));
  }
  EXPECT_EQ(rounded.values(), whole.values());
  Values expected = whole.values();
  for (auto& tensor : expected) {
    for (double& value : tensor) value = double{float(bf16(static_cast<float>(value)))};
  }
  EXPECT_EQ(rounded.values(State::weights), expected);
}

TEST_P(EveryOptimizer, StatesAreWhatIsDeclared) {
  const OptimizerConfig config = config_of(GetParam());
  SmallRun run(config);
  const auto names = optimizer_states(config);
  EXPECT_EQ(run.store().memory().optimizer,
            names.size() * static_cast<std::size_t>(run.store().numel()) * 4);
  run.step(0, learning_rate(0));
  for (std::size_t i = 0; i < names.size(); ++i) {
    const Values state = run.values(optimizer_state(static_cast<int>(i)));
    EXPECT_THAT(state[0], ::testing::Contains(::testing::Ne(0.0))) << names[i];
  }
}

INSTANTIATE_TEST_SUITE_P(All, EveryOptimizer, ::testing::ValuesIn(kCases),
                         [](const auto& param) { return std::string(param.param.name); });

// ---- published implementations ------------------------------------------------------------------

TEST(PublishedOptimizers, GiveTheSameWeights) {
  std::ifstream file(NEOX_SOURCE_DIR "/tests/fixtures/optimizers.json");
  const auto json = nlohmann::json::parse(file);
  ASSERT_EQ(json.at("steps").get<int>(), kSteps);
  ASSERT_EQ(json.at("cases").size(), 11u);
  for (const auto& test : json.at("cases")) {
    const auto& options = test.at("options");
    OptimizerConfig config;
    config.gradient_clipping = 0;
    config.weight_decay = options.value("weight_decay", json.at("weight_decay").get<double>());
    config.type = options.at("type").get<std::string>();
    config.betas = options.value("betas", config.betas);
    config.eps = options.value("eps", config.eps);
    config.momentum = options.value("momentum", config.momentum);
    config.nesterov = options.value("nesterov", false);
    config.sm3_beta = options.value("sm3_beta", 0.0);
    config.adam_w_mode = options.value("adam_w_mode", true);
    SmallRun run(config);
    for (int t = 0; t < kSteps; ++t) run.step(t, learning_rate(t));
    const double error = worst_error(run.values(), test.at("parameters").get<Values>());
    EXPECT_LE(error, 5e-6) << test.at("name");
    std::printf("    %-18s worst error %.1e\n", test.at("name").get<std::string>().c_str(), error);
  }
}

TEST(Lamb, ATensorOfZerosStillMoves) {
  OptimizerConfig config;
  config.type = "lamb";
  SmallRun run(config);
  fill_zero(*make_stream(Device{}), run.store().whole_shard(State::main, 1).local);
  run.step(0, 0.01);
  const Values after = run.values();
  for (const double value : after[1]) EXPECT_NEAR(std::abs(value), 0.01, 1e-6);
}

TEST(Sm3, AccumulatorsAreTheOptimizersState) {
  OptimizerConfig config;
  config.type = "sm3";
  config.gradient_clipping = 0;
  SmallRun run(config);
  run.step(0, 0.01);
  const auto states = run.optimizer().shared_states();
  ASSERT_EQ(states.size(), 3u);  // rows and columns of the matrix, and the vector
  EXPECT_EQ(states[0].name, "accumulator_0");
  EXPECT_EQ(states[1].name, "accumulator_1");
  EXPECT_EQ(states[2].parameter, "tensor1");
  const std::vector<Shape> shapes = {{5}, {7}, {7}};
  for (std::size_t i = 0; i < states.size(); ++i) {
    EXPECT_EQ(states[i].tensor.shape, shapes[i]);
    for (const float value : states[i].tensor.span<float>()) EXPECT_GT(value, 0.0f);
  }
  double largest = 0;  // of the first row
  for (std::size_t i = 0; i < 7; ++i) largest = std::max(largest, std::pow(gradient(0, i, 0), 2));
  EXPECT_FLOAT_EQ(states[0].tensor.ptr<float>()[0], static_cast<float>(largest));
  run.optimizer().clear_shared_states();
  for (const auto& state : states) EXPECT_EQ(state.tensor.ptr<float>()[0], 0.0f);
}

TEST(OptimizerStates, AStoreOfAnotherOptimizerIsRefused) {
  ParameterStore store;
  store.begin_block("block");
  store.add({.name = "a", .global = {4}, .slice = Slice::whole({4})});
  store.commit(Device{}, DType::f32, StoreMode::training);
  const auto ops = make_backend(Device{});
  const auto stream = make_stream(Device{});
  OptimizerConfig config;
  config.type = "lion";
  EXPECT_THROW(Optimizer(store, config, *ops, *stream), Error);
  config.type = "adagrad";
  EXPECT_THROW(optimizer_states(config), Error);
}

}  // namespace
}  // namespace neox
