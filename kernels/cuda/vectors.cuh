#pragma once
// Storage types and f32, N neighbours at a time: memory is touched 16 bytes per access.

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "core/base/dtype.h"
#include "core/base/host_device.h"

namespace neox::cuda {

// core/base/dtype.h converts on the host only; these use the GPU's instructions.
NEOX_HOST_DEVICE inline float to_float(float x) {
  return x;
}
NEOX_HOST_DEVICE inline float to_float(bf16 x) {
  __nv_bfloat16_raw raw;
  raw.x = x.bits;
  return __bfloat162float(__nv_bfloat16(raw));
}
NEOX_HOST_DEVICE inline float to_float(f16 x) {
  __half_raw raw;
  raw.x = x.bits;
  return __half2float(__half(raw));
}

/// Rounds to nearest even.
template <class T>
NEOX_HOST_DEVICE inline T from_float(float x);
template <>
NEOX_HOST_DEVICE inline float from_float<float>(float x) {
  return x;
}
template <>
NEOX_HOST_DEVICE inline bf16 from_float<bf16>(float x) {
  bf16 result;
  result.bits = static_cast<__nv_bfloat16_raw>(__float2bfloat16_rn(x)).x;
  return result;
}
template <>
NEOX_HOST_DEVICE inline f16 from_float<f16>(float x) {
  f16 result;
  result.bits = static_cast<__half_raw>(__float2half_rn(x)).x;
  return result;
}

/// Elements of the widest access, for a kernel whose smallest element is T.
template <class T>
inline constexpr int kVector = 16 / static_cast<int>(sizeof(T));

/// Neighbours that one load or store moves: all N of them, or as many as 16 bytes hold.
template <class T, int N>
inline constexpr int kPackLength = N < kVector<T> ? N : kVector<T>;
template <class T, int Length>
struct alignas(sizeof(T) * Length) Pack {
  T item[Length];
};

/// to[i] = from[i]; `from` is aligned to the smaller of 16 bytes and N elements.
template <int N, class T>
NEOX_HOST_DEVICE inline void load(const T* from, float (&to)[N]) {
  constexpr int kLength = kPackLength<T, N>;
  using Part = Pack<T, kLength>;
  for (int p = 0; p < N / kLength; ++p) {
    const Part part = reinterpret_cast<const Part*>(from)[p];
    for (int i = 0; i < kLength; ++i) to[p * kLength + i] = to_float(part.item[i]);
  }
}
template <int N, class T>
NEOX_HOST_DEVICE inline void store(T* to, const float (&from)[N]) {
  constexpr int kLength = kPackLength<T, N>;
  using Part = Pack<T, kLength>;
  for (int p = 0; p < N / kLength; ++p) {
    Part part;
    for (int i = 0; i < kLength; ++i) part.item[i] = from_float<T>(from[p * kLength + i]);
    reinterpret_cast<Part*>(to)[p] = part;
  }
}

}  // namespace neox::cuda
