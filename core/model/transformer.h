#pragma once
// A whole decoder: embedding, blocks, final norm and output layer, built from configuration alone:
// GPT-NeoX, GPT-2 and LLaMA-style models differ only in their keys.

#include <cstdint>
#include <optional>
#include <vector>

#include "core/model/block.h"

namespace neox {

/// Told where in its work the model is, block by block (ParameterStore's numbering): this is where
/// sharded weights are gathered and gradients reduced. One pass is one micro-batch.
class BlockObserver {
 public:
  virtual ~BlockObserver() = default;
  /// The block's weights are about to be read; they must be there on return. Forward passes take
  /// blocks in ascending order, backward passes in descending order.
  virtual void weights_needed(int block, bool backward) = 0;
  /// They are not read again before the next weights_needed.
  virtual void weights_done(int block) = 0;
  /// The block's gradients are about to be written, or added to.
  virtual void gradients_needed(int block) = 0;
  /// The block's gradients of this micro-batch are complete.
  virtual void gradients_done(int block) = 0;
};

/// Where a model runs and what the current call is. Arenas may be measuring (with a dry-run
/// backend).
struct Execution {
  const Backend& ops;
  Stream& stream;
  Arena& keep;       ///< activations that wait for backward
  Arena& recompute;  ///< activations of one block that is being recomputed
  Arena& scratch;    ///< temporaries
  bool recompute_blocks =
      false;  ///< keep only each block's input; run its forward again in backward
  std::int64_t loss_chunk = 1024;  ///< tokens whose logits are in memory at once
  bool accumulate = false;
  std::uint64_t dropout_seed = 0;
  std::int64_t step = 0;
};

class Transformer {
 public:
  /// `model` must be resolved (core/config): no derived value left open. Throws Error on sizes that
  /// don't fit together.
  explicit Transformer(const ModelConfig& model);

  /// Allocates the parameters; they are undefined until initialised or loaded.
  void commit(const Backend& ops, Stream& stream, DType compute, StoreMode mode,
              bool dry_run = false);

  const ModelConfig& config() const { return model_; }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }

  /// Forward and backward of one micro-batch. losses f32 [rows]: cross-entropy of each token.
  /// Gradients of sum(weights * losses) are written (or added, Execution::accumulate).
  void forward_backward(const Execution& run, const MicroBatchView& batch, Tensor losses,
                        BlockObserver* observer);

  /// Forward only, no dropout.
  void evaluate(const Execution& run, const MicroBatchView& batch, Tensor losses);

  /// All logits f32 [rows, padded vocabulary], no dropout; `residuals`, if given, receives the
  /// residual stream after each block [layers][rows, h] (for tests and tools).
  void logits(const Execution& run, const MicroBatchView& batch, Tensor out,
              std::vector<Tensor>* residuals = nullptr);

  /// Logits f32 [batch, padded vocabulary] of the last position of each sequence; the new positions
  /// are appended to `caches` (one per block).
  void next_token_logits(const Execution& run, const MicroBatchView& batch,
                         std::vector<KvCache>& caches, Tensor out);

  /// FLOPs of one training token (forward and backward): 6 N + 12 L h s, with N all parameters but
  /// the embedding tables, plus the output layer; attention counted in full, not causally halved.
  double flops_per_token(std::int64_t seq) const;

 private:
  /// `keep`: where what backward needs goes, run.keep or run.recompute.
  Context context(const Execution& run, const MicroBatchView& batch, bool training,
                  Arena& keep) const;
  /// The residual stream after the last block, without dropout; valid until ctx.keep is released.
  Tensor forward_only(const Context& ctx, std::vector<Tensor>* residuals);
  void embed(const Context& ctx, Tensor y) const;
  void embed_backward(const Context& ctx, Tensor dy) const;
  /// Final norm, output layer and loss, `chunk` tokens at a time; with dx also their backward.
  void head_loss(const Context& ctx, ConstTensor x, std::int64_t chunk, Tensor losses, Tensor dx);
  ConstTensor output_weight() const;
  void check() const;

  ModelConfig model_;
  ParameterStore store_;
  ParameterId word_embedding_ = -1, position_embedding_ = -1, output_ = -1;
  std::vector<Block> blocks_;
  std::optional<Norm> final_norm_;
  std::vector<Block::Saved> saved_;
  std::vector<ConstTensor> inputs_;  // of each block, in this micro-batch
  RotaryTables rotary_;
};

}  // namespace neox
