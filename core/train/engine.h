#pragma once
// What one rank computes with: its part of the model, its groups, its share of the optimizer, and
// the steps over them. No files, no loop, no log: those are the Trainer's.

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/topology.h"
#include "core/config/config.h"
#include "core/optim/optimizer.h"
#include "core/parallel/data_parallel.h"
#include "core/parallel/replica_check.h"
#include "core/parallel/step_runner.h"
#include "kernels/dry_run/dry_run_backend.h"

namespace neox {

/// Bytes on one rank, by what they are for.
struct MemoryPlan {
  std::size_t weights = 0, main_weights = 0, gradients = 0, optimizer = 0;
  std::size_t gathered_weights = 0, gradient_buffers = 0, messages = 0;
  std::size_t activations = 0, recompute = 0, scratch = 0, inputs = 0;
  std::size_t tables = 0;   ///< of positions and norms
  std::size_t scalars = 0;  ///< gradient norm and clipping
  std::size_t host_copies = 0;
  /// In host memory, in addition to total().
  std::size_t checkpoint_copy = 0;
  std::size_t total() const;
  /// A line per non-empty category.
  std::string table() const;
  friend bool operator==(const MemoryPlan&, const MemoryPlan&) = default;
};

/// Whether an engine computes, or only counts what it would: without memory behind tensors, on the
/// dry-run backend.
enum class EngineMode : std::uint8_t { real, dry_run };

class Engine {
 public:
  /// `config` is resolved for world.size() ranks, with the vocabulary size known. `device` must
  /// have a runtime. The parameters are undefined until initialised or loaded. `world` must outlive
  /// this. Collective; throws Error. For a dry run `world` is a dry-run group
  /// (comm/dry_run_communicator.h), and train_step takes micro-batches without contents.
  Engine(Communicator& world, const Config& config, EngineMode mode = EngineMode::real,
         Device device = {});
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  const Topology& topology() const { return topology_; }
  Transformer& model() { return model_; }
  const Transformer& model() const { return model_; }
  Optimizer& optimizer() { return *optimizer_; }
  const Optimizer& optimizer() const { return *optimizer_; }
  const Backend& ops() const { return *ops_; }
  Stream& stream() { return *stream_; }

  /// Fills the parameters: the model that the seed means, whatever the layout.
  void initialise(std::uint64_t seed);

  struct StepResult {
    double loss_sum = 0.0;   ///< this rank's share of the sum of losses over unmasked tokens
    double loss = 0.0;       ///< the sum over all ranks, times gradient_scale
    double grad_norm = 0.0;  ///< before clipping
    bool applied = false;    ///< false: nothing was changed, on any rank
  };
  /// What a step's loss and gradient norm may be; equal on all ranks.
  struct StepLimits {
    double loss = std::numeric_limits<double>::infinity();
    double grad_norm = std::numeric_limits<double>::infinity();
    /// Backward computes the gradient of the loss times this (LossScaler); results are without it.
    double loss_scale = 1.0;
  };
  /// One optimizer step on this rank's micro-batches; when loss or gradient norm is not finite or
  /// above its limit it changes nothing. `gradient_scale`: 1 / unmasked tokens of the global batch.
  /// Collective.
  StepResult train_step(std::span<const MicroBatch> batches, double gradient_scale,
                        std::int64_t step, double lr, const StepLimits& limits);
  StepResult train_step(std::span<const MicroBatch> batches, double gradient_scale,
                        std::int64_t step, double lr) {
    return train_step(batches, gradient_scale, step, lr, StepLimits{});
  }
  /// `hook` is called in every step when its gradients are known, before it changes weights or
  /// optimizer state: who still reads those holds the step up there. One at a time; empty: none.
  void on_update(std::function<void()> hook) { on_update_ = std::move(hook); }
  /// This rank's share of the sum of losses over unmasked tokens. Collective.
  double evaluate(std::span<const MicroBatch> batches);

  /// From the next step on, when each phase of a step begins is recorded on the device.
  void measure_phases();
  /// Seconds of each phase of the last step, of a rank that measures them; waits for the device.
  PhaseTimes phase_times() { return clock_->read(); }
  /// Null when none are used.
  const BlockGraphs* graphs() const { return runner_->graphs(); }

  /// Compares the copies of parameters that several ranks hold (ReplicaCheck). `step`: steps done.
  /// Collective; every rank throws the same Error when copies differ.
  void check_replicas(std::int64_t step);

  /// What this rank allocates for a run. A backend's own memory (MemoryOwner::backend) comes on
  /// top.
  MemoryPlan memory_plan() const;
  /// StepRunner::bubble_ns.
  std::int64_t bubble_ns() const { return runner_->bubble_ns(); }
  /// Of a dry run: operators called so far. Null in a real one.
  const DryRunBackend* counted() const { return counted_; }
  /// Every group of this rank once; those of one rank included.
  std::vector<const Communicator*> groups() const;
  /// What every group of this rank has communicated so far, by the names of topology.h and
  /// "key/value heads".
  std::vector<GroupTraffic> traffic() const;

 private:
  std::unique_ptr<Backend> real_;           // whose workspaces a dry run reckons with
  const DryRunBackend* counted_ = nullptr;  // ops_ of a dry run
  std::unique_ptr<Backend> ops_;
  std::unique_ptr<Stream> stream_;
  Topology topology_;
  std::unique_ptr<Communicator> key_value_;        // ranks with the same key/value heads
  std::unique_ptr<Communicator> measuring_group_;  // the tensor group, for measuring memory
  Transformer model_;
  CheckpointConfig checkpoint_;  // what saving will copy
  std::optional<Optimizer> optimizer_;
  std::optional<DataParallel> data_parallel_;
  std::optional<PhaseClock> clock_;
  std::optional<StepRunner> runner_;
  std::optional<ReplicaCheck> replica_check_;
  std::function<void()> on_update_;
};

}  // namespace neox
