#include "toy_pipeline.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <stdexcept>
#include <utility>

#include <fmt/core.h>

namespace neox {
namespace {

std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  std::uint64_t x = a * 0x9E3779B97F4A7C15ull + b + 0x7F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  return x ^ (x >> 27);
}

std::uint64_t sample(int micro_batch) {
  return mix(1, static_cast<std::uint64_t>(micro_batch));
}
std::uint64_t layer_forward(int layer, std::uint64_t x) {
  return mix(x, 100 + static_cast<std::uint64_t>(layer));
}
std::uint64_t loss_gradient(std::uint64_t y) {
  return mix(y, 7);
}
std::uint64_t layer_backward(int layer, std::uint64_t x, std::uint64_t dy) {
  return mix(mix(x, dy), 200 + static_cast<std::uint64_t>(layer));
}
std::uint64_t add_gradient(std::uint64_t gradient, std::uint64_t x, std::uint64_t dy) {
  return mix(gradient, mix(x, dy));
}

using Pass = std::pair<int, int>;  // micro-batch, chunk

struct Receive {
  Pass pass;
  std::optional<std::uint64_t> value;
};
struct Wire {
  std::deque<std::uint64_t> sent;  // not received yet
  std::deque<Receive*> posted;     // without a message yet
};
struct Stage {
  std::size_t next = 0;
  std::set<Pass> forwards;
  std::map<Pass, std::uint64_t> inputs, output_gradients, last_outputs;
  std::map<Pass, Receive> receives[2];
  std::optional<std::pair<Pass, std::uint64_t>> output[2];  // computed, to be sent
};

class Pipeline {
 public:
  Pipeline(const Schedule& s, bool waiting_sends)
      : s_(s), waiting_(waiting_sends), stages_(static_cast<std::size_t>(s.stages)) {
    result_.gradients.assign(static_cast<std::size_t>(virtual_stages(s)), 0);
    result_.losses.assign(static_cast<std::size_t>(s.micro_batches), 0);
  }

  ToyResult run() {
    try {
      bool moved = true;
      while (moved) {
        moved = false;
        for (int r = 0; r < s_.stages; ++r) {
          const StageActions& list = s_.actions[static_cast<std::size_t>(r)];
          Stage& stage = stages_[static_cast<std::size_t>(r)];
          while (stage.next < list.size() && act(r, stage, list[stage.next])) {
            ++stage.next;
            moved = true;
          }
        }
      }
      for (int r = 0; r < s_.stages; ++r) finish(r);
    } catch (const std::runtime_error& error) {
      result_.problem = error.what();
    }
    return result_;
  }

 private:
  static void must(bool ok, const char* what) {
    if (!ok) throw std::runtime_error(what);
  }
  Wire& wire(int channel, int from, int to) { return wires_[{channel, from * s_.stages + to}]; }

  // The value of a message, or nothing when it isn't there yet.
  std::optional<std::uint64_t> take(Stage& stage, int channel, Pass pass) {
    auto& receives = stage.receives[channel];
    const auto found = receives.find(pass);
    must(found != receives.end(), "no receive was posted");
    if (!found->second.value) return std::nullopt;
    const std::uint64_t value = *found->second.value;
    receives.erase(found);
    return value;
  }

  void put_output(Stage& stage, int channel, Pass pass, std::uint64_t value) {
    must(!stage.output[channel], "the output buffer is still in use");
    stage.output[channel] = std::pair{pass, value};
  }

  bool act(int r, Stage& stage, const Action& a) {
    must(a.micro_batch >= 0 && a.micro_batch < s_.micro_batches && a.chunk >= 0 &&
             a.chunk < s_.chunks,
         "no such pass");
    switch (a.kind) {
      case ActionKind::forward:
        return forward(r, stage, {a.micro_batch, a.chunk});
      case ActionKind::backward:
        return backward_input(r, stage, {a.micro_batch, a.chunk}) &&
               backward_weight(r, stage, {a.micro_batch, a.chunk});
      case ActionKind::backward_input:
        return backward_input(r, stage, {a.micro_batch, a.chunk});
      case ActionKind::backward_weight:
        return backward_weight(r, stage, {a.micro_batch, a.chunk});
      case ActionKind::send_forward:
      case ActionKind::send_backward:
        return send(r, stage, a, a.kind == ActionKind::send_forward ? 0 : 1);
      default:
        return receive(r, stage, a, a.kind == ActionKind::receive_forward ? 0 : 1);
    }
  }

  bool forward(int r, Stage& stage, Pass pass) {
    const int layer = virtual_stage(s_, r, pass.second), last = virtual_stages(s_) - 1;
    std::uint64_t x = sample(pass.first);
    if (layer > 0 && s_.stages > 1) {
      const auto message = take(stage, 0, pass);
      if (!message) return false;
      x = *message;
    } else if (layer > 0) {
      const auto handed = stage.last_outputs.find({pass.first, pass.second - 1});
      must(handed != stage.last_outputs.end(), "the chunk before has not run");
      x = handed->second;
      stage.last_outputs.erase(handed);
    }
    const std::uint64_t y = layer_forward(layer, x);
    must(stage.forwards.insert(pass).second, "a second forward");
    stage.inputs.emplace(pass, x);
    must(static_cast<int>(stage.inputs.size()) <= activation_bound(s_, r), "too many activations");
    if (s_.kind == ScheduleKind::forward_only) stage.inputs.erase(pass);
    if (layer == last) {
      auto& loss = result_.losses[static_cast<std::size_t>(pass.first)];
      must(loss == 0, "a second loss");
      loss = y;
      result_.head_gradient = mix(result_.head_gradient, y);
    } else if (s_.stages == 1) {
      stage.last_outputs[pass] = y;
    } else {
      put_output(stage, 0, pass, y);
    }
    return true;
  }

  bool backward_input(int r, Stage& stage, Pass pass) {
    const int layer = virtual_stage(s_, r, pass.second), last = virtual_stages(s_) - 1;
    must(stage.inputs.count(pass) != 0, "backward without forward");
    std::uint64_t dy = loss_gradient(result_.losses[static_cast<std::size_t>(pass.first)]);
    if (layer < last && s_.stages > 1) {
      const auto message = take(stage, 1, pass);
      if (!message) return false;
      dy = *message;
    } else if (layer < last) {
      const auto handed = input_gradients_.find({pass.first, pass.second + 1});
      must(handed != input_gradients_.end(), "the chunk after has not run");
      dy = handed->second;
    }
    const std::uint64_t dx = layer_backward(layer, stage.inputs[pass], dy);
    must(stage.output_gradients.emplace(pass, dy).second, "a second backward_input");
    if (layer > 0 && s_.stages > 1) put_output(stage, 1, pass, dx);
    if (s_.stages == 1) input_gradients_[pass] = dx;
    return true;
  }

  bool backward_weight(int r, Stage& stage, Pass pass) {
    const auto dy = stage.output_gradients.find(pass);
    must(dy != stage.output_gradients.end(), "backward_weight without backward_input");
    auto& gradient = result_.gradients[static_cast<std::size_t>(virtual_stage(s_, r, pass.second))];
    gradient = add_gradient(gradient, stage.inputs.at(pass), dy->second);
    stage.output_gradients.erase(dy);
    stage.inputs.erase(pass);
    return true;
  }

  bool send(int r, Stage& stage, const Action& a, int channel) {
    auto& output = stage.output[channel];
    must(output && output->first == Pass{a.micro_batch, a.chunk}, "this is not the last output");
    must(a.peer >= 0 && a.peer < s_.stages, "no such peer");
    if (waiting_) {
      for (const auto& [key, other] : wires_) {
        if (key.first == channel && key.second / s_.stages == r &&
            other.sent.size() >= kSendsInFlight) {
          return false;
        }
      }
    }
    Wire& to = wire(channel, r, a.peer);
    to.sent.push_back(output->second);
    output.reset();
    deliver(to);
    return true;
  }

  bool receive(int r, Stage& stage, const Action& a, int channel) {
    must(a.peer >= 0 && a.peer < s_.stages, "no such peer");
    const Pass pass{a.micro_batch, a.chunk};
    auto [entry, fresh] = stage.receives[channel].emplace(pass, Receive{pass, {}});
    must(fresh, "a second receive");
    const Channel name = channel == 0 ? Channel::forward : Channel::backward;
    must(static_cast<int>(stage.receives[channel].size()) <= receive_bound(s_, r, name),
         "too many receives");
    Wire& from = wire(channel, a.peer, r);
    from.posted.push_back(&entry->second);
    deliver(from);
    return true;
  }

  static void deliver(Wire& wire) {
    while (!wire.sent.empty() && !wire.posted.empty()) {
      wire.posted.front()->value = wire.sent.front();
      wire.sent.pop_front();
      wire.posted.pop_front();
    }
  }

  void finish(int r) {
    const Stage& stage = stages_[static_cast<std::size_t>(r)];
    must(stage.next == s_.actions[static_cast<std::size_t>(r)].size(), "deadlock");
    must(stage.inputs.empty() && stage.output_gradients.empty(), "something is left undone");
    for (int channel = 0; channel < 2; ++channel) {
      must(stage.receives[channel].empty() && !stage.output[channel], "a message is left");
    }
    for (const auto& [key, wire] : wires_) {
      must(wire.sent.empty() && wire.posted.empty(), "a message is left under way");
    }
  }

  const Schedule& s_;
  const bool waiting_;
  std::vector<Stage> stages_;
  std::map<std::pair<int, int>, Wire> wires_;      // (channel, from * stages + to)
  std::map<Pass, std::uint64_t> input_gradients_;  // one stage only
  ToyResult result_;
};

}  // namespace

ToyResult run_toy_pipeline(const Schedule& schedule, bool waiting_sends) {
  return Pipeline(schedule, waiting_sends).run();
}

ToyResult run_toy_model(int layers, int micro_batches, bool with_backward) {
  ToyResult out;
  out.gradients.assign(static_cast<std::size_t>(layers), 0);
  for (int micro_batch = 0; micro_batch < micro_batches; ++micro_batch) {
    std::vector<std::uint64_t> inputs;
    std::uint64_t x = sample(micro_batch);
    for (int layer = 0; layer < layers; ++layer) {
      inputs.push_back(x);
      x = layer_forward(layer, x);
    }
    out.losses.push_back(x);
    out.head_gradient = mix(out.head_gradient, x);
    if (!with_backward) continue;
    std::uint64_t dy = loss_gradient(x);
    for (int layer = layers - 1; layer >= 0; --layer) {
      const auto i = static_cast<std::size_t>(layer);
      out.gradients[i] = add_gradient(out.gradients[i], inputs[i], dy);
      dy = layer_backward(layer, inputs[i], dy);
    }
  }
  return out;
}

}  // namespace neox
