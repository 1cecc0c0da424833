#pragma once
// The embedding and attention families of the CUDA backend, for the operator harness.

#include "kernels/cuda/embedding.h"
#include "tests/gpu/gpu_support.h"

namespace neox::testing {

/// Computes these families and nothing else (results of other operators stay unwritten, which the
/// harness reports).
class SequenceFamilies final : public DryRunBackend {
 public:
  SequenceFamilies(Device device, const Backend& cpu)
      : DryRunBackend(device, cpu), embedding_(device) {}
  std::string_view name() const override { return "cuda embedding and attention"; }

  void embedding(Stream& s, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                 ConstTensor positions, ConstTensor position_table, Tensor y) const override {
    embedding_.embedding(s, ids, table, first_id, positions, position_table, y);
  }
  void embedding_backward(Stream& s, ConstTensor ids, ConstTensor dy, std::int64_t first_id,
                          Tensor dtable) const override {
    embedding_.embedding_backward(s, ids, dy, first_id, dtable);
  }

 private:
  CudaEmbedding embedding_;
};

/// On kGpu or kSimulated.
const Backend& sequence_kernels_on(Device device);

}  // namespace neox::testing
