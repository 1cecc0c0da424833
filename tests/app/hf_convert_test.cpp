// neox_convert from-hf, to-hf and from-yaml as a user runs them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const std::string kNeox = NEOX_SOURCE_DIR "/tests/fixtures/hf/gpt_neox_f32";
const std::string kYaml = NEOX_SOURCE_DIR "/tests/fixtures/yaml/";

// Names in the workspace, apart from the runner's own files; hidden ones too.
std::string contents(const Workspace& w) {
  return w.run_ok("ls -A | grep -v -x -e .command -e .out -e .err | sort | tr '\\n' ' '").out;
}

TEST(HfPrograms, GenerateFinetuneAndReturn) {
  const Workspace w;
  const auto made = w.run_ok("neox_convert from-hf " + kNeox + " base");
  EXPECT_THAT(made.out, HasSubstr("12,832 parameters as fp32, vocabulary 261"));
  EXPECT_THAT(made.out, HasSubstr("self-check: largest difference 0 of 8352 logits"));
  w.run_ok("neox_convert verify base");
  // Its tokenizer is found where it was, and beside the checkpoint after a move.
  const std::string generate =
      "neox_generate --generate.prompt Hello --generate.maximum_tokens 8 --checkpoint.load ";
  const auto first = w.run_ok(generate + "base");
  EXPECT_THAT(first.out, HasSubstr("Hello"));
  w.run_ok("mv base moved");
  EXPECT_EQ(w.run_ok(generate + "moved").out, first.out);
  // Fine-tuning on two ranks, with the checkpoint's own configuration.
  w.run_ok("cp " NEOX_SOURCE_DIR
           "/LICENSE text.txt && neox_preprocess --input text.txt "
           "--split-lines --vocab-file moved/tokenizer.json --output-prefix corpus");
  w.write("base.ini", w.run_ok("neox_convert merge-config moved").out);
  const auto tuned = w.run_ok(
      mpirun(2,
             "neox_train --config base.ini --checkpoint.load moved --checkpoint.finetune true "
             "--tokenizer.vocab_file moved/tokenizer.json --checkpoint.save tuned "
             "--data.data_path corpus_text_document --train.train_iters 3 --model.seq_length 32 "
             "--parallel.model_parallel_size 2 --batch.train_micro_batch_size_per_gpu 2 "
             "--train.eval_interval 0 --logging.log_interval 1"));
  EXPECT_THAT(tuned.err + tuned.out, HasSubstr("step 3/3"));
  const auto back = w.run_ok("neox_convert to-hf tuned hf --dtype bfloat16 --max-shard-size 8KB");
  EXPECT_THAT(back.out, HasSubstr("self-check: largest difference 0 of"));
  w.run_ok("test -f hf/model.safetensors.index.json -a -f hf/tokenizer.json -a -f hf/config.json");
  EXPECT_THAT(w.read("hf/config.json"), HasSubstr("\"torch_dtype\": \"bfloat16\""));
}

TEST(HfPrograms, FailuresLeaveNothing) {
  const Workspace w;
  const auto fails = [&](const std::string& command, const std::string& message) {
    const auto result = w.run("neox_convert " + command);
    EXPECT_EQ(result.exit_code, 1) << command;
    EXPECT_THAT(result.err, HasSubstr(message)) << command;
    EXPECT_THAT(result.err, Not(HasSubstr("internal error"))) << command;
    EXPECT_EQ(contents(w), "empty full run ") << command;
  };
  w.run_ok("mkdir full empty && touch full/file");
  w.run_ok("neox_convert from-hf " + kNeox + " run");
  fails("from-hf nowhere out", "nowhere is not a Hugging Face model folder");
  fails("from-hf " + kNeox, "a Hugging Face folder and a new folder; 1 given");
  fails("from-hf " + kNeox + " full", "is not empty");
  fails("from-hf " + kNeox + " out --precision fp16", "expected fp32 or bfloat16");
  fails("to-hf nowhere out", "nowhere");
  fails("to-hf empty out", "holds no checkpoints");
  fails("to-hf run full", "is not empty");
  fails("to-hf run out --dtype int8", "expected float32, bfloat16 or float16");
  fails("to-hf run out --max-shard-size 5gigs", "is not a size");
  fails("to-hf run out --step 7", "there is no checkpoint of step 7");
  const auto two = w.run(mpirun(2, "neox_convert to-hf run out"));
  EXPECT_NE(two.exit_code, 0);
  EXPECT_THAT(two.err, HasSubstr("runs on one rank"));
}

TEST(HfPrograms, DamagedCheckpointsAreNotExported) {
  const Workspace w;
  w.run_ok("neox_convert from-hf " + kNeox + " run");
  const auto place = w.run_ok(
      "h5dump -p -H -d /model/embed_out/weight run/step0000000000.h5 | "
      "sed -n 's/.*OFFSET *//p'");
  w.run_ok("printf '\\377' | dd of=run/step0000000000.h5 bs=1 conv=notrunc seek=" +
           std::to_string(std::stoll(place.out) + 5));
  const auto result = w.run("neox_convert to-hf run out");
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("/model/embed_out/weight"));
  EXPECT_EQ(contents(w), "run ");
}

TEST(HfPrograms, YamlBecomesAConfigurationThatRuns) {
  const Workspace w;
  const auto ini = w.run_ok("neox_convert from-yaml " + kYaml + "small.yml " + kYaml + "paths.yml");
  w.write("run.ini", ini.out);
  const auto plan = w.run_ok("neox_train --config run.ini --dry-run --model.vocab_size 1000");
  EXPECT_THAT(plan.out + plan.err, HasSubstr("parameters"));
  const auto refused =
      w.run("neox_convert from-yaml " + kYaml + "small.yml " + kYaml + "small.yml");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_EQ(refused.out, "");
  EXPECT_THAT(refused.err, HasSubstr("every key may be given once"));
  const auto set = w.run_ok("neox_convert from-yaml " + kYaml + "small.yml --optimizer.lr 0.5");
  EXPECT_THAT(set.out, HasSubstr("\nlr = 0.5\n"));
  EXPECT_EQ(w.run("neox_convert from-yaml").exit_code, 1);
}

}  // namespace
}  // namespace neox::testing
