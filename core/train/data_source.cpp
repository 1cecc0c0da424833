#include "core/train/data_source.h"

#include "core/base/error.h"

namespace neox {
namespace {

bool wants_validation(const Config& config) {
  return config.train.eval_interval > 0 && config.train.eval_iters > 0;
}

}  // namespace

BatchSizes batch_sizes(const BatchConfig& config) {
  const auto& rampup = config.rampup_batch_size;
  if (rampup.empty()) return config.train_batch_size;
  return {config.train_batch_size, {rampup.at(0), rampup.at(1), rampup.at(2)}};
}

RunData open_run_data(const Config& config) {
  const DataConfig& d = config.data;
  TokenDatasetOptions options;
  options.seq_length = config.model.seq_length;
  options.seed = config.train.seed_data;
  options.vocab_size = config.model.vocab_size;
  options.cache_dir = d.index_cache_dir;
  options.warm_up = d.mmap_warmup;
  const std::int64_t train_samples = batch_sizes(config.batch).after(0, config.train.train_iters);
  const std::int64_t valid_samples =
      wants_validation(config) ? config.train.eval_iters * config.batch.train_batch_size : 0;
  RunData data;
  if (!d.data_path.empty()) {
    auto parts = open_split(d.data_path, d.split, {train_samples, valid_samples, 0}, options);
    data.train = std::move(parts[0]);
    data.valid = std::move(parts[1]);
    return data;
  }
  require(!d.train_data_paths.empty(),
          "no training data: set data.data_path, or data.train_data_paths");
  const auto blend = [&](const std::vector<std::string>& paths,
                         const std::vector<double>& weights) {
    BlendSpec spec;
    spec.paths = paths;
    spec.weights = weights;
    spec.weight_by_num_documents = d.weight_by_num_documents;
    spec.alpha = d.weighted_sampler_alpha;
    return spec;
  };
  data.train.emplace(DataPart::train, blend(d.train_data_paths, d.train_data_weights),
                     train_samples, options);
  if (valid_samples > 0 && !d.valid_data_paths.empty()) {
    data.valid.emplace(DataPart::valid, blend(d.valid_data_paths, d.valid_data_weights),
                       valid_samples, options);
  }
  return data;
}

std::string fingerprint(const RunData& data) {
  std::string text;
  for (const auto* part : {&data.train, &data.valid}) {
    if (!part->has_value()) continue;
    text += fmt::format("{} data {:016x}\n", name_of((*part)->part()), (*part)->fingerprint());
  }
  return text;
}

std::string describe(const RunData& data) {
  std::vector<TokenDatasetRow> rows;
  for (const auto* part : {&data.train, &data.valid}) {
    if (part->has_value()) {
      rows.insert(rows.end(), (*part)->rows().begin(), (*part)->rows().end());
    }
  }
  return format_table(rows);
}

}  // namespace neox
