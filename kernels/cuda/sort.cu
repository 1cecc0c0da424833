// Sorting pairs. CUB is included by this file alone: it takes seconds to compile.

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <numeric>
#include <vector>

#include "kernels/cuda/embedding_kernels.h"

namespace neox::cuda {
namespace {

// The radix sort is stable, and its result is therefore the same in every run.
cudaError_t device_sort(const Launch& launch, const SortPairs& s, void* workspace,
                        std::size_t* bytes) {
  return cub::DeviceRadixSort::SortPairs(workspace, *bytes, s.keys, s.sorted_keys, s.values,
                                         s.sorted_values, s.n, 0, s.bits,
                                         static_cast<cudaStream_t>(launch.stream));
}

void host_sort(const SortPairs& s) {
  std::vector<std::size_t> order(static_cast<std::size_t>(s.n));
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return s.keys[a] < s.keys[b]; });
  for (std::size_t i = 0; i < order.size(); ++i) {
    s.sorted_keys[i] = s.keys[order[i]];
    s.sorted_values[i] = s.values[order[i]];
  }
}

}  // namespace

int sort_workspace(const Launch& launch, std::int64_t n, std::size_t* bytes) {
  *bytes = 0;
  if (launch.on_host) return cudaSuccess;
  return device_sort(launch, {nullptr, nullptr, nullptr, nullptr, n, 32}, nullptr, bytes);
}

int sort_pairs(const Launch& launch, const SortPairs& s, void* workspace, std::size_t bytes) {
  if (!launch.on_host) return device_sort(launch, s, workspace, &bytes);
  host_sort(s);
  return cudaSuccess;
}

}  // namespace neox::cuda
