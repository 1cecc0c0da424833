// Texts made from the option table: what is printed can be read back, and docs/config.md is fresh.
#include "core/config/describe.h"

#include <cmath>
#include <fstream>
#include <random>
#include <set>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "core/config/option.h"
#include "core/config/resolve.h"
#include "tests/config/temp_files.h"

namespace neox::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

Config minimal() {
  return parse_ini_text(minimal_ini(), "minimal");
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(OptionTable, IsCompleteAndSpeaks) {
  std::set<std::string_view> sections_used;
  for (const Option& option : options()) {
    SCOPED_TRACE(option.key());
    sections_used.insert(option.section);
    EXPECT_FALSE(option.doc.empty());
    EXPECT_FALSE(option.doc.ends_with("."));
    EXPECT_LT(option.doc.size(), 110u);
    EXPECT_EQ(find_option(option.key()), &option);
    if (std::holds_alternative<WordField>(option.field)) {
      EXPECT_FALSE(option.choices.empty());
    }
    // The default is a value of the option, except where it means "required".
    Config config;
    if (!option.required) {
      EXPECT_EQ(set_value(option, config, default_text(option)), "");
    }
    for (const Choice& choice : option.choices) {
      EXPECT_EQ(set_value(option, config, choice.word), "");
      EXPECT_EQ(value_text(option, config), choice.word);
    }
  }
  EXPECT_EQ(sections_used.size(), sections().size());
}

constexpr const char* kTrialValues[] = {
    "1",          "0.5",      "3",      "true",    "false",   "x",
    "0.5, 0.5",   "7, 8",     "lion",   "rmsnorm", "learned", "swiglu",
    "small_init", "bfloat16", "cosine", "log",     "hdf5",    "CharLevelTokenizer",
    "5,5",        "1,2,3",    "gpipe",  "full",    "cpu",     "mpi",
    "3-5",        "warn",     "off",    "yarn",    "bigbird", "32"};

// A field that no option reaches could not be set, printed, or kept in a checkpoint.
TEST(OptionTable, ReachesEveryField) {
  Config changed;
  for (const Option& option : options()) {
    const std::string usual = default_text(option);
    for (const char* text : kTrialValues) {
      Config trial = changed;
      if (!set_value(option, trial, text).empty() || value_text(option, trial) == usual) continue;
      EXPECT_NE(trial, changed) << option.key() << " has no field of its own";
      changed = trial;
      break;
    }
    EXPECT_NE(value_text(option, changed), usual) << option.key();
  }
  // Size of the structs: a new field without an option changes this sum; declare the option, then
  // update.
  EXPECT_EQ(options().size(), 182u);
  EXPECT_EQ(parse_ini_text(effective_ini(changed, changed), "printed"), changed);
}

TEST(EffectiveIni, MarksWhatIsNotUsualAndWhatWasDerived) {
  Config given = minimal();
  given.optimizer.lr = 3e-4;
  given.optimizer.betas = {0.9, 0.95};
  given.model.gated = true;
  given.model.activation = Activation::silu;
  given.checkpoint.save = "runs/a b";
  Config config = given;
  resolve(config, 2);
  const std::string text = effective_ini(config, given);
  EXPECT_THAT(text,
              HasSubstr("\nlr = 0.0003                                     # default: 0.001\n"));
  EXPECT_THAT(text,
              HasSubstr("\nactivation = swiglu                             # default: gelu\n"));
  EXPECT_THAT(
      text, HasSubstr("\nbetas = 0.9, 0.95                               # default: 0.9, 0.999\n"));
  EXPECT_THAT(text, HasSubstr("\ntrain_batch_size = 4                            # derived\n"));
  EXPECT_THAT(text, HasSubstr("\nseed_init = 1234                                # derived\n"));
  EXPECT_THAT(text, HasSubstr("\neps = 1e-08\n"));
  EXPECT_THAT(text,
              HasSubstr("\nsave = runs/a b                                 # default: none\n"));
  EXPECT_THAT(text, HasSubstr("\nprompt_end = \"\\n\"\n"));
}

TEST(EffectiveIni, IsReadBackAndResolvesToItself) {
  Config given = minimal();
  given.checkpoint.save = "runs/x";
  given.precision.precision = DType::bf16;
  Config config = given;
  resolve(config, 2);
  Config again = parse_ini_text(effective_ini(config, given), "printed");
  EXPECT_EQ(again, config);
  resolve(again, 2);
  EXPECT_EQ(again, config);
  EXPECT_EQ(canonical_text(again), canonical_text(config));
  again.train.seed = 5;
  EXPECT_NE(canonical_text(again), canonical_text(config));
}

TEST(EffectiveIni, KeepsEveryStringAndNumber) {
  const std::string awkward[] = {"",     " x ", "#a",     "a #b",     "a;b", "\"q\"", "a\"b",
                                 "\\n",  "a\\", "\n\t\r", "\x01\x7f", "ä→",  "[x]",   "[a, b]",
                                 "a, b", ",",   "=",      "a = b",    "'"};
  for (const std::string& s : awkward) {
    Config c;
    c.data.data_path = s;
    c.generate.prompt = s + s;
    c.data.train_data_paths = {s, "plain", s};
    c.data.valid_data_paths = {s};
    EXPECT_EQ(parse_ini_text(effective_ini(c, c), "printed"), c) << '\'' << s << '\'';
  }
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> fraction(1e-9, 1.0);
  for (int i = 0; i < 2000; ++i) {
    Config c;
    c.optimizer.lr = fraction(random) * std::pow(10.0, i % 40 - 20);
    c.optimizer.betas = {fraction(random), fraction(random)};
    EXPECT_EQ(parse_ini_text(effective_ini(c, c), "printed"), c);
  }
}

TEST(Help, FitsAndShowsOnlyTheProgramsSections) {
  Program program = train_program();
  bool flag = false;
  std::string text;
  program.options = {{"append-eod", &flag, "Append it"}, {"input", &text, "What to read", "FILE"}};
  const std::string help = help_text(program);
  EXPECT_TRUE(help.starts_with("neox_train: Trains a transformer language model.\n\nUsage: "));
  EXPECT_THAT(help, HasSubstr("--input FILE"));
  EXPECT_THAT(help, HasSubstr("--optimizer.lr float"));
  EXPECT_THAT(help, HasSubstr("[default: 0.001]"));
  EXPECT_THAT(help, HasSubstr("[tokens; required]"));
  EXPECT_THAT(help, HasSubstr("--model.gpt_j_residual true|false"));
  EXPECT_THAT(help, Not(HasSubstr("--generate.")));
  EXPECT_THAT(help, Not(HasSubstr("print-config-docs")));
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST(Docs, ConfigPageIsFresh) {
  EXPECT_TRUE(read_file(NEOX_SOURCE_DIR "/docs/config.md") == render_config_markdown())
      << "docs/config.md is stale; refresh it with\n"
         "  build/release/bin/neox_train --print-config-docs > docs/config.md";
}

TEST(Docs, ConfigPageNamesEveryOptionAndChoice) {
  const std::string page = render_config_markdown();
  for (const Option& option : options()) {
    EXPECT_THAT(page, HasSubstr(fmt::format("| `{}` |", option.name)));
    for (const Choice& choice : option.choices) {
      EXPECT_THAT(page, HasSubstr(fmt::format("* `{}`", choice.word)));
    }
  }
}

TEST(CompareArchitecture, NamesWhatMattersWithBothValues) {
  const ModelConfig a = minimal().model;
  EXPECT_THAT(compare_architecture(a, a), IsEmpty());
  ModelConfig b = a;
  resolve_model(b);   // derived values spelled out are no difference
  b.seq_length = 16;  // nor is what only training uses
  b.max_position_embeddings = 64;
  b.init_method = InitMethod::small_init;
  b.hidden_dropout = 0.1;
  b.rms_norm_epsilon = 1e-3;  // of the other norm
  EXPECT_THAT(compare_architecture(a, b), IsEmpty());

  b.hidden_size = 128;
  b.activation = Activation::silu;
  b.gated = true;
  EXPECT_THAT(compare_architecture(a, b),
              ElementsAre("hidden_size: 64 / 128", "activation: gelu / swiglu"));
  b = a;
  b.pos_emb = PositionEmbedding::learned;
  b.rotary_pct = 0.5;  // no consequence
  EXPECT_THAT(compare_architecture(a, b), ElementsAre("pos_emb: rotary / learned"));
  ModelConfig c = b;
  c.max_position_embeddings = 99;
  EXPECT_THAT(compare_architecture(b, c), ElementsAre("max_position_embeddings: 32 / 99"));
  c = a;
  c.rotary_pct = 0.5;
  EXPECT_THAT(compare_architecture(a, c), ElementsAre("rotary_pct: 1 / 0.5"));
  b = a;
  b.vocab_size = 100;
  c = b;
  c.make_vocab_size_divisible_by = 64;
  EXPECT_THAT(compare_architecture(b, c), IsEmpty());  // both are padded to 128
  c.make_vocab_size_divisible_by = 256;
  EXPECT_THAT(compare_architecture(b, c),
              ElementsAre("padded vocabulary (make_vocab_size_divisible_by): 128 / 256"));
}

// The other shipped configurations: tests/model/shipped_configs_test.cpp.
TEST(ShippedConfigs, SmallOnesRunOnAnyNumberOfRanks) {
  for (const char* name : {"quickstart", "llama-tiny", "gpt2-124m", "tiny/neox", "tiny/gpt2",
                           "tiny/llama", "pythia/14m"}) {
    SCOPED_TRACE(name);
    for (const std::int64_t ranks : {1, 2, 4}) {
      const auto command =
          parse_words({"--config", fmt::format("{}/configs/{}.ini", NEOX_SOURCE_DIR, name)});
      EXPECT_THAT(command.notes, IsEmpty());
      Config config = command.config;
      EXPECT_NO_THROW(resolve(config, ranks, command.origins));
    }
  }
}

}  // namespace
}  // namespace neox::testing
