#include "kernels/cuda/attention.h"

#include <limits>

#include "core/base/error.h"
#include "kernels/cuda/attention_kernels.h"

namespace neox {
namespace {

cuda::HeadsAt<const void> at(const ConstHeads& h) {
  return {h.data, h.batch_stride, h.row_stride, h.head_stride};
}
cuda::HeadsAt<void> at(const Heads& h) {
  return {h.data, h.batch_stride, h.row_stride, h.head_stride};
}
/// The heads of a tensor [batch, query_length, heads * head_dim].
template <class Memory>
cuda::HeadsAt<Memory> packed(Memory* data, const AttentionProblem& p) {
  const std::int64_t width = p.heads * p.head_dim;
  return {data, p.query_length * width, width, p.head_dim};
}

cuda::AttentionSizes sizes_of(const AttentionProblem& p) {
  const bool dims = p.head_dim > 0 && p.head_dim <= cuda::kMaxHeadDim;
  if (!dims) {
    fail(
        "attention over heads of {} channels: the CUDA kernels take 1 to {}; use more heads, or "
        "the device cpu",
        p.head_dim, cuda::kMaxHeadDim);
  }
  const bool lengths = p.query_length >= 0 && p.key_length >= p.query_length && p.kv_heads > 0 &&
                       p.heads % p.kv_heads == 0;
  if (!lengths) {
    fail(
        "attention of {} queries of {} heads to {} keys of {} heads: there must be at least as "
        "many keys as queries, and their heads must divide those of the queries",
        p.query_length, p.heads, p.key_length, p.kv_heads);
  }
  // A block of the grid for some queries or keys of one head, and 16 of them at least.
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (p.key_length > kMost - 1024 || p.batch * p.heads * (p.key_length / 16 + 1) > kMost) {
    fail("attention of {} samples with {} heads over {} keys is more than one launch takes",
         p.batch, p.heads, p.key_length);
  }
  const auto whole = [](std::int64_t n) { return static_cast<int>(n); };
  return {whole(p.batch), whole(p.query_length), whole(p.key_length),
          whole(p.heads), whole(p.kv_heads),     whole(p.head_dim),
          p.scale};
}

cuda::ProbabilityDropout dropout_of(const AttentionDropout& d) {
  return {d.p, d.key, d.first_sample, d.first_head, d.global_heads, d.position};
}

}  // namespace

void CudaAttention::check(const ConstHeads& heads, DType want) const {
  if (heads.device == device_ && heads.dtype == want) return;
  fail("internal error: {} heads on {} were given to a kernel of {} that takes {}",
       name_of(heads.dtype), name_of(heads.device), name_of(device_), name_of(want));
}

MaskView CudaAttention::mask_of(const AttentionProblem& p) const {
  return mask_view(p.mask, device_, p.batch, p.heads, p.query_length, p.key_length);
}

void CudaAttention::attention(Stream& stream, const AttentionProblem& problem, ConstHeads q,
                              ConstHeads k, ConstHeads v, Tensor out, Tensor lse) const {
  for (const ConstHeads& heads : {q, k, v}) check(heads, out.dtype);
  const cuda::AttentionSizes sizes = sizes_of(problem);
  const MaskView mask = mask_of(problem);
  run(stream, "attention", [=, this](const cuda::Launch& launch) {
    const auto forward = !mask.empty()                    ? cuda::attention_forward_masked
                         : problem.alibi.global_heads > 0 ? cuda::attention_forward_alibi
                                                          : cuda::attention_forward;
    forward(launch, out.dtype,
            {sizes, dropout_of(problem.dropout), at(q), at(k), at(v),
             packed(output(out, out.dtype), problem),
             static_cast<float*>(optional_output(lse, DType::f32)), problem.alibi, mask});
  });
}

std::size_t CudaAttention::attention_backward_workspace(const AttentionProblem& problem,
                                                        DType) const {
  return static_cast<std::size_t>(problem.batch * problem.heads * problem.query_length) *
         sizeof(float);
}

void CudaAttention::attention_backward(Stream& stream, const AttentionProblem& problem,
                                       ConstHeads q, ConstHeads k, ConstHeads v, ConstTensor out,
                                       ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                                       Heads dv, Tensor workspace) const {
  const DType t = out.dtype;
  for (const ConstHeads& heads : {q, k, v, ConstHeads(dq), ConstHeads(dk), ConstHeads(dv)}) {
    check(heads, t);
  }
  const cuda::AttentionSizes sizes = sizes_of(problem);
  const std::size_t needed = attention_backward_workspace(problem, t);
  if (workspace.bytes() < needed) {
    fail("internal error: the backward of attention got {} bytes of workspace, it needs {}",
         workspace.bytes(), needed);
  }
  const MaskView mask = mask_of(problem);
  run(stream, "attention_backward", [=, this](const cuda::Launch& launch) {
    const auto backward = !mask.empty()                    ? cuda::attention_backward_masked
                          : problem.alibi.global_heads > 0 ? cuda::attention_backward_alibi
                                                           : cuda::attention_backward;
    backward(
        launch, t,
        {sizes, dropout_of(problem.dropout), at(q), at(k), at(v), packed(input(out, t), problem),
         packed(input(dout, t), problem), static_cast<const float*>(input(lse, DType::f32)),
         static_cast<float*>(output(workspace, DType::u8)), at(dq), at(dk), at(dv), problem.alibi,
         mask});
  });
}

void CudaAttention::rotary(Stream& stream, Heads x, std::int64_t batch, std::int64_t seq,
                           std::int64_t heads, ConstTensor positions, ConstTensor cos_table,
                           ConstTensor sin_table, bool inverse) const {
  check(x, x.dtype);
  run(stream, "rotary", [=, this](const cuda::Launch& launch) {
    cuda::rotary(launch, x.dtype,
                 {at(x), batch, seq, heads, cos_table.cols(),
                  static_cast<const std::int32_t*>(input(positions, DType::i32)),
                  static_cast<const float*>(input(cos_table, DType::f32)),
                  static_cast<const float*>(input(sin_table, DType::f32)), inverse});
  });
}

void CudaAttention::copy_heads(Stream& stream, ConstHeads from, Heads to, std::int64_t batch,
                               std::int64_t seq, std::int64_t heads, std::int64_t head_dim) const {
  check(from, from.dtype);
  check(to, from.dtype);
  run(stream, "copy_heads", [=, this](const cuda::Launch& launch) {
    cuda::copy_heads(launch, from.dtype, {at(from), at(to), batch, seq, heads, head_dim});
  });
}

}  // namespace neox
