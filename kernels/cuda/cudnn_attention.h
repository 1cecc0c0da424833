#pragma once
// Fused attention by cuDNN, where it has it.

#include <initializer_list>
#include <mutex>
#include <string>

#include "kernels/attention.h"
#include "kernels/cuda/cudnn_graph.h"
#include "kernels/cuda/family.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/workspace.h"

namespace neox {

/// What speaks against cuDNN before any plan is made: dtype, dropout, no or few queries, heads that
/// do not lie at multiples of 16 bytes. "" when nothing does.
const std::string& cudnn_refusal(const AttentionProblem& problem,
                                 std::initializer_list<ConstHeads> heads);

/// The forward and backward of AttentionOps (kernels/attention.h) for the problems that cuDNN has
/// kernels for: bf16 and f16, causal, grouped-query, head sizes that are multiples of 8 up to 128
/// or 256, heads at 16-byte steps, no dropout (its masks are not ours). The log-sum-exp is the same
/// number that every other backend saves, so forward and backward may run on different ones.
///
/// The first call for a problem builds its plan, which takes about a second; later calls neither
/// allocate device memory nor wait. Only the first 16 problems get a plan, so that text generation,
/// whose lengths keep changing, does not build plans for ever. Backward's workspace is this
/// object's own. Calls of different threads exclude each other.
class CudnnAttention : protected CudaFamily {
 public:
  /// `deterministic`: backward gives the same bits every time. Never throws for want of cuDNN.
  CudnnAttention(Device device, bool deterministic);
  ~CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  /// Why cuDNN cannot compute the call, in a few words; "" when it can. Asked before each call, it
  /// costs the look-up of a plan.
  const std::string& why_not(const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                             ConstHeads v) const;
  const std::string& why_not_backward(const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                                      ConstHeads v, ConstHeads dq, ConstHeads dk,
                                      ConstHeads dv) const;

  /// As in AttentionOps. Throws Error where why_not() says why.
  void attention(Stream& stream, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                 ConstHeads v, Tensor out, Tensor lse) const;
  void attention_backward(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                          ConstHeads k, ConstHeads v, ConstTensor out, ConstTensor lse,
                          ConstTensor dout, Heads dq, Heads dk, Heads dv) const;

  using Plans = PlanCache<CudnnAttentionKey, CudnnPlan>;
  const Plans& plans() const { return plans_; }

 private:
  const std::string& refusal(const AttentionProblem& problem,
                             std::initializer_list<ConstHeads> heads) const;
  CudnnPlan& plan(const CudnnAttentionKey& key) const;
  void run_plan(Stream& stream, CudnnPlan& plan, std::span<void*> pointers) const;

  bool deterministic_;
  std::string problem_;  // of cuDNN on this device
  cudnnContext* handle_ = nullptr;
  mutable std::mutex mutex_;
  mutable Plans plans_;
  Workspace workspace_;
};

}  // namespace neox
