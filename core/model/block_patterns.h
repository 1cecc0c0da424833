#pragma once
// Which blocks of keys a block of queries sees in block-sparse attention, after DeepSpeed's
// sparsity configurations for causal models ("unidirectional"), which GPT-NeoX's attention_config
// names.

#include <cstdint>
#include <map>
#include <vector>

#include "core/base/model_types.h"
#include "core/config/config.h"
#include "core/model/partition.h"
#include "core/tensor/buffer.h"
#include "kernels/attention_mask.h"

namespace neox {

/// [blocks, blocks] for max_position_embeddings positions: 1 where the queries of a row's block see
/// the keys of a column's. With i the row's block, j <= i the column's, n = sparse_num_...:
///   local            j >= i - n_local / 2
///   sparse_fixed     windows of n_local blocks: j in i's window, or j one of the n_global blocks
///                    that stand for their window. With p patterns head a takes those that lie
///                    (1 + a % p) n_global blocks before the window's end
///   sparse_variable  j in i's window, of sparse_local_window_blocks, or global, or random
///   bigbird          j >= i - n_sliding / 2, j < n_global, or random
///   bslongformer     j >= i - n_sliding / 2, or j global, or i global
/// Random: n_random of the blocks up to i, which depend on i, the kind and, with a layout of its
/// own for each head, on the model's head, and on nothing else: they are part of the architecture.
/// (DeepSpeed draws them anew at every start.) `kind` is a sparse one, `head` one of the model's.
std::vector<std::uint8_t> kept_blocks(const ModelConfig& model, AttentionKind kind,
                                      std::int64_t head);

/// The patterns of a model's layers for the heads held here, in device memory.
class BlockPatterns {
 public:
  BlockPatterns() = default;
  BlockPatterns(const ModelConfig& model, AxisRange heads, Device device, Stream& stream,
                bool dry_run);
  /// Of layers of a kind; without blocks for those that are not sparse.
  BlockPattern of(AttentionKind kind) const;
  std::size_t bytes() const;

 private:
  std::int64_t block_ = 0;
  std::map<AttentionKind, OwnedTensor> kept_;
};

}  // namespace neox
