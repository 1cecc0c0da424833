#pragma once
// Runs micro-batches through a model: inputs to the device, arenas measured and allocated once,
// losses back.

#include <cstdint>
#include <span>
#include <string>

#include "core/parallel/data_parallel.h"
#include "io/data/batch_loader.h"

namespace neox {

struct RunnerOptions {
  std::int64_t micro_batch = 1;
  std::int64_t seq_length = 0;
  bool recompute_blocks = false;
  std::int64_t loss_chunk = 1024;
  std::uint64_t dropout_seed = 0;
};

/// Bytes on one rank, by what they are for.
struct MemoryPlan {
  std::size_t weights = 0, main_weights = 0, gradients = 0, optimizer = 0;
  DataParallelMemory moving{};
  std::size_t activations = 0, recompute = 0, scratch = 0;
  std::size_t total() const {
    return weights + main_weights + gradients + optimizer + moving.weights + moving.gradients +
           moving.communication + activations + recompute + scratch;
  }
  /// A line per non-empty category.
  std::string table() const;
};

class ModelRunner {
 public:
  /// `model` must be committed in training mode. Measures the arenas with the dry-run backend, then
  /// allocates them: from here on a step allocates nothing.
  ModelRunner(Transformer& model, const Backend& ops, Stream& stream, const RunnerOptions& options);

  /// Forward and backward. The gradient is that of sum(mask * loss) * gradient_scale. Returns
  /// sum(mask * loss).
  double forward_backward(const MicroBatch& batch, double gradient_scale, std::int64_t step,
                          bool accumulate, BlockObserver* observer);
  /// sum(mask * loss), no dropout, no gradients.
  double evaluate(const MicroBatch& batch, BlockObserver* observer = nullptr);

  MemoryPlan memory_plan() const;

 private:
  void measure();
  MicroBatchView upload(const MicroBatch& batch, double weight_scale);
  double masked_loss_sum(const MicroBatch& batch);
  Execution execution(const Backend& ops, std::int64_t step, bool accumulate);

  Transformer& model_;
  const Backend& ops_;
  Stream& stream_;
  RunnerOptions options_;
  Arena keep_, recompute_, scratch_;
  OwnedTensor ids_, positions_, labels_, weights_, losses_;  // on the device
  OwnedTensor host_weights_, host_losses_;
};

}  // namespace neox
