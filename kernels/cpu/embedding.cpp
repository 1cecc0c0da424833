#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_math.h"

namespace neox {

void CpuBackend::embedding(Stream&, ConstTensor ids, ConstTensor table, ConstTensor positions,
                           ConstTensor position_table, Tensor y) const {
  const std::int64_t rows = ids.numel(), width = y.cols();
  const auto* id = ids.ptr<std::int32_t>();
  const auto* position = positions ? positions.ptr<std::int32_t>() : nullptr;
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* tokens = table.ptr<T>();
    const T* places = positions ? position_table.ptr<T>() : nullptr;
    T* out = y.ptr<T>();
    parallel_rows(rows, width, [&](std::int64_t row) {
      const T* token = tokens + id[row] * width;
      T* to = out + row * width;
      if (position == nullptr) {
        std::memcpy(static_cast<void*>(to), token, static_cast<std::size_t>(width) * sizeof(T));
        return;
      }
      const T* place = places + position[row] * width;
      simd::vector_for(0, width, [&](auto lanes, std::int64_t i) {
        lanes.store(to + i, lanes.load(token + i) + lanes.load(place + i));
      });
    });
  });
}

// Threads own columns: a repeated id is no conflict, and every sum runs in row order.
void CpuBackend::embedding_backward(Stream&, ConstTensor ids, ConstTensor dy, Tensor dtable) const {
  const std::int64_t rows = ids.numel(), width = dy.cols();
  const auto* id = ids.ptr<std::int32_t>();
  float* out = dtable.ptr<float>();
  constexpr std::int64_t kColumns =
      64;  // 256 bytes of a table row: whole cache lines to one thread
  visit_float(dy.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* grad = dy.ptr<T>();
    parallel_rows((width + kColumns - 1) / kColumns, rows * kColumns, [&](std::int64_t block) {
      const std::int64_t begin = block * kColumns, end = std::min(width, begin + kColumns);
      for (std::int64_t row = 0; row < rows; ++row) {
        float* sum = out + id[row] * width;
        const T* term = grad + row * width;
        simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
          lanes.store(sum + i, lanes.load(sum + i) + lanes.load(term + i));
        });
      }
    });
  });
}

}  // namespace neox
