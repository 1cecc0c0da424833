#include "kernels/cuda/embedding.h"

#include <bit>
#include <limits>

#include "kernels/cuda/embedding_kernels.h"
#include "kernels/cuda/internal.h"

namespace neox {
namespace {

void check(int code, const char* call) {
  cuda_check(static_cast<cudaError_t>(code), call);
}

}  // namespace

void CudaEmbedding::embedding(Stream& stream, ConstTensor ids, ConstTensor table,
                              std::int64_t first_id, ConstTensor positions,
                              ConstTensor position_table, Tensor y) const {
  const DType t = y.dtype;
  run(stream, "embedding", [=, this](const cuda::Launch& launch) {
    cuda::embedding(
        launch, t,
        {static_cast<const std::int32_t*>(input(ids, DType::i32)), input(table, t), first_id,
         table.rows(), static_cast<const std::int32_t*>(optional_input(positions, DType::i32)),
         optional_input(position_table, t), output(y, t), ids.numel(), y.cols()});
  });
}

void CudaEmbedding::reserve(const cuda::Launch& launch, std::int64_t rows) const {
  if (rows <= reserved_rows_) return;
  // The row numbers that are sorted have 32 bits, and so has the grid's row index.
  if (rows > std::numeric_limits<std::int32_t>::max()) {
    fail("the gradient of an embedding got {} rows; a micro-batch may have at most 2^31 - 1", rows);
  }
  check(cuda::sort_workspace(launch, rows, &sort_bytes_), "cub::DeviceRadixSort::SortPairs");
  sort_bytes_ = (sort_bytes_ + 255) / 256 * 256;
  workspace_ = Buffer{};  // gives the old memory back before it asks for more
  workspace_ = Buffer(sort_bytes_ + 4 * sizeof(std::uint32_t) * static_cast<std::size_t>(rows),
                      device_, MemoryOwner::backend);
  reserved_rows_ = rows;
}

void CudaEmbedding::embedding_backward(Stream& stream, ConstTensor ids, ConstTensor dy,
                                       std::int64_t first_id, Tensor dtable) const {
  const std::int64_t rows = ids.numel(), n = dtable.rows();
  if (rows == 0 || dtable.numel() == 0) return;
  run(stream, "embedding_backward", [=, this](const cuda::Launch& launch) {
    const auto* id = static_cast<const std::int32_t*>(input(ids, DType::i32));
    const void* gradient = input(dy, dy.dtype);
    auto* table = static_cast<float*>(output(dtable, DType::f32));
    reserve(launch, rows);
    auto* keys = reinterpret_cast<std::uint32_t*>(workspace_.data() + sort_bytes_);
    auto *order = keys + rows, *sorted_keys = order + rows, *sorted_order = sorted_keys + rows;
    const int bits = std::bit_width(static_cast<std::uint64_t>(n));  // n itself is a key
    cuda::embedding_keys(launch, id, rows, first_id, n, keys, order);
    check(cuda::sort_pairs(launch, {keys, order, sorted_keys, sorted_order, rows, bits},
                           workspace_.data(), sort_bytes_),
          "cub::DeviceRadixSort::SortPairs");
    cuda::embedding_sum(launch, dy.dtype,
                        {sorted_keys, sorted_order, gradient, table, rows, dy.cols(), n});
  });
}

}  // namespace neox
