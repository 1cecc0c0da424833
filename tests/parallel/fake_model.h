#pragma once
// A store of oddly shaped parameters and a "model" that writes known gradients in the order of a
// training step, next to an oracle: the same store, whole on every rank, fed with sums computed by
// loops.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/optim/optimizer.h"
#include "core/parallel/data_parallel.h"
#include "kernels/backend.h"

namespace neox::testing {

/// What the ranks beside the data-parallel group are to each other.
enum class Beside : std::uint8_t { nothing, tensor, key_value, embedding };

struct FakeCase {
  int zero_stage = 0;
  std::int64_t micro_batches = 1;
  DType compute = DType::f32;
  DType exchange = DType::f32;
  std::int64_t bucket_elements = 400;
  bool tied = false;       ///< the head uses the embedding's table
  bool pipelined = false;  ///< two chunks; all micro-batches pass one before the next
  Beside beside = Beside::nothing;
  double clipping = 0.0;
};

class FakeModel {
 public:
  /// `data`: ranks that split the batch; `model`: the group beside it, of the kind in the case.
  FakeModel(const FakeCase& what, Communicator& world, Communicator& data, Communicator& model);

  /// A training step: checks weights wherever they are needed, summed gradients and the norm.
  /// Returns the norm.
  double step();
  /// Checks main weights and optimizer state bit by bit against the oracle.
  void check_state() const;

  ParameterStore store;
  std::unique_ptr<DataParallel> parallel;

 private:
  void build(ParameterStore& to) const;
  std::vector<int> chunk(int index) const;
  void forward(const std::vector<int>& blocks);
  void backward(const std::vector<int>& blocks, std::int64_t micro_batch);
  void write_gradients(int block, std::int64_t micro_batch);
  void add_gradient(ParameterId id, std::int64_t micro_batch, bool from_head);
  void check_block(int block) const;
  float contribution(const std::string& name, std::int64_t e, std::int64_t micro_batch, int data,
                     int model, bool from_head) const;
  float expected_over_data(ParameterId id, std::int64_t e, int model) const;
  float expected(ParameterId id, std::int64_t e) const;
  void check_gradients();
  double expected_norm() const;

  FakeCase case_;
  Communicator& world_;
  Communicator& data_;
  Communicator& model_;
  std::unique_ptr<Backend> ops_;
  std::unique_ptr<Stream> stream_;
  ParameterStore oracle_;
  std::unique_ptr<Optimizer> optimizer_, oracle_optimizer_;
  std::int64_t step_ = 0;
};

/// Three steps of every stage: state bit-equal to the oracle's, norms of all stages that sum in one
/// order bit-equal.
void expect_all_stages(FakeCase what, Communicator& world, Communicator& data, Communicator& model);

}  // namespace neox::testing
