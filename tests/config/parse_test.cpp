// What files and command lines mean.
#include "core/config/parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/option.h"
#include "tests/config/temp_files.h"

namespace neox::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ConfigFile, SectionsCommentsAndValues) {
  const Config c = parse_ini_text(
      "# a comment\n"
      "; another\n"
      "  [model]   # sections may have comments\n"
      "hidden_size=512\n"
      "\tnum-layers   =  +6   ; six\n"
      "gpt_j_residual = Yes\n"
      "activation = SwiGLU\n"
      "rotary_pct = .25\n"
      "\n"
      "[optimizer]\n"
      "betas = 0.9,0.95\n"
      "eps = 1E-8\n"
      "[data]\n"
      "data_path = data/c#/it;s here  # and a comment\n"
      "train_data_paths = [a, \"b, c # d\" , e f]  # as in YAML\n"
      "[checkpoint]\n"
      "extra_save_iters = 0, 1,2\n"
      "save = \"  \\\"x\\\" \\x41\\\\ # \"\n"
      "[model]\n"
      "norm = rmsnorm\n"
      "[generate]\n"
      "prompt = a = b\n",
      "text");
  EXPECT_EQ(c.model.hidden_size, 512);
  EXPECT_EQ(c.model.num_layers, 6);
  EXPECT_TRUE(c.model.gpt_j_residual);
  EXPECT_EQ(c.model.activation, Activation::silu);
  EXPECT_TRUE(c.model.gated);
  EXPECT_EQ(c.model.rotary_pct, 0.25);
  EXPECT_EQ(c.model.norm, NormKind::rmsnorm);
  EXPECT_THAT(c.optimizer.betas, ElementsAre(0.9, 0.95));
  EXPECT_EQ(c.optimizer.eps, 1e-8);
  EXPECT_EQ(c.data.data_path, "data/c#/it;s here");
  EXPECT_THAT(c.data.train_data_paths, ElementsAre("a", "b, c # d", "e f"));
  EXPECT_THAT(c.checkpoint.extra_save_iters, ElementsAre(0, 1, 2));
  EXPECT_EQ(c.checkpoint.save, "  \"x\" A\\ # ");
  EXPECT_EQ(c.generate.prompt, "a = b");
}

TEST(ConfigFile, ByteOrderMarkWindowsLinesAndNoFinalNewline) {
  const Config c =
      parse_ini_text("\xef\xbb\xbf[model]\r\nhidden_size = 8\r\n\r\nnorm = rmsnorm", "text");
  EXPECT_EQ(c.model.hidden_size, 8);
  EXPECT_EQ(c.model.norm, NormKind::rmsnorm);
}

TEST(ConfigFile, EmptyTextAndEmptyValues) {
  EXPECT_EQ(parse_ini_text("", "text"), Config());
  EXPECT_EQ(parse_ini_text("\xef\xbb\xbf", "text"), Config());
  const Config c = parse_ini_text("[data]\ndata_path =\ntrain_data_paths = []  # none\n", "text");
  EXPECT_EQ(c, Config());
}

TEST(ConfigFile, DottedNamesBeforeAnySection) {
  EXPECT_EQ(parse_ini_text("optimizer.lr = 0.5\n[model]\nnum_layers = 3\n", "text").optimizer.lr,
            0.5);
}

struct Word {
  const char* text;
  Activation activation;
  bool gated;
};

TEST(ConfigFile, ActivationWords) {
  const Word words[] = {{"gelu", Activation::gelu, false},
                        {"gelu_tanh", Activation::gelu_tanh, false},
                        {"gelu_fast", Activation::gelu_tanh, false},
                        {"gelu_new", Activation::gelu_tanh, false},
                        {"silu", Activation::silu, false},
                        {"swish", Activation::silu, false},
                        {"relu", Activation::relu, false},
                        {"squared_relu", Activation::squared_relu, false},
                        {"relu2", Activation::squared_relu, false},
                        {"mish", Activation::mish, false},
                        {"softsign", Activation::softsign, false},
                        {"geglu", Activation::gelu, true},
                        {"swiglu", Activation::silu, true},
                        {"reglu", Activation::relu, true},
                        {"glu", Activation::sigmoid, true},
                        {"bilinear", Activation::identity, true}};
  for (const Word& w : words) {
    const Config c = parse_ini_text(std::string("[model]\nactivation = ") + w.text, "text");
    EXPECT_EQ(c.model.activation, w.activation) << w.text;
    EXPECT_EQ(c.model.gated, w.gated) << w.text;
  }
}

TEST(ConfigFile, EnumsByTheirWords) {
  const auto model = [](const std::string& line) {
    return parse_ini_text("[model]\n" + line, "text").model;
  };
  EXPECT_EQ(model("norm = layernorm").norm, NormKind::layernorm);
  EXPECT_EQ(model("norm = rmsnorm").norm, NormKind::rmsnorm);
  EXPECT_EQ(model("norm = scalenorm").norm, NormKind::scalenorm);
  EXPECT_EQ(model("norm = non_parametric_layernorm").norm, NormKind::non_parametric_layernorm);
  EXPECT_EQ(model("pos_emb = sinusoidal").pos_emb, PositionEmbedding::sinusoidal);
  EXPECT_EQ(model("pos_emb = alibi").pos_emb, PositionEmbedding::alibi);
  EXPECT_EQ(model("rope_scaling = yarn").rope_scaling, RopeScaling::yarn);
  EXPECT_EQ(model("pos_emb = rotary").pos_emb, PositionEmbedding::rotary);
  EXPECT_EQ(model("pos_emb = learned").pos_emb, PositionEmbedding::learned);
  EXPECT_EQ(model("pos_emb = none").pos_emb, PositionEmbedding::none);
  EXPECT_EQ(model("init_method = normal").init_method, InitMethod::normal);
  EXPECT_EQ(model("init_method = scaled_normal").init_method, InitMethod::scaled_normal);
  EXPECT_EQ(model("init_method = single_residual_scaled_normal").init_method,
            InitMethod::single_residual_scaled_normal);
  EXPECT_EQ(model("init_method = small_init").init_method, InitMethod::small_init);
  EXPECT_EQ(model("init_method = wang_init").init_method, InitMethod::wang_init);
  EXPECT_EQ(model("init_method = xavier_uniform").init_method, InitMethod::xavier_uniform);
  EXPECT_EQ(model("output_layer_init_method = xavier_normal").output_layer_init_method,
            InitMethod::xavier_normal);
  const auto precision = [](const std::string& word) {
    return parse_ini_text("[precision]\nprecision = " + word, "text").precision.precision;
  };
  EXPECT_EQ(precision("fp32"), DType::f32);
  EXPECT_EQ(precision("bf16"), DType::bf16);
  EXPECT_EQ(precision("bfloat16"), DType::bf16);
  EXPECT_EQ(precision("fp16"), DType::f16);
}

TEST(ConfigSources, LaterFilesWinAndTheCommandLineWinsOverAll) {
  const TempFiles files;
  const std::string a =
      files.write("a.ini", "[model]\nnum_layers = 1\nhidden_size = 10\n[optimizer]\nlr = 0.1\n");
  const std::string b = files.write("b.ini", "[optimizer]\nlr = 0.2\n[model]\nnum_layers = 2\n");
  const auto both = parse_words({"--optimizer.lr", "0.3", "--config", a, "--config=" + b});
  EXPECT_EQ(both.config.model.num_layers, 2);
  EXPECT_EQ(both.config.model.hidden_size, 10);
  EXPECT_EQ(both.config.optimizer.lr, 0.3);
  EXPECT_EQ(both.origins.at("model.num_layers"), b + ":4");
  EXPECT_EQ(both.origins.at("model.hidden_size"), a + ":3");
  EXPECT_EQ(both.origins.at("optimizer.lr"), "command line");
  EXPECT_EQ(both.origins.size(), 3u);
  EXPECT_EQ(parse_words({"--config", b, "--config", a}).config.model.num_layers, 1);
}

TEST(ConfigSources, CommandLineForms) {
  const auto command = parse_words(
      {"--optimizer.lr", "3e-4", "--model.num-layers=4", "--model.gpt_j_residual",
       "--model.no_weight_tying", "true", "--model.use_bias_in_mlp", "no", "--train.seed_data",
       "-1", "--checkpoint.save", "--odd--name", "--checkpoint.load=a=b", "--data.train_data_paths",
       "a,b", "--optimizer.lr=5e-4", "--data.data_path="});
  EXPECT_EQ(command.config.optimizer.lr, 5e-4);  // the last one wins
  EXPECT_EQ(command.config.model.num_layers, 4);
  EXPECT_TRUE(command.config.model.gpt_j_residual);
  EXPECT_TRUE(command.config.model.no_weight_tying);
  EXPECT_FALSE(command.config.model.use_bias_in_mlp);
  EXPECT_EQ(command.config.train.seed_data, -1);
  EXPECT_EQ(command.config.checkpoint.save, "--odd--name");
  EXPECT_EQ(command.config.checkpoint.load, "a=b");
  EXPECT_THAT(command.config.data.train_data_paths, ElementsAre("a", "b"));
  EXPECT_TRUE(command.origins.contains("data.data_path"));
  EXPECT_FALSE(command.print_config);
  EXPECT_TRUE(command.answer.empty());
}

TEST(ConfigSources, OldNamesAreAcceptedAndReported) {
  const TempFiles files;
  const std::string path =
      files.write("run.ini", "[batch]\ngas = 3\nbatch-size = 2\n[checkpoint]\nsave_interval = 7\n");
  const auto command = parse_words({"--config", path, "--optimizer.clip-grad", "0.5"});
  EXPECT_EQ(command.config.batch.gradient_accumulation_steps, 3);
  EXPECT_EQ(command.config.batch.train_micro_batch_size_per_gpu, 2);
  EXPECT_EQ(command.config.checkpoint.checkpoint_factor, 7);
  EXPECT_EQ(command.config.optimizer.gradient_clipping, 0.5);
  ASSERT_EQ(command.notes.size(), 4u);
  EXPECT_EQ(command.notes[0],
            path + ":2: 'gas' is an old name; write batch.gradient_accumulation_steps");
  EXPECT_TRUE(parse_words({"--model.num-layers=4"}).notes.empty());
}

TEST(ConfigSources, ProgramOptionsFlagsAndFreeArguments) {
  Program program;
  program.name = "neox_preprocess";
  program.summary = "Tokenizes text.";
  program.sections = {"tokenizer"};
  program.positional = "FILE...";
  bool append = false, other = true;
  std::int64_t workers = 1;
  double share = 0;
  std::string prefix;
  std::vector<std::string> inputs;
  program.options = {{"append-eod", &append, "Append it"},
                     {"other", &other, "Another"},
                     {"workers", &workers, "Threads", "N"},
                     {"share", &share, "Share"},
                     {"output-prefix", &prefix, "Where to write", "PREFIX"},
                     {"input", &inputs, "What to read", "FILE"}};
  const auto command =
      parse_words({"--append_eod", "x.jsonl", "--workers", "4", "--share=0.5", "--input", "a",
                   "--output-prefix", "out", "--input", "b", "--other", "false",
                   "--tokenizer.tokenizer_type", "charleveltokenizer", "-", "--", "--y"},
                  program);
  EXPECT_TRUE(append);
  EXPECT_FALSE(other);
  EXPECT_EQ(workers, 4);
  EXPECT_EQ(share, 0.5);
  EXPECT_EQ(prefix, "out");
  EXPECT_THAT(inputs, ElementsAre("a", "b"));
  EXPECT_EQ(command.config.tokenizer.tokenizer_type, "CharLevelTokenizer");
  EXPECT_THAT(command.positional, ElementsAre("x.jsonl", "-", "--y"));
  try {
    parse_words({"--workers", "many", "--optimizer.lr", "1", "--apend-eod"}, program);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--workers many: expected a whole number"));
    EXPECT_THAT(error.what(), HasSubstr("neox_preprocess has no use for --optimizer.lr"));
    EXPECT_THAT(error.what(), HasSubstr("did you mean --append-eod?"));
  }
}

TEST(ConfigSources, QuestionsAreAnsweredWhateverElseIsWrong) {
  for (const char* word : {"--help", "-h"}) {
    EXPECT_THAT(parse_words({"--config", "none.ini", word, "--lr", "1"}).answer,
                HasSubstr("--optimizer.lr float"));
  }
  EXPECT_THAT(parse_words({"--version"}).answer, HasSubstr("neox_train 0."));
  EXPECT_THAT(parse_words({"--print-config-docs"}).answer, HasSubstr("# Configuration"));
  EXPECT_TRUE(parse_words({"--print-config"}).print_config);
  EXPECT_TRUE(parse_words({"--verbose"}).config.logging.verbose);
  EXPECT_EQ(parse_words({}).config, Config());
}

// Nothing that stands in a file may crash the parser or pass unnoticed: either an Error or a value.
TEST(ConfigFile, DamagedTextNeverCrashes) {
  const std::string good = minimal_ini() + "[data]\ndata_path = \"a\\n#\"  # c\nsplit = 1,2\n";
  const std::string junk = "\"\\#;=[],.\n\r\t \x01\xff-x0";
  int accepted = 0, refused = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const char c : junk) {
      for (const bool insert : {false, true}) {
        std::string text = good;
        insert ? text.insert(i, 1, c) : text.replace(i, 1, 1, c);
        try {
          parse_ini_text(text, "text");
          ++accepted;
        } catch (const Error& error) {
          EXPECT_THAT(error.what(), HasSubstr("text"));
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace neox::testing
