#include "core/train/sample_log.h"

#include <iterator>
#include <vector>

#include <fmt/format.h>

#include "core/base/error.h"
#include "core/base/log.h"
#include "io/metrics/jsonl_file.h"

namespace neox {
namespace {

// "[48,49]\n[[0,3,96],[0,3,128]]": two JSON values.
std::string describe(const StepBatch& batch) {
  std::string ids = "[", origins = "[";
  for (const MicroBatch& micro : batch.micro_batches) {
    for (std::size_t i = 0; i < micro.samples.size(); ++i) {
      const char* comma = ids.size() == 1 ? "" : ",";
      const SampleOrigin& origin = micro.origins[i];
      fmt::format_to(std::back_inserter(ids), "{}{}", comma, micro.samples[i]);
      fmt::format_to(std::back_inserter(origins), "{}[{},{},{}]", comma, origin.dataset,
                     origin.document, origin.offset);
    }
  }
  return ids + "]\n" + origins + "]";
}

}  // namespace

SampleLog::SampleLog(Communicator& world, const std::string& directory, std::int64_t first_step)
    : world_(world), path_(directory + "/samples.jsonl") {
  open(first_step);
}

void SampleLog::rewind(std::int64_t step) {
  open(step);
}

void SampleLog::open(std::int64_t step) {
  std::string problem;
  file_.reset();
  try {
    if (world_.rank() == 0) file_.emplace(open_jsonl(path_, "sample ids", step));
  } catch (const Error& error) {
    problem = error.what();
  }
  agree(world_, "opening the log of samples", problem);
}

void SampleLog::add(std::int64_t step, const StepBatch& batch, Communicator& data_group) {
  const std::vector<std::string> parts = data_group.host_all_gather(describe(batch));
  if (!file_) return;
  std::string ids, origins;
  for (const std::string& part : parts) {
    const std::size_t end = part.find('\n');
    ids += (ids.empty() ? "" : ",") + part.substr(0, end);
    origins += (origins.empty() ? "" : ",") + part.substr(end + 1);
  }
  try {
    file_->append(fmt::format("{{\"step\":{},\"samples\":{},\"ids\":[{}],\"origins\":[{}]}}\n",
                              step, batch.samples, ids, origins));
  } catch (const Error& error) {
    if (!warned_) log_warning("lines of the log of samples are lost: {}", error.what());
    warned_ = true;
  }
}

}  // namespace neox
