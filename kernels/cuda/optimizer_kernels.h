#pragma once
// What kernels/cuda/optimizer.cpp and hash.cpp ask of optimizer.cu and hash.cu. Plain types only.
// The caller checks cudaGetLastError().

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"
#include "kernels/cuda/kernel_launch.h"
#include "kernels/update_rules.h"

namespace neox::cuda {

/// All [n] but grad_scale [1]; states as many as the rule has; weights of `weights_type` (bf16 or
/// f16) or null.
struct StepArrays {
  const float *grad, *grad_scale;
  float* main;
  float* states[kMostStates];
  void* weights;
  DType weights_type;
  std::int64_t n;
};
void optimizer_step(const Launch&, const UpdateRule&, const StepArrays&);

/// scratch f64 [kMostPartialSums]; its size and the order of sums depend on n only.
inline constexpr std::int64_t kMostPartialSums = 1024;
void square_sum(const Launch&, const float* x, std::int64_t n, double* scratch, double* out,
                bool accumulate);
void clip_scale(const Launch&, const double* square_sum, float max_norm, float loss_scale,
                float* scale);

/// scratch u64 [kMostPartialSums]
void hash(const Launch&, const void* x, std::int64_t bytes, std::uint64_t* scratch,
          std::uint64_t* out, bool accumulate);

}  // namespace neox::cuda
