// Fine-tuning data from text to a trained model: label files, packing, layouts, resuming.

#include <cmath>
#include <filesystem>
#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "io/data/indexed_dataset.h"
#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr const char* kMetrics = "/run/metrics.jsonl";

std::map<std::int64_t, double> losses(const Workspace& workspace, const std::string& folder,
                                      const std::string& name = "train/lm_loss") {
  std::map<std::int64_t, double> values;
  std::istringstream lines(workspace.read(folder + kMetrics));
  for (std::string line; std::getline(lines, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains(name)) values[json.at("step").get<std::int64_t>()] = json.at(name);
  }
  return values;
}

using Rows = std::vector<std::vector<std::int32_t>>;

Rows rows_of(const std::string& prefix) {
  const IndexedDataset data(prefix);
  Rows rows;
  for (std::int64_t i = 0; i < data.size(); ++i) {
    data.tokens(i, 0, rows.emplace_back(static_cast<std::size_t>(data.length(i))));
  }
  return rows;
}

void write_rows(const std::string& prefix, const Rows& rows) {
  IndexedDatasetWriter writer(prefix, DType::i32);
  for (const auto& row : rows) {
    writer.add_sequence(row);
    writer.end_document();
  }
  writer.finish();
}

// Questions and answers of 8 to 45 characters, some longer than a sample of 33 tokens.
class Finetune : public ::testing::Test {
 protected:
  Finetune() {
    std::string pairs, chats;
    for (int i = 0; i < 90; ++i) {
      const std::string question = fmt::format("{}+{}=", i * i, 7 * i);
      const std::string answer(static_cast<std::size_t>(3 + 7 * i % 36),
                               static_cast<char>('a' + i % 26));
      pairs += nlohmann::json{{"prompt", question}, {"completion", answer}}.dump() + "\n";
      chats += nlohmann::json{{"messages",
                               {{{"role", "user"}, {"content", question}},
                                {{"role", "assistant"}, {"content", answer}}}}}
                   .dump() +
               "\n";
    }
    workspace_.write("pairs.jsonl", pairs);
    workspace_.write("chats.jsonl", chats);
    const std::string preprocess =
        "neox_preprocess --tokenizer-type CharLevelTokenizer --append-eod ";
    workspace_.run_ok(preprocess +
                      "--input pairs.jsonl --output-prefix pairs --prompt-key prompt "
                      "--completion-key completion");
    workspace_.run_ok(preprocess +
                      "--input chats.jsonl --output-prefix chats --chat-template plain");
    workspace_.write("tiny.ini", config("pairs_text", "pairs_text_label", "unpacked"));
  }

  static std::string config(const std::string& name, const std::string& labels,
                            const std::string& packing) {
    std::string text = tiny_config("x");
    const auto cut = text.find("data_path = x\nsplit = 90,10,0\n");
    const std::string path = "../" + name + "_document", label = "../" + labels + "_document";
    std::string lists;
    for (const char* part : {"train", "valid", "test"}) {
      lists += fmt::format("{}_data_paths = {}\n", part, path);
      if (!labels.empty()) lists += fmt::format("{}_label_data_paths = {}\n", part, label);
    }
    text.replace(cut, std::string("data_path = x\nsplit = 90,10,0\n").size(),
                 lists + "pack_impl = " + packing + "\n");
    return text;
  }
  std::string train(int ranks, const std::string& options = "") const {
    return mpirun(ranks, "neox_train --config ../tiny.ini --logging.log_samples true " + options);
  }
  void expect_same_losses(const std::string& a, const std::string& b,
                          const std::string& name) const {
    const auto one = losses(workspace_, a, name), two = losses(workspace_, b, name);
    ASSERT_GE(one.size(), 2u);
    ASSERT_EQ(one.size(), two.size());
    for (const auto& [step, loss] : one) {
      EXPECT_NEAR(two.at(step), loss, 1e-6 * loss) << name << " of step " << step;
    }
  }
  Workspace workspace_;
};

TEST_F(Finetune, EveryPackingInEveryLayoutAndAfterAResume) {
  for (const char* packing : {"packed", "pack_until_overflow", "unpacked"}) {
    SCOPED_TRACE(packing);
    const std::string options = fmt::format("--data.pack_impl {} ", packing), p = packing;
    workspace_.run_ok(train(1, options), p + "1");
    workspace_.run_ok(train(2, options), p + "2");
    expect_same_losses(p + "1", p + "2", "train/lm_loss");
    expect_same_losses(p + "1", p + "2", "validation/lm_loss");
    workspace_.run_ok(train(2, options + "--train.exit_interval 7"), p + "r");
    workspace_.run_ok(train(2, options + "--train.exit_interval 0"), p + "r");
    EXPECT_EQ(losses(workspace_, p + "r"), losses(workspace_, p + "2"));
    const auto compare = workspace_.run(
        fmt::format("neox_convert diff {0}2/run/step0000000020.h5 {0}r/run/step0000000020.h5", p));
    EXPECT_EQ(compare.exit_code, 0) << compare.out << compare.err;
    EXPECT_EQ(workspace_.read(p + "r/run/samples.jsonl"),
              workspace_.read(p + "2/run/samples.jsonl"));
  }
  // It learns: what follows a letter is mostly the same letter.
  EXPECT_LT(losses(workspace_, "unpacked1").at(20), 0.8 * losses(workspace_, "unpacked1").at(1));
}

// Of the same batch with the same weights, the losses over all tokens, over those of a mask and
// over the others belong together: the loss is a mean over the tokens that count, no more and no
// less.
TEST_F(Finetune, TheLossIsTheMeanOverTokensThatCount) {
  const Rows tokens = rows_of(workspace_.file("pairs_text_document"));
  const Rows labels = rows_of(workspace_.file("pairs_text_label_document"));
  Rows rest = tokens;
  for (std::size_t d = 0; d < rest.size(); ++d) {
    for (std::size_t t = 0; t < rest[d].size(); ++t) {
      if (labels[d][t] >= 0) rest[d][t] = -7;
    }
  }
  write_rows(workspace_.file("rest_label_document"), rest);
  const std::string once =
      "--train.train_iters 1 --train.eval_interval 0 --data.train_label_data_paths ";
  workspace_.run_ok(train(1, once + "../pairs_text_label_document"), "masked");
  workspace_.run_ok(train(2, once + "../rest_label_document"), "rest");
  workspace_.write("all.ini", config("pairs_text", "", "unpacked"));
  workspace_.run_ok(
      "neox_train --config ../all.ini --logging.log_samples true --train.train_iters 1 "
      "--train.eval_interval 0",
      "all");
  const auto samples = nlohmann::json::parse(workspace_.read("all/run/samples.jsonl"));
  EXPECT_EQ(samples.at("origins"),
            nlohmann::json::parse(workspace_.read("masked/run/samples.jsonl")).at("origins"));
  double masked = 0, others = 0;
  for (const auto& origin : samples.at("origins").at(0)) {
    const auto& row = labels.at(origin.at(1).get<std::size_t>());
    for (std::size_t t = 1; t < std::min<std::size_t>(row.size(), 33); ++t) {
      (row[t] >= 0 ? masked : others) += 1;
    }
  }
  ASSERT_GT(masked, 0);
  ASSERT_GT(others, 0);
  const auto loss = [&](const char* folder) { return losses(workspace_, folder).at(1); };
  EXPECT_NEAR((masked * loss("masked") + others * loss("rest")) / (masked + others), loss("all"),
              2e-6);
  EXPECT_GT(std::abs(loss("masked") - loss("rest")), 1e-3);
}

TEST_F(Finetune, Conversations) {
  workspace_.write("chat.ini",
                   config("chats_messages", "chats_messages_label", "pack_until_overflow"));
  const auto run =
      workspace_.run_ok("neox_train --config ../chat.ini --data.allow_chopped false", "chat");
  EXPECT_THAT(run.err, HasSubstr("documents longer than a sample"));
  EXPECT_LT(losses(workspace_, "chat").at(20), losses(workspace_, "chat").at(1));
}

// Without a token that counts a step changes nothing, and the run goes on.
TEST_F(Finetune, BatchesWithoutLabels) {
  Rows labels = rows_of(workspace_.file("pairs_text_label_document"));
  for (auto& row : labels) row.assign(row.size(), -100);
  write_rows(workspace_.file("none_label_document"), labels);
  const std::string none =
      "--data.train_label_data_paths ../none_label_document --data.pack_impl packed "
      "--train.train_iters 2 --train.eval_interval 0 --checkpoint.extra_save_iters 0 ";
  for (const int ranks : {1, 2}) {
    const std::string folder = "none" + std::to_string(ranks);
    const auto run = workspace_.run_ok(train(ranks, none), folder);
    EXPECT_THAT(run.err, HasSubstr("step 2: no token of the batch has a label that counts: weights "
                                   "were not changed"));
    EXPECT_EQ(losses(workspace_, folder).at(2), 0.0);
    const auto compare =
        workspace_.run("neox_convert diff run/step0000000000.h5 run/step0000000002.h5", folder);
    EXPECT_THAT(compare.out, ::testing::Not(HasSubstr("/model/"))) << compare.out;
  }
  const auto unpacked = workspace_.run(train(1, none + "--data.pack_impl unpacked"), "unpacked");
  EXPECT_EQ(unpacked.exit_code, 1);
  EXPECT_THAT(unpacked.err, AllOf(HasSubstr("none of the documents 0 to 89 can be used"),
                                  HasSubstr("90 have no label that counts")));
  const auto valid = workspace_.run(
      train(1, "--data.valid_label_data_paths ../none_label_document --data.pack_impl packed"),
      "valid");
  EXPECT_EQ(valid.exit_code, 1);
  EXPECT_THAT(valid.err,
              HasSubstr("no token of the 16 validation samples has a label that counts"));
}

TEST_F(Finetune, WrongInput) {
  const auto error = [&](const std::string& command) {
    const auto run = workspace_.run(command, "wrong");
    EXPECT_EQ(run.exit_code, 1) << command << run.out;
    return run.err;
  };
  const std::string train = "neox_train --config ../tiny.ini ";
  EXPECT_THAT(error(train + "--data.train_label_data_paths ../a,../b"),
              HasSubstr("2 paths of labels for 1 in data.train_data_paths"));
  EXPECT_THAT(error(train + "--data.pack_impl packed --data.allow_chopped false"),
              HasSubstr("needs data.pack_impl = pack_until_overflow or unpacked"));
  EXPECT_THAT(error(train + "--data.train_label_data_paths ../chats_messages_label_document"),
              HasSubstr("make both from the same text"));
  const std::string preprocess =
      "neox_preprocess --tokenizer-type CharLevelTokenizer --input ../chats.jsonl --output-prefix "
      "o ";
  EXPECT_THAT(error(preprocess + "--chat-template tokenizer_config.json"),
              HasSubstr("templates in Jinja are not supported"));
  EXPECT_THAT(error(preprocess + "--chat-template plain --completion-key x"),
              HasSubstr("exclude each other"));
  EXPECT_THAT(error(preprocess + "--only-last"), HasSubstr("go with --chat-template"));
  EXPECT_THAT(error(preprocess + "--prompt-key x"), HasSubstr("belong together"));
  EXPECT_THAT(error(preprocess + "--mask-before-token 1,,2"), HasSubstr("expected token ids"));
  EXPECT_THAT(error(preprocess + "--mask-before-token 512"), HasSubstr("not in the vocabulary"));
}

}  // namespace
}  // namespace neox::testing
