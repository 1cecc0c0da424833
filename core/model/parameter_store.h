#pragma once
// Parameters in a few flat buffers: weights, gradients, main weights and optimizer state, laid out
// block by block in backward order and cut in buckets, so that communication works on big ranges as
// they become ready, the optimizer on flat ones, and every rank of a data-parallel group owns an
// equal part of every bucket.

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/model_types.h"
#include "core/model/parameter_spec.h"
#include "core/tensor/buffer.h"
#include "core/tensor/shard.h"
#include "kernels/backend.h"

namespace neox {

using ParameterId = int;

/// What the store allocates besides the weights.
enum class StoreMode : std::uint8_t { inference, training };

/// How the ranks of a data-parallel group share the state (ZeRO, arXiv:1910.02054). Rank i owns
/// the i-th of `size` equal parts of every bucket. Complete on every rank in stage
///   0: everything | 1: weights, gradients | 2: weights | 3: nothing;
/// the rest exists only for the owned parts, apart from blocks that are bound (see below). A group
/// of one has nothing to share: every stage is stage 0.
struct ShardPlan {
  int rank = 0;
  int size = 1;
  int zero_stage = 0;
  std::int64_t bucket_elements = std::int64_t{1} << 20;  ///< about; a multiple of 64 size
};

/// A run of elements [begin, end) of the flat space.
struct FlatRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool decay = false;
  bool counted = true;
  std::int64_t size() const { return end - begin; }
};

/// A message's worth of the flat space, inside one block.
struct Bucket {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t size() const { return end - begin; }
};

/// Elements that lie in one piece in every buffer.
struct StatePiece {
  std::int64_t flat = 0;   ///< first element in the flat space
  std::int64_t owned = 0;  ///< the same in the space of this rank's owned parts
  std::int64_t size = 0;
  bool decay = false;
  bool counted = true;
};

/// Elements [begin, begin + piece.size) of a parameter's local slice, row-major.
struct ParameterPiece {
  std::int64_t begin = 0;
  StatePiece piece;
};

/// Optimizers number their states from 0 on.
enum class State : std::uint8_t { weights, main, gradients, optimizer0, optimizer1, optimizer2 };
inline constexpr int kMostOptimizerStates = 3;
constexpr State optimizer_state(int number) {
  return static_cast<State>(static_cast<int>(State::optimizer0) + number);
}

/// Bytes of the store's buffers.
struct StoreMemory {
  std::size_t weights = 0, main = 0, gradients = 0, optimizer = 0;
};

class ParameterStore {
 public:
  // ---- building -----------------------------------------------------------------------------
  /// Opens the next block (embedding, one layer, head): parameters added from now on belong to it.
  /// Blocks are opened in forward order.
  void begin_block(std::string name);
  ParameterId add(ParameterSpec spec);
  /// Adds parameters that lie in memory one behind the other without a gap, so that one product
  /// serves them all: their fused view is [sum of rows, columns]. Returns the first id; the others
  /// follow it.
  ParameterId add_fused(std::vector<ParameterSpec> specs);
  /// The open block also computes with a parameter of an earlier block, and writes its gradient
  /// before that block does (tied output layer). The earlier block stays whole in every ZeRO stage,
  /// weights and gradients: two places need it.
  void share(ParameterId id);

  /// The f32 states that the optimizer keeps for every element, by the names that checkpoints give
  /// them. Before commit; without it there are AdamW's.
  void declare_optimizer_states(std::vector<std::string> names);

  /// Allocates. `compute`: dtype of the weights the model computes with; main weights and gradients
  /// are f32 (and the weights themselves are the main weights when compute is f32). A dry run
  /// allocates nothing and hands out tensors without memory.
  void commit(Device device, DType compute, StoreMode mode, bool dry_run = false,
              const ShardPlan& plan = {});

  // ---- what the model sees ------------------------------------------------------------------
  int size() const { return static_cast<int>(entries_.size()); }
  const ParameterSpec& spec(ParameterId id) const { return entry(id).spec; }
  int block_of(ParameterId id) const { return entry(id).block; }
  ParameterId find(const std::string& name) const;  ///< throws Error naming near matches' block

  /// Valid while the parameter's block is present (BlockObserver::weights_needed .. weights_done,
  /// gradients_needed .. gradients_done); asking at other times is an internal error.
  Tensor weight(ParameterId id) const;  ///< compute dtype, local shape
  Tensor grad(ParameterId id) const;    ///< f32, local shape
  Tensor fused_weight(ParameterId first, int count) const;
  Tensor fused_grad(ParameterId first, int count) const;
  /// True when grad(id) holds gradients of this step already, so that the next must be added;
  /// false: the next overwrites what is there.
  bool accumulates(ParameterId id) const { return entry(id).accumulates; }

  // ---- state, piece by piece ----------------------------------------------------------------
  /// The piece's elements, [size].
  Tensor piece(State state, const StatePiece& piece) const;
  /// What this rank owns, in flat order; in every stage the same pieces.
  std::span<const StatePiece> owned_pieces() const { return owned_pieces_; }
  /// What this rank's optimizer updates: everything in stage 0, otherwise the owned pieces.
  std::span<const StatePiece> update_pieces() const { return update_pieces_; }
  /// The parts of a parameter that this rank owns / whose main weights and optimizer state it has.
  std::vector<ParameterPiece> owned_pieces(ParameterId id) const;
  std::vector<ParameterPiece> update_pieces(ParameterId id) const;
  /// Pieces of the parameters that `chosen` takes, of what this rank updates; neighbours joined.
  std::vector<StatePiece> update_pieces_of(
      const std::function<bool(const ParameterSpec&)>& chosen) const;
  /// Shard of some elements of a parameter: `local` is [piece.size].
  Shard shard(State state, ParameterId id, const ParameterPiece& piece) const;

  /// Whole parameters; only where the state is whole on this rank (internal error otherwise).
  Shard whole_shard(State state, ParameterId id) const;
  Shard weight_shard(ParameterId id) const { return whole_shard(State::weights, id); }
  Shard main_shard(ParameterId id) const { return whole_shard(State::main, id); }

  // ---- flat space ---------------------------------------------------------------------------
  std::int64_t numel() const { return numel_; }  ///< with padding; a multiple of 64 plan().size
  std::int64_t owned_numel() const { return numel_ / plan_.size; }
  std::int64_t parameter_count() const;                   ///< counted elements held here
  Tensor weights() const;                                 ///< all of them: stages 0 to 2
  Tensor grads() const;                                   ///< all of them: stages 0 and 1
  Tensor owned(State state, const Bucket& bucket) const;  ///< this rank's part of the bucket
  /// True when `state` is kept only for the owned parts.
  bool sharded(State state) const;
  bool has_separate_main() const { return compute_ != DType::f32; }
  DType compute_dtype() const { return compute_; }
  const std::vector<std::string>& optimizer_states() const { return optimizer_states_; }
  StoreMode mode() const { return mode_; }
  Device device() const { return device_; }
  bool dry_run() const { return dry_run_; }
  const ShardPlan& plan() const { return plan_; }
  StoreMemory memory() const { return memory_; }

  int block_count() const { return static_cast<int>(blocks_.size()); }
  const std::string& block_name(int block) const { return blocks_.at(index(block)).name; }
  /// Flat range of a block. The last block (in forward order) lies first.
  FlatRange block_range(int block) const;
  std::span<const Bucket> block_buckets(int block) const;
  /// Earlier blocks whose parameters this block uses.
  std::span<const int> shared_blocks(int block) const { return blocks_.at(index(block)).uses; }
  /// True when another block uses this one's parameters.
  bool is_shared(int block) const { return blocks_.at(index(block)).used; }

  // ---- presence of blocks: for the data-parallel engine ---------------------------------------
  /// Where the block's weights / gradients are: [block_range(block).size()], or empty: nowhere.
  Tensor bound_weights(int block) const { return blocks_.at(index(block)).weights; }
  Tensor bound_gradients(int block) const { return blocks_.at(index(block)).gradients; }
  void bind_weights(int block, Tensor memory);
  void bind_gradients(int block, Tensor memory);
  /// Sets accumulates() of the block's parameters / of those that it shares with earlier blocks.
  void set_accumulates(int block, bool value);
  void set_shared_accumulates(int block, bool value);

  /// Compute weights of what this rank updates = main rounded to the compute dtype (nothing to do
  /// in f32). After main was written from outside: initialisation, checkpoint, import.
  void refresh_weights(const Backend& ops, Stream& stream);
  /// Weights were changed: copies that the backend or other ranks derived from them are stale.
  void weights_changed(const Backend& ops);
  /// The store's memory will never be freed: an exception ends the program while messages are on
  /// their way into it.
  void abandon() { neox::abandon(buffers_); }
  /// Counts weights_changed().
  std::int64_t version() const { return version_; }

 private:
  struct Entry {
    ParameterSpec spec;
    int block = 0;
    bool fused_with_previous = false;
    bool accumulates = false;
    std::int64_t offset = 0;  // elements
  };
  struct Block {
    std::string name;
    std::int64_t begin = 0, end = 0;
    std::size_t first_bucket = 0, buckets = 0;
    std::vector<int> uses{};
    std::vector<ParameterId> shared{};
    bool used = false;
    Tensor weights{}, gradients{};
  };

  static std::size_t index(int i) { return static_cast<std::size_t>(i); }
  const Entry& entry(ParameterId id) const { return entries_.at(index(id)); }
  void lay_out();
  void lay_out_block(int block, std::int64_t& offset);
  void add_range(const Entry& entry, std::int64_t end);
  void cut_buckets(std::int64_t begin, std::int64_t end);
  FlatRange range_of(ParameterId id) const;
  std::vector<StatePiece> owned_pieces_in(const FlatRange& range) const;
  std::vector<StatePiece> update_pieces_in(const FlatRange& range) const;
  std::vector<ParameterPiece> parameter_pieces(ParameterId id,
                                               const std::vector<StatePiece>& pieces) const;
  void allocate();
  Tensor new_buffer(std::int64_t elements, DType dtype, std::size_t& bytes);
  const Tensor& buffer_of(State state) const;
  Tensor block_view(const Tensor& bound, const char* what, ParameterId id,
                    const Shape& shape) const;
  Shape fused_shape(ParameterId first, int count) const;

  std::vector<Entry> entries_;
  std::vector<Block> blocks_;
  std::vector<Bucket> buckets_;    // in flat order
  std::vector<FlatRange> ranges_;  // maximal runs of one kind, in flat order
  std::vector<StatePiece> owned_pieces_, update_pieces_;
  std::int64_t numel_ = 0, version_ = 0;
  ShardPlan plan_;
  DType compute_ = DType::f32;
  StoreMode mode_ = StoreMode::inference;
  Device device_{};
  bool dry_run_ = false;
  StoreMemory memory_;
  std::vector<Buffer> buffers_;
  std::vector<std::string> optimizer_states_ = {"exp_avg", "exp_avg_sq"};
  Tensor weights_, grads_, main_;
  std::array<Tensor, kMostOptimizerStates> optimizer_;
};

}  // namespace neox
