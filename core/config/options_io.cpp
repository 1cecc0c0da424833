// The options of [data], [tokenizer], [checkpoint], [logging] and [generate].
#include <charconv>

#include "core/base/sample_ranges.h"
#include "core/config/field.h"

namespace neox {

using namespace detail;

namespace {

constexpr Choice kTokenizers[] = {
    {"HFTokenizer", "vocab_file is a Hugging Face tokenizer.json (byte-level BPE)"},
    {"GPT2BPETokenizer", "vocab_file is vocab.json, merge_file is merges.txt"},
    {"CharLevelTokenizer", "bytes; no files; 512 ids, end of document 0"}};

constexpr Choice kScales[] = {{"linear", "at every multiple of checkpoint_factor"},
                              {"log", "at step int(checkpoint_factor^k), k = 0, 1, 2, ..."}};

constexpr Choice kWriters[] = {
    {"direct", "positioned writes; the fastest"},
    {"hdf5", "the parallel HDF5 driver, collective; the file is byte for byte the same"}};

// Numbers separated by ',' or '/', at most three, not all 0 (GPT-NeoX's grammar).
std::string validate_split(const Config& c) {
  constexpr const char* kExpected =
      "expected one to three proportions, not negative and not all 0, as in 969,30,1";
  const std::string& split = c.data.split;
  double sum = 0;
  int parts = 0;
  for (std::size_t begin = 0; begin <= split.size(); ++parts) {
    const std::size_t end = std::min(split.find_first_of(",/", begin), split.size());
    std::string_view part(split.data() + begin, end - begin);
    while (!part.empty() && part.front() == ' ') part.remove_prefix(1);
    while (!part.empty() && part.back() == ' ') part.remove_suffix(1);
    double value = 0;
    const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    if (error != std::errc() || rest != part.data() + part.size() || !(value >= 0) ||
        value > 1e12) {
      return kExpected;
    }
    sum += value;
    begin = end + 1;
  }
  return parts <= 3 && sum > 0 ? "" : kExpected;
}

std::string validate_skip_ranges(const Config& c) {
  try {
    parse_sample_ranges(c.data.skip_sample_ranges);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

std::vector<Option> data_options() {
  return {
      {.name = "data_path",
       .field = at<&DataConfig::data_path>(),
       .doc = "Prefix of one .bin/.idx pair, cut by split; excludes the path lists"},
      {.name = "split",
       .field = at<&DataConfig::split>(),
       .doc = "Proportions of training, validation and test documents in data_path",
       .validate = validate_split},
      {.name = "train_data_paths",
       .field = at<&DataConfig::train_data_paths>(),
       .doc = "Prefixes of the training data; give all three lists or none"},
      {.name = "valid_data_paths",
       .field = at<&DataConfig::valid_data_paths>(),
       .doc = "Prefixes of the validation data"},
      {.name = "test_data_paths",
       .field = at<&DataConfig::test_data_paths>(),
       .doc = "Prefixes of the test data"},
      {.name = "train_data_weights",
       .field = at<&DataConfig::train_data_weights>(),
       .doc = "Share of each training path; normalised",
       .default_means = "equal",
       .range = kPositive},
      {.name = "valid_data_weights",
       .field = at<&DataConfig::valid_data_weights>(),
       .doc = "Share of each validation path; normalised",
       .default_means = "equal",
       .range = kPositive},
      {.name = "test_data_weights",
       .field = at<&DataConfig::test_data_weights>(),
       .doc = "Share of each test path; normalised",
       .default_means = "equal",
       .range = kPositive},
      {.name = "weight_by_num_documents",
       .field = at<&DataConfig::weight_by_num_documents>(),
       .doc = "Weights from the documents of each path instead of the weight lists"},
      {.name = "weighted_sampler_alpha",
       .field = at<&DataConfig::weighted_sampler_alpha>(),
       .doc = "Exponent of weight_by_num_documents; below 1 favours small sets",
       .range = kNotNegative},
      {.name = "eod_token",
       .field = at<&DataConfig::eod_token>(),
       .doc = "Token that ends a document",
       .default_means = "the tokenizer's",
       .range = count(-1)},
      {.name = "eod_mask_loss",
       .field = at<&DataConfig::eod_mask_loss>(),
       .doc = "No loss where the input token ends a document"},
      {.name = "mask_documents",
       .field = at<&DataConfig::mask_documents>(),
       .doc = "Attention does not see the documents before its own in a sample"},
      {.name = "reset_positions",
       .field = at<&DataConfig::reset_positions>(),
       .doc = "Positions count from the begin of each document in a sample"},
      {.name = "mmap_warmup",
       .field = at<&DataConfig::mmap_warmup>(),
       .doc = "Read the token files once at start, into the page cache"},
      {.name = "index_cache_dir",
       .field = at<&DataConfig::index_cache_dir>(),
       .doc = "Where the sample order is kept between runs",
       .default_means = "beside the data"},
      {.name = "prefetch",
       .field = at<&DataConfig::prefetch>(),
       .doc = "Steps read ahead in the background",
       .unit = "steps",
       .range = count(0, 1e4)},
      {.name = "skip_sample_ranges",
       .field = at<&DataConfig::skip_sample_ranges>(),
       .doc = "Samples that are not trained on: a-b, both included, as numbers of samples.jsonl",
       .validate = validate_skip_ranges},
  };
}

std::vector<Option> tokenizer_options() {
  return {
      {.name = "tokenizer_type",
       .field = at<&TokenizerConfig::tokenizer_type>(),
       .doc = "Kind of tokenizer (GPT-NeoX's default is GPT2BPETokenizer)",
       .choices = kTokenizers},
      {.name = "vocab_file",
       .field = at<&TokenizerConfig::vocab_file>(),
       .doc = "tokenizer.json or vocab.json"},
      {.name = "merge_file",
       .field = at<&TokenizerConfig::merge_file>(),
       .doc = "merges.txt of GPT2BPETokenizer"},
  };
}

std::vector<Option> checkpoint_options() {
  return {
      {.name = "save",
       .field = at<&CheckpointConfig::save>(),
       .doc = "Directory for checkpoints; empty: none are written"},
      {.name = "load",
       .field = at<&CheckpointConfig::load>(),
       .doc = "Directory to start from; it must hold a checkpoint",
       .default_means = "save, when it holds a checkpoint"},
      {.name = "iteration",
       .field = at<&CheckpointConfig::iteration>(),
       .doc = "Step of the checkpoint to load",
       .unit = "steps",
       .default_means = "the newest that verifies",
       .range = count(-1, 1e12)},
      {.name = "checkpoint_scale",
       .field = at<&CheckpointConfig::checkpoint_scale>(),
       .doc = "Spacing of checkpoints",
       .choices = kScales},
      {.name = "checkpoint_factor",
       .field = at<&CheckpointConfig::checkpoint_factor>(),
       .doc = "Spacing of checkpoints: steps (linear) or ratio above 1 (log)",
       .default_means = "only extra_save_iters and the end of the run",
       .range = {.min = 0, .max = 1e12},
       .aliases = "save_interval"},
      {.name = "extra_save_iters",
       .field = at<&CheckpointConfig::extra_save_iters>(),
       .doc = "Further steps at which to save; 0 saves the initial state",
       .unit = "steps",
       .range = count(0, 1e12)},
      {.name = "keep_last_n_checkpoints",
       .field = at<&CheckpointConfig::keep_last_n_checkpoints>(),
       .doc = "Older checkpoints are removed, but never those of extra_save_iters",
       .default_means = "all are kept",
       .range = count(0)},
      {.name = "keep_every",
       .field = at<&CheckpointConfig::keep_every>(),
       .doc = "Checkpoints of multiples of this are never removed",
       .unit = "steps",
       .default_means = "off",
       .range = count(0, 1e12)},
      {.name = "keep_log",
       .field = at<&CheckpointConfig::keep_log>(),
       .doc = "Checkpoints of steps int(keep_log^k), k = 0, 1, 2, ..., are never removed",
       .default_means = "off",
       .range = {.min = 0, .max = 1e12}},
      {.name = "no_save_optim",
       .field = at<&CheckpointConfig::no_save_optim>(),
       .doc = "Save weights only: smaller, but nothing that a run can resume from exactly"},
      {.name = "post_save_command",
       .field = at<&CheckpointConfig::post_save_command>(),
       .doc =
           "Shell command run in the background after a save, with its file in $NEOX_CHECKPOINT"},
      {.name = "post_save_timeout",
       .field = at<&CheckpointConfig::post_save_timeout>(),
       .doc = "How long the end of the run waits for post_save_command",
       .unit = "seconds",
       .range = kNotNegative},
      {.name = "mtbf_hours",
       .field = at<&CheckpointConfig::mtbf_hours>(),
       .doc = "Mean time between failures of the job: the best save interval is printed for it",
       .unit = "hours",
       .default_means = "unknown",
       .range = kNotNegative},
      {.name = "finetune",
       .field = at<&CheckpointConfig::finetune>(),
       .doc = "Load weights only and start at step 0; needs load"},
      {.name = "no_load_optim",
       .field = at<&CheckpointConfig::no_load_optim>(),
       .doc = "Start with fresh optimizer state"},
      {.name = "io",
       .field = at<&CheckpointConfig::io>(),
       .doc = "How checkpoints are written",
       .choices = kWriters},
      {.name = "async_save",
       .field = at<&CheckpointConfig::async_save>(),
       .doc =
           "Copy the state in memory and write it while training goes on (io = hdf5 always waits)"},
      {.name = "max_failures",
       .field = at<&CheckpointConfig::max_failures>(),
       .doc = "End the run when so many saves in a row failed; until then failures are warnings",
       .unit = "saves",
       .range = count(1)},
  };
}

std::vector<Option> logging_options() {
  return {
      {.name = "log_dir",
       .field = at<&LoggingConfig::log_dir>(),
       .doc = "Directory for the log file and metrics.jsonl",
       .default_means = "checkpoint.save; none without it"},
      {.name = "log_interval",
       .field = at<&LoggingConfig::log_interval>(),
       .doc = "Steps between log lines (GPT-NeoX's default is 100)",
       .unit = "steps",
       .range = count(1)},
      {.name = "tensorboard_dir",
       .field = at<&LoggingConfig::tensorboard_dir>(),
       .doc = "Directory for TensorBoard event files",
       .default_means = "log_dir/tensorboard; none without log_dir"},
      {.name = "peak_theoretical_tflops",
       .field = at<&LoggingConfig::peak_theoretical_tflops>(),
       .doc = "Peak of one rank's processor; with it, model FLOPs utilisation is shown",
       .unit = "TFLOP/s",
       .default_means = "unknown",
       .range = kNotNegative},
      {.name = "log_samples",
       .field = at<&LoggingConfig::log_samples>(),
       .doc = "Write the ids of the samples of each step to log_dir/samples.jsonl"},
      {.name = "progress",
       .field = at<&LoggingConfig::progress>(),
       .doc = "Progress bar, when standard error is a terminal"},
      {.name = "profile",
       .field = at<&LoggingConfig::profile>(),
       .doc =
           "Show where each step's time goes on every rank, and at the end what was communicated"},
      {.name = "straggler_interval",
       .field = at<&LoggingConfig::straggler_interval>(),
       .doc = "Look for ranks that hold up the others every so many steps; 0: off",
       .unit = "steps",
       .range = count(0)},
      {.name = "straggler_threshold",
       .field = at<&LoggingConfig::straggler_threshold>(),
       .doc = "Name a rank that is slower by this part than the median of those with the same work",
       .unit = "fraction",
       .range = kPositive},
      {.name = "profile_step_start",
       .field = at<&LoggingConfig::profile_step_start>(),
       .doc = "First step that the CUDA profiler records (nsys --capture-range=cudaProfilerApi)",
       .unit = "steps",
       .default_means = "none is recorded",
       .range = count(0, 1e12)},
      {.name = "profile_step_stop",
       .field = at<&LoggingConfig::profile_step_stop>(),
       .doc = "Last step that the CUDA profiler records",
       .unit = "steps",
       .default_means = "profile_step_start",
       .range = count(0, 1e12)},
      {.name = "nvtx_ranges",
       .field = at<&LoggingConfig::nvtx_ranges>(),
       .doc = "Name the phases of a step and the layers on the time line of Nsight Systems"},
      {.name = "verbose",
       .field = at<&LoggingConfig::verbose>(),
       .doc = "Debug messages, and the place in the code of errors"},
  };
}

std::vector<Option> generate_options() {
  return {
      {.name = "temperature",
       .field = at<&GenerateConfig::temperature>(),
       .doc = "Divides the logits before sampling; 0 takes the likeliest token",
       .range = kNotNegative},
      {.name = "top_k",
       .field = at<&GenerateConfig::top_k>(),
       .doc = "Sample among the likeliest k tokens; 0: all",
       .unit = "tokens",
       .range = count(0)},
      {.name = "top_p",
       .field = at<&GenerateConfig::top_p>(),
       .doc = "Sample among the likeliest tokens that reach this probability; 0: all",
       .unit = "probability",
       .range = kFraction},
      {.name = "maximum_tokens",
       .field = at<&GenerateConfig::maximum_tokens>(),
       .doc = "Most tokens written per sample",
       .unit = "tokens",
       .range = count(1)},
      {.name = "num_samples",
       .field = at<&GenerateConfig::num_samples>(),
       .doc = "Samples per prompt",
       .range = count(1)},
      {.name = "prompt", .field = at<&GenerateConfig::prompt>(), .doc = "Text to continue"},
      {.name = "sample_input_file",
       .field = at<&GenerateConfig::sample_input_file>(),
       .doc = "File with one prompt per line"},
      {.name = "sample_output_file",
       .field = at<&GenerateConfig::sample_output_file>(),
       .doc = "JSON-lines file for the samples",
       .default_means = "the terminal"},
      {.name = "interactive",
       .field = at<&GenerateConfig::interactive>(),
       .doc = "Ask for prompts on the terminal"},
      {.name = "recompute",
       .field = at<&GenerateConfig::recompute>(),
       .doc = "Run the whole sequence for each token instead of keeping keys and values"},
      {.name = "prompt_end",
       .field = at<&GenerateConfig::prompt_end>(),
       .doc = "What ends a prompt typed interactively"},
  };
}

}  // namespace neox
