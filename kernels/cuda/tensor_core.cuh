#pragma once
// Matrix products of a warp, and copies from global to shared memory that pass no register. On a
// simulated device both are emulated: the fragments as PTX lays them out over the lanes, the copies
// as late as a GPU may carry them out.

#include <cstring>

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {

namespace detail {

/// Element `half` (0 or 1) of a register that holds two 16-bit floats.
template <class T>
float half_of(std::uint32_t pair, int half) {
  T value;
  value.bits = static_cast<std::uint16_t>(pair >> (16 * half));
  return to_float(value);
}

struct MmaOperand {
  const std::uint32_t *a, *b;
  float* c;
};

/// Fragments of m16n8k16, lane = 4 group + member:
///   a[i]: row group + 8 (i % 2), columns 2 member + 8 (i / 2) and the next
///   b[i]: rows 2 member + 8 i and the next, column group
///   c[i]: row group + 8 (i / 2), column 2 member + i % 2
template <class T>
void emulate_mma(void* const* operands) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& of = *static_cast<const MmaOperand*>(operands[lane]);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 8; ++i) {
      a[group + 8 * (i / 2 % 2)][2 * member + 8 * (i / 4) + i % 2] = half_of<T>(of.a[i / 2], i % 2);
    }
    for (int i = 0; i < 4; ++i) {
      b[2 * member + 8 * (i / 2) + i % 2][group] = half_of<T>(of.b[i / 2], i % 2);
    }
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto& of = *static_cast<const MmaOperand*>(operands[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      float sum = of.c[i];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      of.c[i] = sum;
    }
  }
}

struct LoadOperand {
  const void* row;
  std::uint32_t* to;
};

/// Matrix m of 8 x 8 16-bit elements has its rows where lanes 8 m ... 8 m + 7 point. to[m] of lane
/// 4 group + member: row group, columns 2 member and the next; transposed, rows 2 member and the
/// next of column group.
template <bool Transposed>
void emulate_load_matrices(void* const* operands) {
  for (int m = 0; m < 4; ++m) {
    std::uint16_t matrix[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* from = static_cast<const LoadOperand*>(operands[8 * m + row])->row;
      std::memcpy(matrix[row], from, sizeof matrix[row]);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const int group = lane / 4, column = lane % 4 * 2;
      const std::uint32_t low = Transposed ? matrix[column][group] : matrix[group][column];
      const std::uint32_t high = Transposed ? matrix[column + 1][group] : matrix[group][column + 1];
      static_cast<const LoadOperand*>(operands[lane])->to[m] = low | high << 16;
    }
  }
}

/// Address in shared memory as PTX takes it.
__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

}  // namespace detail

/// c += A B by the warp: A [16, 16], B [16, 8] of T (bf16 or f16), c f32 [16, 8], spread over the
/// lanes as emulate_mma says (PTX mma.sync m16n8k16, A by rows, B by columns). Sums in f32; their
/// order is the hardware's.
template <class T>
NEOX_HOST_DEVICE inline void mma(const Block& block, float (&c)[4], const std::uint32_t (&a)[4],
                                 const std::uint32_t (&b)[2],
                                 [[maybe_unused]] Place place = Place::here()) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
#ifdef __CUDA_ARCH__
  static_cast<void>(block);
  if constexpr (std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#else
  detail::MmaOperand mine{a, b, c};
  host_warp_operation(block.host(), place, detail::emulate_mma<T>, &mine);
#endif
}

/// Loads four 8 x 8 matrices of 16-bit elements from shared memory into fragments, as
/// emulate_load_matrices says (PTX ldmatrix.x4): this lane points at one row of 16 bytes, aligned
/// to 16.
template <bool Transposed = false>
NEOX_HOST_DEVICE inline void load_matrices(const Block& block, std::uint32_t (&to)[4],
                                           const void* row,
                                           [[maybe_unused]] Place place = Place::here()) {
#ifdef __CUDA_ARCH__
  static_cast<void>(block);
  const std::uint32_t address = detail::shared_address(row);
  if constexpr (Transposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address)
                 : "memory");
  }
#else
  detail::LoadOperand mine{row, to};
  host_warp_operation(block.host(), place, detail::emulate_load_matrices<Transposed>, &mine);
#endif
}

/// Starts to copy 16 bytes from global memory to shared memory, both aligned to 16; of `from` only
/// the first `bytes` (0 to 16) are read, the rest becomes zero.
NEOX_HOST_DEVICE inline void copy_async(const Block& block, void* to_shared, const void* from,
                                        int bytes = 16) {
#ifdef __CUDA_ARCH__
  static_cast<void>(block);
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(detail::shared_address(to_shared)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes)
      : "memory");
#else
  host_copy_async(block.host(), to_shared, from, static_cast<std::size_t>(bytes),
                  static_cast<std::size_t>(16 - bytes));
#endif
}
/// Makes one group of this thread's copies since the last call.
NEOX_HOST_DEVICE inline void commit_copies(const Block& block) {
#ifdef __CUDA_ARCH__
  static_cast<void>(block);
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  host_commit_copies(block.host());
#endif
}
/// Waits until all groups of this thread but the newest Left are complete. Other threads see them
/// after a sync().
template <int Left>
NEOX_HOST_DEVICE inline void wait_copies(const Block& block) {
#ifdef __CUDA_ARCH__
  static_cast<void>(block);
  asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
#else
  host_wait_copies(block.host(), Left);
#endif
}

}  // namespace neox::cuda
