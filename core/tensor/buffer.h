#pragma once

#include <cstddef>
#include <vector>

#include "core/tensor/tensor.h"

namespace neox {

/// Owns one allocation of device memory. Move-only; contents undefined after construction.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, Device device);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  /// View of `shape` elements of `dtype` starting at byte `offset`. Throws when it does not fit.
  Tensor view(Shape shape, DType dtype, std::size_t offset = 0) const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_{};
};

/// Takes buffers out of their owner and never frees them: while an exception ends the program,
/// messages may still be on their way into them, and waiting for those could take for ever.
void abandon(std::vector<Buffer>& buffers);

/// A tensor together with its memory.
struct OwnedTensor {
  OwnedTensor() = default;
  OwnedTensor(Shape shape, DType dtype, Device device = {});
  Buffer buffer;
  Tensor tensor;
  operator Tensor() const { return tensor; }       // NOLINT: implicit on purpose
  operator ConstTensor() const { return tensor; }  // NOLINT: implicit on purpose
};

}  // namespace neox
