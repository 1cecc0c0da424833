#include "core/parallel/schedule_simulator.h"

#include <algorithm>
#include <utility>

#include <fmt/core.h>

#include "core/base/error.h"

namespace neox {
namespace {

constexpr std::int64_t kUnknown = -1;

// The messages of one channel from one stage to the one neighbour it has there.
struct Link {
  std::vector<std::int64_t> sent, posted;  // times of the n-th send and receive
  // When message n has arrived; kUnknown while that isn't decided.
  std::int64_t arrival(std::size_t n, SendMode mode, std::int64_t duration) const {
    if (n >= sent.size()) return kUnknown;
    if (mode == SendMode::buffered) return sent[n] + duration;
    return n < posted.size() ? std::max(sent[n], posted[n]) + duration : kUnknown;
  }
};

struct StageState {
  std::size_t next = 0;  // action
  std::int64_t now = 0, busy = 0, ended = 0;
  // [micro_batch * chunks + chunk]: the number of the message, per channel.
  std::vector<int> receive_forward, receive_backward;
};

class Player {
 public:
  Player(const Schedule& schedule, const PassCosts& costs, SendMode mode)
      : s_(schedule), costs_(costs), mode_(mode) {
    const auto stages = static_cast<std::size_t>(s_.stages);
    const auto passes =
        static_cast<std::size_t>(s_.chunks) * static_cast<std::size_t>(s_.micro_batches);
    stages_.resize(stages);
    forward_.resize(stages);
    backward_.resize(stages);
    for (std::size_t r = 0; r < stages; ++r) {
      stages_[r].receive_forward.assign(passes, -1);
      stages_[r].receive_backward.assign(passes, -1);
      for (Link* link : {&forward_[r], &backward_[r]}) {
        link->sent.reserve(passes);
        link->posted.reserve(passes);
      }
    }
  }

  // False when some stage waits for ever.
  template <class OnSpan>
  bool play(const OnSpan& on_span) {
    std::vector<int> ready;
    for (int r = s_.stages - 1; r >= 0; --r) ready.push_back(r);
    while (!ready.empty()) {
      const int r = ready.back();
      ready.pop_back();
      const StageActions& actions = s_.actions[static_cast<std::size_t>(r)];
      StageState& state = stages_[static_cast<std::size_t>(r)];
      while (state.next < actions.size() && step(r, state, actions[state.next], on_span)) {
        // Whoever waits at the other end can go on.
        if (is_message(actions[state.next].kind)) ready.push_back(actions[state.next].peer);
        ++state.next;
      }
    }
    return std::all_of(stages_.begin(), stages_.end(), [&](const StageState& state) {
      return state.next == s_.actions[static_cast<std::size_t>(&state - stages_.data())].size();
    });
  }

  // Who waits for what, after play() returned false.
  std::string stuck() const {
    std::string out;
    for (int r = 0; r < s_.stages; ++r) {
      const StageState& state = stages_[static_cast<std::size_t>(r)];
      const StageActions& actions = s_.actions[static_cast<std::size_t>(r)];
      if (state.next == actions.size()) continue;
      const Action& a = actions[state.next];
      out += fmt::format(
          "{}stage {} waits {} action {} ({})", out.empty() ? "" : "; ", r,
          is_message(a.kind) ? "for an earlier send to be received, at" : "for a message, at",
          state.next, describe(a));
    }
    return out;
  }

  std::int64_t busy(int stage) const { return stages_[static_cast<std::size_t>(stage)].busy; }
  std::int64_t ended(int stage) const { return stages_[static_cast<std::size_t>(stage)].ended; }

 private:
  Link& link(Channel channel, int from) {
    return (channel == Channel::forward ? forward_ : backward_)[static_cast<std::size_t>(from)];
  }
  std::size_t pass(const Action& a) const {
    return static_cast<std::size_t>(a.micro_batch) * static_cast<std::size_t>(s_.chunks) +
           static_cast<std::size_t>(a.chunk);
  }

  std::int64_t cost(ActionKind kind) const {
    switch (kind) {
      case ActionKind::forward:
        return costs_.forward;
      case ActionKind::backward_input:
        return costs_.backward_input;
      case ActionKind::backward_weight:
        return costs_.backward_weight;
      default:
        return costs_.backward_input + costs_.backward_weight;
    }
  }

  // When what the computation needs from other stages is there.
  std::int64_t input_arrival(int stage, const StageState& state, const Action& a) {
    if (s_.stages == 1 || a.kind == ActionKind::backward_weight) return 0;
    const bool forward = a.kind == ActionKind::forward;
    if (forward ? is_first(s_, stage, a.chunk) : is_last(s_, stage, a.chunk)) return 0;
    const int number = (forward ? state.receive_forward : state.receive_backward)[pass(a)];
    if (number < 0) return kUnknown;
    const int from =
        (forward ? previous(s_, stage, a.chunk) : neox::next(s_, stage, a.chunk)).stage;
    return link(forward ? Channel::forward : Channel::backward, from)
        .arrival(static_cast<std::size_t>(number), mode_, costs_.message);
  }

  // Does the action; false when it must wait for another stage.
  template <class OnSpan>
  bool step(int stage, StageState& state, const Action& a, const OnSpan& on_span) {
    switch (a.kind) {
      case ActionKind::receive_forward:
      case ActionKind::receive_backward: {
        const bool forward = a.kind == ActionKind::receive_forward;
        Link& from = link(forward ? Channel::forward : Channel::backward, a.peer);
        (forward ? state.receive_forward : state.receive_backward)[pass(a)] =
            static_cast<int>(from.posted.size());
        from.posted.push_back(state.now);
        return true;
      }
      case ActionKind::send_forward:
      case ActionKind::send_backward: {
        Link& to =
            link(a.kind == ActionKind::send_forward ? Channel::forward : Channel::backward, stage);
        if (mode_ == SendMode::rendezvous && to.sent.size() >= kSendsInFlight) {
          const std::int64_t gone =
              to.arrival(to.sent.size() - kSendsInFlight, mode_, costs_.message);
          if (gone == kUnknown) return false;
          state.now = std::max(state.now, gone);
        }
        to.sent.push_back(state.now);
        return true;
      }
      default: {
        const std::int64_t arrival = input_arrival(stage, state, a);
        if (arrival == kUnknown) return false;
        const std::int64_t begin = std::max(state.now, arrival);
        state.now = begin + cost(a.kind);
        state.busy += cost(a.kind);
        state.ended = state.now;
        on_span(stage, Span{a, begin, state.now});
        return true;
      }
    }
  }

  const Schedule& s_;
  const PassCosts& costs_;
  SendMode mode_;
  std::vector<StageState> stages_;
  std::vector<Link> forward_, backward_;  // [sending stage]
};

}  // namespace

double Simulation::bubble_fraction(int stage) const {
  return makespan == 0 ? 0.0 : static_cast<double>(bubble(stage)) / static_cast<double>(makespan);
}

Simulation simulate(const Schedule& schedule, const PassCosts& costs, SendMode mode) {
  require(
      costs.forward >= 0 && costs.backward_input >= 0 && costs.backward_weight >= 0 &&
          costs.message >= 0,
      "costs of a pass: {} forward, {} backward input, {} backward weight, {} message; expected "
      "0 or more",
      costs.forward, costs.backward_input, costs.backward_weight, costs.message);
  Simulation out;
  out.timeline.resize(static_cast<std::size_t>(schedule.stages));
  Player player(schedule, costs, mode);
  const bool done = player.play([&](int stage, const Span& span) {
    out.timeline[static_cast<std::size_t>(stage)].push_back(span);
  });
  require(done, "the pipeline schedule never ends: {}", player.stuck());
  for (int stage = 0; stage < schedule.stages; ++stage) {
    out.busy.push_back(player.busy(stage));
    out.makespan = std::max(out.makespan, player.ended(stage));
  }
  return out;
}

std::string find_deadlock(const Schedule& schedule, SendMode mode) {
  const PassCosts costs;
  Player player(schedule, costs, mode);
  return player.play([](int, const Span&) {}) ? "" : player.stuck();
}

std::optional<std::int64_t> bubble_formula(const Schedule& schedule, const PassCosts& costs) {
  const std::int64_t p = schedule.stages, v = schedule.chunks, m = schedule.micro_batches;
  const auto [f, b, w, message] = costs;
  if (message != 0) return std::nullopt;
  // Passes for which the stages wait when a group of micro-batches doesn't fill the pipeline.
  const std::int64_t missing = (v - 1) * std::max<std::int64_t>(0, p - m);
  switch (schedule.kind) {
    case ScheduleKind::gpipe:
      return (p - 1 + missing) * (f + b + w);
    case ScheduleKind::forward_only:
      return (p - 1 + missing) * f;
    case ScheduleKind::one_f_one_b:
      return (p - 1) * (f + b);
    case ScheduleKind::interleaved: {
      if (v == 1) return (p - 1) * (f + b);
      if (w > f || (m < p && w > b)) return std::nullopt;
      const std::int64_t filled = m < p ? (v - 1) * std::min(m * w, (p - m) * b) : 0;
      return (p - 1 + missing) * (f + b) - filled;
    }
    case ScheduleKind::zb_h1:
      if (w > f || w > b) return std::nullopt;
      return (p - 1) * (f + b) - (std::min(p, m) - 1) * w;
  }
  fail("unknown schedule kind {}", static_cast<int>(schedule.kind));
}

std::string describe_bubble_formula(const Schedule& schedule, const PassCosts& costs) {
  const auto value = bubble_formula(schedule, costs);
  if (!value) {
    return costs.message != 0 ? "no formula with a cost of messages"
                              : "no formula when W is larger than F or B";
  }
  const bool few = schedule.chunks > 1 && schedule.micro_batches < schedule.stages;
  const char* text = "";
  switch (schedule.kind) {
    case ScheduleKind::gpipe:
      text = few ? "(p-1 + (v-1)(p-m))(F+B+W)" : "(p-1)(F+B+W)";
      break;
    case ScheduleKind::forward_only:
      text = few ? "(p-1 + (v-1)(p-m)) F" : "(p-1) F";
      break;
    case ScheduleKind::one_f_one_b:
      text = "(p-1)(F+B)";
      break;
    case ScheduleKind::interleaved:
      text = few ? "(p-1 + (v-1)(p-m))(F+B) - (v-1) min(mW, (p-m)B)" : "(p-1)(F+B)";
      break;
    case ScheduleKind::zb_h1:
      text = schedule.micro_batches < schedule.stages ? "(p-1)(F+B) - (m-1)W" : "(p-1)(F+B-W)";
      break;
  }
  return fmt::format("{} = {}", text, *value);
}

}  // namespace neox
