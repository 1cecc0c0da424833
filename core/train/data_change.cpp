#include "core/train/data_change.h"

#include <fmt/ranges.h>

#include "core/base/error.h"
#include "core/config/option.h"

namespace neox {
namespace {

// "data.train_data_paths (a / b), train.seed_data (1 / 2)" of what decides about the samples.
std::string describe_differences(const Config& stored, const Config& config) {
  std::vector<std::string> differences;
  for (const char* name :
       {"data.data_path", "data.split", "data.train_data_paths", "data.train_data_weights",
        "data.train_label_data_paths", "data.weight_by_num_documents",
        "data.weighted_sampler_alpha", "data.pack_impl", "data.allow_chopped", "model.seq_length",
        "train.seed_data"}) {
    const Option* option = find_option(name);
    require(option != nullptr, "internal error: no option {}", name);
    const std::string before = value_text(*option, stored), now = value_text(*option, config);
    if (before != now) differences.push_back(fmt::format("{} ({} / {})", name, before, now));
  }
  if (differences.empty()) return "the contents of the files";
  return fmt::format("{}", fmt::join(differences, ", "));
}

}  // namespace

DataMark mark_of(const RunData& data, std::int64_t first) {
  return {fmt::format("{:016x}", data.train->content_id()),
          fmt::format("{:016x}", data.train->order_id()), first};
}

DataDecision decide(const DataMark& before, const RunData& data, std::int64_t consumed_samples,
                    const Config& stored, const Config& config) {
  DataDecision decision;
  decision.first = before.first;
  // A new run, or a checkpoint that is older than these marks.
  if (before.content.empty() || before.content == mark_of(data, 0).content) return decision;
  const std::string what = describe_differences(stored, config);
  if (config.data.when_changed == "restart") {
    decision.restarts = true;
    decision.first = consumed_samples;
    decision.warning = fmt::format(
        "other data than the checkpoint's (in the checkpoint / configured): {}; its samples are "
        "taken from the first on, for the steps that are left",
        what);
    return decision;
  }
  require(
      config.data.when_changed == "continue",
      "the training data is not that of the checkpoint (in the checkpoint / configured): {}. Its "
      "place among the samples means nothing in other data. Give the run its data again; or set "
      "data.when_changed = restart to go on with the new data from its first sample (steps, "
      "schedule and optimizer go on), or continue to go on at the same place in the new order",
      what);
  decision.warning = fmt::format(
      "other data than the checkpoint's (in the checkpoint / configured): {}; the run goes on at "
      "the "
      "same place in the new order of samples",
      what);
  return decision;
}

}  // namespace neox
