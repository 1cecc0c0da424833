#include "kernels/cuda/cudnn_attention.h"

#include <array>

#include "core/base/error.h"
#include "kernels/cuda/internal.h"

namespace neox {
namespace {

/// cuDNN moves heads 16 bytes at a time, and does not look whether they lie so.
constexpr std::int64_t kStep = 16;

bool in_steps(const ConstHeads& heads) {
  const auto size = static_cast<std::int64_t>(size_of(heads.dtype));
  const std::int64_t strides = heads.batch_stride | heads.row_stride | heads.head_stride;
  return strides * size % kStep == 0 && reinterpret_cast<std::uintptr_t>(heads.data) % kStep == 0;
}

CudnnAttentionKey::Strides strides_of(const ConstHeads& heads) {
  return {heads.batch_stride, heads.row_stride, heads.head_stride};
}

CudnnAttentionKey key_of(const AttentionProblem& p, const ConstHeads& q, const ConstHeads& k,
                         const ConstHeads& v) {
  CudnnAttentionKey key;
  key.dtype = q.dtype;
  key.batch = p.batch;
  key.query_length = p.query_length;
  key.key_length = p.key_length;
  key.heads = p.heads;
  key.kv_heads = p.kv_heads;
  key.head_dim = p.head_dim;
  key.scale = p.scale;
  key.q = strides_of(q);
  key.k = strides_of(k);
  key.v = strides_of(v);
  return key;
}
CudnnAttentionKey backward_key_of(const AttentionProblem& p, const ConstHeads& q,
                                  const ConstHeads& k, const ConstHeads& v, const ConstHeads& dq,
                                  const ConstHeads& dk, const ConstHeads& dv) {
  CudnnAttentionKey key = key_of(p, q, k, v);
  key.backward = true;
  key.dq = strides_of(dq);
  key.dk = strides_of(dk);
  key.dv = strides_of(dv);
  return key;
}

/// cuDNN's operands are all void*; those of inputs are only read.
void* pointer(const std::byte* data) {
  return const_cast<std::byte*>(data);
}

/// Text generation asks for a new key_length with every token and a new length with every prompt: a
/// plan for each, at a second or more, would cost more than it gains. Training has a few problems.
constexpr std::int64_t kFewestQueries = 64;
constexpr std::size_t kMostPlans = 16;

const std::string kNothing;
const std::string kDType = "cuDNN's attention is for bf16 and f16";
const std::string kDropout = "the dropout masks of cuDNN are not ours";
const std::string kAlibi = "attention with ALiBi is our own";
const std::string kMask = "attention under a mask is our own";
const std::string kEmpty = "there is nothing to compute";
const std::string kFewQueries = "few queries (text generation) are not worth a plan";
const std::string kManyPlans = "plans were made for 16 problems already";
const std::string kSteps = "heads do not lie at multiples of 16 bytes";

}  // namespace

CudnnAttention::CudnnAttention(Device device, bool deterministic)
    : CudaFamily(device), deterministic_(deterministic) {
  if (device.kind != DeviceKind::cuda) {
    problem_ = fmt::format("cuDNN does not run on {}", name_of(device));
    return;
  }
  problem_ = cudnn_problem();
  if (!problem_.empty()) return;
  const DeviceGuard guard(device.index);
  try {
    handle_ = create_cudnn_handle();
  } catch (const Error& error) {
    problem_ = error.what();
  }
}

CudnnAttention::~CudnnAttention() {
  if (handle_ != nullptr) destroy_cudnn_handle(handle_);
}

const std::string& cudnn_refusal(const AttentionProblem& p,
                                 std::initializer_list<ConstHeads> heads) {
  if (p.dropout.p > 0.0f) return kDropout;
  if (p.alibi.global_heads > 0) return kAlibi;
  if (p.mask.window > 0 || p.mask.documents || p.mask.pattern.block > 0) return kMask;
  if (p.batch * p.heads * p.query_length * p.key_length == 0) return kEmpty;
  if (p.query_length < kFewestQueries) return kFewQueries;
  for (const ConstHeads& h : heads) {
    if (h.dtype != DType::bf16 && h.dtype != DType::f16) return kDType;
    if (!in_steps(h)) return kSteps;
  }
  return kNothing;
}

const std::string& CudnnAttention::refusal(const AttentionProblem& problem,
                                           std::initializer_list<ConstHeads> heads) const {
  return problem_.empty() ? cudnn_refusal(problem, heads) : problem_;
}

const std::string& CudnnAttention::why_not(const AttentionProblem& problem, ConstHeads q,
                                           ConstHeads k, ConstHeads v) const {
  const std::string& reason = refusal(problem, {q, k, v});
  if (!reason.empty()) return reason;
  const std::scoped_lock lock(mutex_);
  return plan(key_of(problem, q, k, v)).reason;
}

const std::string& CudnnAttention::why_not_backward(const AttentionProblem& problem, ConstHeads q,
                                                    ConstHeads k, ConstHeads v, ConstHeads dq,
                                                    ConstHeads dk, ConstHeads dv) const {
  const std::string& reason = refusal(problem, {q, k, v, dq, dk, dv});
  if (!reason.empty()) return reason;
  const std::scoped_lock lock(mutex_);
  return plan(backward_key_of(problem, q, k, v, dq, dk, dv)).reason;
}

CudnnPlan& CudnnAttention::plan(const CudnnAttentionKey& key) const {
  return plans_.get(key, [&]() -> CudnnPlan {
    if (plans_.size() >= kMostPlans) return {nullptr, kManyPlans, 0};
    const DeviceGuard guard(device_.index);
    return build_attention(key, deterministic_, handle_);
  });
}

void CudnnAttention::run_plan(Stream& stream, CudnnPlan& plan, std::span<void*> pointers) const {
  if (plan.graph == nullptr) fail("internal error: attention by cuDNN: {}", plan.reason);
  const DeviceGuard guard(device_.index);
  const std::size_t bytes = plan.graph->workspace_bytes();
  void* workspace = bytes == 0 ? nullptr : workspace_.take(stream, bytes);
  set_cudnn_stream(handle_, stream);
  plan.graph->run(handle_, pointers, workspace);
}

void CudnnAttention::attention(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                               ConstHeads k, ConstHeads v, Tensor out, Tensor lse) const {
  const std::string& reason = refusal(problem, {q, k, v});
  if (!reason.empty()) fail("internal error: attention by cuDNN: {}", reason);
  std::array<void*, 5> pointers = {pointer(q.data), pointer(k.data), pointer(v.data),
                                   output(out, q.dtype), output(lse, DType::f32)};
  const std::scoped_lock lock(mutex_);
  run_plan(stream, plan(key_of(problem, q, k, v)), pointers);
}

void CudnnAttention::attention_backward(Stream& stream, const AttentionProblem& problem,
                                        ConstHeads q, ConstHeads k, ConstHeads v, ConstTensor out,
                                        ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                                        Heads dv) const {
  const std::string& reason = refusal(problem, {q, k, v, dq, dk, dv});
  if (!reason.empty()) fail("internal error: attention by cuDNN: {}", reason);
  input(out, q.dtype);
  input(dout, q.dtype);
  input(lse, DType::f32);
  std::array<void*, 9> pointers = {pointer(q.data),   pointer(k.data),   pointer(v.data),
                                   pointer(out.data), pointer(lse.data), pointer(dout.data),
                                   dq.data,           dk.data,           dv.data};
  const std::scoped_lock lock(mutex_);
  run_plan(stream, plan(backward_key_of(problem, q, k, v, dq, dk, dv)), pointers);
}

}  // namespace neox
