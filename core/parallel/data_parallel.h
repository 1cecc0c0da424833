#pragma once
// Data parallelism with ZeRO: sums gradients over the data-parallel group while backward runs,
// brings weights to where they are needed, and keeps away what this rank need not hold.
//
//             gradients                                  weights
//   stage 0   all-reduced, bucket by bucket              whole
//   stage 1   reduce-scattered in place                  whole; gathered after the optimizer step
//   stage 2   a block's lie in one of two temporary      as stage 1
//             buffers; reduce-scattered and added to
//             the owned part after every micro-batch
//   stage 3   as stage 2                                 a block's are gathered into one of two
//                                                        temporary buffers, the next one ahead
// Blocks whose parameters another block uses (tied embedding of a single stage) are whole in every
// stage: gradients are reduced once a step, weights gathered once a step.

#include <cstdint>
#include <functional>
#include <vector>

#include "comm/communicator.h"
#include "core/model/transformer.h"
#include "core/parallel/bucket_reducer.h"
#include "core/parallel/weight_gatherer.h"

namespace neox {

/// The groups that gradients are summed over; null or of size 1: nothing to sum.
struct GradientGroups {
  Communicator* data = nullptr;       ///< the group of the store's ShardPlan
  Communicator* tensor = nullptr;     ///< GradientSum::tensor
  Communicator* key_value = nullptr;  ///< GradientSum::key_value
  Communicator* embedding = nullptr;  ///< ParameterSpec::tied_across_stages
};

/// Bytes of buffers on this rank; the store's own are in StoreMemory.
struct DataParallelMemory {
  std::size_t weights = 0;        ///< gathered blocks of stage 3
  std::size_t gradients = 0;      ///< blocks of stages 2 and 3 on their way
  std::size_t communication = 0;  ///< messages in another dtype, sums over model-parallel ranks
};

class DataParallel final : public BlockObserver {
 public:
  /// The store is committed in training mode; every rank of a group has equal ranges to sum there
  /// (checked). `exchange`: f32; or bf16 or f16, in which gradients then travel; summed in f32.
  /// Collective.
  DataParallel(ParameterStore& store, const GradientGroups& groups, const Backend& ops,
               Stream& stream, DType exchange = DType::f32);

  /// Waits for messages on their way; while an exception ends the program, when peers may never
  /// come, their memory is abandoned instead.
  ~DataParallel() override;
  DataParallel(const DataParallel&) = delete;
  DataParallel& operator=(const DataParallel&) = delete;

  /// Starts a step of `micro_batches` (>= 1) backward passes through every block held here.
  void begin_step(std::int64_t micro_batches);
  /// After the last backward: waits until the gradients that this rank updates with are the sums
  /// over all groups. Every block must have had its micro-batches.
  void finish_gradients();

  /// After the optimizer step: starts the gathers of whole weights, in forward order;
  /// weights_needed waits for a block's. Without this call the next weights_needed starts them.
  void gather_weights();

  void weights_needed(int block, bool backward) override;
  void weights_done(int block) override;
  /// At most two blocks may be between gradients_needed and gradients_done in stages 2 and 3.
  void gradients_needed(int block) override;
  /// Once per micro-batch and block.
  void gradients_done(int block) override;

  DataParallelMemory memory() const;

 private:
  /// One sum over a model-parallel group: packed into one message.
  struct GroupSum {
    Communicator* group = nullptr;
    Purpose purpose = Purpose::gradients;
    std::vector<StatePiece> pieces;
    Buffer buffer;
    Tensor packed;
  };

  void add_group_sum(Communicator* group, Purpose purpose,
                     const std::function<bool(const ParameterSpec&)>& chosen);
  void sum_over_groups();
  bool is_final(int block) const;
  void reduce_if_final(int block);

  ParameterStore& store_;
  Stream& stream_;
  BucketReducer reducer_;
  WeightGatherer gatherer_;
  std::vector<GroupSum> sums_;
  std::vector<std::vector<int>> users_;  // of each block: later blocks that use its parameters
  std::vector<std::int64_t> done_;       // micro-batches of each block in this step
  std::vector<char> reduced_;            // in this step
  std::int64_t micro_batches_ = 0;
  int uncaught_;
};

}  // namespace neox
