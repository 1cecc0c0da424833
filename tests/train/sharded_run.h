#pragma once
// A small real model under data parallelism, with its optimizer and checkpoints: the pieces of the
// Trainer without data sets.

#include <cstdint>
#include <memory>
#include <string>

#include "core/config/config.h"
#include "core/optim/optimizer.h"
#include "core/parallel/data_parallel.h"
#include "core/parallel/step_runner.h"
#include "core/train/run_state.h"

namespace neox::testing {

/// 3 layers, hidden 48, odd biases; 8 samples of 16 tokens per step.
Config sharded_run_config(bool tied, DType compute, const std::string& directory);

struct ShardedLayout {
  int zero_stage = 0;
  std::int64_t micro_batches = 1;  ///< per rank and step
  std::int64_t bucket_elements = 5000;
  DType exchange = DType::f32;
};

class ShardedRun {
 public:
  /// `group`: the data-parallel group.
  ShardedRun(Communicator& group, const Config& config, const ShardedLayout& layout);

  void initialise();
  /// Returns the loss over the global batch; `norm` receives the gradient's.
  double step(double* norm = nullptr);
  double evaluate();
  /// Loss scales of the steps so far.
  const std::vector<double>& scales() const { return scales_; }
  /// Returns the file's path.
  std::string save();
  /// The newest checkpoint of the configuration's directory.
  void load();

  Transformer model;
  std::unique_ptr<DataParallel> parallel;
  std::unique_ptr<Optimizer> optimizer;
  Progress progress;

 private:
  MicroBatch micro_batch(std::int64_t index) const;
  std::vector<MicroBatch> micro_batches() const;

  Communicator& group_;
  Config config_;
  ShardedLayout layout_;
  std::int64_t samples_;  // per micro-batch
  std::unique_ptr<Backend> ops_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<StepRunner> runner_;
  std::vector<double> scales_;
};

}  // namespace neox::testing
