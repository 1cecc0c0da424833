#include "core/config/option.h"

#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox {

namespace {

constexpr Section kSections[] = {
    {"model", "Architecture and initial weights"},
    {"parallel", "How the work is divided, and memory for time"},
    {"precision", "Number formats"},
    {"batch", "Batch sizes: any two give the third"},
    {"optimizer", "Optimizer"},
    {"schedule", "Learning-rate schedule"},
    {"train", "Length of the run, validation, seeds"},
    {"system", "What the run computes on"},
    {"data", "Token files"},
    {"tokenizer", "Tokenizer"},
    {"checkpoint", "Checkpoints and resuming"},
    {"guards", "What happens to steps whose numbers are not finite, or spike"},
    {"logging", "What is shown and recorded"},
    {"generate", "Text generation"},
};

// Options of GPT-NeoX that its users' files hold and that have no counterpart of the same shape.
const std::map<std::string_view, std::string_view>& absent_options() {
  static const std::map<std::string_view, std::string_view> table = {
      {"bias_dropout_fusion", "fusions are chosen by the engine; leave it out"},
      {"bias_gelu_fusion", "its gelu is the tanh form: write model.activation = gelu_tanh"},
      {"bf16", "write precision.precision = bfloat16"},
      {"checkpoint_num_layers", "see parallel.recompute"},
      {"data_impl", "token files are always memory-mapped; leave it out"},
      {"expansion_factor", "write model.intermediate_size"},
      {"fp16", "write precision.precision = fp16; its settings are options of [precision]"},
      {"fp32_allreduce", "see parallel.gradient_reduce_dtype; fp32 is the default"},
      {"hostfile", "ranks come from mpirun or srun"},
      {"launcher", "ranks come from mpirun or srun"},
      {"layernorm_fusion", "fusions are chosen by the engine; leave it out"},
      {"mlp_multiple_of", "model.intermediate_size is the real width here"},
      {"mlp_type", "gated MLPs are values of model.activation, such as swiglu"},
      {"num_workers", "data is read in the background; see data.prefetch"},
      {"num_layers_per_virtual_pipeline_stage",
       "write parallel.virtual_pipeline_size, the number of chunks per stage"},
      {"partition_activations", "see parallel.sequence_parallel"},
      {"pipe_partition_method",
       "layers are divided so that all stages take equal time; leave it out"},
      {"rmsnorm_fusion", "fusions are chosen by the engine; leave it out"},
      {"scaled_masked_softmax_fusion", "fusions are chosen by the engine; leave it out"},
      {"scaled_upper_triang_masked_softmax_fusion",
       "fusions are chosen by the engine; leave it out"},
      {"steps_per_print", "see logging.log_interval"},
      {"train_epochs", "write train.train_iters"},
      {"zero_optimization", "write its stage as parallel.zero_stage"},
  };
  return table;
}

std::vector<Option> build_table() {
  std::vector<Option> all;
  const auto append = [&](std::string_view section, std::vector<Option> group) {
    for (Option& option : group) {
      option.section = section;
      all.push_back(option);
    }
  };
  append("model", model_options());
  append("parallel", parallel_options());
  append("precision", precision_options());
  append("batch", batch_options());
  append("optimizer", optimizer_options());
  append("schedule", schedule_options());
  append("train", train_options());
  append("system", system_options());
  append("data", data_options());
  append("tokenizer", tokenizer_options());
  append("checkpoint", checkpoint_options());
  append("guards", guards_options());
  append("logging", logging_options());
  append("generate", generate_options());
  return all;
}

using Index = std::map<std::string, const Option*, std::less<>>;

Index build_index() {
  Index index;
  const auto add = [&](const Option& option, std::string_view name) {
    const std::string key = fmt::format("{}.{}", option.section, name);
    require(index.emplace(key, &option).second, "option table: {} is declared twice", key);
  };
  for (const Option& option : options()) {
    add(option, option.name);
    for (std::string_view rest = option.aliases; !rest.empty();) {
      const std::size_t end = std::min(rest.find(' '), rest.size());
      add(option, rest.substr(0, end));
      rest.remove_prefix(std::min(end + 1, rest.size()));
    }
  }
  return index;
}

}  // namespace

bool Range::contains(double value) const {
  return (above_min ? value > min : value >= min) && (below_max ? value < max : value <= max);
}

std::string Range::text() const {
  const auto number = [](double x) {
    return x == static_cast<double>(static_cast<std::int64_t>(x))
               ? fmt::format("{}", static_cast<std::int64_t>(x))
               : fmt::format("{}", x);
  };
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  std::string text;
  if (min > -kInfinite) text = (above_min ? "greater than " : "at least ") + number(min);
  if (max < kInfinite) {
    if (!text.empty()) text += " and ";
    text += (below_max ? "less than " : "at most ") + number(max);
  }
  return text;
}

std::string Option::key() const {
  return fmt::format("{}.{}", section, name);
}

std::span<const Section> sections() {
  return kSections;
}

std::span<const Option> options() {
  static const std::vector<Option> table = build_table();
  return table;
}

std::string normalised_key(std::string_view key) {
  std::string text(key);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

const Option* find_option(std::string_view key) {
  static const Index index = build_index();
  const auto found = index.find(normalised_key(key));
  return found == index.end() ? nullptr : found->second;
}

std::string_view absent_option_advice(std::string_view name) {
  const auto found = absent_options().find(name);
  return found == absent_options().end() ? std::string_view() : found->second;
}

}  // namespace neox
