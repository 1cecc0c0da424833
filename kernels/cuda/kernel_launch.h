#pragma once
// Where a kernel runs. Plain types only: included by .cu and .cpp files.

namespace neox::cuda {

struct Launch {
  void* stream = nullptr;   ///< cudaStream_t
  int multiprocessors = 1;  ///< of the device, to size the grid
  bool on_host = false;     ///< a simulated device: one thread after the other on the CPU
};

}  // namespace neox::cuda
