// Parity with models computed in float64 elsewhere (tests/fixtures/parity): logits, hidden states,
// losses, every gradient, AdamW steps, and the same weights through their Hugging Face folders.

#include <cmath>
#include <fstream>
#include <sstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/model/hf_import.h"
#include "core/model/init.h"
#include "core/optim/optimizer.h"
#include "tests/optim/model_fixture.h"
#include "tests/support/h5_file.h"

namespace neox {
namespace {

using testing::H5File;
using testing::TestModel;
using testing::values;

constexpr const char* kFixtures = NEOX_SOURCE_DIR "/tests/fixtures/parity/";

std::string read_text(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// max |a - b| / max |b|: relative to the tensor's own scale.
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, scale = 1e-30;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
    scale = std::max(scale, std::abs(double{b[i]}));
  }
  return difference / scale;
}

double absolute_error(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = std::max(difference, std::abs(double{a[i]} - double{b[i]}));
  }
  return difference;
}

class Parity : public ::testing::TestWithParam<const char*> {
 protected:
  Parity()
      : name_(GetParam()),
        file_(std::string(kFixtures) + name_ + ".h5"),
        json_(nlohmann::json::parse(read_text(std::string(kFixtures) + name_ + ".json"))) {
    hf_ = read_hf_model(hf_folder());
    batch_ = json_.at("batch").get<std::int64_t>();
    seq_ = json_.at("seq").get<std::int64_t>();
    ids_ = file_.ints("/input_ids");
    labels_ = file_.ints("/labels");
  }

  std::string hf_folder() const { return std::string(kFixtures) + name_ + "_hf"; }

  // Our layout of the tensors below `group`.
  std::vector<float> expected(const std::string& group, const ParameterSpec& spec) const {
    return assemble_from_hf(hf_.family, hf_.model, spec.name, spec.global,
                            [&](const std::string& tensor, const Shape& shape) {
                              const std::string path = group + "/" + tensor;
                              EXPECT_EQ(file_.shape(path), shape) << path;
                              return file_.floats(path);
                            });
  }

  void load(TestModel& test, const std::string& group) const {
    ParameterStore& store = test.model.parameters();
    for (ParameterId id = 0; id < store.size(); ++id) {
      const auto from = expected(group, store.spec(id));
      const Tensor to = store.main_shard(id).local;
      std::copy(from.begin(), from.end(), to.ptr<float>());
    }
    store.refresh_weights(*test.ops, *test.stream);
  }

  // Batch b of the fixture with the mean loss.
  void set_batch(TestModel& test, std::int64_t b) const {
    const std::int64_t n = batch_ * seq_;
    const std::vector<std::int32_t> ids(ids_.begin() + b * n, ids_.begin() + (b + 1) * n);
    const std::vector<std::int32_t> labels(labels_.begin() + b * n, labels_.begin() + (b + 1) * n);
    const std::vector<float> weights(static_cast<std::size_t>(n), 1.0f / static_cast<float>(n));
    test.set_batch(ids, labels, weights);
  }

  // Weights move by about lr in a step whatever the gradient's size, so that their error is
  // measured absolutely (`absolute`), not against a tensor that may be small.
  void compare(const TestModel& test, const std::string& group, double tolerance, bool absolute,
               State state) const {
    const ParameterStore& store = test.model.parameters();
    double worst = 0;
    for (ParameterId id = 0; id < store.size(); ++id) {
      const auto have = values(store.whole_shard(state, id).local);
      const auto want = expected(group, store.spec(id));
      const double error = absolute ? absolute_error(have, want) : relative_error(have, want);
      EXPECT_LE(error, tolerance) << group << " " << store.spec(id).name;
      worst = std::max(worst, error);
    }
    std::printf("    %s %-28s worst %s error %.2e (limit %.0e)\n", name_.c_str(), group.c_str(),
                absolute ? "absolute" : "relative", worst, tolerance);
  }

  void compare_grads(const TestModel& test, const std::string& group, double tolerance) const {
    const ParameterStore& store = test.model.parameters();
    double worst = 0;
    for (ParameterId id = 0; id < store.size(); ++id) {
      const double error = relative_error(values(store.grad(id)), expected(group, store.spec(id)));
      EXPECT_LE(error, tolerance) << group << " " << store.spec(id).name;
      worst = std::max(worst, error);
    }
    std::printf("    %s %-28s worst relative error %.2e (limit %.0e)\n", name_.c_str(),
                group.c_str(), worst, tolerance);
  }

  void run_steps(const std::string& run, const std::string& first_step) const;

  std::string name_;
  H5File file_;
  nlohmann::json json_;
  HfModel hf_;
  std::int64_t batch_ = 0, seq_ = 0;
  std::vector<std::int32_t> ids_, labels_;
};

TEST_P(Parity, LogitsHiddenStatesAndLoss) {
  TestModel test(hf_.model, batch_, seq_);
  load(test, "/weights");
  set_batch(test, 0);
  std::vector<std::vector<float>> residuals;
  const auto logits = test.logits(&residuals);
  const double error = relative_error(logits, file_.floats("/logits"));
  EXPECT_LE(error, 1e-5);
  std::printf("    %s logits: worst relative error %.2e (limit 1e-05)\n", name_.c_str(), error);
  for (std::size_t i = 0; i < residuals.size(); ++i) {
    EXPECT_LE(relative_error(residuals[i], file_.floats("/hidden/" + std::to_string(i))), 1e-5);
  }
  EXPECT_NEAR(test.forward_backward(), json_.at("loss").get<double>(), 1e-5);
  EXPECT_LE(relative_error(test.losses(), file_.floats("/token_losses")), 1e-5);
}

TEST_P(Parity, HuggingFaceFolderHoldsTheSameModel) {
  TestModel test(hf_.model, batch_, seq_);
  load_hf_weights(hf_folder(), hf_.family, test.model, *test.ops, *test.stream);
  set_batch(test, 0);
  EXPECT_LE(relative_error(test.logits(), file_.floats("/logits")), 1e-5);
  EXPECT_THROW(
      load_hf_weights(hf_folder() + "/nowhere", hf_.family, test.model, *test.ops, *test.stream),
      Error);
  EXPECT_THROW(read_hf_model(hf_folder() + "/nowhere"), Error);
}

TEST_P(Parity, Gradients) {
  TestModel test(hf_.model, batch_, seq_);
  load(test, "/weights");
  set_batch(test, 0);
  test.forward_backward();
  compare_grads(test, "/grads", 1e-4);
}

TEST_P(Parity, GradientsAreBitIdenticalHoweverTheyAreComputed) {
  TestModel plain(hf_.model, batch_, seq_);
  const auto run = [&](TestModel& test) {
    load(test, "/weights");
    set_batch(test, 0);
    test.forward_backward();
    return values(test.model.parameters().grads());
  };
  const auto expected = run(plain);
  for (const Recompute recompute : {Recompute::none, Recompute::selective, Recompute::full}) {
    for (const bool split : {false, true}) {
      TestModel other(hf_.model, batch_, seq_, DType::f32, recompute, split);
      EXPECT_EQ(run(other), expected)
          << "recompute " << static_cast<int>(recompute) << ", split backward " << split;
    }
  }
}

TEST_P(Parity, MaskedGradients) {
  TestModel test(hf_.model, batch_, seq_);
  load(test, "/weights");
  const auto n = static_cast<std::size_t>(batch_ * seq_);
  std::vector<std::int32_t> ids(ids_.begin(), ids_.begin() + batch_ * seq_);
  std::vector<std::int32_t> labels(labels_.begin(), labels_.begin() + batch_ * seq_);
  std::vector<float> weights(n);
  double count = 0;
  for (std::size_t i = 0; i < n; ++i) count += ids[i] != 0 ? 1 : 0;
  for (std::size_t i = 0; i < n; ++i) {
    weights[i] = ids[i] != 0 ? static_cast<float>(1.0 / count) : 0.0f;
  }
  test.set_batch(ids, labels, weights);
  EXPECT_NEAR(test.forward_backward(), json_.at("masked_loss").get<double>(), 1e-5);
  compare_grads(test, "/masked_grads", 1e-4);
}

TEST_P(Parity, AccumulatedMicroBatchesEqualOneBatch) {
  TestModel whole(hf_.model, batch_, seq_), halves(hf_.model, 1, seq_);
  load(whole, "/weights");
  load(halves, "/weights");
  set_batch(whole, 0);
  whole.forward_backward();
  for (std::int64_t b = 0; b < batch_; ++b) {
    const std::vector<std::int32_t> ids(ids_.begin() + b * seq_, ids_.begin() + (b + 1) * seq_);
    const std::vector<std::int32_t> labels(labels_.begin() + b * seq_,
                                           labels_.begin() + (b + 1) * seq_);
    halves.set_batch(ids, labels,
                     std::vector<float>(static_cast<std::size_t>(seq_),
                                        1.0f / static_cast<float>(batch_ * seq_)));
    halves.forward_backward(b > 0);
  }
  EXPECT_LE(relative_error(values(halves.model.parameters().grads()),
                           values(whole.model.parameters().grads())),
            1e-5);
}

void Parity::run_steps(const std::string& run, const std::string& first_step) const {
  TestModel test(hf_.model, batch_, seq_);
  load(test, "/weights");
  const auto& hyper = json_.at(run).at("hyper");
  OptimizerConfig config;
  config.betas = hyper.at("betas").get<std::vector<double>>();
  config.eps = hyper.at("eps").get<double>();
  config.weight_decay = hyper.at("weight_decay").get<double>();
  config.gradient_clipping = hyper.at("clip_grad").get<double>();
  Optimizer optimizer(test.model.parameters(), config, *test.ops, *test.stream);
  for (std::size_t t = 0; t < 3; ++t) {
    set_batch(test, static_cast<std::int64_t>(t));
    const double loss = test.forward_backward();
    const double norm = optimizer.step(hyper.at("lr").at(t).get<double>()).grad_norm;
    const auto& log = json_.at(run).at("log").at(t);
    EXPECT_NEAR(loss, log.at("loss").get<double>(), 1e-5);
    EXPECT_NEAR(norm, log.at("grad_norm").get<double>(), 1e-4);
    if (t == 0 && !first_step.empty())
      compare(test, "/" + run + first_step, 1e-5, true, State::main);
  }
  compare(test, "/" + run + "/params_step3", 1e-5, true, State::main);
  if (run == "run_a") {
    compare(test, "/run_a/exp_avg_step3", 1e-4, false, State::optimizer0);
    compare(test, "/run_a/exp_avg_sq_step3", 1e-4, false, State::optimizer1);
    set_batch(test, 0);
    EXPECT_LE(relative_error(test.logits(), file_.floats("/run_a/logits_batch0_after")), 1e-5);
  }
}

TEST_P(Parity, AdamWWithoutClipping) {
  run_steps("run_a", "/params_step1");
}

TEST_P(Parity, AdamWWithClippingAndChangingLearningRate) {
  run_steps("run_b", "");
}

TEST_P(Parity, InitialisationIsAFunctionOfTheSeed) {
  TestModel a(hf_.model, batch_, seq_), b(hf_.model, batch_, seq_);
  initialise_parameters(a.model.parameters(), hf_.model, 1, *a.ops, *a.stream);
  initialise_parameters(b.model.parameters(), hf_.model, 1, *b.ops, *b.stream);
  EXPECT_EQ(values(a.model.parameters().weights()), values(b.model.parameters().weights()));
  initialise_parameters(b.model.parameters(), hf_.model, 2, *b.ops, *b.stream);
  EXPECT_NE(values(a.model.parameters().weights()), values(b.model.parameters().weights()));
}

INSTANTIATE_TEST_SUITE_P(Models, Parity, ::testing::Values("neox_tiny", "gpt2_tiny"),
                         [](const auto& param) { return std::string(param.param); });

}  // namespace
}  // namespace neox
