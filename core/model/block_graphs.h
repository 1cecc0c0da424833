#pragma once
// What a block queues on its stream, recorded once and launched from then on by one call
// (WorkGraph): a GPU that computes faster than the host can start kernels need not wait for it.

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/model/block.h"
#include "core/tensor/device_tools.h"

namespace neox {

enum class GraphMode : std::uint8_t {
  off,
  automatic,  ///< where work can't be recorded, goes on without and says so once
  on          ///< that is an Error
};

/// One call of a block's forward or backward in training. Everything that decides which work it
/// queues on which memory must be in key(): a call with the same key launches what an earlier one
/// recorded. What is new in every call must be in device memory (DropoutPosition, inputs).
struct BlockCall {
  enum class Part : std::uint8_t { forward, again, backward };  // again: a forward recomputed
  static constexpr std::size_t kArenas = 4;
  using Key = std::array<std::uint64_t, 10 + 2 * kArenas>;

  Part part = Part::forward;
  std::size_t block = 0;
  std::int64_t batch = 0, seq = 0;
  bool accumulates = false;              ///< parameter gradients are added to
  const void* input = nullptr;           ///< x, or dy
  const void* output = nullptr;          ///< y, or dx
  const void* weights = nullptr;         ///< the block's first; sharded ones move
  const void* gradients = nullptr;       ///< likewise; null in forward
  std::array<Arena*, kArenas> arenas{};  ///< every arena that the call takes from; null: none
  Block::Saved* saved = nullptr;         ///< written, or (backward) read
  Block::Gradients* block_gradients = nullptr;

  Key key() const;
};

class BlockGraphs {
 public:
  /// `stream`: of all calls. Throws Error when its device records no work.
  BlockGraphs(Stream& stream, GraphMode mode);

  /// Has `work` done: the first time a key is seen by calling it, so that the backend makes its
  /// plans and workspaces; the second time by calling it once while it is recorded; then by
  /// launching that, which leaves arenas and `saved` as the call would.
  template <class Work>
  void run(const BlockCall& call, Work&& work) {
    Entry* entry = find(call);
    if (entry == nullptr) return work();
    if (entry->graph == nullptr) {
      const Marks before = marks(call);
      bool recorded = false;
      begin();
      try {
        work();
        end(call, *entry);
        recorded = true;
      } catch (const Error& error) {
        give_up(call, before, error);
      } catch (...) {
        drop();
        throw;
      }
      if (!recorded) return work();
    }
    launch(call, *entry);
  }

  std::int64_t recorded() const { return recorded_; }  ///< graphs, ever
  std::int64_t launched() const { return launched_; }

 private:
  using Marks = std::array<std::size_t, BlockCall::kArenas>;
  struct Entry {
    std::unique_ptr<WorkGraph> graph;
    Marks after{};
    Block::Saved saved;
    Block::Gradients block_gradients;
  };
  /// A step has layers x passes under way x 3 calls; more keys than this mean that they don't come
  /// again.
  static constexpr std::size_t kMostEntries = 65536;

  Entry* find(const BlockCall& call);
  static Marks marks(const BlockCall& call);
  void begin();
  void end(const BlockCall& call, Entry& entry);
  void give_up(const BlockCall& call, const Marks& before, const Error& error);
  void drop();
  void launch(const BlockCall& call, const Entry& entry);

  Stream& stream_;
  DeviceTools& tools_;
  GraphMode mode_;
  std::map<BlockCall::Key, Entry> entries_;
  std::int64_t backend_allocations_ = 0;  // when entries_ was begun
  std::int64_t recorded_ = 0, launched_ = 0;
};

}  // namespace neox
