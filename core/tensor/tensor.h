#pragma once
// Tensor: a contiguous, non-owning, trivially copyable view of device memory. Buffers own.

#include <cstddef>
#include <span>
#include <type_traits>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/error.h"
#include "core/tensor/device.h"
#include "core/tensor/shape.h"

namespace neox {

/// Throws Error naming both dtypes / the device when host access is not possible.
void check_host_access(DType have, DType want, Device device);

/// A view; `Const` views cannot write. Copying copies the view, never the data. A
/// default-constructed tensor is empty: operators take it where an argument is optional, and test
/// it with `if (t)`.
template <bool Const>
struct BasicTensor {
  using Byte = std::conditional_t<Const, const std::byte, std::byte>;

  Byte* data = nullptr;
  Shape shape{0};
  DType dtype = DType::f32;
  Device device{};
  bool defined = false;  // data may be null in a dry run

  BasicTensor() = default;
  BasicTensor(Byte* memory, Shape extents, DType type, Device where)
      : data(memory), shape(extents), dtype(type), device(where), defined(true) {}
  // Tensor -> ConstTensor. A template, so that it never becomes the copy constructor.
  template <bool C2>
  requires(Const && !C2) BasicTensor(const BasicTensor<C2>& o)  // NOLINT: implicit on purpose
      : data(o.data), shape(o.shape), dtype(o.dtype), device(o.device), defined(o.defined) {}

  explicit operator bool() const { return defined; }
  std::int64_t numel() const { return shape.numel(); }
  std::int64_t rows() const { return shape.rows(); }
  std::int64_t cols() const { return shape.cols(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }

  /// Typed host pointer. Throws when T is not the dtype or the memory is not host memory.
  template <class T>
  auto ptr() const {
    check_host_access(dtype, dtype_of<T>, device);
    return reinterpret_cast<std::conditional_t<Const, const T*, T*>>(data);
  }
  template <class T>
  auto span() const {
    return std::span(ptr<T>(), static_cast<std::size_t>(numel()));
  }
  /// Same elements, another shape.
  BasicTensor reshape(Shape to) const {
    // Not require(): it would format the shapes of every view that is right.
    if (to.numel() != numel()) fail("cannot view {} as {}", shape.str(), to.str());
    return {data, to, dtype, device};
  }
  /// Rows [begin, end) of the outermost axis.
  BasicTensor slice(std::int64_t begin, std::int64_t end) const {
    const bool inside = shape.rank() > 0 && 0 <= begin && begin <= end && end <= shape[0];
    if (!inside) fail("slice [{}, {}) is outside {}", begin, end, shape.str());
    Shape to = shape;
    const std::int64_t stride = shape[0] == 0 ? 0 : numel() / shape[0];
    to.set(0, end - begin);
    Byte* at = data == nullptr ? nullptr
                               : data + static_cast<std::size_t>(begin * stride) * size_of(dtype);
    return {at, to, dtype, device};
  }
};

using Tensor = BasicTensor<false>;
using ConstTensor = BasicTensor<true>;
static_assert(std::is_trivially_copyable_v<Tensor> && std::is_trivially_copyable_v<ConstTensor>);

/// The elements of `values`, which must outlive the view.
template <class T>
ConstTensor host_view(const std::vector<T>& values) {
  return {reinterpret_cast<const std::byte*>(values.data()),
          Shape{static_cast<std::int64_t>(values.size())}, dtype_of<T>, Device{}};
}

/// Copies all elements; same dtype and count; any pair of host and device, ordered on `stream`.
/// Does nothing for tensors without memory (dry run); so does fill_zero.
void copy(Stream& stream, ConstTensor from, Tensor to);
/// Sets all bytes to zero.
void fill_zero(Stream& stream, Tensor tensor);

}  // namespace neox
