#include "core/train/checkpoint_tools.h"

#include <filesystem>
#include <map>
#include <system_error>

#include <fmt/format.h>

#include "core/base/format.h"
#include "core/config/describe.h"
#include "core/config/option.h"
#include "core/config/resolve.h"
#include "core/model/transformer.h"
#include "core/train/run_state.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

std::int64_t bytes_of(const StoredTensor& tensor) {
  return tensor.shape.numel() * static_cast<std::int64_t>(size_of(tensor.dtype));
}

std::string bytes_text(std::int64_t bytes) {
  return format_bytes(static_cast<std::uint64_t>(bytes));
}

std::string value_of(const AttributeValue& value) {
  return std::visit([](const auto& v) { return fmt::format("{}", v); }, value);
}

// "/model/layers/0/…" -> "/model"; "/optimizer/exp_avg/…" -> "/optimizer/exp_avg".
std::string section_of(const std::string& path) {
  const std::size_t begin = path.starts_with("/optimizer/") ? 11 : 1;
  return path.substr(0, path.find('/', begin));
}

struct SectionSize {
  std::int64_t tensors = 0, elements = 0, bytes = 0;
};

std::string sizes_text(const CheckpointReader& reader) {
  std::map<std::string, SectionSize> sizes;
  for (const StoredTensor& tensor : reader.tensors()) {
    SectionSize& size = sizes[section_of(tensor.path)];
    ++size.tensors;
    size.elements += tensor.shape.numel();
    size.bytes += bytes_of(tensor);
  }
  std::string text;
  for (const auto& [section, size] : sizes) {
    text += fmt::format("{:<22} {:>6} tensors {:>19} elements {:>12}\n", section, size.tensors,
                        format_grouped(size.elements), bytes_text(size.bytes));
  }
  if (!has_optimizer_state(reader)) {
    text += "weights only: there is no optimizer state to resume with\n";
  }
  return text;
}

std::string model_text(const ModelConfig& model) {
  return fmt::format(
      "model: {} parameters, {} layers, hidden {}, {} heads, vocabulary {} (padded {}), sequence "
      "{}\n",
      format_grouped(count_parameters(with_derived_values(model))), model.num_layers,
      model.hidden_size, model.num_attention_heads, model.vocab_size, model.padded_vocab_size(),
      model.seq_length);
}

std::string contents_text(const CheckpointReader& reader) {
  std::string text = "\n";
  for (const StoredTensor& tensor : reader.tensors()) {
    text += fmt::format("{:<60} {:<5} {:<16} {:>10}\n", tensor.path, name_of(tensor.dtype),
                        tensor.shape.str(), bytes_text(bytes_of(tensor)));
  }
  for (const auto& [link, target] : reader.info().links) {
    text += fmt::format("{:<60} -> {}\n", link, target);
  }
  for (const auto& [path, stored] : reader.info().texts) {
    text += fmt::format("{:<60} text  {:>27}\n", path,
                        bytes_text(static_cast<std::int64_t>(stored.size())));
  }
  return text;
}

}  // namespace

std::string checkpoint_file_of(const std::string& where, std::int64_t step) {
  std::error_code error;
  if (!fs::is_directory(where, error)) {
    require(step < 0, "{} is not a directory; --step chooses among a directory's checkpoints",
            where);
    return where;  // the reader says what is wrong with it
  }
  std::string steps;
  for (const FoundCheckpoint& found : find_checkpoints(where)) {
    if (step < 0 || found.step == step) return found.path;
    steps += fmt::format("{}{}", steps.empty() ? "" : ", ", found.step);
  }
  require(!steps.empty(), "the directory {} holds no checkpoints (step0000001000.h5)", where);
  fail("there is no checkpoint of step {} in {}; there are steps {}", step, where, steps);
}

std::string inspect_text(const CheckpointReader& reader, const InspectOptions& options) {
  const CheckpointInfo& info = reader.info();
  const Config config = stored_config(reader);
  std::string text =
      fmt::format("{}\nstep {} of {}, {} samples, {} tokens consumed\n", reader.path(), info.step,
                  config.train.train_iters, format_grouped(info.consumed_samples),
                  format_grouped(info.consumed_tokens));
  text += model_text(config.model);
  std::error_code error;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(reader.path(), error));
  text += fmt::format("file: {}\n", bytes_text(bytes)) + sizes_text(reader);
  for (const auto& [group, attributes] : info.groups) {
    text += group + ":";
    for (const auto& [name, value] : attributes)
      text += fmt::format(" {}={}", name, value_of(value));
    text += "\n";
  }
  if (!options.summary) text += contents_text(reader);
  if (options.config) text += "\n" + effective_ini(config, config);
  return text;
}

VerifyResult verify_checkpoints(Communicator& group, const std::string& where, std::int64_t step) {
  std::vector<FoundCheckpoint> files;
  std::error_code error;
  const bool all = step < 0 && fs::is_directory(where, error);
  if (!all) {
    files.push_back({step, checkpoint_file_of(where, step)});
  } else {
    files = find_checkpoints(where);
    require(!files.empty(), "the directory {} holds no checkpoints (step0000001000.h5)", where);
  }
  VerifyResult result;
  for (const FoundCheckpoint& found : files) {
    const std::string& file = found.path;
    try {
      CheckpointReader reader(group, file);
      if (found.step >= 0) check_step_of_name(reader, found);
      reader.verify();
      std::int64_t bytes = 0;
      for (const StoredTensor& tensor : reader.tensors()) bytes += bytes_of(tensor);
      result.text += fmt::format("{}: step {}, all {} tensors ({}) are whole\n", file,
                                 reader.info().step, reader.tensors().size(), bytes_text(bytes));
    } catch (const Error& failure) {
      ++result.damaged;
      result.text += fmt::format("{}: DAMAGED: {}\n", file, failure.what());
    }
  }
  return result;
}

std::string merged_ini(const CheckpointReader& reader, const ParsedCommand& command,
                       std::int64_t ranks) {
  Config merged = stored_config(reader);
  for (const auto& [key, origin] : command.origins) {
    const Option* option = find_option(key);
    require(option != nullptr, "no option {}", key);
    const std::string problem = set_value(*option, merged, value_text(*option, command.config));
    require(problem.empty(), "{}: {}: {}", origin, key, problem);
  }
  Config given = merged;
  if (ranks > 0) {
    const auto given_here = [&](const char* key) { return command.origins.contains(key); };
    // It belongs to the number of ranks that wrote the checkpoint; so do the batch sizes'
    // relations.
    if (!given_here("batch.gradient_accumulation_steps")) {
      merged.batch.gradient_accumulation_steps = 0;
      given = merged;
    }
    resolve(merged, ranks, command.origins);
  }
  return effective_ini(merged, given);
}

}  // namespace neox
