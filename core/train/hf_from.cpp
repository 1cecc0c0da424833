// Hugging Face folder -> checkpoint.

#include <algorithm>
#include <filesystem>

#include <fmt/format.h>

#include "core/base/format.h"
#include "core/config/describe.h"
#include "core/config/resolve.h"
#include "core/model/hf_import.h"
#include "core/train/hf_check.h"
#include "core/train/hf_convert.h"
#include "core/train/hf_files.h"
#include "core/train/run_state.h"
#include "io/checkpoint/checkpoint_stream.h"

namespace neox {
namespace {

DType natural_precision(const HfWeights& weights, std::span<const HfLink> links) {
  for (const HfLink& link : links) {
    for (const HfTensor& tensor : link.tensors) {
      if (weights.reader().at(weights.name_of(tensor.name)).dtype != DType::bf16) return DType::f32;
    }
  }
  return DType::bf16;
}

void write_checkpoint(const std::string& directory, const HfWeights& weights,
                      std::span<const HfLink> links, const Config& config) {
  const DType dtype = config.precision.precision;
  std::vector<CheckpointTensorSpec> specs;
  for (const HfLink& link : links) {
    specs.push_back({checkpoint_path("/model", link.parameter), dtype, link.shape,
                     model_attributes(config.model, link.parameter)});
  }
  const CheckpointInfo info =
      checkpoint_info(config, config.model, effective_ini(config, config), {}, 0);
  CheckpointStream stream(directory, std::move(specs), info);
  std::vector<std::byte> values;
  for (const HfLink& link : links) {
    weights.read(link, dtype, values);
    stream.write(checkpoint_path("/model", link.parameter),
                 ConstTensor(values.data(), link.shape, dtype, Device{}));
  }
  stream.commit();
}

// What the source computes, read straight from its files, against what the checkpoint does, read as
// neox_generate reads it.
std::string check(const std::string& hf_directory, const HfModel& hf,
                  const std::string& checkpoint_directory, DType precision) {
  const auto source = [&](DType round_to) {
    return check_logits(hf.model, [&](Transformer& model, const Backend& ops, Stream& stream) {
      load_hf_weights(hf_directory, hf.family, model, ops, stream, round_to);
    });
  };
  const std::vector<float> before = source(precision);
  const auto self = make_self_communicator();
  CheckpointReader reader(*self, find_checkpoints(checkpoint_directory).front().path);
  const std::vector<float> after = check_logits(
      stored_config(reader).model, [&](Transformer& model, const Backend& ops, Stream& stream) {
        load_run(reader, model, nullptr, LoadScope::weights_only, ops, stream);
      });
  std::string text = "self-check: " + compare_logits(before, after) + "\n";
  const HfWeights weights(hf_directory, hf.family);
  const auto rounds = [&](const SafetensorsEntry& entry) {
    return size_of(entry.dtype) > size_of(precision) || entry.dtype == DType::f16;
  };
  const auto entries = weights.reader().entries();
  if (precision == DType::bf16 && std::any_of(entries.begin(), entries.end(), rounds)) {
    const LogitDifference d = measure_difference(source(DType::f32), after);
    text += fmt::format("rounding the weights to bfloat16 changed logits by up to {:.3g}\n",
                        d.difference);
  }
  return text;
}

}  // namespace

std::string convert_from_hf(const std::string& hf_directory,
                            const std::string& checkpoint_directory, const FromHfOptions& options) {
  HfModel hf = read_hf_model(hf_directory);
  resolve_model(hf.model);
  const HfWeights weights(hf_directory, hf.family);
  const std::vector<HfLink> links = hf_links(hf.family, hf.model);
  weights.check(links, !hf.model.no_weight_tying);
  Config config;
  config.model = hf.model;
  config.precision.precision = options.precision.value_or(natural_precision(weights, links));
  if (options.check) require_memory_for_check(hf.model);

  NewFolder folder(checkpoint_directory);
  copy_tokenizer_files(hf_directory, folder.temporary());
  const std::string generation = folder.temporary() + "/generation_config.json";
  if (!std::filesystem::exists(generation)) {
    write_text_file(generation, generation_config_text(read_token_ids(hf_directory)));
  }
  std::string tokenizer_note;
  config.tokenizer = tokenizer_of_folder(folder.temporary(), folder.final_path(),
                                         hf.model.vocab_size, tokenizer_note);
  write_checkpoint(folder.temporary(), weights, links, config);
  std::string text = fmt::format("{}: {} parameters as {}, vocabulary {}\n", checkpoint_directory,
                                 format_grouped(count_parameters(hf.model)),
                                 config.precision.precision == DType::bf16 ? "bfloat16" : "fp32",
                                 hf.model.vocab_size);
  for (const std::string& note : hf.notes) text += "note: " + note + "\n";
  if (!tokenizer_note.empty()) {
    text += fmt::format("note: no tokenizer is set in the checkpoint: {}\n", tokenizer_note);
  }
  text += options.check
              ? check(hf_directory, hf, folder.temporary(), config.precision.precision)
              : "self-check: SKIPPED (--skip-check): only names, types and shapes were checked\n";
  folder.commit();
  return text;
}

}  // namespace neox
