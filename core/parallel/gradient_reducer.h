#pragma once

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/model/transformer.h"

namespace neox {

/// Sums gradients over the data-parallel group in buckets, while backward still runs. Blocks become
/// ready in flat order (ParameterStore), so a bucket is sent as soon as the ready prefix covers it.
class GradientReducer final : public BlockObserver {
 public:
  /// `bucket_bytes`: size of one message; the last one is smaller.
  GradientReducer(const ParameterStore& store, Communicator& group, Stream& stream,
                  std::int64_t bucket_bytes);

  /// Starts a step: nothing is ready.
  void begin();
  /// Call only for the last micro-batch of a step, when the block's gradient is final.
  void gradients_done(int block) override;
  void weights_needed(int, bool) override {}
  void weights_done(int) override {}
  void gradients_needed(int) override {}
  /// Waits until every gradient is the sum over the group. Every block must have been ready.
  void finish();

 private:
  const ParameterStore& store_;
  Communicator& group_;
  Stream& stream_;
  std::int64_t bucket_elements_;
  std::int64_t sent_ = 0;  // elements handed to the communicator so far
  std::vector<Work> pending_;
};

}  // namespace neox
