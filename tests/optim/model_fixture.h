#pragma once
// A small model with everything needed to run it, for tests of core/model and above.

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/transformer.h"
#include "kernels/backend.h"

namespace neox::testing {

class TestModel {
 public:
  TestModel(const ModelConfig& config, std::int64_t batch, std::int64_t seq,
            DType compute = DType::f32, Recompute recompute = Recompute::none,
            bool split_backward = false);

  /// Sets the inputs of the next call. weights: of each token's loss.
  void set_batch(const std::vector<std::int32_t>& ids, const std::vector<std::int32_t>& labels,
                 const std::vector<float>& weights, std::int64_t first_sample = 0);
  /// Where each token's document begins in its sequence, from the next call on.
  void set_documents(const std::vector<std::int32_t>& begins, bool reset_positions);
  /// Returns sum(weights * losses).
  double forward_backward(bool accumulate = false, std::int64_t step = 0);
  std::vector<float> losses() const;
  std::vector<float> logits(std::vector<std::vector<float>>* residuals = nullptr);

  MicroBatchView view() const;
  Execution execution(const Backend& backend, std::int64_t step);

  std::unique_ptr<Backend> ops;
  std::unique_ptr<Stream> stream;
  Transformer model;

 private:
  void measure();
  std::int64_t batch_, seq_, first_sample_ = 0;
  Recompute recompute_;
  ChunkPass pass_;
  Arena gradients_, keep_, recompute_arena_, scratch_;
  OwnedTensor ids_, positions_, documents_, labels_, weights_, losses_;
};

/// Values of a host f32/bf16 tensor.
std::vector<float> values(ConstTensor tensor);

}  // namespace neox::testing
