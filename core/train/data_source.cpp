#include "core/train/data_source.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/base/log.h"

namespace neox {
namespace {

bool wants_validation(const Config& config) {
  return config.train.eval_interval > 0 && config.train.eval_iters > 0;
}

BatchLoaderOptions loader_options(const Config& config, const BatchSizes& sizes,
                                  const Communicator& group, std::int64_t steps) {
  BatchLoaderOptions options;
  options.batch_sizes = sizes;
  options.micro_batch = config.batch.train_micro_batch_size_per_gpu;
  options.dp_rank = group.rank();
  options.dp_size = group.size();
  options.eod = config.data.eod_token;
  options.eod_mask_loss = config.data.eod_mask_loss;
  options.find_documents = config.data.mask_documents || config.data.reset_positions;
  options.vocab_size = config.model.vocab_size;
  options.prefetch = config.data.prefetch;
  options.steps_needed = steps;
  return options;
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

std::vector<SampleRange> skipped_samples(const Config& config, const RunData& data,
                                         std::span<const SampleRange> rewound) {
  std::vector<SampleRange> ranges = parse_sample_ranges(config.data.skip_sample_ranges);
  for (const SampleRange& range : ranges) {
    require(range.last < data.train->size(),
            "data.skip_sample_ranges: {}-{} goes beyond the last sample, {}, of this run's order",
            range.first, range.last, data.train->size() - 1);
  }
  ranges.insert(ranges.end(), rewound.begin(), rewound.end());
  return merged(std::move(ranges));
}

BatchLoader open_train_loader(const Config& config, const RunData& data, const DataPosition& start,
                              std::int64_t steps, std::span<const SampleRange> rewound,
                              const Communicator& group) {
  const BatchSizes sizes = batch_sizes(config.batch);
  BatchLoaderOptions options = loader_options(config, sizes, group, steps);
  options.skipped = skipped_samples(config, data, rewound);
  if (!options.skipped.empty()) {
    const std::int64_t needed = sizes.after(start.consumed_samples, steps) - start.consumed_samples;
    const SampleOrder order(data.train->size(), options.skipped);
    const std::int64_t end = order.find(start.next_sample, needed - 1) + 1;
    log_info("samples left out: {}{}", text_of(options.skipped),
             end <= order.size()
                 ? ""
                 : fmt::format("; the last {} samples of the run are taken from "
                               "the beginning of the order again",
                               order.kept_before(end) -
                                   std::max(order.kept(), order.kept_before(start.next_sample))));
  }
  return {*data.train, options, start};
}

BatchLoader open_valid_loader(const Config& config, const RunData& data,
                              const Communicator& group) {
  return {*data.valid,
          loader_options(config, config.batch.train_batch_size, group, config.train.eval_iters), 0};
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
