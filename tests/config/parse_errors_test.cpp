// Bad files and command lines: every message names the place, the option, and what was meant.
#include <algorithm>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/config/temp_files.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct BadFile {
  const char* name;
  std::string text;
  std::vector<const char*> parts;  // each must be in the message; FILE stands for the path
};

std::string replaced(std::string text, const std::string& path) {
  for (std::size_t i = 0; (i = text.find("FILE", i)) != std::string::npos; i += path.size()) {
    text.replace(i, 4, path);
  }
  return text;
}

class BadFiles : public ::testing::TestWithParam<BadFile> {};

TEST_P(BadFiles, GetOneClearLine) {
  const TempFiles files;
  const std::string path = files.write("run.ini", GetParam().text);
  const std::string message = parse_failure({"--config", path});
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 0) << message;
  for (const char* part : GetParam().parts) {
    EXPECT_THAT(message, HasSubstr(replaced(part, path)));
  }
  // The text kept in checkpoints goes the same way.
  try {
    parse_ini_text(GetParam().text, "stored");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("stored"));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Config, BadFiles,
    ::testing::Values(
        BadFile{"misspelt",
                "[model]\n\n# x\nhiden_size = 512\n",
                {"unknown option 'model.hiden_size' in FILE:4", "did you mean 'hidden_size'?"}},
        BadFile{"transposed", "[model]\nnum_layesr = 2\n", {"FILE:2", "'num_layers'"}},
        BadFile{"prefix", "[model]\nnum_attention = 2\n", {"FILE:2", "'num_attention_heads'"}},
        BadFile{"capitals", "[model]\nHidden_Size = 2\n", {"FILE:2", "'hidden_size'"}},
        BadFile{"near_another_section",
                "[model]\ntrain_itres = 2\n",
                {"FILE:2", "did you mean 'train.train_iters'?"}},
        BadFile{"nothing_near", "[model]\nzzzzzzzz = 2\n", {"FILE:2", "docs/config.md"}},
        BadFile{"wrong_section",
                "[model]\nlr = 0.1\n",
                {"FILE:2", "'lr' belongs to section [optimizer], not [model]"}},
        BadFile{"wrong_section_old_name",
                "[train]\nsave-interval = 5\n",
                {"FILE:2", "'save_interval' belongs to section [checkpoint]"}},
        BadFile{"no_section",
                "hidden_size = 2\n",
                {"FILE:1", "'hidden_size' belongs to section [model]"}},
        BadFile{"unknown_section",
                "[modle]\nhidden_size = 2\nnum_layers = 2\n",
                {"unknown section [modle] in FILE:1", "did you mean [model]?"}},
        BadFile{"foreign_section", "[qqqqqqq]\n", {"FILE:1", "sections are model, parallel"}},
        BadFile{"unknown_section_of_dotted_key",
                "modle.hidden_size = 2\n",
                {"FILE:1", "no section [modle]", "did you mean [model]?"}},
        BadFile{"absent_neox_option",
                "[model]\nbias_gelu_fusion = true\n",
                {"FILE:2", "GPT-NeoX", "model.activation = gelu_tanh"}},
        BadFile{"absent_neox_option_dashes",
                "[parallel]\nzero-optimization = 1\n",
                {"FILE:2", "write its stage as parallel.zero_stage"}},
        BadFile{"twice",
                "[model]\nhidden_size = 2\n[train]\n[model]\nhidden-size = 3\n",
                {"FILE:5", "model.hidden_size", "second time", "line 2"}},
        BadFile{"twice_by_old_name",
                "[batch]\ngas = 2\ngradient_accumulation_steps = 3\n",
                {"FILE:3", "batch.gradient_accumulation_steps", "line 2"}},
        BadFile{
            "no_equals", "[model]\nhidden_size 2\n", {"FILE:2", "'hidden_size 2'", "key = value"}},
        BadFile{"yaml", "{\n", {"FILE:1", "'{'"}},
        BadFile{"yaml_key", "\"num-layers\": 6,\n", {"FILE:1", "YAML"}},
        BadFile{"no_key", "[model]\n = 3\n", {"FILE:2", "no key"}},
        BadFile{"open_section", "[model\n", {"FILE:1", "']' is missing"}},
        BadFile{"empty_section", "[ ]\n", {"FILE:1", "no section"}},
        BadFile{"hash_in_key", "[model]\nhidden#size = 3\n", {"FILE:2", "no option name"}},
        BadFile{"binary",
                std::string("[model]\nnum\0layers = 2\n", 23),
                {"FILE", "not a text file", "line 2"}},
        BadFile{"utf16", "\xff\xfe[\0", {"FILE", "UTF-16"}},
        BadFile{"not_a_number",
                "[model]\r\nhidden_size = big # so\r\n",
                {"FILE:2", "model.hidden_size = 'big'", "a whole number, at least 1"}},
        BadFile{"fraction", "[model]\nhidden_size = 2.5\n", {"FILE:2", "'2.5'", "whole number"}},
        BadFile{"exponent", "[train]\ntrain_iters = 1e6\n", {"FILE:2", "'1e6'", "whole number"}},
        BadFile{"overflow",
                "[model]\nhidden_size = 99999999999999999999\n",
                {"FILE:2", "at most 1000000"}},
        BadFile{"zero",
                "[model]\nnum_layers = 0\n",
                {"FILE:2", "model.num_layers = '0'", "at least 1"}},
        BadFile{"empty_number", "[model]\nhidden_size =\n", {"FILE:2", "''", "whole number"}},
        BadFile{"unit",
                "[optimizer]\nlr = 1e-3x\n",
                {"FILE:2", "optimizer.lr = '1e-3x'", "greater than 0"}},
        BadFile{"nan", "[optimizer]\nlr = nan\n", {"FILE:2", "expected a number"}},
        BadFile{"infinite", "[optimizer]\nlr = inf\n", {"FILE:2", "expected a number"}},
        BadFile{"negative", "[optimizer]\nlr = -1\n", {"FILE:2", "greater than 0"}},
        BadFile{"probability",
                "[model]\nhidden_dropout = 1\n",
                {"FILE:2", "at least 0 and less than 1"}},
        BadFile{"not_a_truth",
                "[model]\ngpt_j_residual = maybe\n",
                {"FILE:2", "'maybe'", "true or false"}},
        BadFile{"not_a_choice",
                "[model]\nactivation = gelo\n",
                {"FILE:2", "'gelo'", "one of gelu, gelu_tanh, silu"}},
        BadFile{"empty_choice", "[model]\nnorm =\n", {"FILE:2", "layernorm, rmsnorm"}},
        BadFile{"two_choices", "[model]\nactivation = gelu_fast gelu_new\n", {"FILE:2", "one of"}},
        BadFile{"optimizer", "[optimizer]\ntype = rmsprop\n", {"FILE:2", "'rmsprop'", "adam"}},
        BadFile{"decay_style",
                "[schedule]\nlr_decay_style = step\n",
                {"FILE:2", "constant, linear, cosine"}},
        BadFile{"too_few", "[optimizer]\nbetas = 0.9\n", {"FILE:2", "1 given", "2 numbers"}},
        BadFile{"bad_element",
                "[optimizer]\nbetas = 0.9, 1.0\n",
                {"FILE:2", "element '1.0'", "less than 1"}},
        BadFile{"empty_element",
                "[checkpoint]\nextra_save_iters = 1,,2\n",
                {"FILE:2", "element is empty"}},
        BadFile{"trailing_comma",
                "[checkpoint]\nextra_save_iters = 1,\n",
                {"FILE:2", "element is empty"}},
        BadFile{"open_quote", "[data]\ndata_path = \"x\n", {"FILE:2", "closing quote is missing"}},
        BadFile{
            "after_quote", "[data]\ndata_path = \"x\" y\n", {"FILE:2", "after the closing quote"}},
        BadFile{"escape", "[data]\ndata_path = \"\\q\"\n", {"FILE:2", "escape"}},
        BadFile{"split_words", "[data]\nsplit = a,b\n", {"FILE:2", "969,30,1"}},
        BadFile{"split_four", "[data]\nsplit = 1,1,1,1\n", {"FILE:2", "one to three proportions"}},
        BadFile{"split_zero", "[data]\nsplit = 0,0,0\n", {"FILE:2", "not all 0"}},
        BadFile{"split_negative", "[data]\nsplit = 5,-1\n", {"FILE:2", "not negative"}}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(ConfigErrors, AllProblemsOfAllSourcesAreReportedTogether) {
  const TempFiles files;
  const std::string a = files.write("a.ini", "[model]\nhiden_size = 1\nnum_layers = x\n");
  const std::string b = files.write("b.ini", "[optimizer]\nbetas = 1\n");
  const std::string message = parse_failure(
      {"--config", a, "--config", b, "--config", files.path("none.ini"), "--optimizer.lr", "fast"});
  EXPECT_THAT(message, HasSubstr(a + ":2"));
  EXPECT_THAT(message, HasSubstr(a + ":3"));
  EXPECT_THAT(message, HasSubstr(b + ":2"));
  EXPECT_THAT(message, HasSubstr("none.ini: no such file"));
  EXPECT_THAT(message, HasSubstr("command line: optimizer.lr = 'fast'"));
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 4) << message;
}

TEST(ConfigErrors, FilesThatCannotBeRead) {
  const TempFiles files;
  EXPECT_THAT(parse_failure({"--config", files.path("none.ini")}), HasSubstr("no such file"));
  EXPECT_THAT(parse_failure({"--config", files.path()}), HasSubstr("is a directory"));
  const std::string large = files.write("large.ini", "");
  std::filesystem::resize_file(large, 64u << 20);
  EXPECT_THAT(parse_failure({"--config", large}), HasSubstr("no configuration file"));
}

TEST(ConfigErrors, FileWithoutPermission) {
  if (::geteuid() == 0) GTEST_SKIP() << "root can read every file";
  const TempFiles files;
  const std::string hidden = files.write("hidden.ini", minimal_ini());
  ASSERT_EQ(::chmod(hidden.c_str(), 0), 0);
  EXPECT_THAT(parse_failure({"--config", hidden}),
              HasSubstr("cannot be opened: Permission denied"));
}

struct BadLine {
  const char* name;
  std::vector<std::string> words;
  std::vector<const char*> parts;
};

class BadLines : public ::testing::TestWithParam<BadLine> {};

TEST_P(BadLines, GetOneClearLine) {
  const std::string message = parse_failure(GetParam().words);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 0) << message;
  for (const char* part : GetParam().parts) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Config, BadLines,
    ::testing::Values(
        BadLine{"misspelt",
                {"--model.hiden_size", "512"},
                {"'model.hiden_size' on the command line", "'hidden_size'"}},
        BadLine{
            "misspelt_equals", {"--model.hiden_size=512"}, {"'model.hiden_size'", "'hidden_size'"}},
        BadLine{"misspelt_before_option", {"--epss", "--optimizer.lr", "1"}, {"--optimizer.eps"}},
        BadLine{"without_section", {"--lr", "3e-4"}, {"--lr", "did you mean --optimizer.lr?"}},
        BadLine{
            "old_name_without_section", {"--gas", "2"}, {"--batch.gradient_accumulation_steps"}},
        BadLine{"wrong_section", {"--model.lr", "3"}, {"belongs to section [optimizer]"}},
        BadLine{"unknown_section", {"--modle.lr", "3"}, {"[modle]", "[model]"}},
        BadLine{"abbreviated", {"--optimizer.gradient_clip", "3"}, {"'gradient_clipping'"}},
        BadLine{"switch", {"--print-confg"}, {"--print-config"}},
        BadLine{"nothing_near", {"--qqqqqqqqqqq"}, {"--help"}},
        BadLine{"one_dash", {"-lr", "3"}, {"unknown option -lr", "--optimizer.lr"}},
        BadLine{"one_dash_known", {"-config", "a.ini"}, {"did you mean --config?"}},
        BadLine{"one_dash_number", {"-3"}, {"unexpected argument '-3'"}},
        BadLine{"no_value", {"--optimizer.lr"}, {"--optimizer.lr needs a value"}},
        BadLine{"no_value_before_option",
                {"--checkpoint.save", "--optimizer.lr=1"},
                {"--checkpoint.save needs a value"}},
        BadLine{"no_file", {"--config"}, {"--config needs a value"}},
        BadLine{"bad_value", {"--optimizer.lr=abc"}, {"command line", "optimizer.lr = 'abc'"}},
        BadLine{"empty_value", {"--optimizer.lr="}, {"optimizer.lr = ''"}},
        BadLine{"switch_with_value", {"--print-config=yes"}, {"takes no value"}},
        BadLine{"free_file", {"run.ini"}, {"did you mean --config run.ini?"}},
        BadLine{"free_word", {"--", "--optimizer.lr"}, {"--optimizer.lr"}},
        BadLine{"unused_section",
                {"--generate.top_k", "3"},
                {"neox_train has no use for --generate.top_k"}}),
    [](const auto& param) { return std::string(param.param.name); });

}  // namespace
}  // namespace neox::testing
