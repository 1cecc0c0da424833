#pragma once
// The same small training run in any parallel layout, and how far two such runs are apart.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/config/config.h"
#include "core/optim/loss_scaler.h"
#include "core/train/engine.h"

namespace neox::testing {

/// Four layers, hidden 32, 16 tokens, dropout 0.1 everywhere, unless said otherwise.
enum class Family : std::uint8_t {
  neox,       ///< parallel residual, rotary, untied
  gpt2,       ///< sequential, learned positions, tied; the last quarter of the table is padding
  llama,      ///< RMSNorm, SwiGLU, no biases, 2 key/value heads for 4 heads
  deep_neox,  ///< neox with 8 layers, for 4 stages of 2 chunks
  bloom,      ///< ALiBi, embedding norm, QK-norm, tied
  scaled,     ///< ScaleNorm, positions from row 2 on, squared relu
  plain_norm,  ///< non-parametric norm, sinusoidal positions, QK-norm of grouped queries
  masked       ///< layers with a window and block-sparse ones, documents in samples of 48 tokens
};
const char* name_of(Family family);

struct Layout {
  Family family = Family::neox;
  std::int64_t tensor = 1;
  bool rows_sharded = false;
  std::int64_t pipe = 1;
  std::string schedule = "1f1b";
  std::int64_t data = 1;
  std::int64_t zero = 0;
  std::int64_t micro_batch = 1;
  std::string recompute = "none";
  std::string optimizer = "adam";

  std::int64_t ranks() const { return tensor * pipe * data; }
  std::string describe() const;
};

/// What a run is made of, besides its layout.
struct RunSize {
  std::int64_t batch = 12;  ///< samples per step
  std::int64_t hidden = 32;
  double bucket_mb = 0.03;  ///< several per block
  PrecisionConfig precision{};
  DType exchange = DType::f32;  ///< of gradients
  double loss_scale = 1.0;      ///< besides the scaler's
  double gradient_clipping = 0.5;
};

/// The configuration, resolved; interleaved schedules have two chunks per stage.
Config layout_config(const Layout& layout, const RunSize& size = {});

/// What a run on one rank left behind; every layout must leave the same.
struct Reference {
  std::vector<double> losses, norms;
  std::vector<double> scales;                         // of the loss, by its scaler
  std::map<std::string, std::vector<float>> weights;  // whole tensors
};

/// The largest differences to a reference; not a number when a value is not.
struct Difference {
  double loss = 0.0;         ///< relative
  double norm = 0.0;         ///< relative
  double weight = 0.0;       ///< of elements, relative to the tensor's largest
  std::int64_t counted = 0;  ///< elements compared, each once however many ranks hold it
  bool within_tolerance() const;
};
constexpr double kLossTolerance = 1e-5, kNormTolerance = 1e-5, kWeightTolerance = 1e-4;

class LayoutRun {
 public:
  /// Collective over `group`, the ranks of the layout.
  LayoutRun(Communicator& group, const Layout& layout, const RunSize& size = {});

  void train(int steps);

  /// Writes a checkpoint into `directory`, which all ranks see.
  void save(const std::string& directory);
  /// Goes on from the newest checkpoint there, which any layout wrote.
  void load(const std::string& directory);

  Engine& engine() { return engine_; }
  const Config& config() const { return config_; }
  const std::vector<double>& losses() const { return losses_; }
  /// Gradient norms; -1 where the loss scaler skipped the step.
  const std::vector<double>& norms() const { return norms_; }
  /// The loss scaler's factor in every step.
  const std::vector<double>& scales() const { return scales_; }
  const LossScalerState& scaler_state() const { return scaler_state_; }

  /// Collective; equal on every rank.
  Reference reference();
  /// Compares all that is held anywhere. Collective; equal on every rank.
  Difference difference(const Reference& reference);

 private:
  std::vector<MicroBatch> micro_batches() const;
  void add_owned(const std::string& name, std::vector<double>& values) const;

  Communicator& group_;
  RunSize size_;
  Config config_;
  Engine engine_;
  LossScalerState scaler_state_;
  LossScaler scaler_;
  std::vector<double> losses_, norms_, scales_;
  int step_ = 0;
};

/// Trains on this rank alone.
Reference single_rank_reference(Family family, int steps, const RunSize& size = {},
                                const std::string& optimizer = "adam");

/// `reference` of `root` on every rank.
Reference broadcast(Communicator& group, const Reference& reference, int root);

}  // namespace neox::testing
