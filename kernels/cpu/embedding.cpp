#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/simd_math.h"

namespace neox {
namespace {

/// Row of an id in a table of the ids [first_id, first_id + n), or null when it lies outside.
template <class T>
T* table_row(T* table, std::int64_t id, std::int64_t first_id, std::int64_t n, std::int64_t width) {
  const std::int64_t row = id - first_id;
  return row >= 0 && row < n ? table + row * width : nullptr;
}

/// to = token + place, where a null row is 0.
template <class T>
void write_sum(const T* token, const T* place, T* to, std::int64_t width) {
  if (token != nullptr && place != nullptr) {
    simd::vector_for(0, width, [&](auto lanes, std::int64_t i) {
      lanes.store(to + i, lanes.load(token + i) + lanes.load(place + i));
    });
  } else if (const T* only = token != nullptr ? token : place; only != nullptr) {
    std::memcpy(static_cast<void*>(to), only, static_cast<std::size_t>(width) * sizeof(T));
  } else {
    std::fill_n(to, width, T{});
  }
}

}  // namespace

void CpuBackend::embedding(Stream&, ConstTensor ids, ConstTensor table, std::int64_t first_id,
                           ConstTensor positions, ConstTensor position_table, Tensor y) const {
  const std::int64_t rows = ids.numel(), width = y.cols(), n = table.rows();
  const auto* id = ids.ptr<std::int32_t>();
  const auto* position = positions ? positions.ptr<std::int32_t>() : nullptr;
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    const T* tokens = table.ptr<T>();
    const T* places = positions ? position_table.ptr<T>() : nullptr;
    T* out = y.ptr<T>();
    parallel_rows(rows, width, [&](std::int64_t row) {
      const T* place = places == nullptr ? nullptr : places + position[row] * width;
      write_sum(table_row(tokens, id[row], first_id, n, width), place, out + row * width, width);
    });
  });
}

// Threads own columns: a repeated id is no conflict, and every sum runs in row order.
void CpuBackend::embedding_backward(Stream&, ConstTensor ids, ConstTensor dy, std::int64_t first_id,
                                    Tensor dtable) const {
  const std::int64_t rows = ids.numel(), width = dy.cols(), n = dtable.rows();
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
        float* sum = table_row(out, id[row], first_id, n, width);
        if (sum == nullptr) continue;
        const T* term = grad + row * width;
        simd::vector_for(begin, end, [&](auto lanes, std::int64_t i) {
          lanes.store(sum + i, lanes.load(sum + i) + lanes.load(term + i));
        });
      }
    });
  });
}

}  // namespace neox
