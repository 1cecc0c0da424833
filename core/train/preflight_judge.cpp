#include "core/train/preflight_judge.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "comm/agreement.h"
#include "core/base/format.h"
#include "core/train/median.h"

namespace neox {
namespace {

using Ranks = std::span<const RankFacts>;

// The disk of a cluster is shared and its speed varies: less than half the median is slow.
constexpr double kSlowDisk = 0.5;
// HDF5 tables of a checkpoint are laid out there; NCCL and MPI keep their buffers there.
constexpr std::int64_t kSharedMemory = std::int64_t{32} << 20;          // a node
constexpr std::int64_t kSharedMemoryOfDevice = std::int64_t{64} << 20;  // a rank with a GPU
constexpr double kClockTolerance = 1.0;                                 // seconds
constexpr std::int64_t kOpenFiles = 1024;

std::vector<std::string> hosts_of(Ranks ranks) {
  std::vector<std::string> hosts;
  for (const RankFacts& r : ranks) hosts.push_back(r.host);
  return hosts;
}

std::string name_of(Ranks ranks, std::span<const int> which) {
  return name_ranks(which, hosts_of(ranks));
}

std::string bytes_text(std::int64_t bytes) {
  return format_bytes(static_cast<std::uint64_t>(std::max<std::int64_t>(bytes, 0)));
}

// The nodes of these ranks; none when that is every node: leaving out all of them helps nobody.
std::vector<std::string> bad_hosts(Ranks ranks, std::span<const int> which) {
  const std::vector<std::string> all = hosts_of(ranks);
  std::set<std::string> bad;
  for (const int rank : which) bad.insert(all[static_cast<std::size_t>(rank)]);
  if (bad.size() == std::set<std::string>(all.begin(), all.end()).size()) return {};
  return {bad.begin(), bad.end()};
}

Finding finding(Severity severity, Ranks ranks, std::span<const int> which, std::string text) {
  return {severity, std::move(text), bad_hosts(ranks, which)};
}

// Ranks by a text of theirs; those without one are left out.
using ByText = std::map<std::string, std::vector<int>>;
ByText group_by(Ranks ranks, const std::function<std::string(const RankFacts&)>& text) {
  ByText groups;
  for (const RankFacts& r : ranks) {
    if (const std::string value = text(r); !value.empty()) groups[value].push_back(r.rank);
  }
  return groups;
}

// What most ranks have; at a tie, what the lowest rank has.
ByText::const_iterator usual_of(const ByText& groups) {
  return std::max_element(groups.begin(), groups.end(), [](const auto& a, const auto& b) {
    if (a.second.size() != b.second.size()) return a.second.size() < b.second.size();
    return a.second.front() > b.second.front();
  });
}

// "ranks 4-7 (node1): <what> is 'x', that of the others 'y'; <advice>"
std::vector<Finding> differing(Ranks ranks, const ByText& groups, Severity severity,
                               std::string_view what, std::string_view advice) {
  std::vector<Finding> found;
  if (groups.size() < 2) return found;
  const auto usual = usual_of(groups);
  for (const auto& [value, which] : groups) {
    if (value == usual->first) continue;
    found.push_back(finding(severity, ranks, which,
                            fmt::format("{}: {} is '{}', that of the others '{}'; {}",
                                        name_of(ranks, which), what, value, usual->first, advice)));
  }
  return found;
}

// "<ranks>: <problem>", one for each text.
std::vector<Finding> problems(Ranks ranks, std::string RankFacts::*problem) {
  std::vector<Finding> found;
  for (const auto& [text, which] :
       group_by(ranks, [&](const RankFacts& r) { return r.*problem; })) {
    found.push_back(
        finding(Severity::error, ranks, which, fmt::format("{}: {}", name_of(ranks, which), text)));
  }
  return found;
}

std::map<std::string, std::vector<int>> by_host(Ranks ranks) {
  return group_by(ranks, [](const RankFacts& r) { return r.host; });
}

const RankFacts& at(Ranks ranks, int rank) {
  return ranks[static_cast<std::size_t>(rank)];
}

void append(std::vector<Finding>& to, std::vector<Finding> more) {
  std::move(more.begin(), more.end(), std::back_inserter(to));
}

}  // namespace

std::vector<Finding> judge_versions(Ranks ranks) {
  std::map<std::string, std::set<std::string>> libraries;  // and the devices that use them
  for (const RankFacts& r : ranks) {
    for (const auto& [library, version] : r.versions) libraries[library].insert(r.device);
  }
  std::vector<Finding> found;
  for (const auto& [library, devices] : libraries) {
    const ByText groups = group_by(ranks, [&](const RankFacts& r) -> std::string {
      const auto version = r.versions.find(library);
      if (version != r.versions.end()) return version->second;
      // Without its device a rank lacks more, and that is said.
      return r.device_problem.empty() && devices.count(r.device) > 0 ? "none" : "";
    });
    append(found, differing(ranks, groups, Severity::error, "the version of " + library,
                            "install the same on all nodes, or load the same modules"));
  }
  return found;
}

std::vector<Finding> judge_devices(Ranks ranks) {
  std::vector<Finding> found = problems(ranks, &RankFacts::device_problem);
  const ByText kinds =
      group_by(ranks, [](const RankFacts& r) { return r.device_problem.empty() ? r.device : ""; });
  if (kinds.size() > 1) {
    const auto usual = usual_of(kinds);
    for (const auto& [kind, which] : kinds) {
      if (kind == usual->first) continue;
      const std::string& why = at(ranks, which.front()).why_not_cuda;
      found.push_back(finding(
          Severity::error, ranks, which,
          fmt::format("{}: would compute on '{}' where the others have '{}'{}; repair the node or "
                      "leave it out, or set system.device",
                      name_of(ranks, which), kind, usual->first,
                      why.empty() ? "" : " (" + why + ")")));
    }
  }
  const ByText models = group_by(ranks, [](const RankFacts& r) { return r.device_model; });
  append(found, differing(ranks, models, Severity::warning, "the device",
                          "the slowest model sets the pace"));
  const ByText places = group_by(ranks, [](const RankFacts& r) {
    return r.device_place.empty() ? "" : r.host + " " + r.device_place;
  });
  for (const auto& [place, which] : places) {
    if (which.size() < 2) continue;
    found.push_back({Severity::warning,
                     fmt::format("{}: share one {}; start as many ranks on a node as it has "
                                 "devices",
                                 name_of(ranks, which), at(ranks, which.front()).device),
                     {}});
  }
  return found;
}

std::vector<Finding> judge_memory(Ranks ranks) {
  std::vector<Finding> found;
  constexpr std::string_view kAdvice =
      "lower batch.train_micro_batch_size_per_gpu, divide the model further, or raise "
      "parallel.zero_stage (--dry-run shows what is needed for what)";
  for (const auto& [host, which] : by_host(ranks)) {
    std::int64_t needed = 0, available = -1;
    for (const int rank : which) {
      const RankFacts& r = at(ranks, rank);
      needed += std::max<std::int64_t>(r.host_needed, 0);
      if (r.host_available >= 0 && (available < 0 || r.host_available < available)) {
        available = r.host_available;
      }
    }
    if (available < 0 || needed <= available) continue;
    found.push_back(finding(
        Severity::error, ranks, which,
        fmt::format("{}: {} of the node's memory needed, {} free; {}", name_of(ranks, which),
                    bytes_text(needed), bytes_text(available), kAdvice)));
  }
  // Ranks may share a device.
  const ByText places = group_by(ranks, [](const RankFacts& r) {
    if (r.device_free < 0) return std::string();
    return r.host + " " + (r.device_place.empty() ? std::to_string(r.rank) : r.device_place);
  });
  for (const auto& [place, which] : places) {
    std::int64_t needed = 0, available = at(ranks, which.front()).device_free;
    for (const int rank : which) {
      needed += std::max<std::int64_t>(at(ranks, rank).device_needed, 0);
      available = std::min(available, at(ranks, rank).device_free);
    }
    if (needed <= available) continue;
    found.push_back(finding(
        Severity::error, ranks, which,
        fmt::format("{}: {} of the device's memory needed, {} free; end other programs on it, {}",
                    name_of(ranks, which), bytes_text(needed), bytes_text(available), kAdvice)));
  }
  return found;
}

std::vector<Finding> judge_data(Ranks ranks) {
  std::vector<Finding> found = problems(ranks, &RankFacts::data_problem);
  append(found, differing(ranks, group_by(ranks, [](const RankFacts& r) { return r.data; }),
                          Severity::error, "the dataset", "give all nodes the same data files"));
  return found;
}

std::vector<Finding> judge_disk(Ranks ranks, const RunNeeds& needs) {
  std::vector<Finding> found = problems(ranks, &RankFacts::checkpoint_problem);
  const std::int64_t free = ranks.empty() ? -1 : ranks.front().disk_free;  // rank 0 reserves
  if (needs.checkpoint_directory.empty() || free < 0) return found;
  // One more than is kept, because the old one goes when the new one is safe; of a directory that
  // holds some already, the rest.
  const std::int64_t most = needs.keep_last > 0 ? needs.keep_last + 1 : 1;
  const std::int64_t count = std::max<std::int64_t>(1, most - needs.existing);
  const std::int64_t needed = count * needs.checkpoint_bytes;
  const auto text = [&](std::int64_t n, std::int64_t bytes) {
    return fmt::format("{} checkpoint{} of {} in {}: {} needed, {} free", n, n == 1 ? "" : "s",
                       bytes_text(needs.checkpoint_bytes), needs.checkpoint_directory,
                       bytes_text(bytes), bytes_text(free));
  };
  if (needed > free) {
    found.push_back({Severity::error,
                     text(count, needed) +
                         "; free some, choose another checkpoint.save, or keep fewer "
                         "(checkpoint.keep_last_n_checkpoints)",
                     {}});
    return found;
  }
  const std::int64_t later = std::max<std::int64_t>(0, needs.at_the_end - needs.existing);
  if (later > count && later * needs.checkpoint_bytes > free) {
    found.push_back({Severity::warning,
                     text(later, later * needs.checkpoint_bytes) +
                         ": the disk will be full before the run's end; set "
                         "checkpoint.keep_last_n_checkpoints",
                     {}});
  }
  return found;
}

std::vector<Finding> judge_node_limits(Ranks ranks) {
  std::vector<Finding> found;
  for (const auto& [host, which] : by_host(ranks)) {
    const RankFacts& first = at(ranks, which.front());
    const auto here = [&](Severity severity, std::string text) {
      found.push_back(
          finding(severity, ranks, which, name_of(ranks, which) + ": " + std::move(text)));
    };
    std::int64_t shared = kSharedMemory, threads = 0, files = first.open_files;
    std::int64_t bound = 0;  // the rank with the most threads too many for its cores
    for (const int rank : which) {
      const RankFacts& r = at(ranks, rank);
      if (r.device == "cuda") shared += kSharedMemoryOfDevice;
      threads += std::max<std::int64_t>(r.threads, 0);
      files = std::min(files, r.open_files);
      if (r.cores > 0 && r.threads > r.cores) bound = std::max(bound, r.threads);
    }
    if (first.shm_free >= 0 && first.shm_free < shared) {
      here(Severity::error,
           fmt::format("/dev/shm has {} free, {} are needed for messages between the ranks of a "
                       "node; remove old files there, or enlarge it (mount -o remount,size=..., or "
                       "the container's --shm-size)",
                       bytes_text(first.shm_free), bytes_text(shared)));
    }
    if (files >= 0 && files < kOpenFiles) {
      here(Severity::warning,
           fmt::format("{} files may be open at once, {} are safe; raise the limit (ulimit -n)",
                       files, kOpenFiles));
    }
    if (first.node_cores > 0 && threads > first.node_cores) {
      here(Severity::warning,
           fmt::format("{} threads on {} cores; lower OMP_NUM_THREADS or start fewer ranks",
                       threads, first.node_cores));
    } else if (bound > 0) {
      here(
          Severity::warning,
          fmt::format("{} threads of a rank on fewer cores, to which the launcher bound them; give "
                      "ranks more cores (--cpus-per-task, --bind-to none)",
                      bound));
    }
  }
  std::vector<double> offsets;
  for (const RankFacts& r : ranks) {
    if (r.has_clock) offsets.push_back(r.clock_offset);
  }
  const double usual = median(offsets);
  for (const RankFacts& r : ranks) {
    const double skew = r.clock_offset - usual;
    if (!r.has_clock || std::abs(skew) <= kClockTolerance) continue;
    found.push_back({Severity::warning,
                     fmt::format("{}: the clock is {:.1f} s {} the others; times in logs will "
                                 "mislead, and rank 0's clock decides when the job ends: set it "
                                 "(NTP)",
                                 r.host, std::abs(skew), skew > 0 ? "before" : "behind"),
                     {}});
  }
  return found;
}

namespace {

// One finding for each node with slow ranks.
std::vector<Finding> slow_ranks(Ranks ranks, Speed which, double threshold) {
  const SpeedInfo& info = info_of(which);
  std::vector<double> all;
  for (const RankFacts& r : ranks) {
    if (r.speed(which) > 0.0) all.push_back(r.speed(which));
  }
  const double usual = median(all);
  std::map<std::string, std::vector<int>> slow;
  for (const RankFacts& r : ranks) {
    if (r.speed(which) > 0.0 && r.speed(which) < (1.0 - threshold) * usual) {
      slow[r.host].push_back(r.rank);
    }
  }
  std::vector<Finding> found;
  for (const auto& [host, members] : slow) {
    double least = usual;
    for (const int rank : members) least = std::min(least, at(ranks, rank).speed(which));
    found.push_back(
        finding(Severity::slow, ranks, members,
                fmt::format("{}: {} {:.4g} {}, {:.0f} % below the median of {:.4g}; look for other "
                            "programs, heat, clock rates and cables, or leave the node out",
                            name_of(ranks, members), info.name, least, info.unit,
                            100.0 * (1.0 - least / usual), usual)));
  }
  return found;
}

// Groups of the same size on the same number of nodes compare.
std::vector<Finding> slow_groups(Ranks ranks, Speed which, double threshold) {
  const SpeedInfo& info = info_of(which);
  struct Group {
    std::vector<int> members;
    double speed = 0.0;
  };
  std::map<std::vector<int>, double> speeds;  // the least that a member saw
  for (const RankFacts& r : ranks) {
    const auto members = r.groups.find(std::string(info.key));
    if (members == r.groups.end() || r.speed(which) <= 0.0) continue;
    const auto [place, fresh] = speeds.emplace(members->second, r.speed(which));
    if (!fresh) place->second = std::min(place->second, r.speed(which));
  }
  std::map<std::pair<std::size_t, std::size_t>, std::vector<Group>> kinds;
  for (const auto& [members, speed] : speeds) {
    std::set<std::string> hosts;
    for (const int rank : members) hosts.insert(at(ranks, rank).host);
    kinds[{members.size(), hosts.size()}].push_back({members, speed});
  }
  std::vector<Finding> found;
  for (const auto& [kind, groups] : kinds) {
    std::vector<double> all;
    for (const Group& g : groups) all.push_back(g.speed);
    const double usual = median(all);
    for (const Group& g : groups) {
      if (g.speed >= (1.0 - threshold) * usual) continue;
      found.push_back(finding(
          Severity::slow, ranks, g.members,
          fmt::format("{}: {} {:.4g} {}, {:.0f} % below the median of {:.4g} of {} groups like it; "
                      "one of its links is slow",
                      name_of(ranks, g.members), info.name, g.speed, info.unit,
                      100.0 * (1.0 - g.speed / usual), usual, groups.size())));
      // Several nodes: which of them it is, the speed between nodes tells.
      if (kind.second > 1) found.back().bad_hosts.clear();
    }
  }
  return found;
}

}  // namespace

std::vector<Finding> judge_speeds(Ranks ranks, double threshold) {
  std::vector<Finding> found;
  if (threshold >= 1.0) return found;
  for (std::size_t i = 0; i < kSpeeds; ++i) {
    const auto which = static_cast<Speed>(i);
    if (info_of(which).of_group) {
      append(found, slow_groups(ranks, which, threshold));
    } else {
      append(found, slow_ranks(ranks, which,
                               which == Speed::disk ? std::max(threshold, kSlowDisk) : threshold));
    }
  }
  return found;
}

std::vector<Finding> judge(Ranks ranks, const RunNeeds& needs) {
  std::vector<Finding> found;
  append(found, judge_versions(ranks));
  append(found, judge_devices(ranks));
  append(found, judge_memory(ranks));
  append(found, judge_data(ranks));
  append(found, judge_disk(ranks, needs));
  append(found, judge_node_limits(ranks));
  append(found, judge_speeds(ranks, needs.slow_threshold));
  std::stable_sort(found.begin(), found.end(),
                   [](const Finding& a, const Finding& b) { return a.severity < b.severity; });
  return found;
}

}  // namespace neox
