#pragma once
// Activation memory of a stage: one ChunkPass for each micro-batch that may be under way in each
// chunk, all allocated before the first step.

#include <cstddef>
#include <deque>
#include <vector>

#include "core/model/transformer.h"
#include "core/parallel/schedule.h"

namespace neox {

/// Most passes of each chunk that `actions` have under way at once, and most between the halves of
/// a split backward.
struct PassCounts {
  std::vector<int> passes;  ///< [chunks]
  int split = 0;
};
PassCounts count_passes(const StageActions& actions, int chunks);

/// The same actions with both halves of each backward in one, where the first half was. It sends
/// its result later, but what is recomputed need not be kept from one half to the other.
StageActions join_backward_halves(const StageActions& actions);

class PassPool {
 public:
  PassPool(Device device, int chunks, bool dry_run = false)
      : device_(device), dry_run_(dry_run), pools_(static_cast<std::size_t>(chunks)) {}

  /// Makes room for `counts`, for passes that need keep_bytes[chunk] (and gradient_bytes between
  /// the halves of a split backward). May be called again with larger counts while nothing is under
  /// way.
  void reserve(const PassCounts& counts, const std::vector<std::size_t>& keep_bytes,
               std::size_t gradient_bytes);

  ChunkPass& acquire(int chunk, int micro_batch);
  ChunkPass& find(int chunk, int micro_batch);
  /// Gives the pass an arena for the time between its two halves.
  void split(ChunkPass& pass);
  void release(int chunk, int micro_batch);
  std::size_t bytes() const;

 private:
  struct Slot {
    ChunkPass pass;
    int micro_batch = -1;  // -1: free
  };
  Slot& slot(int chunk, int micro_batch);
  Device device_;
  bool dry_run_;
  std::vector<std::deque<Slot>> pools_;  // [chunks]; a deque, because arenas don't move
  std::deque<Arena> gradient_arenas_;
  std::vector<Arena*> free_gradients_;
};

}  // namespace neox
