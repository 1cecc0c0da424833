#pragma once
// Marks functions that both the CPU code and CUDA kernels call, so that there is one formula for
// both. A plain compiler sees nothing.

#ifdef __CUDACC__
#define NEOX_HOST_DEVICE __host__ __device__
#else
#define NEOX_HOST_DEVICE
#endif
