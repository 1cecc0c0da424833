#include "core/config/resolve.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <fmt/format.h>

#include "core/config/attention_kinds.h"
#include "core/config/option.h"
#include "core/config/problems.h"

namespace neox {

namespace {

using detail::Problems;

// Collects findings and quotes options with their value and place: "model.hidden_size = 250
// (run.ini:3)".
class Checker {
 public:
  Checker(const Config& config, const Origins& origins) : config_(config), origins_(origins) {}

  std::string quote(std::string_view key) const {
    const Option* option = find_option(key);
    require(option != nullptr, "no option {} to report on", key);
    const std::string name = option->key();
    const auto origin = origins_.find(name);
    return fmt::format("{} = {}{}", name, value_text(*option, config_),
                       origin == origins_.end() ? "" : " (" + origin->second + ")");
  }
  void problem(std::string text) { problems_.add(std::move(text)); }
  void check(bool ok, std::string_view key, std::string_view expectation) {
    if (!ok) problem(fmt::format("{}: {}", quote(key), expectation));
  }
  bool given(std::string_view key) const { return origins_.contains(key); }
  void finish() const { problems_.throw_if_any(); }

  // Every option's own range, for configurations that did not come from a file; and what is
  // required.
  void check_options(std::string_view section) {
    for (const Option& option : options()) {
      if (!section.empty() && option.section != section) continue;
      Config copy = config_;
      const std::string text = value_text(option, config_);
      if (option.required && text == default_text(option)) {
        problem(fmt::format("{} is required: {}", option.key(), option.doc));
        continue;
      }
      const std::string wrong = set_value(option, copy, text);
      if (!wrong.empty()) problem(fmt::format("{}: {}", quote(option.key()), wrong));
    }
  }

 private:
  const Config& config_;
  const Origins& origins_;
  Problems problems_;
};

void check_rope(const ModelConfig& m, Checker& c) {
  const bool scaled = m.rope_scaling != RopeScaling::none;
  c.check(!scaled || m.pos_emb == PositionEmbedding::rotary, "model.rope_scaling",
          "needs model.pos_emb = rotary");
  c.check(scaled || m.rope_scaling_factor == 1.0, "model.rope_scaling_factor",
          "needs model.rope_scaling");
  c.check(m.rope_scaling != RopeScaling::ntk || m.rotary_dim() > 2, "model.rope_scaling",
          "ntk needs more than 2 rotated channels");
  c.check(m.rope_scaling != RopeScaling::llama3 || m.rope_high_freq_factor > m.rope_low_freq_factor,
          "model.rope_high_freq_factor", "must be greater than model.rope_low_freq_factor");
  c.check(m.rope_scaling != RopeScaling::yarn || m.rope_beta_fast > m.rope_beta_slow,
          "model.rope_beta_fast", "must be greater than model.rope_beta_slow");
}

void check_model(const ModelConfig& m, Checker& c) {
  const std::int64_t heads = m.num_attention_heads;
  if (m.hidden_size % heads != 0) {
    c.problem(fmt::format("{} is not a multiple of {}: heads would have a fractional width",
                          c.quote("model.hidden_size"), c.quote("model.num_attention_heads")));
  } else if (m.pos_emb == PositionEmbedding::rotary &&
             (m.rotary_dim() < 2 || m.rotary_dim() % 2 != 0)) {
    c.problem(fmt::format(
        "{} rotates {} of the {} channels of a head; expected an even number, at least 2",
        c.quote("model.rotary_pct"), m.rotary_dim(), m.head_dim()));
  }
  if (heads % m.num_kv_heads != 0) {
    c.problem(
        fmt::format("{} does not divide {}: every key/value head must serve equally many heads",
                    c.quote("model.num_kv_heads"), c.quote("model.num_attention_heads")));
  }
  if (m.max_position_embeddings < m.seq_length) {
    c.problem(fmt::format("{} is smaller than {}", c.quote("model.max_position_embeddings"),
                          c.quote("model.seq_length")));
  }
  c.check(!m.gpt_j_tied || m.gpt_j_residual, "model.gpt_j_tied",
          "needs model.gpt_j_residual = true");
  c.check(m.opt_pos_emb_offset == 0 || m.pos_emb == PositionEmbedding::learned,
          "model.opt_pos_emb_offset", "needs model.pos_emb = learned");
  check_rope(m, c);
  for (const std::string& problem : attention_problems(m)) c.problem(problem);
}

constexpr const char* kPipe = "parallel.pipe_parallel_size";
constexpr const char* kTensor = "parallel.model_parallel_size";
constexpr const char* kPipeSchedule = "parallel.pipeline_schedule";
constexpr const char* kChunks = "parallel.virtual_pipeline_size";
constexpr const char* kRecompute = "parallel.recompute";
constexpr const char* kRecomputeLayers = "parallel.recompute_layers";
constexpr const char* kCheckpointActivations = "parallel.checkpoint_activations";

constexpr const char* kReduceDtype = "parallel.gradient_reduce_dtype";
constexpr const char* kInitialScale = "precision.initial_scale_power";
constexpr const char* kMinScale = "precision.min_loss_scale";
constexpr const char* kLossScaleOptions[] = {
    "precision.loss_scale",        kInitialScale,          kMinScale,
    "precision.loss_scale_window", "precision.hysteresis", "precision.consecutive_hysteresis"};

void check_precision(const Config& config, Checker& c) {
  const PrecisionConfig& p = config.precision;
  if (!p.scales_loss()) {
    for (const char* key : kLossScaleOptions) {
      const Option& option = *find_option(key);
      c.check(value_text(option, config) == default_text(option), key,
              "only fp16 needs loss scaling; leave it out, or set precision.precision = fp16");
    }
    c.check(config.parallel.gradient_reduce_dtype != DType::f16, kReduceDtype,
            "gradients without a loss scale vanish in fp16; use bf16 or fp32");
  }
  if (p.scales_dynamically() &&
      std::ldexp(1.0, static_cast<int>(p.initial_scale_power)) < p.min_loss_scale) {
    c.problem(fmt::format("{} is above the scale that the run starts with, 2 to the {}",
                          c.quote(kMinScale), c.quote(kInitialScale)));
  }
}

// checkpoint_activations and recompute = full are one setting; afterwards they agree.
void resolve_recompute(ParallelConfig& p, Checker& c) {
  const bool open = p.recompute == "none" && !c.given(kRecompute);
  const bool contradiction = p.checkpoint_activations
                                 ? !open && p.recompute != "full"
                                 : p.recompute == "full" && c.given(kCheckpointActivations);
  if (contradiction) {
    c.problem(fmt::format("{} contradicts {}: true is the same as recompute = full; leave one out",
                          c.quote(kCheckpointActivations), c.quote(kRecompute)));
  }
  if (p.recompute == "first_n") {
    c.check(p.recompute_layers >= 1, kRecomputeLayers,
            "parallel.recompute = first_n needs the number of layers, at least 1");
  } else {
    c.check(p.recompute_layers == 0, kRecomputeLayers, "needs parallel.recompute = first_n");
  }
  if (p.checkpoint_activations && open) p.recompute = "full";
  p.checkpoint_activations = p.recompute == "full";
}

void check_pipeline(const Config& config, Checker& c) {
  const ParallelConfig& p = config.parallel;
  const bool interleaved = p.pipeline_schedule == "interleaved";
  if (interleaved || p.pipeline_schedule == "zb-h1") {
    c.check(p.pipe_parallel_size > 1, kPipeSchedule, "needs parallel.pipe_parallel_size above 1");
  }
  if (interleaved) {
    c.check(p.virtual_pipeline_size > 1, kPipeSchedule,
            "needs parallel.virtual_pipeline_size above 1; with one chunk per stage it is 1f1b");
  } else {
    c.check(p.virtual_pipeline_size == 1, kChunks,
            "needs parallel.pipeline_schedule = interleaved");
  }
  const std::int64_t virtual_stages = p.pipe_parallel_size * p.virtual_pipeline_size;
  if (config.model.num_layers < virtual_stages) {
    c.problem(fmt::format("{} is less than {} x {} = {}: every stage and chunk needs a layer",
                          c.quote("model.num_layers"), c.quote(kPipe), c.quote(kChunks),
                          virtual_stages));
  }
}

void check_tensor(const Config& config, Checker& c) {
  const ModelConfig& m = config.model;
  const std::int64_t ranks = config.parallel.model_parallel_size;
  const auto divides = [&](const char* key, std::int64_t size) {
    if (size % ranks == 0) return;
    c.problem(fmt::format("{} is not a multiple of {}: tensor-parallel ranks need equal parts",
                          c.quote(key), c.quote(kTensor)));
  };
  divides("model.num_attention_heads", m.num_attention_heads);
  divides("model.intermediate_size", m.intermediate_size);
  if (m.num_kv_heads % ranks != 0 && ranks % m.num_kv_heads != 0) {
    c.problem(
        fmt::format("{} and {}: one must divide the other, so that key/value heads can be "
                    "divided among tensor-parallel ranks or copied evenly",
                    c.quote("model.num_kv_heads"), c.quote(kTensor)));
  }
}

// Fills in and checks [parallel]. Returns the data-parallel size; 0 when there is none.
std::int64_t resolve_parallel(Config& config, std::int64_t world_size, Checker& c) {
  ParallelConfig& p = config.parallel;
  if (p.pipe_parallel_size == 0) p.pipe_parallel_size = 1;  // GPT-NeoX's 0: no pipeline engine
  resolve_recompute(p, c);
  check_pipeline(config, c);
  check_tensor(config, c);
  const std::int64_t model_ranks = p.pipe_parallel_size * p.model_parallel_size;
  if (world_size % model_ranks == 0) return world_size / model_ranks;
  const std::int64_t below = world_size / model_ranks * model_ranks;
  c.problem(
      fmt::format("{} ranks are not a multiple of {} x {} = {}; start {}{} ranks, or change "
                  "one of the two",
                  world_size, c.quote(kPipe), c.quote(kTensor), model_ranks,
                  below > 0 ? fmt::format("{} or ", below) : "", below + model_ranks));
  return 0;
}

constexpr const char* kTrainBatch = "batch.train_batch_size";
constexpr const char* kMicroBatch = "batch.train_micro_batch_size_per_gpu";
constexpr const char* kAccumulation = "batch.gradient_accumulation_steps";

// The ways out of three sizes that do not agree.
std::string batch_fixes(const BatchConfig& b, std::int64_t ranks) {
  const std::int64_t micro = b.train_micro_batch_size_per_gpu;
  const std::int64_t steps = b.gradient_accumulation_steps;
  std::string fixes = fmt::format("set {} = {}", kTrainBatch, micro * steps * ranks);
  const auto add = [&](const char* key, std::int64_t divisor) {
    if (b.train_batch_size % divisor != 0) return;
    fixes += fmt::format(", or {} = {}", key, b.train_batch_size / divisor);
  };
  add(kMicroBatch, steps * ranks);
  add(kAccumulation, micro * ranks);
  return fixes + ", or leave one of the three out";
}

void resolve_batch(BatchConfig& b, std::int64_t ranks, Checker& c) {
  const bool train = b.train_batch_size > 0, micro = b.train_micro_batch_size_per_gpu > 0;
  const bool steps = b.gradient_accumulation_steps > 0;
  const auto divide = [&](const char* key, std::int64_t factor, const std::string& what,
                          std::int64_t& result) {
    if (b.train_batch_size % factor == 0) {
      result = b.train_batch_size / factor;
      return;
    }
    const std::int64_t below = b.train_batch_size / factor * factor;
    c.problem(
        fmt::format("{} is not a multiple of {} x {} data-parallel ranks = {}, so {} is no whole "
                    "number; set {} "
                    "= {}{}, change {}, or change the number of ranks",
                    c.quote(kTrainBatch), what, ranks, factor, key, kTrainBatch, below + factor,
                    below > 0 ? fmt::format(" or {}", below) : "", what));
  };
  if (!train && !micro) {
    c.problem(fmt::format("{}give two of {}, {} and {}, or one of the first two",
                          steps ? c.quote(kAccumulation) + " alone gives no batch size: "
                                : "batch sizes are missing: ",
                          kTrainBatch, kMicroBatch, kAccumulation));
  } else if (train && micro && steps) {
    const std::int64_t product =
        b.train_micro_batch_size_per_gpu * b.gradient_accumulation_steps * ranks;
    if (product == b.train_batch_size) return;
    c.problem(fmt::format("{}, but {} x {} x {} data-parallel ranks = {}; {}", c.quote(kTrainBatch),
                          c.quote(kMicroBatch), c.quote(kAccumulation), ranks, product,
                          batch_fixes(b, ranks)));
  } else if (train && micro) {
    divide(kAccumulation, b.train_micro_batch_size_per_gpu * ranks, c.quote(kMicroBatch),
           b.gradient_accumulation_steps);
  } else {
    if (!steps) b.gradient_accumulation_steps = 1;
    if (train) {
      divide(kMicroBatch, b.gradient_accumulation_steps * ranks, c.quote(kAccumulation),
             b.train_micro_batch_size_per_gpu);
    } else {
      b.train_batch_size = b.train_micro_batch_size_per_gpu * b.gradient_accumulation_steps * ranks;
    }
  }
}

// Sequence parallelism divides the tokens of a micro-batch, [batch x seq] rows, evenly.
void check_tokens(const Config& config, Checker& c) {
  const ParallelConfig& p = config.parallel;
  const std::int64_t rows = config.batch.train_micro_batch_size_per_gpu * config.model.seq_length;
  if (!p.sequence_parallel || rows % p.model_parallel_size == 0) return;
  c.problem(
      fmt::format("{} x {} = {} tokens are not a multiple of {}; change one of them, or set "
                  "parallel.sequence_parallel = false",
                  c.quote(kMicroBatch), c.quote("model.seq_length"), rows, c.quote(kTensor)));
}

void check_rampup(const BatchConfig& b, std::int64_t ranks, Checker& c) {
  if (b.rampup_batch_size.empty()) return;
  const char* key = "batch.rampup_batch_size";
  const std::int64_t start = b.rampup_batch_size[0], increment = b.rampup_batch_size[1];
  const std::int64_t unit = std::max<std::int64_t>(b.train_micro_batch_size_per_gpu * ranks, 1);
  if (start >= b.train_batch_size || (b.train_batch_size - start) % increment != 0) {
    c.problem(
        fmt::format("{}: the batch cannot grow from {} by {} to {}; the difference must be a "
                    "multiple of the increment",
                    c.quote(key), start, increment, c.quote(kTrainBatch)));
  }
  if (start % unit != 0 || increment % unit != 0) {
    c.problem(
        fmt::format("{}: start and increment must be multiples of {} x {} data-parallel "
                    "ranks = {}",
                    c.quote(key), c.quote(kMicroBatch), ranks, unit));
  }
}

// A value that the chosen optimizer would ignore is a mistake.
void check_optimizer(const OptimizerConfig& o, Checker& c) {
  static const OptimizerConfig usual;
  const auto only = [&](bool used, bool changed, const char* key, const char* by) {
    c.check(used || !changed, key,
            fmt::format("optimizer.type = {} has none; it belongs to {}", o.type, by));
  };
  const bool adam = o.type == "adam", lamb = o.type == "lamb", lion = o.type == "lion";
  const bool sgd = o.type == "sgd", madgrad = o.type == "madgrad_wd", sm3 = o.type == "sm3";
  only(adam || lamb || lion, o.betas != usual.betas, "optimizer.betas", "adam, lamb and lion");
  only(!lion && !sgd, o.eps != usual.eps, "optimizer.eps", "adam, lamb, madgrad_wd and sm3");
  only(adam, !o.adam_w_mode, "optimizer.adam_w_mode", "adam");
  only(sgd || madgrad || sm3, o.momentum != usual.momentum, "optimizer.momentum",
       "sgd, madgrad_wd and sm3");
  only(sgd, o.nesterov, "optimizer.nesterov", "sgd");
  only(lamb, o.max_coeff != usual.max_coeff, "optimizer.max_coeff", "lamb");
  only(sm3, o.sm3_beta != usual.sm3_beta, "optimizer.sm3_beta", "sm3");
  only(lamb, o.min_coeff != usual.min_coeff, "optimizer.min_coeff", "lamb");
  c.check(!o.nesterov || o.momentum > 0, "optimizer.nesterov",
          "looks ahead by optimizer.momentum, which is 0");
  c.check(o.min_coeff <= o.max_coeff, "optimizer.min_coeff", "is above optimizer.max_coeff");
}

void resolve_schedule(Config& config, Checker& c) {
  ScheduleConfig& s = config.schedule;
  if (s.min_lr > config.optimizer.lr) {
    c.problem(fmt::format("{} is above {}", c.quote("schedule.min_lr"), c.quote("optimizer.lr")));
  }
  const auto by_fraction = static_cast<std::int64_t>(
      std::floor(static_cast<double>(config.train.train_iters) * s.lr_decay_fraction));
  if (s.lr_decay_iters == 0) {
    s.lr_decay_iters = by_fraction;
    c.check(by_fraction >= 1, "schedule.lr_decay_fraction",
            "leaves no step for the schedule; raise it or train.train_iters");
  } else if (s.lr_decay_fraction != 1.0 && s.lr_decay_iters != by_fraction) {
    c.problem(fmt::format("{} and {} (of {}: {} steps) disagree; leave one of them out",
                          c.quote("schedule.lr_decay_iters"), c.quote("schedule.lr_decay_fraction"),
                          c.quote("train.train_iters"), by_fraction));
  }
  if (s.lr_decay_style == "wsd" && s.warmup + s.wsd_decay_fraction > 1.0) {
    c.problem(fmt::format("{} and {} together are longer than the schedule",
                          c.quote("schedule.warmup"), c.quote("schedule.wsd_decay_fraction")));
  }
}

void check_data(const DataConfig& d, Checker& c) {
  const bool train = !d.train_data_paths.empty(), valid = !d.valid_data_paths.empty(),
             test = !d.test_data_paths.empty();
  const bool lists = train || valid || test;
  if (lists && !(train && valid && test)) {
    std::string missing;
    for (const auto& [given, name] : {std::pair{train, "data.train_data_paths"},
                                      {valid, "data.valid_data_paths"},
                                      {test, "data.test_data_paths"}}) {
      if (!given) missing += (missing.empty() ? "" : " and ") + std::string(name);
    }
    c.problem(missing + ": missing; give all three path lists, or data.data_path with data.split");
  }
  if (lists && !d.data_path.empty()) {
    c.problem(fmt::format("{} excludes the path lists; give one or the other",
                          c.quote("data.data_path")));
  }
  const auto weights = [&](const char* which, const std::vector<double>& weight,
                           const std::vector<std::string>& paths) {
    if (weight.empty() || weight.size() == paths.size()) return;
    const std::string key = fmt::format("data.{}_data_weights", which);
    c.problem(fmt::format("{}: {} weights for {} paths in data.{}_data_paths; give one each",
                          c.quote(key), weight.size(), paths.size(), which));
  };
  weights("train", d.train_data_weights, d.train_data_paths);
  weights("valid", d.valid_data_weights, d.valid_data_paths);
  weights("test", d.test_data_weights, d.test_data_paths);
  if (d.weight_by_num_documents && !d.train_data_weights.empty()) {
    c.problem(fmt::format("{} would replace data.train_data_weights; leave one of them out",
                          c.quote("data.weight_by_num_documents")));
  }
}

void check_logging(const LoggingConfig& l, Checker& c) {
  if (l.profile_step_stop == 0) return;
  c.check(l.profile_step_start > 0, "logging.profile_step_stop",
          "needs logging.profile_step_start, the first step that is recorded");
  c.check(l.profile_step_stop >= l.profile_step_start, "logging.profile_step_stop",
          "lies before logging.profile_step_start");
}

void check_checkpoint(const CheckpointConfig& k, Checker& c) {
  const double factor = k.checkpoint_factor;
  if (factor > 0 && k.checkpoint_scale == "log") {
    c.check(factor > 1, "checkpoint.checkpoint_factor",
            "with checkpoint_scale = log it is a ratio; expected more than 1");
  } else if (factor > 0) {
    c.check(factor == std::floor(factor), "checkpoint.checkpoint_factor",
            "with checkpoint_scale = linear it counts steps; expected a whole number");
  } else {
    c.check(k.checkpoint_scale == "linear", "checkpoint.checkpoint_scale",
            "needs checkpoint.checkpoint_factor, a ratio above 1");
  }
  if (k.save.empty()) {
    c.check(factor == 0, "checkpoint.checkpoint_factor",
            "nothing can be saved: set checkpoint.save");
    c.check(k.extra_save_iters.empty(), "checkpoint.extra_save_iters",
            "nothing can be saved: set checkpoint.save");
  }
  if (k.keep_log > 0) {
    c.check(k.keep_log > 1, "checkpoint.keep_log", "it is a ratio; expected more than 1");
  }
  if (k.keep_last_n_checkpoints == 0) {
    constexpr const char* kAllStay =
        "all checkpoints are kept unless keep_last_n_checkpoints is set";
    c.check(k.keep_every == 0, "checkpoint.keep_every", kAllStay);
    c.check(k.keep_log == 0, "checkpoint.keep_log", kAllStay);
  }
  if (k.load.empty()) {
    c.check(!k.finetune, "checkpoint.finetune", "set checkpoint.load to the weights to start from");
    c.check(k.iteration < 0 || !k.save.empty(), "checkpoint.iteration",
            "set checkpoint.load to the directory that holds this step");
  }
}

void check_guards(const Config& config, Checker& c) {
  const GuardsConfig& g = config.guards;
  if (!g.detects_spikes() || g.action != "rewind") return;
  c.check(!config.checkpoint.save.empty(), "guards.action",
          "there is nothing to go back to: set checkpoint.save");
  c.check(!config.checkpoint.no_save_optim, "checkpoint.no_save_optim",
          "guards.action = rewind needs checkpoints with optimizer state");
}

void derive_rest(Config& config) {
  TrainConfig& t = config.train;
  for (std::int64_t* seed : {&t.seed_init, &t.seed_data, &t.seed_dropout}) {
    if (*seed < 0) *seed = t.seed;
  }
  LoggingConfig& l = config.logging;
  if (l.log_dir.empty()) l.log_dir = config.checkpoint.save;
  if (l.tensorboard_dir.empty() && !l.log_dir.empty()) {
    l.tensorboard_dir = l.log_dir + (l.log_dir.back() == '/' ? "" : "/") + "tensorboard";
  }
}

}  // namespace

ModelConfig with_derived_values(ModelConfig m) {
  if (m.num_kv_heads == 0) m.num_kv_heads = m.num_attention_heads;
  if (m.intermediate_size == 0) {
    m.intermediate_size =
        m.gated ? ((8 * m.hidden_size + 2) / 3 + 63) / 64 * 64 : 4 * m.hidden_size;
  }
  if (m.max_position_embeddings == 0) m.max_position_embeddings = m.seq_length;
  return m;
}

void resolve_model(ModelConfig& model, const Origins& origins) {
  Config config;
  config.model = model;
  Checker checker(config, origins);
  checker.check_options("model");
  checker.finish();
  config.model = with_derived_values(config.model);
  check_model(config.model, checker);
  checker.finish();
  model = config.model;
}

std::span<const char* const> loss_scale_options() {
  return kLossScaleOptions;
}

std::int64_t data_parallel_size(const ParallelConfig& parallel, std::int64_t world_size) {
  const std::int64_t model_ranks =
      std::max<std::int64_t>(parallel.pipe_parallel_size, 1) * parallel.model_parallel_size;
  require(model_ranks > 0 && world_size > 0 && world_size % model_ranks == 0,
          "{} ranks cannot be divided by parallel.pipe_parallel_size x "
          "parallel.model_parallel_size = {}",
          world_size, model_ranks);
  return world_size / model_ranks;
}

void resolve(Config& config, std::int64_t world_size, const Origins& origins) {
  require(world_size >= 1, "the number of ranks is {}; expected at least 1", world_size);
  Config result = config;
  Checker checker(result, origins);
  checker.check_options("");
  checker.finish();  // cross-checks rely on every value being in its range
  result.model = with_derived_values(result.model);
  check_model(result.model, checker);
  const std::int64_t data_ranks = resolve_parallel(result, world_size, checker);
  if (data_ranks > 0) {
    resolve_batch(result.batch, data_ranks, checker);
    check_tokens(result, checker);
    check_rampup(result.batch, data_ranks, checker);
  }
  check_optimizer(result.optimizer, checker);
  check_precision(result, checker);
  resolve_schedule(result, checker);
  check_data(result.data, checker);
  check_logging(result.logging, checker);
  check_checkpoint(result.checkpoint, checker);
  check_guards(result, checker);
  derive_rest(result);
  checker.check(!result.logging.log_samples || !result.logging.log_dir.empty(),
                "logging.log_samples", "there is no directory for it: set logging.log_dir");
  checker.finish();
  config = result;
}

}  // namespace neox
