#pragma once

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
  /// The block's gradients are about to be written, or added to (ParameterStore::accumulates). This
  /// covers what it writes of blocks whose parameters it shares (ParameterStore::share).
  virtual void gradients_needed(int block) = 0;
  /// The block's gradients of this micro-batch are complete.
  virtual void gradients_done(int block) = 0;
};

}  // namespace neox
