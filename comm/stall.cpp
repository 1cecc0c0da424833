#include "comm/stall.h"

#include <algorithm>
#include <vector>

#include <fmt/format.h>

namespace neox {
namespace {

constexpr std::size_t kListed = 8;

bool stopped(const RankView& r) {
  return r.process_state == 'T' || r.process_state == 't';
}

bool runs(const RankView& r) {
  return r.heartbeat_age < kHeartbeatLost && !stopped(r);
}

// Why a rank is to blame.
std::string reason(const RankView& r) {
  if (stopped(r)) return "is stopped (by SIGSTOP or a debugger)";
  if (!runs(r)) {
    return fmt::format("does not run: its heartbeat stopped {:.0f} s ago{}", r.heartbeat_age,
                       r.process_state == 'D' ? ", and it is blocked in the kernel (a disk or "
                                                "network file system that hangs)"
                                              : "");
  }
  if (r.on_device) {
    return "waits for its own device, which has not done the work queued before that (a kernel "
           "that "
           "does not end, or a GPU that hangs: see nvidia-smi and dmesg)";
  }
  return r.process_state == 'D' ? "is blocked in the kernel (a disk or network file system?)"
                                : "computes or waits outside of communication";
}

std::string list(const std::vector<const RankView*>& ranks, const std::string& host,
                 bool with_reason) {
  std::string text;
  for (std::size_t i = 0; i < std::min(ranks.size(), kListed); ++i) {
    const RankView& r = *ranks[i];
    text += fmt::format("\n  {}{}{}, no progress for {:.1f} s", describe(r, host),
                        with_reason ? " " : "", with_reason ? reason(r) : "", r.progress_age);
  }
  if (ranks.size() > kListed) text += fmt::format("\n  and {} more", ranks.size() - kListed);
  return text;
}

}  // namespace

std::string describe(const RankView& r, const std::string& host) {
  std::string text = fmt::format("rank {} ({}, process {}) in ", r.rank, host, r.pid);
  if (r.step >= 0) text += fmt::format("step {}, ", r.step);
  text += r.phase.empty() ? "start-up" : r.phase;
  if (r.micro_batch >= 0) text += fmt::format(", micro-batch {}", r.micro_batch);
  if (!r.waits_in.empty()) {
    text += fmt::format(", {} {}", r.on_device ? "before" : "waiting in", r.waits_in);
  }
  return text;
}

std::string find_stall(std::span<const RankView> ranks, const std::string& host, double limit,
                       bool all_here) {
  std::vector<const RankView*> guilty, waiting;
  bool late = false, very_late = false;
  for (const RankView& r : ranks) {
    const bool over = !r.unlimited && r.progress_age > limit;
    late = late || over;
    very_late = very_late || (over && r.progress_age > limit + kGraceForOtherNodes);
    if (!runs(r) && r.progress_age > limit) {
      guilty.push_back(&r);
    } else if (over && (r.waits_in.empty() || r.on_device)) {
      guilty.push_back(&r);
    } else if (!r.waits_in.empty()) {
      waiting.push_back(&r);
    }
  }
  const std::string start = fmt::format("no progress for {:g} s (train.watchdog_timeout)", limit);
  if (!guilty.empty()) {
    std::string text = fmt::format("{}; held up by{}", start, list(guilty, host, true));
    if (!waiting.empty()) text += "\n these wait for others:" + list(waiting, host, false);
    return text;
  }
  const bool excused =
      std::any_of(ranks.begin(), ranks.end(), [](const RankView& r) { return r.unlimited; });
  if (!late || excused || (!all_here && !very_late)) return {};
  return fmt::format(
      "{}; every rank{} waits for another one: {}:{}", start, all_here ? "" : " of this node",
      all_here ? "they do not make the same calls" : "look for the cause on other nodes",
      list(waiting, host, false));
}

}  // namespace neox
