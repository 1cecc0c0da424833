#pragma once
// The effective configuration of a run: plain data. A field's INI key is its section and its name
// here, its default the initialiser here; documentation, units, ranges, choices and deprecated
// names are declared once, in options_*.cpp. 0, -1 or empty "means" another value where the comment
// says so: resolve() (resolve.h) fills it in.

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/model_types.h"

namespace neox {

/// [model]
struct ModelConfig {
  std::int64_t num_layers = 0;
  std::int64_t hidden_size = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_kv_heads = 0;       // 0: num_attention_heads
  std::int64_t intermediate_size = 0;  // 0: 4 h (gated: 8/3 h rounded up to 64); the real width
  std::int64_t seq_length = 0;
  std::int64_t max_position_embeddings = 0;  // 0: seq_length
  std::int64_t vocab_size = 0;               // 0: from the tokenizer
  std::int64_t make_vocab_size_divisible_by = 128;
  NormKind norm = NormKind::layernorm;
  double layernorm_epsilon = 1e-5;
  double rms_norm_epsilon = 1e-8;
  double scalenorm_epsilon = 1e-8;
  bool use_qk_layernorm = false;
  bool embedding_norm = false;
  PositionEmbedding pos_emb = PositionEmbedding::rotary;
  double rotary_pct = 1.0;
  double rotary_emb_base = 10000;
  RopeScaling rope_scaling = RopeScaling::none;
  double rope_scaling_factor = 1.0;
  std::int64_t rope_original_max_position = 0;  // 0: max_position_embeddings / factor
  double rope_low_freq_factor = 1.0;            // llama3
  double rope_high_freq_factor = 4.0;
  double rope_beta_fast = 32.0;  // yarn
  double rope_beta_slow = 1.0;
  double rope_attention_factor = 0.0;  // yarn; 0: 0.1 ln(factor) + 1
  std::int64_t opt_pos_emb_offset = 0;
  std::vector<std::string> attention_config = {"global"};  // see core/config/attention_kinds.h
  std::int64_t sliding_window_width = 0;                   // 0: none
  std::int64_t sparse_block = 16;
  std::int64_t sparse_num_local_blocks = 4;
  std::int64_t sparse_num_global_blocks = 1;
  std::int64_t sparse_num_different_global_patterns = 1;
  std::int64_t sparse_num_random_blocks = -1;  // bigbird 1, else 0
  std::int64_t sparse_num_sliding_window_blocks = 3;
  std::vector<std::int64_t> sparse_local_window_blocks = {4};
  std::vector<std::int64_t> sparse_global_block_indices = {0};
  std::vector<std::int64_t> sparse_global_block_end_indices;  // none: one behind each index
  bool sparse_different_layout_per_head = false;
  bool no_weight_tying = false;
  Activation activation = Activation::gelu;  // of the gate when gated
  bool gated = false;  // set by activation = swiglu, geglu, reglu, glu, bilinear
  bool gpt_j_residual = false;
  bool gpt_j_tied = false;
  bool use_bias_in_attn_linear = true;
  bool add_qkv_bias = false;  // where use_bias_in_attn_linear = false (Qwen2)
  bool use_bias_in_mlp = true;
  bool use_bias_in_norms = true;
  InitMethod init_method = InitMethod::normal;
  InitMethod output_layer_init_method = InitMethod::scaled_normal;
  double init_method_std = 0.02;
  double hidden_dropout = 0.0;
  double attention_dropout = 0.0;

  std::int64_t head_dim() const { return hidden_size / num_attention_heads; }
  /// Biases in the query/key/value projections.
  bool has_qkv_bias() const { return use_bias_in_attn_linear || add_qkv_bias; }
  /// Channels per head that are rotated.
  std::int64_t rotary_dim() const;
  /// vocab_size rounded up to make_vocab_size_divisible_by; does not depend on the layout.
  std::int64_t padded_vocab_size() const;

  friend bool operator==(const ModelConfig&, const ModelConfig&) = default;
};

/// [parallel]
struct ParallelConfig {
  std::int64_t pipe_parallel_size = 1;
  std::int64_t model_parallel_size = 1;
  bool sequence_parallel = true;             // no effect with model_parallel_size = 1
  std::string pipeline_schedule = "1f1b";    // gpipe 1f1b interleaved zb-h1
  std::int64_t virtual_pipeline_size = 1;    // chunks of layers per stage
  std::int64_t zero_stage = 0;               // 0..3
  double gradient_bucket_mb = 4.0;           // MiB reduced per message
  DType gradient_reduce_dtype = DType::f32;  // f32, bf16; f16 with precision f16
  std::string recompute = "none";            // none selective full first_n
  std::int64_t recompute_layers = 0;         // first_n: layers of each chunk
  bool checkpoint_activations = false;       // GPT-NeoX's spelling of recompute = full
  std::int64_t replica_check_interval = 0;   // steps; 0: off

  friend bool operator==(const ParallelConfig&, const ParallelConfig&) = default;
};

/// Any gradient that f16 could hold has long overflowed there, and f32 holds 1 / it.
inline constexpr double kMaxLossScale = 0x1p64;

/// [precision]
struct PrecisionConfig {
  DType precision = DType::f32;  // compute dtype; main weights and gradients are always f32
  bool allow_tf32 = false;       // f32 products on GPUs
  // f16: the loss is multiplied so that small gradients stay above what f16 rounds to 0.
  double loss_scale = 0;                  // 0: dynamic
  std::int64_t initial_scale_power = 16;  // dynamic: starts at 2^this
  std::int64_t loss_scale_window = 1000;  // steps without overflow until it doubles
  std::int64_t hysteresis = 2;            // overflows until it is halved
  bool consecutive_hysteresis = false;    // count only overflows in a row
  double min_loss_scale = 1;              // an overflow there ends the run

  bool scales_loss() const { return precision == DType::f16; }
  bool scales_dynamically() const { return scales_loss() && loss_scale == 0; }

  friend bool operator==(const PrecisionConfig&, const PrecisionConfig&) = default;
};

/// [batch]
struct BatchConfig {
  std::int64_t train_batch_size = 0;
  std::int64_t train_micro_batch_size_per_gpu = 0;
  std::int64_t gradient_accumulation_steps = 0;
  std::vector<std::int64_t> rampup_batch_size = {};  // start, increment, samples; empty: off

  friend bool operator==(const BatchConfig&, const BatchConfig&) = default;
};

/// [optimizer]
struct OptimizerConfig {
  std::string type = "adam";  // adam lion sgd madgrad_wd lamb sm3
  double lr = 1e-3;
  std::vector<double> betas = {0.9, 0.999};  // adam lion lamb
  double eps = 1e-8;
  double weight_decay = 0.1;
  bool adam_w_mode = true;  // adam: decoupled weight decay (AdamW)
  double momentum = 0.9;    // sgd madgrad_wd sm3
  bool nesterov = false;    // sgd
  double max_coeff = 10.0;  // lamb: limits of the trust ratio
  double min_coeff = 0.01;
  double sm3_beta = 0.0;
  double gradient_clipping = 1.0;

  friend bool operator==(const OptimizerConfig&, const OptimizerConfig&) = default;
};

/// [schedule]
struct ScheduleConfig {
  std::string lr_decay_style = "linear";  // also constant cosine exponential inverse_sqrt wsd
  std::int64_t lr_decay_iters = 0;        // 0: train_iters
  double lr_decay_fraction = 1.0;         // of train_iters, when lr_decay_iters is 0
  double min_lr = 0.0;
  double warmup = 0.01;             // fraction of the decay length
  double wsd_decay_fraction = 0.2;  // wsd: share of the run that cools down

  friend bool operator==(const ScheduleConfig&, const ScheduleConfig&) = default;
};

/// [train]
struct TrainConfig {
  std::int64_t train_iters = 0;
  std::int64_t eval_interval = 1000;  // 0: never
  std::int64_t eval_iters = 100;
  std::int64_t exit_interval = 0;  // 0: off; saves and leaves every N steps
  std::int64_t job_end = 0;        // UNIX seconds; 0: SLURM_JOB_END_TIME where set; -1: never
  double exit_margin = 120;        // seconds before the job's end
  std::int64_t seed = 1234;
  std::int64_t seed_init = -1;  // -1: seed
  std::int64_t seed_data = -1;
  std::int64_t seed_dropout = -1;
  bool deterministic = true;
  std::int64_t cross_entropy_chunk = 1024;  // tokens whose logits are in memory at once
  double watchdog_timeout = 600;            // seconds without progress; 0: off

  friend bool operator==(const TrainConfig&, const TrainConfig&) = default;
};

/// [system]
struct SystemConfig {
  std::string device = "auto";       // auto cpu cuda simulated
  std::string transport = "auto";    // auto nccl mpi
  double slow_node_threshold = 0.1;  // of the median; 1: never
  double nccl_timeout = 600;         // seconds
  std::int64_t nccl_max_ctas = 0;    // 0: NCCL's choice
  std::string cuda_graphs = "auto";  // auto on off

  friend bool operator==(const SystemConfig&, const SystemConfig&) = default;
};

/// [data]
struct DataConfig {
  std::string data_path;  // one prefix, cut by split; excludes the lists
  std::string split = "969,30,1";
  std::vector<std::string> train_data_paths, valid_data_paths, test_data_paths;
  std::vector<double> train_data_weights, valid_data_weights, test_data_weights;
  bool weight_by_num_documents = false;
  double weighted_sampler_alpha = 1.0;
  std::int64_t eod_token = -1;  // -1: the tokenizer's
  bool eod_mask_loss = false;
  bool mask_documents = false;
  bool reset_positions = false;
  bool mmap_warmup = false;
  std::string index_cache_dir;                  // empty: beside the data
  std::int64_t prefetch = 4;                    // steps read ahead
  std::vector<std::string> skip_sample_ranges;  // "a-b", inclusive, in the run's order of samples

  friend bool operator==(const DataConfig&, const DataConfig&) = default;
};

/// [tokenizer]
struct TokenizerConfig {
  std::string tokenizer_type = "HFTokenizer";  // HFTokenizer GPT2BPETokenizer CharLevelTokenizer
  std::string vocab_file;
  std::string merge_file;

  friend bool operator==(const TokenizerConfig&, const TokenizerConfig&) = default;
};

/// [checkpoint]
struct CheckpointConfig {
  std::string save;
  std::string load;             // empty: save, when it holds a checkpoint
  std::int64_t iteration = -1;  // -1: newest that verifies
  std::string checkpoint_scale = "linear";
  double checkpoint_factor = 0;  // 0: only extra_save_iters and the end
  std::vector<std::int64_t> extra_save_iters;
  std::int64_t keep_last_n_checkpoints = 0;  // 0: all
  std::int64_t keep_every = 0;               // multiples are never removed; 0: off
  double keep_log = 0;                       // int(keep_log^k) are never removed; 0: off
  bool no_save_optim = false;                // weights only
  std::string post_save_command;             // sh -c, on rank 0, after each save
  double post_save_timeout = 600;            // seconds that the program's end waits for it
  double mtbf_hours = 0;                     // of the whole job; 0: unknown
  bool finetune = false;                     // weights only, step 0
  bool no_load_optim = false;
  std::string io = "direct";      // direct hdf5
  bool async_save = true;         // write in the background; io = direct
  std::int64_t max_failures = 5;  // saves that fail in a row end the run

  friend bool operator==(const CheckpointConfig&, const CheckpointConfig&) = default;
};

/// [guards]
struct GuardsConfig {
  std::int64_t spike_window = 128;      // steps
  double loss_z = 0;                    // standard deviations; 0: off
  double grad_norm_z = 0;               // 0: off
  std::string action = "skip";          // warn skip rewind
  std::int64_t max_skipped_steps = 10;  // in a row
  std::int64_t max_rewinds = 3;

  bool detects_spikes() const { return loss_z > 0 || grad_norm_z > 0; }
  friend bool operator==(const GuardsConfig&, const GuardsConfig&) = default;
};

/// [logging]
struct LoggingConfig {
  std::string log_dir;  // empty: save, or none
  std::int64_t log_interval = 1;
  std::string tensorboard_dir;         // empty: <log_dir>/tensorboard
  double peak_theoretical_tflops = 0;  // per rank; 0: no MFU
  bool log_samples = false;            // <log_dir>/samples.jsonl
  bool progress = true;
  bool profile = false;
  std::int64_t straggler_interval = 100;  // steps; 0: off
  double straggler_threshold = 0.1;       // of the median
  std::int64_t profile_step_start = 0;    // 0: never
  std::int64_t profile_step_stop = 0;     // 0: profile_step_start
  bool nvtx_ranges = false;
  bool verbose = false;

  friend bool operator==(const LoggingConfig&, const LoggingConfig&) = default;
};

/// [generate]
struct GenerateConfig {
  double temperature = 0.0;
  std::int64_t top_k = 0;
  double top_p = 0.0;
  std::int64_t maximum_tokens = 64;
  std::int64_t num_samples = 1;
  std::string prompt;
  std::string sample_input_file;
  std::string sample_output_file;
  bool interactive = false;
  bool recompute = false;  // no KV cache
  std::string prompt_end = "\n";

  friend bool operator==(const GenerateConfig&, const GenerateConfig&) = default;
};

struct Config {
  ModelConfig model;
  ParallelConfig parallel;
  PrecisionConfig precision;
  BatchConfig batch;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;
  SystemConfig system;
  DataConfig data;
  TokenizerConfig tokenizer;
  CheckpointConfig checkpoint;
  GuardsConfig guards;
  LoggingConfig logging;
  GenerateConfig generate;

  friend bool operator==(const Config&, const Config&) = default;
};

}  // namespace neox
