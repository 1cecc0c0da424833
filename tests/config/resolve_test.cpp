// Derived values and cross-checks.
#include "core/config/resolve.h"

#include <algorithm>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/config/temp_files.h"

namespace neox::testing {
namespace {

using ::testing::HasSubstr;

Config minimal() {
  return parse_ini_text(minimal_ini(), "minimal");
}

std::string failure(Config config, std::int64_t world_size, const Origins& origins = {}) {
  const Config before = config;
  try {
    resolve(config, world_size, origins);
  } catch (const Error& error) {
    EXPECT_EQ(config, before) << "changed by a failure";
    return error.what();
  }
  return "";
}

struct Batches {
  std::int64_t train, micro, steps, ranks;          // given; 0: left out
  std::int64_t want_train, want_micro, want_steps;  // 0: refused
};

TEST(Resolve, AnyTwoBatchSizesGiveTheThird) {
  const Batches cases[] = {{0, 4, 3, 2, 24, 4, 3},
                           {24, 4, 0, 2, 24, 4, 3},
                           {24, 0, 3, 2, 24, 4, 3},
                           {24, 4, 3, 2, 24, 4, 3},
                           {0, 4, 0, 2, 8, 4, 1},
                           {8, 0, 0, 2, 8, 4, 1},
                           {1, 1, 1, 1, 1, 1, 1},
                           {1024, 4, 0, 4, 1024, 4, 64},
                           {24, 4, 2, 2, 0, 0, 0},
                           {10, 4, 0, 2, 0, 0, 0},
                           {10, 0, 3, 2, 0, 0, 0},
                           {7, 0, 0, 2, 0, 0, 0},
                           {0, 0, 3, 2, 0, 0, 0},
                           {0, 0, 0, 2, 0, 0, 0},
                           {2, 4, 0, 1, 0, 0, 0},
                           {1000000000, 1000000, 1000, 1, 1000000000, 1000000, 1000},
                           {0, 1000000, 1000000, 4, 4000000000000, 1000000, 1000000}};
  for (const Batches& b : cases) {
    Config c = minimal();
    c.batch = {b.train, b.micro, b.steps};
    if (b.want_train == 0) {
      EXPECT_THAT(failure(c, b.ranks), HasSubstr("batch.train_batch_size"));
      continue;
    }
    if (b.want_train >
        1000000000) {  // beyond the option's range: the product is computed all the same
      resolve(c, b.ranks);
      EXPECT_EQ(c.batch.train_batch_size, b.want_train);
      continue;
    }
    for (int round = 0; round < 2; ++round) {  // resolving twice changes nothing
      resolve(c, b.ranks);
      EXPECT_EQ(c.batch, (BatchConfig{b.want_train, b.want_micro, b.want_steps}));
    }
  }
}

TEST(Resolve, BatchMessagesShowTheNumbersAndTheFixes) {
  Config c = minimal();
  c.batch = {24, 4, 2};
  const std::string three = failure(c, 1, {{"batch.train_batch_size", "run.ini:7"}});
  EXPECT_THAT(three,
              HasSubstr("batch.train_batch_size = 24 (run.ini:7), but "
                        "batch.train_micro_batch_size_per_gpu = 4 x "
                        "batch.gradient_accumulation_steps = 2 x 1 data-parallel ranks = 8"));
  EXPECT_THAT(three, HasSubstr("set batch.train_batch_size = 8, or "
                               "batch.train_micro_batch_size_per_gpu = 12, or "
                               "batch.gradient_accumulation_steps = 6, or leave one"));
  c.batch = {25, 4, 2};
  EXPECT_THAT(failure(c, 1), HasSubstr("set batch.train_batch_size = 8, or leave one"));
  c.batch = {10, 4, 0};
  EXPECT_THAT(failure(c, 2), HasSubstr("set batch.train_batch_size = 16 or 8, change "
                                       "batch.train_micro_batch_size_per_gpu = 4, or change the "
                                       "number of ranks"));
}

TEST(Resolve, FillsWhatWasLeftOpen) {
  Config c = minimal();
  c.checkpoint.save = "runs/x";
  c.schedule.lr_decay_fraction = 0.555;
  c.train.seed = 7;
  c.train.seed_data = 9;
  resolve(c, 1);
  EXPECT_EQ(c.model.num_kv_heads, 4);
  EXPECT_EQ(c.model.intermediate_size, 256);
  EXPECT_EQ(c.model.max_position_embeddings, 32);
  EXPECT_EQ(c.model.vocab_size, 0);
  EXPECT_EQ(c.schedule.lr_decay_iters, 55);
  EXPECT_EQ(c.train.seed_init, 7);
  EXPECT_EQ(c.train.seed_data, 9);
  EXPECT_EQ(c.train.seed_dropout, 7);
  EXPECT_EQ(c.logging.log_dir, "runs/x");
  EXPECT_EQ(c.logging.tensorboard_dir, "runs/x/tensorboard");
  const Config once = c;
  resolve(c, 1);
  EXPECT_EQ(c, once);
}

TEST(Resolve, NothingToLogInto) {
  Config c = minimal();
  resolve(c, 1);
  EXPECT_EQ(c.logging.log_dir, "");
  EXPECT_EQ(c.logging.tensorboard_dir, "");
}

TEST(Resolve, GatedWidthIsEightThirdsRoundedUpTo64) {
  ModelConfig m;
  m.gated = true;
  for (const auto& [hidden, width] : {std::pair{256, 704}, {4096, 10944}, {24, 64}, {768, 2048}}) {
    m.hidden_size = hidden;
    EXPECT_EQ(with_derived_values(m).intermediate_size, width) << hidden;
  }
  m.intermediate_size = 100;  // taken as it is
  EXPECT_EQ(with_derived_values(m).intermediate_size, 100);
}

struct Refused {
  const char* name;
  const char* ini;  // added to the minimal configuration; its sections may repeat
  std::vector<const char*> parts;
};

class Refusals : public ::testing::TestWithParam<Refused> {};

TEST_P(Refusals, NameTheOptionAndItsPlace) {
  const TempFiles files;
  const std::string base = files.write("base.ini", minimal_ini());
  const std::string more = files.write("more.ini", GetParam().ini);
  const auto command = parse_words({"--config", base, "--config", more});
  const std::string message = failure(command.config, 2, command.origins);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 0) << message;
  EXPECT_THAT(message, HasSubstr("more.ini:"));
  for (const char* part : GetParam().parts) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Config, Refusals,
    ::testing::Values(
        Refused{"heads",
                "[model]\nnum_attention_heads = 3\n",
                {"model.hidden_size = 64", "model.num_attention_heads = 3", "more.ini:2"}},
        Refused{"kv_heads",
                "[model]\nnum_kv_heads = 3\n",
                {"model.num_kv_heads = 3", "does not divide"}},
        Refused{"more_kv_than_heads", "[model]\nnum_kv_heads = 8\n", {"model.num_kv_heads = 8"}},
        Refused{"odd_rotary",
                "[model]\nrotary_pct = 0.2\n",
                {"model.rotary_pct = 0.2", "rotates 3 of the 16 channels", "even"}},
        Refused{"no_rotary", "[model]\nrotary_pct = 0.01\n", {"rotates 0 of the 16"}},
        Refused{"positions",
                "[model]\nmax_position_embeddings = 31\n",
                {"model.max_position_embeddings = 31", "smaller than model.seq_length = 32"}},
        Refused{"tied_norm",
                "[model]\ngpt_j_tied = true\n",
                {"model.gpt_j_tied", "gpt_j_residual = true"}},
        Refused{"loss_scale",
                "[precision]\nprecision = bfloat16\nloss_scale = 128\n",
                {"precision.loss_scale = 128", "only fp16 needs loss scaling"}},
        Refused{"hysteresis",
                "[precision]\nhysteresis = 3\n",
                {"precision.hysteresis = 3", "precision.precision = fp16"}},
        Refused{"min_loss_scale",
                "[precision]\nprecision = fp16\ninitial_scale_power = 3\nmin_loss_scale = 9\n",
                {"precision.min_loss_scale = 9", "precision.initial_scale_power = 3", "2 to the"}},
        Refused{"fp16_gradients",
                "[parallel]\ngradient_reduce_dtype = fp16\n[precision]\nprecision = bfloat16\n",
                {"parallel.gradient_reduce_dtype = fp16", "vanish"}},
        Refused{"min_lr",
                "[schedule]\nmin_lr = 0.01\n",
                {"schedule.min_lr = 0.01", "above optimizer.lr = 0.001"}},
        Refused{"no_decay",
                "[schedule]\nlr_decay_fraction = 0.001\n",
                {"lr_decay_fraction", "no step"}},
        Refused{"two_lengths",
                "[schedule]\nlr_decay_fraction = 0.5\nlr_decay_iters = 60\n",
                {"schedule.lr_decay_iters = 60", "50 steps", "disagree"}},
        Refused{"wsd",
                "[schedule]\nlr_decay_style = wsd\nwarmup = 0.5\nwsd_decay_fraction = 0.6\n",
                {"schedule.warmup = 0.5", "longer than the schedule"}},
        Refused{"both_data",
                "[data]\ndata_path = a\ntrain_data_paths = b\nvalid_data_paths = c\n"
                "test_data_paths = d\n",
                {"data.data_path = a", "excludes"}},
        Refused{"weights",
                "[data]\ntrain_data_paths = a, b\nvalid_data_paths = c\ntest_data_paths = d\n"
                "train_data_weights = 1\n",
                {"1 weights for 2 paths", "data.train_data_weights"}},
        Refused{
            "weights_without_paths", "[data]\nvalid_data_weights = 1\n", {"1 weights for 0 paths"}},
        Refused{"weights_replaced",
                "[data]\ntrain_data_paths = a\nvalid_data_paths = c\n"
                "test_data_paths = d\ntrain_data_weights = 1\nweight_by_num_documents = true\n",
                {"data.weight_by_num_documents", "train_data_weights"}},
        Refused{"log_factor",
                "[checkpoint]\nsave = x\ncheckpoint_scale = log\ncheckpoint_factor = 1\n",
                {"checkpoint.checkpoint_factor = 1", "more than 1"}},
        Refused{"log_without_factor",
                "[checkpoint]\nsave = x\ncheckpoint_scale = log\n",
                {"checkpoint.checkpoint_scale = log", "checkpoint_factor"}},
        Refused{"linear_factor",
                "[checkpoint]\nsave = x\ncheckpoint_factor = 1.5\n",
                {"checkpoint.checkpoint_factor = 1.5", "whole number"}},
        Refused{"factor_without_save",
                "[checkpoint]\ncheckpoint_factor = 5\n",
                {"set checkpoint.save"}},
        Refused{
            "extra_without_save", "[checkpoint]\nextra_save_iters = 5\n", {"set checkpoint.save"}},
        Refused{"finetune", "[checkpoint]\nfinetune = true\n", {"set checkpoint.load"}},
        Refused{"iteration", "[checkpoint]\niteration = 3\n", {"checkpoint.iteration = 3"}}),
    [](const auto& param) { return std::string(param.param.name); });

// Of layouts, whether their parts are implemented or not.
struct Layout {
  const char* name;
  std::int64_t ranks;
  const char* ini;                 // added to the minimal configuration, with 8 layers
  std::vector<const char*> parts;  // of the refusal; empty: it is accepted
};

class Layouts : public ::testing::TestWithParam<Layout> {};

TEST_P(Layouts, AreAcceptedOrRefusedWithTheNumbers) {
  const TempFiles files;
  const auto command =
      parse_words({"--config", files.write("base.ini", minimal_ini()), "--config",
                   files.write("more.ini", GetParam().ini), "--model.num_layers", "8"});
  Config config = command.config;
  std::string message;
  try {
    resolve(config, GetParam().ranks, command.origins);
    const Config once = config;
    resolve(config, GetParam().ranks);
    EXPECT_EQ(config, once);
  } catch (const Error& error) {
    message = error.what();
  }
  EXPECT_EQ(message.empty(), GetParam().parts.empty()) << message;
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 0) << message;
  for (const char* part : GetParam().parts) EXPECT_THAT(message, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Config, Layouts,
    ::testing::Values(
        Layout{"all",
               16,
               "[parallel]\npipe_parallel_size=4\nmodel_parallel_size=2\nzero_stage=3\n"
               "recompute=first_n\nrecompute_layers=1\ngradient_reduce_dtype=bf16\n"
               "pipeline_schedule=interleaved\nvirtual_pipeline_size=2\n"
               "replica_check_interval=10\n[batch]\ntrain_batch_size=32\n"
               "rampup_batch_size=8, 4, 100\n",
               {}},
        Layout{"zero_without_data_parallel", 1, "[parallel]\nzero_stage=2\n", {}},
        Layout{"zb_h1", 8, "[parallel]\npipe_parallel_size=8\npipeline_schedule=zb-h1\n", {}},
        Layout{"ranks",
               6,
               "[parallel]\npipe_parallel_size=2\nmodel_parallel_size=2\n",
               {"6 ranks are not a multiple of parallel.pipe_parallel_size = 2",
                "= 4; start 4 or 8", "more.ini:3"}},
        Layout{"few_ranks", 2, "[parallel]\npipe_parallel_size=4\n", {"= 4; start 4 ranks"}},
        Layout{"heads",
               8,
               "[parallel]\nmodel_parallel_size=8\n",
               {"model.num_attention_heads = 4",
                "is not a multiple of parallel.model_parallel_size = 8"}},
        Layout{"width",
               4,
               "[parallel]\nmodel_parallel_size=4\n[model]\nintermediate_size=102\n",
               {"model.intermediate_size = 102", "model_parallel_size = 4"}},
        Layout{"copied_kv_heads",
               4,
               "[parallel]\nmodel_parallel_size=4\n[model]\nnum_kv_heads=2\n",
               {}},
        Layout{"kv_heads",
               4,
               "[parallel]\nmodel_parallel_size=4\n[model]\nhidden_size=96\n"
               "num_attention_heads=12\nnum_kv_heads=6\n",
               {"model.num_kv_heads = 6", "model_parallel_size = 4", "one must divide the other"}},
        Layout{"tokens",
               4,
               "[parallel]\nmodel_parallel_size=4\n[model]\nseq_length=33\n",
               {"train_micro_batch_size_per_gpu = 2", "model.seq_length = 33", "= 66 tokens",
                "sequence_parallel = false"}},
        Layout{"whole_tokens",
               4,
               "[parallel]\nmodel_parallel_size=4\nsequence_parallel=false\n[model]\n"
               "seq_length=33\n",
               {}},
        Layout{"stages",
               16,
               "[parallel]\npipe_parallel_size=16\n",
               {"model.num_layers = 8", "is less than parallel.pipe_parallel_size = 16", "= 16"}},
        Layout{"chunks",
               4,
               "[parallel]\npipe_parallel_size=4\npipeline_schedule=interleaved\n"
               "virtual_pipeline_size=3\n",
               {"model.num_layers = 8", "virtual_pipeline_size = 3", "= 12"}},
        Layout{"interleaved_without_chunks",
               2,
               "[parallel]\npipe_parallel_size=2\npipeline_schedule=interleaved\n",
               {"parallel.pipeline_schedule = interleaved", "virtual_pipeline_size above 1"}},
        Layout{"interleaved_without_stages",
               2,
               "[parallel]\nvirtual_pipeline_size=2\npipeline_schedule=interleaved\n",
               {"parallel.pipeline_schedule = interleaved", "pipe_parallel_size above 1"}},
        Layout{"zb_without_stages",
               2,
               "[parallel]\npipeline_schedule=zb-h1\n",
               {"parallel.pipeline_schedule = zb-h1", "pipe_parallel_size above 1"}},
        Layout{"chunks_without_interleaving",
               2,
               "[parallel]\npipe_parallel_size=2\nvirtual_pipeline_size=2\n",
               {"parallel.virtual_pipeline_size = 2", "pipeline_schedule = interleaved"}},
        Layout{"recompute_layers",
               1,
               "[parallel]\nrecompute_layers=2\n",
               {"parallel.recompute_layers = 2", "needs parallel.recompute = first_n"}},
        Layout{"no_recompute_layers",
               1,
               "[parallel]\nrecompute=first_n\n",
               {"parallel.recompute_layers = 0", "at least 1"}},
        Layout{"checkpointing_and_selective",
               1,
               "[parallel]\ncheckpoint_activations=true\nrecompute=selective\n",
               {"checkpoint_activations = true", "contradicts parallel.recompute = selective"}},
        Layout{"checkpointing_and_none",
               1,
               "[parallel]\ncheckpoint_activations=true\nrecompute=none\n",
               {"checkpoint_activations = true", "contradicts parallel.recompute = none"}},
        Layout{"no_checkpointing_and_full",
               1,
               "[parallel]\ncheckpoint_activations=false\nrecompute=full\n",
               {"checkpoint_activations = false", "contradicts parallel.recompute = full"}},
        Layout{"rampup_step",
               2,
               "[batch]\ntrain_batch_size=32\nrampup_batch_size=8, 16, 100\n",
               {"batch.rampup_batch_size = 8, 16, 100", "from 8 by 16", "train_batch_size = 32"}},
        Layout{"rampup_down",
               2,
               "[batch]\ntrain_batch_size=32\nrampup_batch_size=32, 4, 100\n",
               {"from 32 by 4"}},
        Layout{"rampup_ranks",
               2,
               "[batch]\ntrain_batch_size=32\nrampup_batch_size=2, 2, 100\n",
               {"train_micro_batch_size_per_gpu = 2", "x 2 data-parallel ranks = 4"}}),
    [](const auto& param) { return std::string(param.param.name); });

TEST(Resolve, CheckpointActivationsIsFullRecomputation) {
  for (const bool old_name : {true, false}) {
    Config c = minimal();
    c.parallel.checkpoint_activations = old_name;
    if (!old_name) c.parallel.recompute = "full";
    resolve(c, 1);
    EXPECT_TRUE(c.parallel.checkpoint_activations);
    EXPECT_EQ(c.parallel.recompute, "full");
  }
}

TEST(Resolve, RampupIsAListOfThreeOrNothing) {
  const auto set = [](const std::string& text) {
    return parse_ini_text("[batch]\nrampup_batch_size = " + text + "\n", "x").batch;
  };
  EXPECT_EQ(set("32, 32, 1000").rampup_batch_size, (std::vector<std::int64_t>{32, 32, 1000}));
  EXPECT_TRUE(set("").rampup_batch_size.empty());
  EXPECT_THROW(set("32, 32"), Error);
  EXPECT_THROW(set("32, 0, 10"), Error);
  EXPECT_THROW(parse_ini_text("[optimizer]\nbetas =\n", "x"), Error);
}

TEST(Resolve, PathListsAreAllOrNone) {
  Config c = minimal();
  c.data.train_data_paths = {"a"};
  EXPECT_THAT(failure(c, 1), HasSubstr("data.valid_data_paths and data.test_data_paths: missing"));
  c.data.valid_data_paths = {"b"};
  EXPECT_THAT(failure(c, 1), HasSubstr("data.test_data_paths: missing"));
  c.data.test_data_paths = {"c"};
  EXPECT_EQ(failure(c, 1), "");
}

TEST(Resolve, RequiredOptionsAndAllProblemsAtOnce) {
  const std::string nothing = failure(Config(), 1);
  for (const char* key : {"model.num_layers", "model.hidden_size", "model.num_attention_heads",
                          "model.seq_length", "train.train_iters"}) {
    EXPECT_THAT(nothing, HasSubstr(std::string(key) + " is required"));
  }
  Config c = minimal();
  c.model.num_attention_heads = 3;
  c.precision.hysteresis = 5;
  c.batch = {7, 2, 0};
  const std::string message = failure(c, 1);
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 2) << message;  // three problems
}

TEST(Resolve, LossScalingOnlyInFp16) {
  Config c = minimal();
  c.precision.precision = DType::f16;
  c.parallel.gradient_reduce_dtype = DType::f16;
  EXPECT_EQ(failure(c, 1), "");
  c.precision.loss_scale = 0.5;
  c.precision.initial_scale_power = 0;
  c.precision.min_loss_scale = 2;  // not read with a static scale
  EXPECT_EQ(failure(c, 1), "");
  c.precision.loss_scale = 0;
  EXPECT_THAT(failure(c, 1), HasSubstr("precision.min_loss_scale = 2"));
  c.precision.min_loss_scale = 0.25;
  EXPECT_EQ(failure(c, 1), "");
  c.precision.loss_scale = 2 * kMaxLossScale;
  EXPECT_THAT(failure(c, 1), HasSubstr("precision.loss_scale"));
  EXPECT_TRUE(PrecisionConfig{.precision = DType::f16}.scales_dynamically());
  EXPECT_FALSE((PrecisionConfig{.precision = DType::f16, .loss_scale = 8}).scales_dynamically());
  EXPECT_FALSE(PrecisionConfig{.precision = DType::bf16}.scales_loss());
}

TEST(Resolve, ChecksRangesOfConfigurationsMadeInCode) {
  Config c = minimal();
  c.model.hidden_dropout = 1.5;
  c.optimizer.type = "rmsprop";
  c.optimizer.betas = {0.9};
  c.data.split = "x";
  const std::string message = failure(c, 1);
  EXPECT_THAT(message, HasSubstr("model.hidden_dropout = 1.5"));
  EXPECT_THAT(message, HasSubstr("optimizer.type = rmsprop"));
  EXPECT_THAT(message, HasSubstr("optimizer.betas = 0.9"));
  EXPECT_THAT(message, HasSubstr("data.split = x"));
}

TEST(Resolve, OptimizersRefuseWhatTheyWouldIgnore) {
  const auto message = [](const auto& change) {
    Config c = minimal();
    change(c.optimizer);
    return failure(c, 1);
  };
  EXPECT_THAT(message([](OptimizerConfig& o) { o.nesterov = true; }),
              HasSubstr("optimizer.nesterov = true: optimizer.type = adam has none; it belongs to "
                        "sgd"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.momentum = 0.5; }),
              HasSubstr("it belongs to sgd, madgrad_wd and sm3"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.type = "lamb", o.sm3_beta = 0.5; }),
              HasSubstr("belongs to sm3"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.max_coeff = 5; }), HasSubstr("belongs to lamb"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.type = "lion", o.adam_w_mode = false; }),
              HasSubstr("belongs to adam"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.type = "lion", o.eps = 1e-6; }),
              HasSubstr("belongs to adam, lamb, madgrad_wd and sm3"));
  EXPECT_THAT(message([](OptimizerConfig& o) {
                o.type = "sgd", o.betas = {0.9, 0.95};
              }),
              HasSubstr("belongs to adam, lamb and lion"));
  EXPECT_THAT(
      message([](OptimizerConfig& o) { o.type = "sgd", o.momentum = 0, o.nesterov = true; }),
      HasSubstr("looks ahead by optimizer.momentum, which is 0"));
  EXPECT_THAT(message([](OptimizerConfig& o) { o.type = "lamb", o.min_coeff = 11; }),
              HasSubstr("is above optimizer.max_coeff"));
  for (const char* type : {"adam", "lion", "sgd", "madgrad_wd", "lamb", "sm3"}) {
    Config c = minimal();
    c.optimizer.type = type;
    EXPECT_NO_THROW(resolve(c, 1)) << type;
  }
}

TEST(Resolve, RanksMustDivide) {
  ParallelConfig p;
  p.model_parallel_size = 2;
  p.pipe_parallel_size = 3;
  EXPECT_EQ(data_parallel_size(p, 12), 2);
  EXPECT_THROW(data_parallel_size(p, 8), Error);
  p.pipe_parallel_size = 0;
  EXPECT_EQ(data_parallel_size(p, 8), 4);
  Config c = minimal();
  c.parallel.pipe_parallel_size = 0;  // GPT-NeoX's spelling of "no pipeline"
  resolve(c, 4);
  EXPECT_EQ(c.parallel.pipe_parallel_size, 1);
  EXPECT_EQ(c.batch.train_batch_size, 8);
  EXPECT_NE(failure(minimal(), 0), "");
}

TEST(ResolveModel, ForProgramsThatDoNotTrain) {
  ModelConfig m = minimal().model;
  m.num_kv_heads = 2;
  resolve_model(m);
  EXPECT_EQ(m.intermediate_size, 256);
  EXPECT_EQ(m.num_kv_heads, 2);
  m.num_kv_heads = 3;
  EXPECT_THROW(resolve_model(m), Error);
  ModelConfig empty;
  EXPECT_THROW(resolve_model(empty), Error);
}

TEST(ModelConfig, RotaryChannelsAndPaddedVocabulary) {
  ModelConfig m;
  m.hidden_size = 64;
  m.num_attention_heads = 1;
  m.rotary_pct = 0.25;
  EXPECT_EQ(m.rotary_dim(), 16);
  m.rotary_pct = 1.0;
  EXPECT_EQ(m.rotary_dim(), 64);
  m.hidden_size = 6144;
  m.num_attention_heads = 64;
  m.rotary_pct = 0.25;
  EXPECT_EQ(m.rotary_dim(), 24);  // GPT-NeoX-20B: 24 of 96
  m.pos_emb = PositionEmbedding::learned;
  EXPECT_EQ(m.rotary_dim(), 0);
  for (const auto& [vocab, padded] :
       {std::pair{50257, 50304}, {50277, 50304}, {50304, 50304}, {1, 128}}) {
    m.vocab_size = vocab;
    EXPECT_EQ(m.padded_vocab_size(), padded);
  }
  m.vocab_size = 0;
  EXPECT_THROW(m.padded_vocab_size(), Error);
}

}  // namespace
}  // namespace neox::testing
