#pragma once
// Runs a step's micro-batches through this rank's part of the model, as a pipeline schedule says:
// inputs to the device, arenas measured and allocated once, messages between stages, losses back.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/model/transformer.h"
#include "core/parallel/message_buffers.h"
#include "core/parallel/pass_pool.h"
#include "core/parallel/phase_clock.h"
#include "core/parallel/schedule.h"
#include "io/data/batch_loader.h"

namespace neox {

/// This rank's place in the pipeline. The channels are groups of the stages in order, one for each
/// direction; null with one stage.
struct PipelinePlace {
  int stage = 0;
  int stages = 1;
  Communicator* forward = nullptr;
  Communicator* backward = nullptr;
};

struct RunnerOptions {
  std::int64_t micro_batch = 1;  ///< sequences in one pass
  std::int64_t seq_length = 0;
  std::int64_t micro_batches = 1;  ///< most in one step or evaluation
  ScheduleKind schedule = ScheduleKind::one_f_one_b;
  Recompute recompute = Recompute::none;
  int recompute_layers = -1;  ///< of each chunk; -1: all
  std::int64_t loss_chunk = 1024;
  std::uint64_t dropout_seed = 0;
  GraphMode graphs = GraphMode::off;  ///< of a model without tensor parallelism
  /// Micro-batches come with MicroBatch::documents, and attention does not see across them /
  /// positions count from the begin of each.
  bool mask_documents = false, reset_positions = false;
};

/// Bytes of a runner's memory by what they are for.
struct RunnerMemory {
  std::size_t activations = 0, recompute = 0, scratch = 0, messages = 0, inputs = 0;
  std::size_t host_copies = 0;  ///< of inputs and losses, in host memory
};

class StepRunner {
 public:
  /// `model` must be committed in training mode. Measures the arenas with the dry-run backend and
  /// `measuring` (a dry-run twin of `tensor`), then allocates everything: from here on a step
  /// allocates nothing. Throws Error on sizes that don't divide. With a model committed as a dry
  /// run nothing is allocated at all, and contents of micro-batches are not looked at.
  StepRunner(Transformer& model, const Backend& ops, Stream& stream, const PipelinePlace& place,
             const TensorParallel& tensor, const TensorParallel& measuring,
             const RunnerOptions& options);

  /// Forward and backward of a step. The gradient is that of sum(mask * loss) * gradient_scale.
  /// Returns sum(mask * loss), on the last stage; 0 elsewhere.
  double train(std::span<const MicroBatch> batches, double gradient_scale, std::int64_t step,
               BlockObserver& observer);
  /// sum(mask * loss), no dropout, no gradients; on the last stage.
  double evaluate(std::span<const MicroBatch> batches, BlockObserver& observer);

  /// Is told from the next step on what the stream does; null: nobody is.
  void set_clock(PhaseClock* clock) { clock_ = clock; }
  /// Calls of blocks that are recorded and launched; null without graphs.
  const BlockGraphs* graphs() const { return graphs_ ? &*graphs_ : nullptr; }

  RunnerMemory memory() const;
  /// Nanoseconds that this stage has stood still for messages of its neighbours: the pipeline's
  /// bubble, and transfers that are not hidden.
  std::int64_t bubble_ns() const;

 private:
  /// A schedule as this stage sees it.
  struct Plan {
    int micro_batches = 0;
    StageActions actions{};
  };
  /// This stage's actions. Under full recomputation a backward is split only where the schedule
  /// lives from it (zb-h1): between the halves lies all that a stage has recomputed.
  StageActions stage_actions(const Schedule& schedule) const;
  const StageActions& actions_for(Plan& plan, ScheduleKind kind, std::size_t micro_batches);
  struct Room {
    PassCounts passes;
    int receive_forward = 0, receive_backward = 0;
  };
  Room room() const;
  void allocate_inputs();
  void measure(const TensorParallel& measuring, const PassCounts& counts);
  Execution execution(const Backend& ops, const TensorParallel& tensor, std::int64_t step,
                      BlockObserver* observer);
  void upload(std::span<const MicroBatch> batches, double weight_scale);
  MicroBatchView view(int micro_batch) const;
  Tensor losses_of(int micro_batch) const;
  double masked_loss_sum(std::span<const MicroBatch> batches);
  bool has_head() const;

  void enter(Phase phase) const {
    if (clock_ != nullptr) clock_->enter(phase);
  }
  void upload_dropout_positions(const Execution& run, std::span<const MicroBatch> batches);
  void upload_documents(const MicroBatch& batch, std::int64_t micro_batch);
  void set_micro_batch(const Execution& run, int micro_batch);
  void act(const Execution& run, const Action& action);
  void act_forward(const Execution& run, const Action& action);
  void act_backward(const Execution& run, const Action& action);
  void evaluate_chunk(const Execution& run, const Action& action);

  Transformer& model_;
  const Backend& ops_;
  Stream& stream_;
  PipelinePlace place_;
  TensorParallel tensor_;
  RunnerOptions options_;
  bool dry_run_;  // the model's: no tensor has memory
  Plan training_, evaluation_;
  Arena keep_, recompute_, scratch_;
  PassPool passes_;
  // A residual stream between two stages: the gradient that the last backward computed, until it is
  // sent; input and output of an evaluated chunk.
  OwnedTensor border_;
  std::optional<OutgoingMessages> send_forward_, send_backward_;
  std::optional<IncomingMessages> receive_forward_, receive_backward_;
  OwnedTensor ids_, positions_, labels_, weights_, losses_;  // [micro-batches, rows]
  OwnedTensor host_weights_, host_losses_;
  // With mask_documents / reset_positions: of all micro-batches; positions_ and documents_ are then
  // those of the one that the stream works on, at an address that recorded work may keep.
  OwnedTensor all_positions_, host_positions_, all_documents_, documents_;
  std::vector<std::int64_t> first_samples_;
  // With graphs and dropout: DropoutPosition of each micro-batch, [micro-batches, 2] of i64, and of
  // the one that the stream works on.
  OwnedTensor dropout_positions_, host_dropout_positions_, dropout_position_;
  std::optional<BlockGraphs> graphs_;
  PhaseClock* clock_ = nullptr;
};

}  // namespace neox
