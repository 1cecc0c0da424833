#include "core/tensor/buffer.h"

#include <utility>

namespace neox {

Buffer::Buffer(std::size_t bytes, Device device, MemoryOwner owner, bool pinned)
    : bytes_(bytes), device_(device), pinned_(pinned), owner_(owner) {
  if (bytes == 0) return;
  DeviceRuntime& runtime = device_runtime(device.kind);
  data_ = static_cast<std::byte*>(pinned ? runtime.allocate_host(bytes, device.index)
                                         : runtime.allocate(bytes, device.index));
  detail::count_allocation(static_cast<std::int64_t>(bytes), owner);
}

Buffer::Buffer(std::size_t bytes, Device device, MemoryOwner owner)
    : Buffer(bytes, device, owner, false) {}

Buffer Buffer::pinned(std::size_t bytes, Device device, MemoryOwner owner) {
  return {bytes, device, owner, true};
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  DeviceRuntime& runtime = device_runtime(device_.kind);
  if (pinned_) {
    runtime.release_host(data_, bytes_, device_.index);
  } else {
    runtime.release(data_, bytes_, device_.index);
  }
  detail::count_release(static_cast<std::int64_t>(bytes_), owner_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_),
      pinned_(other.pinned_),
      owner_(other.owner_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(pinned_, other.pinned_);
  std::swap(owner_, other.owner_);
  return *this;
}

Tensor Buffer::view(Shape shape, DType dtype, std::size_t offset) const {
  const Tensor tensor(data_ == nullptr ? nullptr : data_ + offset, shape, dtype, device());
  require(offset + tensor.bytes() <= bytes_,
          "a view of {} bytes at offset {} does not fit into a buffer of {} bytes", tensor.bytes(),
          offset, bytes_);
  return tensor;
}

OwnedTensor::OwnedTensor(Shape shape, DType dtype, Device device, bool dry_run)
    : tensor(nullptr, shape, dtype, device) {
  if (dry_run) return;
  buffer = Buffer(tensor.bytes(), device);
  tensor = buffer.view(shape, dtype);
}

void abandon(std::vector<Buffer>& buffers) {
  static_cast<void>(new std::vector<Buffer>(std::move(buffers)));
  buffers.clear();
}

}  // namespace neox
