#pragma once
// Pipeline schedules as data: what every stage does in one step, in order. Pure functions; no
// communication and no tensors here. The executor interprets the lists; schedule_check.h proves
// them, schedule_simulator.h times them, schedule_drawing.h draws them.
//
// The model is cut into stages * chunks virtual stages, in the order of its layers; virtual stage
// chunk * stages + stage is chunk `chunk` of stage `stage`. So the output of the last stage's
// chunk c goes to stage 0, chunk c + 1.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

enum class ScheduleKind : std::uint8_t { gpipe, one_f_one_b, interleaved, zb_h1, forward_only };

/// "gpipe", "1f1b", "interleaved", "zb-h1", "forward-only".
std::string_view name_of(ScheduleKind kind);
/// The inverse of name_of. Throws Error with the names there are.
ScheduleKind schedule_kind(std::string_view name);

/// What a stage does with one micro-batch and one of its chunks.
///
/// Computations run one at a time in list order.
///  - forward needs the micro-batch (virtual stage 0) or the received activation.
///  - backward_input: gradient of the chunk's input; needs the received gradient (or the loss, on
///    the last virtual stage). backward_weight: gradients of the chunk's weights, later. backward:
///    both at once.
/// Messages are asynchronous: the action starts one and goes on.
///  - receive_*: posts a receive into a free buffer. The forward, backward or backward_input with
///    the same micro-batch and chunk waits for it. At most receive_bound() messages of a channel
///    are posted whose computation has not ended; receives are posted well before.
///  - send_*: sends what the computation just before with the same micro-batch and chunk made
///    (forward: its output; backward, backward_input: the gradient of its input). At most
///    kSendsInFlight earlier sends of the channel may be under way: the action first waits for
///    older ones. After the last action the stage waits for all of its sends.
/// Forward and backward messages are two channels; between two stages the messages of a channel
/// match in the order in which they are posted. With one stage there are no messages: the executor
/// hands the tensor from chunk to chunk itself.
enum class ActionKind : std::uint8_t {
  forward,
  backward,
  backward_input,
  backward_weight,
  send_forward,
  receive_forward,
  send_backward,
  receive_backward
};
std::string_view name_of(ActionKind kind);
constexpr bool is_message(ActionKind kind) {
  return kind >= ActionKind::send_forward;
}

/// Outputs that a stage needs room for, per channel: the one being sent and the one just computed.
inline constexpr int kSendsInFlight = 1;

struct Action {
  ActionKind kind = ActionKind::forward;
  int micro_batch = 0;
  int chunk = 0;  // the acting stage's own chunk, also for messages
  int peer = -1;  // the stage at the other end of a message; -1 for computations
  bool operator==(const Action&) const = default;
};
/// For messages to people: "receive_forward of micro-batch 3, chunk 0, from stage 1".
std::string describe(const Action& action);

using StageActions = std::vector<Action>;

struct Schedule {
  ScheduleKind kind = ScheduleKind::one_f_one_b;
  int stages = 1, chunks = 1, micro_batches = 1;
  std::vector<StageActions> actions;  // [stages]
};

/// Most forward passes of one schedule, stages * chunks * micro_batches.
inline constexpr std::int64_t kMaxPasses = 1 << 21;

/// The schedule of one step of `micro_batches` micro-batches. Gradients of every weight are added
/// in the order of the micro-batches, in every kind; also those of the output layer, which belong
/// to the forward of the last virtual stage.
///  - gpipe: all forwards, then all backwards, chunk after chunk.
///  - one_f_one_b: chunks must be 1. Input gradients are sent before weight gradients.
///  - interleaved: 1F1B over virtual stages; with one chunk it is one_f_one_b.
///  - zb_h1: chunks must be 1. Weight gradients fill the bubble of the backward pass.
///  - forward_only: evaluation.
/// Any number of micro-batches works, also fewer than stages (with more bubble). Throws Error when
/// a number is below 1 or the kind cannot have that many chunks.
Schedule make_schedule(ScheduleKind kind, int stages, int chunks, int micro_batches);

constexpr int virtual_stages(const Schedule& s) {
  return s.stages * s.chunks;
}
constexpr int virtual_stage(const Schedule& s, int stage, int chunk) {
  return chunk * s.stages + stage;
}
/// Whether the chunk holds the embedding.
constexpr bool is_first(const Schedule& s, int stage, int chunk) {
  return virtual_stage(s, stage, chunk) == 0;
}
/// Whether the chunk holds the output layer and the loss.
constexpr bool is_last(const Schedule& s, int stage, int chunk) {
  return virtual_stage(s, stage, chunk) == virtual_stages(s) - 1;
}

/// What a stage must have room for at once, in units of one micro-batch and one chunk.
struct StageBuffers {
  int activations = 0;       // forwards whose backward (or backward_weight) has not ended
  int output_gradients = 0;  // backward_input done, backward_weight not: gradients kept for it
  int receive_forward = 0;   // posted and not used by the end of their computation
  int receive_backward = 0;
  int send_forward = 0;  // outputs waiting or under way
  int send_backward = 0;
};
/// Counted from the list of actions; forward_only holds an activation only while it computes.
StageBuffers stage_buffers(const Schedule& schedule, int stage);

/// The documented bound of StageBuffers::activations, with p stages, m micro-batches, v chunks:
/// gpipe mv; one_f_one_b min(m, p - stage); zb_h1 min(m, p); forward_only 1; interleaved
/// min(mv, 2(p - 1 - stage) + (v - 1)G + 1), where G is the size of the groups of micro-batches
/// that go through a chunk together: p when p divides m, else less than 2p; m when m < p.
int activation_bound(const Schedule& schedule, int stage);

enum class Channel : std::uint8_t { forward, backward };
/// The documented bound of StageBuffers::receive_forward and receive_backward: 2; more where
/// otherwise a sender would wait for a receive: G - p more where the chunks wrap around (forward:
/// on stage 0; backward: on the last stage), (p - 3) / 2 more with interleaved chunks. With that
/// many, sends that wait for their receive make no schedule slower than buffered ones, as long as a
/// weight gradient takes no longer than an input gradient.
int receive_bound(const Schedule& schedule, int stage, Channel channel);

/// Where a virtual stage lies.
struct ChunkOfStage {
  int stage = 0, chunk = 0;
  bool operator==(const ChunkOfStage&) const = default;
};
/// The virtual stage before; not for is_first().
constexpr ChunkOfStage previous(const Schedule& s, int stage, int chunk) {
  return stage > 0 ? ChunkOfStage{stage - 1, chunk} : ChunkOfStage{s.stages - 1, chunk - 1};
}
/// The virtual stage after; not for is_last().
constexpr ChunkOfStage next(const Schedule& s, int stage, int chunk) {
  return stage + 1 < s.stages ? ChunkOfStage{stage + 1, chunk} : ChunkOfStage{0, chunk + 1};
}

}  // namespace neox
