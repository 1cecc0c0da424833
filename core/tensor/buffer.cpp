#include "core/tensor/buffer.h"

#include <utility>

namespace neox {

Buffer::Buffer(std::size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (bytes == 0) return;
  data_ = static_cast<std::byte*>(device_runtime(device.kind).allocate(bytes, device.index));
  detail::count_allocation(static_cast<std::int64_t>(bytes));
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  device_runtime(device_.kind).release(data_, bytes_, device_.index);
  detail::count_release(static_cast<std::int64_t>(bytes_));
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

Tensor Buffer::view(Shape shape, DType dtype, std::size_t offset) const {
  const Tensor tensor(data_ == nullptr ? nullptr : data_ + offset, shape, dtype, device_);
  require(offset + tensor.bytes() <= bytes_,
          "a view of {} bytes at offset {} does not fit into a buffer of {} bytes", tensor.bytes(),
          offset, bytes_);
  return tensor;
}

OwnedTensor::OwnedTensor(Shape shape, DType dtype, Device device)
    : buffer(static_cast<std::size_t>(shape.numel()) * size_of(dtype), device),
      tensor(buffer.view(shape, dtype)) {}

void abandon(std::vector<Buffer>& buffers) {
  static_cast<void>(new std::vector<Buffer>(std::move(buffers)));
  buffers.clear();
}

}  // namespace neox
