// neox_convert on checkpoints that neox_train wrote.

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kStep10 = "run/step0000000010.h5";
constexpr const char* kStep20 = "run/step0000000020.h5";

// One training run serves all cases; each damages only copies.
class Convert : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new Workspace;
    make_corpus(*shared_);
    shared_->write("tiny.ini", tiny_config("corpus_text_document"));
    shared_->run_ok(mpirun(1, "neox_train --config tiny.ini"));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static Workspace& w() { return *shared_; }

  // Flips one bit of the byte at `offset`.
  static void damage(const std::string& file, std::int64_t offset) {
    std::fstream f(w().file(file), std::ios::in | std::ios::out | std::ios::binary);
    f.seekg(offset);
    const char c = static_cast<char>(f.get() ^ 1);
    f.seekp(offset);
    f.put(c);
    ASSERT_TRUE(f.good());
  }

 private:
  static Workspace* shared_;
};
Workspace* Convert::shared_ = nullptr;

TEST_F(Convert, InspectSaysWhatIsThere) {
  const auto newest = w().run_ok("neox_convert inspect run --show-config");
  EXPECT_THAT(newest.out, HasSubstr("step 20 of 20, 160 samples, 5,120 tokens consumed"));
  EXPECT_THAT(newest.out, HasSubstr("2 layers, hidden 32, 4 heads, vocabulary 512"));
  EXPECT_THAT(newest.out, HasSubstr("/model/layers/1/mlp/dense_4h_to_h/weight"));
  EXPECT_THAT(newest.out, HasSubstr("[32, 128]"));
  EXPECT_THAT(newest.out, HasSubstr("adam_step=20"));
  EXPECT_THAT(newest.out, HasSubstr("kind=philox4x32-10"));
  EXPECT_THAT(newest.out, HasSubstr("hidden_size = 32"));
  const auto older = w().run_ok("neox_convert inspect run --step 10 --summary");
  EXPECT_THAT(older.out, HasSubstr("step 10 of 20"));
  EXPECT_THAT(older.out, Not(HasSubstr("dense_4h_to_h")));
  EXPECT_THAT(older.out, Not(HasSubstr("hidden_size")));
}

TEST_F(Convert, VerifyNamesTheDamagedTensor) {
  const auto whole = w().run_ok(mpirun(2, "neox_convert verify run"));
  EXPECT_THAT(whole.out, HasSubstr("step 10, all"));
  EXPECT_THAT(whole.out, HasSubstr("step 20, all"));
  w().run_ok(std::string("rm -rf bad; mkdir bad; cp ") + kStep10 + " " + kStep20 + " bad");
  const auto place = w().run_ok(
      "h5dump -p -H -d /optimizer/exp_avg/final_layer_norm/bias bad/step0000000020.h5 | "
      "sed -n 's/.*OFFSET *//p'");
  damage("bad/step0000000020.h5", std::stoll(place.out) + 5);
  const auto verify = w().run("neox_convert verify bad");
  EXPECT_EQ(verify.exit_code, 1);
  EXPECT_THAT(verify.out, HasSubstr("step 10, all"));
  EXPECT_THAT(verify.out, HasSubstr("DAMAGED"));
  EXPECT_THAT(verify.out, HasSubstr("the sum of /optimizer/exp_avg/final_layer_norm/bias"));
  EXPECT_EQ(w().run("neox_convert verify bad --step 10").exit_code, 0);
  // What diff reads, it verifies.
  const auto diff = w().run(std::string("neox_convert diff bad/step0000000020.h5 ") + kStep20);
  EXPECT_EQ(diff.exit_code, 1);
  EXPECT_THAT(diff.err, HasSubstr("the sum of /optimizer/exp_avg/final_layer_norm/bias"));
  w().run_ok("truncate -s -1 bad/step0000000010.h5");
  EXPECT_EQ(w().run("neox_convert verify bad/step0000000010.h5").exit_code, 1);
  const auto none = w().run("neox_convert verify nowhere.h5");
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.out + none.err, HasSubstr("nowhere.h5"));
}

TEST_F(Convert, DiffMeasuresDifferences) {
  const auto same = w().run_ok(std::string("neox_convert diff run ") + kStep20);
  EXPECT_THAT(same.out, HasSubstr("no differences"));
  const auto steps = w().run(std::string("neox_convert diff ") + kStep10 + " " + kStep20);
  EXPECT_EQ(steps.exit_code, 1);
  EXPECT_THAT(steps.out, HasSubstr("step: 10 / 20"));
  EXPECT_THAT(steps.out, HasSubstr("/optimizer adam_step: 10 / 20"));
  EXPECT_THAT(steps.out, ::testing::ContainsRegex(
                             "/model/embed_in/weight: [0-9]+ of 16384 elements differ, max abs "));
  EXPECT_THAT(steps.out, HasSubstr("tensors: 0 equal"));
  // Another precision and another norm: options, and tensors that one side lacks.
  w().run_ok(mpirun(1,
                    "neox_train --config tiny.ini --checkpoint.save other --model.norm rmsnorm "
                    "--precision.precision bfloat16 --train.train_iters 1"));
  const auto models = w().run(std::string("neox_convert diff other ") + kStep20);
  EXPECT_EQ(models.exit_code, 1);
  EXPECT_THAT(models.out, HasSubstr("model.norm: rmsnorm / layernorm"));
  EXPECT_THAT(models.out, HasSubstr("/model/final_layer_norm/bias [32]: only in B"));
  EXPECT_THAT(models.out, HasSubstr("/optimizer/master/embed_in/weight"));
  EXPECT_THAT(models.out, HasSubstr("(bf16 / f32)"));
}

TEST_F(Convert, DiffToleratesRounding) {
  w().run_ok(mpirun(1,
                    "neox_train --config tiny.ini --checkpoint.save near --train.train_iters 20 "
                    "--optimizer.lr 0.010001"));
  const auto strict = w().run(std::string("neox_convert diff near ") + kStep20);
  EXPECT_THAT(strict.out, HasSubstr("optimizer.lr: 0.010001 / 0.01"));
  EXPECT_THAT(strict.out, HasSubstr("/model/embed_in/weight"));
  const auto loose = w().run(std::string("neox_convert diff --tolerance 0.9 near ") + kStep20);
  EXPECT_EQ(loose.exit_code, 1);  // the configuration still differs
  EXPECT_THAT(loose.out, Not(HasSubstr("elements differ")));
  EXPECT_THAT(loose.out, HasSubstr("within 0.9"));
}

TEST_F(Convert, MergedConfigTrainsOn) {
  w().write("more.ini", "[train]\ntrain_iters = 30\n");
  const auto merged =
      w().run_ok("neox_convert merge-config run --config more.ini --optimizer.lr 0.002 --ranks 2");
  EXPECT_THAT(merged.out, HasSubstr("train_iters = 30"));
  EXPECT_THAT(merged.out, HasSubstr("lr = 0.002"));
  EXPECT_THAT(merged.out, HasSubstr("hidden_size = 32"));
  EXPECT_THAT(merged.out, HasSubstr("gradient_accumulation_steps = 2"));
  w().write("merged.ini", merged.out);
  w().run_ok("rm -rf again; cp -r run again");
  const auto resumed = w().run_ok(mpirun(
      2,
      "neox_train --config merged.ini --checkpoint.save again --checkpoint.checkpoint_factor 30"));
  EXPECT_THAT(resumed.err, HasSubstr("resuming from again/step0000000020.h5"));
  const auto impossible = w().run("neox_convert merge-config run --ranks 3");
  EXPECT_EQ(impossible.exit_code, 1);
  EXPECT_THAT(impossible.err, HasSubstr("batch.train_batch_size"));
}

TEST_F(Convert, HelpAndMistakes) {
  EXPECT_THAT(w().run_ok("neox_convert --help").out, HasSubstr("merge-config"));
  EXPECT_THAT(w().run_ok("neox_convert diff --help").out, HasSubstr("--tolerance X"));
  const auto expect_error = [&](const std::string& arguments, const std::string& text) {
    const auto result = w().run("neox_convert " + arguments);
    EXPECT_EQ(result.exit_code, 1) << arguments;
    EXPECT_THAT(result.err, HasSubstr(text)) << arguments;
  };
  expect_error("",
               "no command; give inspect, verify, diff, merge-config, from-hf, to-hf or from-yaml");
  expect_error("inspekt run", "unknown command 'inspekt'");
  expect_error("inspect", "takes one file or directory; 0 given");
  expect_error("diff run", "takes two checkpoints; 1 given");
  expect_error("diff run run --tolerance nan", "expected a number");
  expect_error("diff run run --tolerance -1", "expected at least 0");
  expect_error("inspect run --step 15", "there are steps 20, 10");
  expect_error("inspect tiny.ini", "tiny.ini");
  expect_error("inspect run --summry", "did you mean --summary");
  expect_error("inspect run --config tiny.ini", "has no use for a configuration");
  expect_error("merge-config run --optimizer.lrr 1", "optimizer.lr");
}

}  // namespace
}  // namespace neox::testing
