#pragma once
// Matrices of odd places, and other orders of threads, for comparisons with the CPU engine.

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/tensor/buffer.h"
#include "kernels/cuda/host_block.h"
#include "tests/kernels/op_harness.h"

namespace neox::testing {

/// A matrix on a device that starts `skip` elements behind an aligned address and is followed by
/// as many more; everything is NaN at first.
class Matrix {
 public:
  Matrix(Device device, Stream& stream, Shape shape, DType dtype, std::int64_t skip)
      : stream_(stream), skip_(skip), all_({shape.numel() + 2 * skip}, dtype, device) {
    OwnedTensor nan(all_.tensor.shape, dtype);
    std::memset(nan.tensor.data, 0xff, nan.tensor.bytes());
    copy(stream, nan, all_);
    view_ = all_.tensor.slice(skip, skip + shape.numel()).reshape(shape);
    stream.synchronize();
  }
  operator Tensor() const { return view_; }       // NOLINT: implicit on purpose
  operator ConstTensor() const { return view_; }  // NOLINT: implicit on purpose

  void write(const Array& values) {
    OwnedTensor host(view_.shape, view_.dtype);
    visit_float(view_.dtype, [&](auto zero) {
      using T = decltype(zero);
      for (std::size_t i = 0; i < values.size(); ++i) {
        host.tensor.ptr<T>()[i] = T(static_cast<float>(values[i]));
      }
    });
    copy(stream_, host, view_);
    stream_.synchronize();
  }
  /// The matrix; with an infinity for each element around it that is no longer NaN.
  Array read() const {
    OwnedTensor host(all_.tensor.shape, view_.dtype);
    copy(stream_, all_, host);
    stream_.synchronize();
    Array values;
    visit_float(view_.dtype, [&](auto zero) {
      const auto all = host.tensor.span<decltype(zero)>();
      const auto begin = static_cast<std::size_t>(skip_);
      for (std::size_t i = 0; i < all.size(); ++i) {
        const auto value = static_cast<double>(static_cast<float>(all[i]));
        if (begin <= i && i < all.size() - begin) {
          values.push_back(value);
        } else if (!std::isnan(value)) {
          values.push_back(std::numeric_limits<double>::infinity());
        }
      }
    });
    return values;
  }

 private:
  Stream& stream_;
  std::int64_t skip_;
  OwnedTensor all_;
  Tensor view_;
};

/// A tensor of any dtype on a device.
template <class T>
OwnedTensor on_device(Device device, Stream& stream, const std::vector<T>& values, Shape shape) {
  OwnedTensor tensor(shape, dtype_of<T>, device);
  copy(stream, host_view(values).reshape(shape), tensor);
  stream.synchronize();
  return tensor;
}
template <class T>
std::vector<T> from_device(Stream& stream, ConstTensor tensor) {
  const OwnedTensor host(tensor.shape, tensor.dtype);
  copy(stream, tensor, host);
  stream.synchronize();
  const auto span = host.tensor.span<T>();
  return {span.begin(), span.end()};
}

/// How often f gives something else than `want` when simulated threads run in another order: of six
/// orders.
template <class Result>
int orders_that_differ(const Result& want, const std::function<Result()>& f) {
  struct Restore {
    ~Restore() { cuda::set_host_order(cuda::HostOrder::forward); }
  } restore;
  int differ = 0;
  const auto check = [&](cuda::HostOrder order, std::uint64_t seed) {
    cuda::set_host_order(order, seed);
    differ += f() == want ? 0 : 1;
  };
  check(cuda::HostOrder::forward, 0);
  check(cuda::HostOrder::backward, 0);
  for (std::uint64_t seed = 0; seed < 4; ++seed) check(cuda::HostOrder::random, seed);
  return differ;
}

}  // namespace neox::testing
