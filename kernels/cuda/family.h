#pragma once
// What every family of CUDA operators knows of its device.

#include <functional>
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

  /// Calls start(launch) with the device current, and checks that the kernels started. `start`
  /// holds copies of all it needs: on a simulated device recorded work calls it again later.
  template <class F>
  void run(Stream& stream, const char* kernel, F start) const {
    using Start = F;
    if (recording(stream)) return record(stream, start);
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
  bool recording(Stream& stream) const;
  void record(Stream& stream, std::function<void(const cuda::Launch&)> start) const;
  void run(Stream& stream, const char* kernel, void (*start)(void*, const cuda::Launch&),
           void* context) const;
};

}  // namespace neox
