#include "core/parallel/schedule.h"

#include <algorithm>
#include <array>
#include <utility>

#include <fmt/core.h>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::array<std::string_view, 5> kKindNames = {"gpipe", "1f1b", "interleaved", "zb-h1",
                                                        "forward-only"};
constexpr std::array<std::string_view, 8> kActionNames = {
    "forward",      "backward",        "backward_input", "backward_weight",
    "send_forward", "receive_forward", "send_backward",  "receive_backward"};

// Micro-batches go through a chunk in groups before the stage turns to the next chunk. A group of
// fewer micro-batches than stages makes stage 0 wait for the last stage, so a remainder is spread
// over the groups instead of forming a small one.
struct Groups {
  int count = 1, smallest = 1, larger = 0;  // the first `larger` groups have one more
  int size(int group) const { return smallest + (group < larger ? 1 : 0); }
};

Groups micro_batch_groups(const Schedule& s) {
  const int count = std::max(1, s.micro_batches / s.stages);
  return {.count = count, .smallest = s.micro_batches / count, .larger = s.micro_batches % count};
}

struct Pass {
  int micro_batch, chunk;
};

// The order of the forward passes of every stage: group by group, chunk by chunk.
std::vector<Pass> pass_order(const Schedule& s) {
  std::vector<Pass> order;
  order.reserve(static_cast<std::size_t>(s.micro_batches) * static_cast<std::size_t>(s.chunks));
  const Groups groups = micro_batch_groups(s);
  int start = 0;
  for (int g = 0; g < groups.count; start += groups.size(g), ++g) {
    for (int chunk = 0; chunk < s.chunks; ++chunk) {
      for (int i = 0; i < groups.size(g); ++i) order.push_back({start + i, chunk});
    }
  }
  return order;
}

// Forward passes before the first backward pass.
int warm_up(const Schedule& s, int stage) {
  const int passes = s.micro_batches * s.chunks;
  const int behind = s.stages - 1 - stage;
  switch (s.kind) {
    case ScheduleKind::gpipe:
    case ScheduleKind::forward_only:
      return passes;
    case ScheduleKind::one_f_one_b:
    case ScheduleKind::zb_h1:
      return std::min(passes, behind);
    case ScheduleKind::interleaved:
      // The last stage runs (v-1)G passes before it meets the first one of its last chunk. Each
      // stage before needs two more: a pass takes one slot there and back.
      return s.chunks == 1
                 ? std::min(passes, behind)
                 : std::min(passes, 2 * behind + (s.chunks - 1) * micro_batch_groups(s).size(0));
  }
  fail("unknown schedule kind {}", static_cast<int>(s.kind));
}

// What the stage computes, in order; messages come later.
StageActions computations(const Schedule& s, int stage) {
  using enum ActionKind;
  StageActions out;
  const std::vector<Pass> order = pass_order(s);
  const int passes = static_cast<int>(order.size());
  const int before = warm_up(s, stage);
  const auto add = [&](ActionKind kind, Pass pass) {
    out.push_back({.kind = kind, .micro_batch = pass.micro_batch, .chunk = pass.chunk});
  };
  const auto backward_pass = [&](int k) {
    const Pass& mirror = order[static_cast<std::size_t>(k)];
    return Pass{mirror.micro_batch, s.chunks - 1 - mirror.chunk};
  };
  for (int k = 0; k < before; ++k) add(forward, order[static_cast<std::size_t>(k)]);
  if (s.kind == ScheduleKind::forward_only) return out;
  // ZB-H1 delays weight gradients by as many passes as there are stages before this one.
  const int lag = s.kind == ScheduleKind::zb_h1 ? stage : 0;
  for (int k = 0; k < passes; ++k) {
    if (before + k < passes) add(forward, order[static_cast<std::size_t>(before + k)]);
    const Pass pass = backward_pass(k);
    // Nobody waits for the input gradient of the first virtual stage; GPipe is the textbook's.
    if (s.kind == ScheduleKind::gpipe || (is_first(s, stage, pass.chunk) && lag == 0)) {
      add(backward, pass);
      continue;
    }
    add(backward_input, pass);
    if (k >= lag) add(backward_weight, backward_pass(k - lag));
  }
  for (int k = std::max(0, passes - lag); k < passes; ++k) add(backward_weight, backward_pass(k));
  return out;
}

bool needs_gradient(ActionKind kind) {
  return kind == ActionKind::backward || kind == ActionKind::backward_input;
}

// For every computation the receives to post before it. The receive for the n-th use of a channel
// is posted before use n - depth; the first ones as many passes before the first
// use (a pass is forward, backward_input or backward_weight).
using Posts = std::vector<std::vector<Action>>;
void post_receives(const Schedule& s, int stage, Channel channel, const StageActions& computed,
                   Posts& posts) {
  std::vector<std::size_t> uses;
  for (std::size_t k = 0; k < computed.size(); ++k) {
    const Action& a = computed[k];
    const bool used = channel == Channel::forward
                          ? a.kind == ActionKind::forward && !is_first(s, stage, a.chunk)
                          : needs_gradient(a.kind) && !is_last(s, stage, a.chunk);
    if (used) uses.push_back(k);
  }
  const auto depth = static_cast<std::size_t>(receive_bound(s, stage, channel) - 1);
  for (std::size_t n = 0; n < uses.size(); ++n) {
    const std::size_t at = n >= depth ? uses[n - depth] : uses[0] - std::min(3 * depth, uses[0]);
    const Action& a = computed[uses[n]];
    const bool forward = channel == Channel::forward;
    const ChunkOfStage from = forward ? previous(s, stage, a.chunk) : next(s, stage, a.chunk);
    posts[at].push_back(
        {.kind = forward ? ActionKind::receive_forward : ActionKind::receive_backward,
         .micro_batch = a.micro_batch,
         .chunk = a.chunk,
         .peer = from.stage});
  }
}

StageActions with_messages(const Schedule& s, int stage, const StageActions& computed) {
  if (s.stages == 1) return computed;
  Posts posts(computed.size());
  post_receives(s, stage, Channel::forward, computed, posts);
  post_receives(s, stage, Channel::backward, computed, posts);
  StageActions out;
  out.reserve(3 * computed.size());
  for (std::size_t k = 0; k < computed.size(); ++k) {
    const Action& a = computed[k];
    out.insert(out.end(), posts[k].begin(), posts[k].end());
    out.push_back(a);
    if (a.kind == ActionKind::forward && !is_last(s, stage, a.chunk)) {
      out.push_back(
          {ActionKind::send_forward, a.micro_batch, a.chunk, next(s, stage, a.chunk).stage});
    } else if (needs_gradient(a.kind) && !is_first(s, stage, a.chunk)) {
      out.push_back(
          {ActionKind::send_backward, a.micro_batch, a.chunk, previous(s, stage, a.chunk).stage});
    }
  }
  return out;
}

}  // namespace

std::string_view name_of(ScheduleKind kind) {
  return kKindNames.at(static_cast<std::size_t>(kind));
}

ScheduleKind schedule_kind(std::string_view name) {
  const auto found = std::find(kKindNames.begin(), kKindNames.end(), name);
  require(found != kKindNames.end(),
          "'{}' is not a pipeline schedule; there are gpipe, 1f1b, interleaved, zb-h1 and "
          "forward-only",
          name);
  return static_cast<ScheduleKind>(found - kKindNames.begin());
}

std::string_view name_of(ActionKind kind) {
  return kActionNames.at(static_cast<std::size_t>(kind));
}

std::string describe(const Action& action) {
  std::string out = fmt::format("{} of micro-batch {}, chunk {}", name_of(action.kind),
                                action.micro_batch, action.chunk);
  if (is_message(action.kind)) {
    const bool sends =
        action.kind == ActionKind::send_forward || action.kind == ActionKind::send_backward;
    out += fmt::format(", {} stage {}", sends ? "to" : "from", action.peer);
  }
  return out;
}

Schedule make_schedule(ScheduleKind kind, int stages, int chunks, int micro_batches) {
  const auto at_least_one = [&](const char* what, int value) {
    require(value >= 1, "a pipeline schedule of {} {}: expected 1 or more", value, what);
  };
  at_least_one("stages", stages);
  at_least_one("chunks", chunks);
  at_least_one("micro-batches", micro_batches);
  require(chunks == 1 || (kind != ScheduleKind::one_f_one_b && kind != ScheduleKind::zb_h1),
          "schedule {} has one chunk per stage, {} are asked for; use 1 chunk, or the schedule "
          "interleaved",
          name_of(kind), chunks);
  // In this order, because the product of all three may not fit.
  const std::int64_t per_chunk = static_cast<std::int64_t>(stages) * micro_batches;
  require(
      per_chunk <= kMaxPasses && chunks <= kMaxPasses / per_chunk,
      "a pipeline schedule of {} stages, {} chunks and {} micro-batches is too long; the product "
      "of the three can be {} at most",
      stages, chunks, micro_batches, kMaxPasses);
  Schedule s{.kind = kind,
             .stages = stages,
             .chunks = chunks,
             .micro_batches = micro_batches,
             .actions = {}};
  s.actions.reserve(static_cast<std::size_t>(stages));
  for (int stage = 0; stage < stages; ++stage) {
    s.actions.push_back(with_messages(s, stage, computations(s, stage)));
  }
  return s;
}

StageBuffers stage_buffers(const Schedule& schedule, int stage) {
  StageBuffers now, most;
  int forward_sends = 0, backward_sends = 0;
  const bool inference = schedule.kind == ScheduleKind::forward_only;
  const auto raise = [](int& held, int& peak) { peak = std::max(peak, ++held); };
  const auto receives = [&](int chunk, Channel channel) {
    if (schedule.stages == 1) return false;
    return channel == Channel::forward ? !is_first(schedule, stage, chunk)
                                       : !is_last(schedule, stage, chunk);
  };
  for (const Action& a : schedule.actions.at(static_cast<std::size_t>(stage))) {
    switch (a.kind) {
      case ActionKind::forward:
        raise(now.activations, most.activations);
        if (inference) --now.activations;
        if (receives(a.chunk, Channel::forward)) --now.receive_forward;
        break;
      case ActionKind::backward_input:
        raise(now.output_gradients, most.output_gradients);
        if (receives(a.chunk, Channel::backward)) --now.receive_backward;
        break;
      case ActionKind::backward:
        --now.activations;
        if (receives(a.chunk, Channel::backward)) --now.receive_backward;
        break;
      case ActionKind::backward_weight:
        --now.activations;
        --now.output_gradients;
        break;
      case ActionKind::receive_forward:
        raise(now.receive_forward, most.receive_forward);
        break;
      case ActionKind::receive_backward:
        raise(now.receive_backward, most.receive_backward);
        break;
      case ActionKind::send_forward:
        ++forward_sends;
        break;
      case ActionKind::send_backward:
        ++backward_sends;
        break;
    }
  }
  most.send_forward = std::min(forward_sends, kSendsInFlight + 1);
  most.send_backward = std::min(backward_sends, kSendsInFlight + 1);
  return most;
}

int activation_bound(const Schedule& schedule, int stage) {
  const int passes = schedule.micro_batches * schedule.chunks;
  switch (schedule.kind) {
    case ScheduleKind::forward_only:
      return 1;
    case ScheduleKind::gpipe:
      return passes;
    case ScheduleKind::zb_h1:
      return std::min(passes, schedule.stages);
    case ScheduleKind::one_f_one_b:
    case ScheduleKind::interleaved:
      return std::min(passes, warm_up(schedule, stage) + 1);
  }
  fail("unknown schedule kind {}", static_cast<int>(schedule.kind));
}

int receive_bound(const Schedule& schedule, int stage, Channel channel) {
  // Where chunks wrap around, a message comes p passes after the first pass of its group, and is
  // used when the group is through.
  const int end = channel == Channel::forward ? 0 : schedule.stages - 1;
  const bool wraps = schedule.chunks > 1 && stage == end;
  const int early = micro_batch_groups(schedule).size(0) - schedule.stages;
  // Weight gradients shift the slots of neighbours against each other, at most half a pass per
  // stage; a sender that meets no posted receive would hand that delay on. Found by simulation.
  const bool shifts = schedule.kind == ScheduleKind::interleaved && schedule.chunks > 1;
  return 2 + (wraps ? std::max(0, early) : 0) +
         (shifts ? std::max(0, (schedule.stages - 3) / 2) : 0);
}

}  // namespace neox
