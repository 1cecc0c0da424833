#include "kernels/cuda/hash.h"

#include "kernels/cuda/optimizer_kernels.h"

namespace neox {

void CudaHash::hash(Stream& stream, ConstTensor x, Tensor out, bool accumulate) const {
  void* scratch = workspace_.take(stream, cuda::kMostPartialSums * sizeof(std::uint64_t));
  run(stream, "hash", [=, this](const cuda::Launch& launch) {
    cuda::hash(launch, input(x, x.dtype), static_cast<std::int64_t>(x.bytes()),
               static_cast<std::uint64_t*>(scratch),
               static_cast<std::uint64_t*>(output(out, DType::u64)), accumulate);
  });
}

}  // namespace neox
