#pragma once
// The CPU's attention and rotary embedding as free functions; CpuBackend's methods call them.
//
// Flash attention (Dao et al., arXiv:2205.14135 and 2307.08691) in blocks of 64 queries by 64 or
// 128 keys. Every output element is computed by one task in one fixed order, so results are the
// same bits for any number of threads.

#include "kernels/attention.h"

namespace neox::cpu {

/// Which kernels run: `best` takes the widest instructions this build has, `portable` is plain C++
/// that runs anywhere (and is the reference of tests on machines where it would never be chosen).
enum class AttentionKernels : std::uint8_t { best, portable };

/// AttentionOps::attention. `lse` may be empty. q, k, v, out: one dtype out of f32, bf16, f16.
/// Throws Error when sizes, dtypes or devices do not fit the problem.
void attention_forward(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                       Tensor out, Tensor lse, AttentionKernels kernels = AttentionKernels::best);

/// Bytes of workspace that attention_backward needs with the present number of OpenMP threads.
std::size_t attention_backward_workspace(const AttentionProblem& problem);

/// AttentionOps::attention_backward.
void attention_backward(const AttentionProblem& problem, ConstHeads q, ConstHeads k, ConstHeads v,
                        ConstTensor out, ConstTensor lse, ConstTensor dout, Heads dq, Heads dk,
                        Heads dv, Tensor workspace,
                        AttentionKernels kernels = AttentionKernels::best);

/// AttentionOps::rotary. Throws Error when a table is too narrow for the heads' stride or a
/// position lies outside the tables.
void rotary(Heads x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
            ConstTensor positions, ConstTensor cos_table, ConstTensor sin_table, bool inverse);

}  // namespace neox::cpu
