#include "core/model/partition.h"

#include "core/base/error.h"

namespace neox {

HeadPartition partition_heads(const ModelConfig& model, const ModelPartition& partition) {
  const std::int64_t heads = model.num_attention_heads, kv_heads = model.num_kv_heads;
  const std::int64_t ranks = partition.tensor_size;
  require(heads % ranks == 0,
          "{} attention heads can't be divided over {} tensor-parallel ranks: "
          "parallel.model_parallel_size must divide model.num_attention_heads",
          heads, ranks);
  require(kv_heads % ranks == 0 || ranks % kv_heads == 0,
          "{} key/value heads can't be divided over {} tensor-parallel ranks: one of "
          "model.num_kv_heads and parallel.model_parallel_size must divide the other",
          kv_heads, ranks);
  HeadPartition result;
  result.query = partition.tensor_part(heads);
  if (kv_heads >= ranks) {
    result.key_value = partition.tensor_part(kv_heads);
  } else {
    result.key_value_holders = static_cast<int>(ranks / kv_heads);
    result.key_value = {partition.tensor_rank / result.key_value_holders, 1};
  }
  return result;
}

}  // namespace neox
