#pragma once
// Attention as operation graphs of cuDNN, built with NVIDIA's cudnn-frontend: the only place that
// sees its headers. Private to kernels/cuda and its tests.

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "core/tensor/device.h"
#include "kernels/attention.h"

struct cudnnContext;  // *cudnnHandle_t

namespace neox {

/// Everything that a graph depends on. Strides count elements: {batch, row, head}.
struct CudnnAttentionKey {
  using Strides = std::array<std::int64_t, 3>;
  DType dtype = DType::bf16;
  bool backward = false;
  std::int64_t batch = 0, query_length = 0, key_length = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.0f;
  Strides q{}, k{}, v{};
  Strides dq{}, dk{}, dv{};  ///< of backward

  bool operator==(const CudnnAttentionKey&) const = default;
  std::size_t hash() const;
};

/// Why this program cannot use cuDNN on this machine, in a few words; "" when it can.
const std::string& cudnn_problem();

/// A handle for the current device. Throws Error.
cudnnContext* create_cudnn_handle();
void destroy_cudnn_handle(cudnnContext* handle);
void set_cudnn_stream(cudnnContext* handle, const Stream& stream);

/// A graph with the plan that computes it.
class CudnnGraph {
 public:
  virtual ~CudnnGraph() = default;
  virtual std::size_t workspace_bytes() const = 0;
  /// Queues it on the handle's stream. Pointers of forward: q, k, v, out, lse; backward's are
  /// followed by dout, dq, dk, dv. Throws Error.
  virtual void run(cudnnContext* handle, std::span<void*> pointers, void* workspace) = 0;
};

struct CudnnPlan {
  std::unique_ptr<CudnnGraph> graph;  ///< null when cuDNN cannot compute it
  std::string reason;                 ///< then: why
  std::int64_t candidates = 0;        ///< how many ways cuDNN knows
};

/// Builds the graph and its plan for the handle's device; takes up to seconds.
CudnnPlan build_attention(const CudnnAttentionKey& key, bool deterministic, cudnnContext* handle);

/// Whether cuDNN would have plans on the GPU that `device` describes, cuDNN's own JSON text of a
/// device; needs no GPU, but some libcuda.so.1, be it the toolkit's stub. No graph comes back.
CudnnPlan check_attention(const CudnnAttentionKey& key, bool deterministic,
                          const std::string& device);

}  // namespace neox
