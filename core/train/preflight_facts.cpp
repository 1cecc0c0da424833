#include "core/train/preflight_facts.h"

#include <array>

#include <nlohmann/json.hpp>

namespace neox {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankFacts, rank, host, leads_node, versions, device,
                                   device_model, device_place, device_problem, why_not_cuda,
                                   device_needed, device_free, host_needed, host_available, cores,
                                   node_cores, threads, open_files, shm_free, data, data_problem,
                                   checkpoint_problem, disk_free, has_clock, clock_offset, speeds,
                                   groups)

const SpeedInfo& info_of(Speed speed) {
  static constexpr std::array<SpeedInfo, kSpeeds> kInfo = {
      {{"product", "matrix product", "TFLOP/s", false},
       {"memory", "memory copy", "GB/s", false},
       {"network", "network to other nodes", "GB/s", false},
       {"disk", "write to the checkpoint directory", "GB/s", false},
       {"tensor", "all-reduce of the tensor group", "GB/s", true},
       {"data", "all-reduce of the data group", "GB/s", true},
       {"pipe", "messages between pipeline stages", "GB/s", true},
       {"world", "all-reduce of all ranks", "GB/s", true}}};
  return kInfo.at(static_cast<std::size_t>(speed));
}

double RankFacts::speed(Speed which) const {
  const auto found = speeds.find(std::string(info_of(which).key));
  return found == speeds.end() ? 0.0 : found->second;
}

std::string to_text(const RankFacts& facts) {
  // Paths and messages of the system may be no UTF-8.
  return nlohmann::json(facts).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

RankFacts facts_from_text(const std::string& text) {
  return nlohmann::json::parse(text).get<RankFacts>();
}

}  // namespace neox
