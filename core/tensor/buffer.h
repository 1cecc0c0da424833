#pragma once

#include <cstddef>
#include <vector>

#include "core/tensor/tensor.h"

namespace neox {

/// Owns one allocation of device memory, or of host memory for a device. Move-only; contents
/// undefined after construction.
class Buffer {
 public:
  Buffer() = default;
  Buffer(std::size_t bytes, Device device, MemoryOwner owner = MemoryOwner::run);
  /// Host memory that `device` copies from and to at full speed, beside other work. Its tensors are
  /// host tensors; it counts as an allocation like any other.
  static Buffer pinned(std::size_t bytes, Device device, MemoryOwner owner = MemoryOwner::run);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  /// Of its tensors.
  Device device() const { return pinned_ ? Device{} : device_; }
  /// View of `shape` elements of `dtype` starting at byte `offset`. Throws when it does not fit.
  Tensor view(Shape shape, DType dtype, std::size_t offset = 0) const;

 private:
  Buffer(std::size_t bytes, Device device, MemoryOwner owner, bool pinned);

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  Device device_{};
  bool pinned_ = false;
  MemoryOwner owner_ = MemoryOwner::run;
};

/// Takes buffers out of their owner and never frees them: while an exception ends the program,
/// messages may still be on their way into them, and waiting for those could take for ever.
void abandon(std::vector<Buffer>& buffers);

/// A tensor together with its memory. In a dry run it has none (data == nullptr), only its size.
struct OwnedTensor {
  OwnedTensor() = default;
  OwnedTensor(Shape shape, DType dtype, Device device = {}, bool dry_run = false);
  Buffer buffer;
  Tensor tensor;
  operator Tensor() const { return tensor; }       // NOLINT: implicit on purpose
  operator ConstTensor() const { return tensor; }  // NOLINT: implicit on purpose
};

}  // namespace neox
