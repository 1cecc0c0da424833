#include "core/parallel/schedule_check.h"

#include <array>
#include <utility>

#include <fmt/core.h>

#include "core/parallel/schedule_simulator.h"

namespace neox {
namespace {

using Problems = std::vector<std::string>;

constexpr std::size_t index(ActionKind kind) {
  return static_cast<std::size_t>(kind);
}
constexpr std::size_t kActionKinds = index(ActionKind::receive_backward) + 1;

// Walks through the actions of one stage.
class StageCheck {
 public:
  StageCheck(const Schedule& s, int stage, Problems& problems)
      : s_(s), stage_(stage), problems_(problems), next_backward_(chunks(), 0) {
    const std::size_t passes = chunks() * static_cast<std::size_t>(s.micro_batches);
    for (auto& done : done_) done.assign(passes, false);
    next_loss_ = next_weight_ = next_backward_;
  }

  void run() {
    const StageActions& actions = s_.actions[static_cast<std::size_t>(stage_)];
    for (at_ = 0; at_ < actions.size(); ++at_) {
      const Action& a = actions[at_];
      if (!sensible(a)) continue;
      if (done(a.kind, a)) complain(a, "comes a second time");
      check(a);
      done_[index(a.kind)][pass(a)] = true;
    }
    check_complete();
    if (problems_.empty()) check_bounds();
  }

 private:
  std::size_t chunks() const { return static_cast<std::size_t>(s_.chunks); }
  std::size_t pass(const Action& a) const {
    return static_cast<std::size_t>(a.micro_batch) * chunks() + static_cast<std::size_t>(a.chunk);
  }
  bool done(ActionKind kind, const Action& a) const { return done_[index(kind)][pass(a)]; }
  bool took_forward_message(const Action& a) const {
    return s_.stages > 1 && !is_first(s_, stage_, a.chunk);
  }
  bool took_backward_message(const Action& a) const {
    return s_.stages > 1 && !is_last(s_, stage_, a.chunk);
  }
  static Action neighbour(Action a, int chunks) {
    a.chunk += chunks;
    return a;
  }
  bool did_backward(const Action& a) const {
    return done(ActionKind::backward, a) || done(ActionKind::backward_input, a);
  }
  bool inference() const { return s_.kind == ScheduleKind::forward_only; }

  void complain(const Action& a, std::string_view what) {
    problems_.push_back(fmt::format("stage {}, action {}: {} {}", stage_, at_, describe(a), what));
  }
  void needs(bool ok, const Action& a, std::string_view what) {
    if (!ok) complain(a, what);
  }

  bool sensible(const Action& a) {
    if (index(a.kind) >= kActionKinds || a.micro_batch < 0 || a.micro_batch >= s_.micro_batches ||
        a.chunk < 0 || a.chunk >= s_.chunks) {
      problems_.push_back(
          fmt::format("stage {}, action {}: kind {}, micro-batch {}, chunk {} is "
                      "not in the schedule",
                      stage_, at_, index(a.kind), a.micro_batch, a.chunk));
      return false;
    }
    return true;
  }

  void check(const Action& a) {
    if (!is_message(a.kind)) needs(a.peer == -1, a, "is no message and has a peer");
    switch (a.kind) {
      case ActionKind::forward:
        needs(!took_forward_message(a) || done(ActionKind::receive_forward, a), a,
              "comes before its receive is posted");
        // On a single stage the chunks hand tensors to each other without messages.
        needs(s_.stages > 1 || a.chunk == 0 || done(ActionKind::forward, neighbour(a, -1)), a,
              "comes before the chunk before it");
        // The output layer's gradient is computed together with the loss.
        if (is_last(s_, stage_, a.chunk)) in_order(a, next_loss_);
        computes_output(a, Channel::forward, took_backward_message(a));
        break;
      case ActionKind::backward:
      case ActionKind::backward_input:
        check_backward(a);
        computes_output(a, Channel::backward, took_forward_message(a));
        break;
      case ActionKind::backward_weight:
        needs(done(ActionKind::backward_input, a), a, "comes before backward_input");
        in_order(a, next_weight_);
        break;
      case ActionKind::receive_forward:
        check_receive(a, took_forward_message(a), previous(s_, stage_, a.chunk).stage,
                      ActionKind::forward);
        break;
      case ActionKind::receive_backward:
        check_receive(a, took_backward_message(a), next(s_, stage_, a.chunk).stage,
                      ActionKind::backward_input);
        needs(!done(ActionKind::backward, a), a, "comes after its use");
        break;
      case ActionKind::send_forward:
        check_send(a, took_backward_message(a), next(s_, stage_, a.chunk).stage, Channel::forward);
        break;
      case ActionKind::send_backward:
        check_send(a, took_forward_message(a), previous(s_, stage_, a.chunk).stage,
                   Channel::backward);
        break;
    }
  }

  void check_backward(const Action& a) {
    needs(!inference(), a, "is in a schedule for evaluation");
    needs(done(ActionKind::forward, a), a, "comes before forward");
    needs(!took_backward_message(a) || done(ActionKind::receive_backward, a), a,
          "comes before its receive is posted");
    const ActionKind other =
        a.kind == ActionKind::backward ? ActionKind::backward_input : ActionKind::backward;
    needs(!done(other, a), a, "comes a second time");
    needs(s_.stages > 1 || a.chunk + 1 == s_.chunks || did_backward(neighbour(a, 1)), a,
          "comes before the chunk after it");
    in_order(a, next_backward_);
    if (a.kind == ActionKind::backward) in_order(a, next_weight_);
  }

  // Gradients of a weight are added in the order of the micro-batches.
  void in_order(const Action& a, std::vector<int>& expected) {
    int& micro_batch = expected[static_cast<std::size_t>(a.chunk)];
    needs(a.micro_batch == micro_batch, a,
          fmt::format("is out of order: micro-batch {} comes next", micro_batch));
    micro_batch = a.micro_batch + 1;
  }

  // An output that is to be sent lies in the buffer that the next output of the channel needs.
  void computes_output(const Action& a, Channel channel, bool is_sent) {
    if (!is_sent) return;
    int& waiting = unsent_[static_cast<std::size_t>(channel)];
    needs(waiting == -1, a, "computes the next output before the last one is sent");
    waiting = static_cast<int>(pass(a));
  }

  void check_send(const Action& a, bool has_neighbour, int peer, Channel channel) {
    needs(has_neighbour, a, "has no receiver");
    needs(!has_neighbour || a.peer == peer, a, fmt::format("should go to stage {}", peer));
    int& waiting = unsent_[static_cast<std::size_t>(channel)];
    needs(waiting == static_cast<int>(pass(a)), a, "is not what was computed last");
    waiting = -1;
  }

  void check_receive(const Action& a, bool has_neighbour, int peer, ActionKind use) {
    needs(has_neighbour, a, "has no sender");
    needs(!has_neighbour || a.peer == peer, a, fmt::format("should come from stage {}", peer));
    needs(!done(use, a), a, "comes after its use");
  }

  void check_complete() {
    for (int micro_batch = 0; micro_batch < s_.micro_batches; ++micro_batch) {
      for (int chunk = 0; chunk < s_.chunks; ++chunk) {
        const Action a{.micro_batch = micro_batch, .chunk = chunk};
        const auto expect = [&](ActionKind kind) {
          if (done(kind, a)) return;
          problems_.push_back(fmt::format("stage {}: {} of micro-batch {}, chunk {} is missing",
                                          stage_, name_of(kind), micro_batch, chunk));
        };
        expect(ActionKind::forward);
        if (took_forward_message(a)) expect(ActionKind::receive_forward);
        if (took_backward_message(a)) expect(ActionKind::send_forward);
        if (inference()) continue;
        if (!done(ActionKind::backward, a)) {
          expect(ActionKind::backward_input);
          expect(ActionKind::backward_weight);
        }
        if (took_backward_message(a)) expect(ActionKind::receive_backward);
        if (took_forward_message(a)) expect(ActionKind::send_backward);
      }
    }
  }

  void check_bounds() {
    const StageBuffers used = stage_buffers(s_, stage_);
    const auto within = [&](const char* what, int found, int bound) {
      if (found <= bound) return;
      problems_.push_back(fmt::format("stage {} holds {} {} at once; the bound of {} is {}", stage_,
                                      found, what, name_of(s_.kind), bound));
    };
    within("activations", used.activations, activation_bound(s_, stage_));
    within("receives of forward messages", used.receive_forward,
           receive_bound(s_, stage_, Channel::forward));
    within("receives of backward messages", used.receive_backward,
           receive_bound(s_, stage_, Channel::backward));
  }

  const Schedule& s_;
  const int stage_;
  Problems& problems_;
  std::size_t at_ = 0;
  std::array<std::vector<bool>, kActionKinds> done_;  // [kind][micro_batch * chunks + chunk]
  std::vector<int> next_backward_, next_weight_, next_loss_;  // [chunk]
  std::array<int, 2> unsent_ = {-1, -1};                      // [channel] pass
};

// The messages of one kind on a stage, as the receiver names them.
std::vector<ChunkOfStage> messages(const Schedule& s, int stage, ActionKind kind) {
  std::vector<ChunkOfStage> out;  // stage: here the micro-batch
  out.reserve(static_cast<std::size_t>(s.chunks) * static_cast<std::size_t>(s.micro_batches));
  for (const Action& a : s.actions[static_cast<std::size_t>(stage)]) {
    if (a.kind != kind) continue;
    const int chunk = kind == ActionKind::send_forward    ? next(s, stage, a.chunk).chunk
                      : kind == ActionKind::send_backward ? previous(s, stage, a.chunk).chunk
                                                          : a.chunk;
    out.push_back({a.micro_batch, chunk});
  }
  return out;
}

void check_matching(const Schedule& s, int from, ActionKind send, int to, ActionKind receive,
                    Problems& problems) {
  const auto sent = messages(s, from, send), received = messages(s, to, receive);
  for (std::size_t n = 0; n < sent.size() && n < received.size(); ++n) {
    if (sent[n] == received[n]) continue;
    problems.push_back(fmt::format(
        "message {} from stage {} to stage {}: {} is of micro-batch {} for chunk {}, {} expects "
        "micro-batch {} for chunk {}",
        n, from, to, name_of(send), sent[n].stage, sent[n].chunk, name_of(receive),
        received[n].stage, received[n].chunk));
    return;  // everything after it is shifted as well
  }
  if (sent.size() != received.size()) {
    problems.push_back(fmt::format("stage {} sends {} {} messages to stage {}, which receives {}",
                                   from, sent.size(), name_of(send), to, received.size()));
  }
}

}  // namespace

Problems validate(const Schedule& s) {
  Problems problems;
  if (s.stages < 1 || s.chunks < 1 || s.micro_batches < 1 ||
      s.actions.size() != static_cast<std::size_t>(s.stages)) {
    return {
        fmt::format("a schedule of {} stages, {} chunks and {} micro-batches has {} lists of "
                    "actions",
                    s.stages, s.chunks, s.micro_batches, s.actions.size())};
  }
  for (int stage = 0; stage < s.stages; ++stage) {
    Problems of_stage;
    StageCheck(s, stage, of_stage).run();
    problems.insert(problems.end(), of_stage.begin(), of_stage.end());
  }
  if (!problems.empty() || s.stages == 1) return problems;
  for (int stage = 0; stage < s.stages; ++stage) {
    const int after = (stage + 1) % s.stages;
    check_matching(s, stage, ActionKind::send_forward, after, ActionKind::receive_forward,
                   problems);
    check_matching(s, after, ActionKind::send_backward, stage, ActionKind::receive_backward,
                   problems);
  }
  if (!problems.empty()) return problems;
  for (const auto& [mode, name] : {std::pair{SendMode::buffered, "buffered sends"},
                                   std::pair{SendMode::rendezvous, "sends that wait"}}) {
    const std::string stuck = find_deadlock(s, mode);
    if (!stuck.empty()) problems.push_back(fmt::format("deadlock with {}: {}", name, stuck));
  }
  return problems;
}

}  // namespace neox
