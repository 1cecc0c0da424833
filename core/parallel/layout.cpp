#include "core/parallel/layout.h"

#include "core/config/resolve.h"
#include "core/parallel/layer_split.h"

namespace neox {

ParallelLayout parallel_layout(const ParallelConfig& parallel, int world_size) {
  ParallelLayout layout;
  layout.tensor = static_cast<int>(parallel.model_parallel_size);
  layout.pipe = static_cast<int>(parallel.pipe_parallel_size);
  layout.data = static_cast<int>(data_parallel_size(parallel, world_size));
  return layout;
}

ModelPartition model_partition(const Config& config, const ParallelLayout& layout,
                               const Coordinates& at) {
  const ModelConfig& model = config.model;
  ModelPartition partition;
  partition.tensor_rank = at.tensor;
  partition.tensor_size = layout.tensor;
  partition.rows_sharded = config.parallel.sequence_parallel && layout.tensor > 1;
  const int chunks = static_cast<int>(config.parallel.virtual_pipeline_size);
  const std::vector<int> layers =
      split_layers(static_cast<int>(model.num_layers), layout.pipe, chunks, 0.0,
                   head_cost_in_layers(model.padded_vocab_size(), model.hidden_size));
  int first = 0;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const int stage = static_cast<int>(i) % layout.pipe;
    if (stage == at.pipe) {
      partition.chunks.push_back({first, first + layers[i], i == 0, i + 1 == layers.size()});
    }
    first += layers[i];
  }
  return partition;
}

}  // namespace neox
