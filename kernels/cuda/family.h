#pragma once
// What every family of CUDA operators knows of its device.

#include <memory>
#include <type_traits>

#include "core/tensor/tensor.h"
#include "kernels/cuda/kernel_launch.h"

namespace neox {

class CudaFamily {
 protected:
  /// A CUDA device, or a simulated one, where the same kernels run on the host. Its runtime must be
  /// registered.
  explicit CudaFamily(Device device);
  ~CudaFamily() = default;

  /// Calls start(launch) with the device current, and checks that the kernels started.
  template <class F>
  void run(Stream& stream, const char* kernel, F&& start) const {
    using Start = std::remove_reference_t<F>;
    run(
        stream, kernel,
        [](void* f, const cuda::Launch& launch) { (*static_cast<Start*>(f))(launch); },
        std::addressof(start));
  }

  /// The memory of a tensor that must be of this dtype and on this device.
  const void* input(ConstTensor tensor, DType want) const;
  void* output(Tensor tensor, DType want) const;
  /// The same where an empty tensor means null.
  const void* optional_input(ConstTensor tensor, DType want) const {
    return tensor ? input(tensor, want) : nullptr;
  }
  void* optional_output(Tensor tensor, DType want) const {
    return tensor ? output(tensor, want) : nullptr;
  }

  Device device_;
  int multiprocessors_ = 2;  // of a simulated device: enough for grids of several blocks

 private:
  void run(Stream& stream, const char* kernel, void (*start)(void*, const cuda::Launch&),
           void* context) const;
};

}  // namespace neox
