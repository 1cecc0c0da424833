#include "kernels/cpu/attention.h"

#include <array>

#include <omp.h>

#include "core/tensor/buffer.h"
#include "kernels/cpu/attention_common.h"
#include "kernels/cpu/cpu_backend.h"

namespace neox {
namespace cpu {

std::byte* attention_scratch(std::size_t bytes) {
  thread_local Buffer buffer;
  if (buffer.bytes() < bytes) {
    buffer = Buffer{};  // gives the old block back before it asks for the larger one
    buffer = Buffer(bytes, Device{}, MemoryOwner::backend);
  }
  return buffer.data();
}

int attention_threads() {
  return omp_get_max_threads();
}

namespace {

// philox() on sixteen consecutive counters, lane by lane so that the compiler vectorises it.
void philox16(RngKey key, std::uint64_t counter, std::uint32_t (&words)[4][16]) {
  std::uint32_t c0[16], c1[16], c2[16] = {}, c3[16] = {};
  for (std::uint64_t i = 0; i < 16; ++i) {
    c0[i] = static_cast<std::uint32_t>(counter + i);
    c1[i] = static_cast<std::uint32_t>((counter + i) >> 32);
  }
  auto k0 = static_cast<std::uint32_t>(key.value);
  auto k1 = static_cast<std::uint32_t>(key.value >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < 16; ++i) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c0[i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c2[i];
      c0[i] = static_cast<std::uint32_t>(p1 >> 32) ^ c1[i] ^ k0;
      c2[i] = static_cast<std::uint32_t>(p0 >> 32) ^ c3[i] ^ k1;
      c1[i] = static_cast<std::uint32_t>(p1);
      c3[i] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int i = 0; i < 16; ++i) {
    words[0][i] = c0[i];
    words[1][i] = c1[i];
    words[2][i] = c2[i];
    words[3][i] = c3[i];
  }
}

}  // namespace

void dropout_factors(const AttentionDropout& dropout, std::uint64_t first, std::span<float> to) {
  const float kept = 1.0f / (1.0f - dropout.p);
  std::uint32_t words[4][16];
  const std::uint64_t end = first + to.size();
  for (std::uint64_t counter = first / 4; counter * 4 < end; counter += 16) {
    philox16(dropout.key, counter, words);
    const std::uint64_t begin = std::max(first, counter * 4);
    const std::uint64_t stop = std::min(end, counter * 4 + 64);
    for (std::uint64_t i = begin; i < stop; ++i) {
      const std::uint32_t word = words[i % 4][i / 4 - counter];
      to[i - first] = uniform01(word) >= dropout.p ? kept : 0.0f;
    }
  }
}

namespace {

void check_problem(const AttentionProblem& p, const ConstHeads& q, const ConstHeads& k,
                   const ConstHeads& v) {
  require(p.batch >= 0 && p.query_length >= 0 && p.heads >= 0 && p.head_dim > 0,
          "attention over batch {}, query length {}, {} heads of dimension {}: sizes must not be "
          "negative and the dimension at least 1",
          p.batch, p.query_length, p.heads, p.head_dim);
  require(p.key_length >= p.query_length,
          "attention has {} keys for {} queries; every query needs its own key at least",
          p.key_length, p.query_length);
  require(p.kv_heads > 0 && p.heads % p.kv_heads == 0,
          "attention has {} heads and {} key/value heads; the latter must divide the former",
          p.heads, p.kv_heads);
  require(p.scale > 0.0f, "attention's scale is {}; it must be greater than 0", p.scale);
  require(p.dropout.p >= 0.0f && p.dropout.p < 1.0f,
          "attention dropout is {}; it must lie in [0, 1)", p.dropout.p);
  for (const auto& h : {q, k, v}) {
    require(h.device.is_cpu() && h.dtype == q.dtype,
            "attention on the CPU got {} heads on {} next to {} queries", name_of(h.dtype),
            name_of(h.device), name_of(q.dtype));
  }
}

void check_tensor(const char* what, ConstTensor t, DType dtype, std::int64_t numel) {
  require(t.device.is_cpu() && t.dtype == dtype && t.numel() == numel,
          "attention's {} is {} {} on {}; expected {} elements of {} on the CPU", what,
          name_of(t.dtype), t.shape.str(), name_of(t.device), numel, name_of(dtype));
}

}  // namespace

void attention_forward(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                       Tensor out, Tensor lse, AttentionKernels kernels) {
  check_problem(problem, q, k, v);
  const std::int64_t rows = problem.batch * problem.heads * problem.query_length;
  check_tensor("output", out, q.dtype, rows * problem.head_dim);
  if (lse) check_tensor("lse", lse, DType::f32, rows);
  if (rows == 0) return;
  float* lse_data = lse ? lse.ptr<float>() : nullptr;
  if (problem.query_length == 1 && problem.dropout.p == 0.0f) {
    forward_decode(problem, q, k, v, out, lse_data, kernels);
  } else {
    forward_blocks(problem, q, k, v, out, lse_data, kernels);
  }
}

void attention_backward(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                        ConstTensor out, ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                        Heads dv, Tensor workspace, AttentionKernels kernels) {
  check_problem(problem, q, k, v);
  check_problem(problem, dq, dk, dv);
  const std::int64_t rows = problem.batch * problem.heads * problem.query_length;
  check_tensor("output", out, q.dtype, rows * problem.head_dim);
  check_tensor("output gradient", dout, q.dtype, rows * problem.head_dim);
  check_tensor("lse", lse, DType::f32, rows);
  require(dq.dtype == q.dtype, "attention's gradients are {}, its inputs {}; they must agree",
          name_of(dq.dtype), name_of(q.dtype));
  const std::size_t needed = attention_backward_workspace(problem);
  require(workspace.bytes() >= needed,
          "attention's workspace has {} bytes and {} are needed with {} threads; ask "
          "attention_backward_workspace() with the same OMP_NUM_THREADS",
          workspace.bytes(), needed, attention_threads());
  backward_blocks(problem, q, k, v, out, lse, dout, dq, dk, dv, workspace, kernels);
}

}  // namespace cpu

void CpuBackend::attention(Stream&, const AttentionProblem& problem, ConstHeads q, ConstHeads k,
                           ConstHeads v, Tensor out, Tensor lse) const {
  cpu::attention_forward(problem, q, k, v, out, lse);
}

std::size_t CpuBackend::attention_backward_workspace(const AttentionProblem& problem, DType) const {
  return cpu::attention_backward_workspace(problem);
}

void CpuBackend::attention_backward(Stream&, const AttentionProblem& problem, ConstHeads q,
                                    ConstHeads k, ConstHeads v, ConstTensor out, ConstTensor lse,
                                    ConstTensor dout, Heads dq, Heads dk, Heads dv,
                                    Tensor workspace) const {
  cpu::attention_backward(problem, q, k, v, out, lse, dout, dq, dk, dv, workspace);
}

}  // namespace neox
