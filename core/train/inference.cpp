#include "core/train/inference.h"

#include <chrono>

#include "core/base/log.h"
#include "core/train/hf_files.h"
#include "core/train/run_state.h"
#include "io/checkpoint/checkpoint.h"
#include "kernels/device_choice.h"

namespace neox {
namespace {

std::unique_ptr<CheckpointReader> open_checkpoint(Communicator& self, const CheckpointConfig& c) {
  const std::string& where = c.load.empty() ? c.save : c.load;
  require(!where.empty(), "no checkpoint: give --checkpoint.load DIRECTORY or FILE.h5");
  if (where.ends_with(".h5")) return std::make_unique<CheckpointReader>(self, where);
  auto reader = c.iteration >= 0 ? open_step(self, where, c.iteration) : open_newest(self, where);
  require(reader != nullptr, "checkpoint.{} = {} holds no checkpoint; correct the path",
          c.load.empty() ? "save" : "load", where);
  return reader;
}

bool any_set(const Origins& origins, std::string_view section) {
  const auto found = origins.lower_bound(section);
  return found != origins.end() && found->first.starts_with(section);
}

const char* reason(GenerationEnd end) {
  switch (end) {
    case GenerationEnd::stop_token:
      return "";
    case GenerationEnd::maximum_tokens:
      return "maximum_tokens reached";
    case GenerationEnd::context_full:
      return "the model's context is full";
    case GenerationEnd::caller:
      return "stopped";
  }
  return "";
}

}  // namespace

InferenceModel::InferenceModel(const Config& config, const Origins& origins)
    : self_(make_self_communicator()),
      device_{choose_device_kind(config.system.device).kind},
      ops_(make_backend(device_)),
      stream_(make_stream(device_)),
      seed_(static_cast<std::uint64_t>(config.train.seed)) {
  const auto reader = open_checkpoint(*self_, config.checkpoint);
  const Config stored = stored_config(*reader);
  TokenizerConfig t = any_set(origins, "tokenizer.") ? config.tokenizer : stored.tokenizer;
  if (!any_set(origins, "tokenizer.")) {
    // A converted checkpoint that was moved has them beside it.
    t.vocab_file = beside_checkpoint(t.vocab_file, reader->path());
    t.merge_file = beside_checkpoint(t.merge_file, reader->path());
  }
  require(!t.vocab_file.empty() || t.tokenizer_type == "CharLevelTokenizer",
          "the run of {} had no tokenizer; give --tokenizer.vocab_file", reader->path());
  tokenizer_ = load_tokenizer(t.tokenizer_type, t.vocab_file, t.merge_file);
  require(tokenizer_->vocab_size() <= stored.model.vocab_size,
          "the tokenizer {} has {} tokens, but the model of {} has a vocabulary of {}; give the "
          "tokenizer that it was trained with (tokenizer.vocab_file)",
          t.vocab_file.empty() ? t.tokenizer_type : t.vocab_file, tokenizer_->vocab_size(),
          reader->path(), stored.model.vocab_size);
  const DType precision =
      any_set(origins, "precision.") ? config.precision.precision : stored.precision.precision;
  model_.emplace(stored.model);
  model_->commit(*ops_, *stream_, precision, StoreMode::inference);
  load_run(*reader, *model_, nullptr, LoadScope::weights_only, *ops_, *stream_);
  generator_.emplace(*model_, *ops_, *stream_, stored.model.max_position_embeddings);
  log_info("{} (step {})", reader->path(), reader->info().step);
}

std::vector<std::int32_t> InferenceModel::encode(const std::string& prompt) const {
  std::vector<std::int32_t> tokens = tokenizer_->encode(prompt);
  if (tokens.empty()) {
    const std::optional<std::int32_t> eod = tokenizer_->eod_id();
    require(eod.has_value(),
            "an empty prompt starts from the end-of-document token, which this tokenizer "
            "does not have; give a prompt");
    tokens.push_back(*eod);
  }
  return tokens;
}

void InferenceModel::check_prompt(const std::string& prompt) const {
  generator_->check_prompt(encode(prompt));
}

GeneratedSample InferenceModel::generate(const std::string& prompt, const GenerateConfig& options,
                                         std::uint64_t stream,
                                         const std::function<void(std::string_view)>& on_bytes) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::int32_t> tokens = encode(prompt);
  GenerationOptions generation;
  generation.sampling = {options.temperature, options.top_k, options.top_p};
  generation.maximum_tokens = options.maximum_tokens;
  generation.stop_token = tokenizer_->eod_id().value_or(-1);
  generation.seed = seed_;
  generation.stream = stream;
  generation.recompute = options.recompute;
  GeneratedSample sample;
  sample.context = prompt;
  const GenerationEnd end = generator_->generate(tokens, generation, [&](std::int32_t token) {
    const std::string bytes = tokenizer_->decode(std::span(&token, 1));
    sample.text += bytes;
    ++sample.length;
    on_bytes(bytes);
    return true;
  });
  sample.finished = end == GenerationEnd::stop_token;
  sample.message = reason(end);
  sample.duration_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return sample;
}

}  // namespace neox
