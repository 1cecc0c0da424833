#pragma once
// Parameters in a few flat buffers: weights, gradients, main weights and optimizer state, laid out
// block by block in backward order, so that communication works on big ranges as they become ready
// and the optimizer on flat ones.

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/base/model_types.h"
#include "core/tensor/buffer.h"
#include "core/tensor/shard.h"
#include "kernels/backend.h"

namespace neox {

/// How a parameter starts; formulas in init.h.
struct InitRule {
  enum class Kind : std::uint8_t { zeros, ones, random };
  Kind kind = Kind::zeros;
  InitMethod method = InitMethod::normal;  // for random
};

/// Over which ranks the gradient of a parameter that they hold alike must be summed, because each
/// of them computes only a part of it.
enum class GradientSum : std::uint8_t {
  none,      ///< every holder computes the whole gradient of what it holds
  tensor,    ///< the tensor group: each rank sees some of the rows (sequence parallelism)
  key_value  ///< the tensor ranks that share a key/value head (more ranks than such heads)
};

/// What a parameter is, before it has memory.
struct ParameterSpec {
  std::string name;  ///< dotted, e.g. "layers.0.attention.dense.weight"
  Shape global;      ///< [out, in] for weights of linear layers
  Slice slice;       ///< the part this rank holds
  InitRule init{};
  bool decay = false;  ///< weight decay applies
  GradientSum sum = GradientSum::none;
  /// Of the model-parallel ranks that hold the same slice, exactly one counts it: in norms, in
  /// parameter counts, in checkpoints.
  bool counted = true;
  /// Also held by another pipeline stage, which computes another part of its gradient: the sum over
  /// the embedding group is the gradient.
  bool tied_across_stages = false;
};

using ParameterId = int;

/// A run of elements [begin, end) of the flat buffers.
struct FlatRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
  bool decay = false;
  std::int64_t size() const { return end - begin; }
};

/// What the store allocates besides the weights.
enum class StoreMode : std::uint8_t { inference, training };

class ParameterStore {
 public:
  /// Opens the next block (embedding, one layer, head): parameters added from now on belong to it.
  /// Blocks are opened in forward order.
  void begin_block(std::string name);
  ParameterId add(ParameterSpec spec);
  /// Adds parameters that lie in memory one behind the other without a gap, so that one product
  /// serves them all: their fused view is [sum of rows, columns]. Returns the first id; the others
  /// follow it.
  ParameterId add_fused(std::vector<ParameterSpec> specs);

  /// Allocates. `compute`: dtype of the weights the model computes with; main weights and gradients
  /// are f32 (and the weights themselves are the main weights when compute is f32). A dry run
  /// allocates nothing and hands out tensors without memory.
  void commit(Device device, DType compute, StoreMode mode, bool dry_run = false);

  int size() const { return static_cast<int>(entries_.size()); }
  const ParameterSpec& spec(ParameterId id) const { return entry(id).spec; }
  ParameterId find(const std::string& name) const;  ///< throws Error naming near matches' block

  Tensor weight(ParameterId id) const;  ///< compute dtype, local shape
  Tensor grad(ParameterId id) const;    ///< f32, local shape
  Tensor fused_weight(ParameterId first, int count) const;
  Tensor fused_grad(ParameterId first, int count) const;

  // ---- shards of the flat f32 state, named after the parameter ------------------------------
  Shard weight_shard(ParameterId id) const;
  Shard main_shard(ParameterId id) const;
  Shard exp_avg_shard(ParameterId id) const;
  Shard exp_avg_sq_shard(ParameterId id) const;

  // ---- flat views ---------------------------------------------------------------------------
  std::int64_t numel() const { return numel_; }  ///< with padding
  std::int64_t parameter_count() const;          ///< elements of the global model held here
  Tensor weights() const { return weights_; }
  Tensor grads() const { return grads_; }
  Tensor main() const { return main_; }
  Tensor exp_avg() const { return exp_avg_; }
  Tensor exp_avg_sq() const { return exp_avg_sq_; }
  bool has_separate_main() const { return compute_ != DType::f32; }
  DType compute_dtype() const { return compute_; }
  StoreMode mode() const { return mode_; }
  Device device() const { return device_; }

  int block_count() const { return static_cast<int>(blocks_.size()); }
  const std::string& block_name(int block) const {
    return blocks_[static_cast<std::size_t>(block)].name;
  }
  /// Flat range of a block. The last block (in forward order) lies first.
  FlatRange block_range(int block) const;
  /// Maximal runs with one decay setting, in flat order; together they cover every parameter.
  std::span<const FlatRange> decay_ranges() const { return decay_ranges_; }

  /// weights = main rounded to the compute dtype (nothing to do in f32). After main was written
  /// from outside: initialisation, checkpoint, import.
  void refresh_weights(const Backend& ops, Stream& stream) const;

 private:
  struct Entry {
    ParameterSpec spec;
    int block = 0;
    bool fused_with_previous = false;
    std::int64_t offset = 0;  // elements
  };
  struct Block {
    std::string name;
    std::int64_t begin = 0, end = 0;
  };

  const Entry& entry(ParameterId id) const;
  void lay_out();
  Tensor view(const Tensor& flat, ParameterId id) const;
  Tensor fused_view(const Tensor& flat, ParameterId first, int count) const;
  Shard shard(const Tensor& flat, ParameterId id) const;

  std::vector<Entry> entries_;
  std::vector<Block> blocks_;
  std::vector<FlatRange> decay_ranges_;
  std::int64_t numel_ = 0;
  DType compute_ = DType::f32;
  StoreMode mode_ = StoreMode::inference;
  Device device_{};
  Buffer weights_buffer_, grads_buffer_, main_buffer_, exp_avg_buffer_, exp_avg_sq_buffer_;
  Tensor weights_, grads_, main_, exp_avg_, exp_avg_sq_;
};

}  // namespace neox
