#pragma once
// A training run's state in checkpoints: which tensors and facts make a run continue exactly.

#include <cstdint>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config/config.h"
#include "core/model/transformer.h"
#include "core/optim/loss_scaler.h"
#include "core/optim/optimizer.h"
#include "core/train/guard_state.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

/// Where a run stands.
struct Progress {
  std::int64_t step = 0;  ///< optimizer steps done
  std::int64_t consumed_samples = 0;
  std::int64_t consumed_tokens = 0;
  /// Position in the order of samples from which on they are taken: consumed_samples, and as many
  /// more as were left out (data.skip_sample_ranges, rewinds).
  std::int64_t next_sample = 0;
  GuardState guards{};
  LossScalerState loss_scaler{};

  /// Steps that the learning-rate schedule has done: it stands still at those that the loss scaler
  /// skips.
  std::int64_t schedule_steps() const { return step - loss_scaler.overflow_steps; }
};

/// What a checkpoint of the run holds.
struct RunImage {
  /// What this rank writes: the elements that it owns, in the memory of the model and optimizer.
  std::vector<CheckpointTensor> tensors;
  CheckpointInfo info;
};
/// With checkpoint.no_save_optim: the weights alone, in the compute dtype.
/// The same state gives the same checkpoint, byte for byte, whatever the layout.
RunImage run_image(const Transformer& model, const Optimizer& optimizer, const Config& config,
                   const std::string& config_text, const Progress& progress);
/// The small facts of a checkpoint of `model` at `progress`, after `optimizer_steps` steps.
CheckpointInfo checkpoint_info(const Config& config, const ModelConfig& model,
                               const std::string& config_text, const Progress& progress,
                               std::int64_t optimizer_steps);
/// Attributes of a parameter's dataset below /model.
Attributes model_attributes(const ModelConfig& model, const std::string& parameter);
/// Host memory that saving copies this rank's part to, for the whole run; 0 when the
/// model's own memory is written.
std::size_t checkpoint_copy_bytes(const Transformer& model, const Optimizer& optimizer,
                                  const CheckpointConfig& config);
SaveOptions save_options(const CheckpointConfig& config);

/// What to take from a checkpoint.
enum class LoadScope : std::uint8_t {
  everything,        ///< weights, optimizer, position: continue the run
  weights_only,      ///< fine-tuning: weights, step 0
  without_optimizer  ///< weights and position; optimizer state starts at zero
};

/// Fills what this rank updates of the model (and the optimizer, unless null) from an opened
/// checkpoint, under any layout. What was there before does not matter. Throws UnreadableCheckpoint
/// where what it reads is damaged, in the middle of it;
/// Error when the checkpoint is of another architecture, listing the differences, or holds
/// weights only, or another optimizer's state, where everything is wanted.
Progress load_run(CheckpointReader& reader, Transformer& model, Optimizer* optimizer,
                  LoadScope scope, const Backend& ops, Stream& stream);

/// False for a checkpoint of weights only.
bool has_optimizer_state(const CheckpointReader& reader);

/// "holds the state of optimizer.type = ..., not of ..." when the checkpoint's optimizer is another
/// than the configured one, or keeps other states; else empty.
std::string other_optimizer(const CheckpointReader& reader, const OptimizerConfig& config);

/// The model configuration stored in a checkpoint.
Config stored_config(const CheckpointReader& reader);

/// "layers.0.mlp.dense_h_to_4h.weight" -> "/model/layers/0/mlp/dense_h_to_4h/weight".
std::string checkpoint_path(const std::string& section, const std::string& parameter);

}  // namespace neox
