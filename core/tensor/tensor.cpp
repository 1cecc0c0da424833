#include "core/tensor/tensor.h"

namespace neox {

void check_host_access(DType have, DType want, Device device) {
  require(have == want, "a {} tensor was accessed as {}", name_of(have), name_of(want));
  if (!device.is_cpu()) fail("memory of {} was accessed from the host", name_of(device));
}

void copy(Stream& stream, ConstTensor from, Tensor to) {
  if (from.dtype != to.dtype || from.numel() != to.numel()) {
    fail("cannot copy a {} {} tensor into a {} {} one", name_of(from.dtype), from.shape.str(),
         name_of(to.dtype), to.shape.str());
  }
  if (from.data == nullptr || to.data == nullptr) return;
  const DeviceKind kind = to.device.is_cpu() ? from.device.kind : to.device.kind;
  device_runtime(kind).copy(to.data, to.device, from.data, from.device, from.bytes(), stream);
}

void fill_zero(Stream& stream, Tensor tensor) {
  if (tensor.data == nullptr) return;
  device_runtime(tensor.device.kind).fill_zero(tensor.data, tensor.bytes(), stream);
}

}  // namespace neox
