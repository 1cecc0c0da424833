// Optimizer steps with a number for each row and each column of a matrix. Maxima do not depend on
// the order in which they are taken, so every run has the same bits.

#include "kernels/cuda/block.cuh"
#include "kernels/cuda/factored_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// The elements of row r of the slice: columns [begin, end).
struct Columns {
  std::int64_t begin, end;
};
NEOX_HOST_DEVICE Columns columns_of(const FactoredInput& in, std::int64_t r) {
  const std::int64_t before = in.part.begin - r * in.part.width;
  const std::int64_t behind = before + in.n;
  return {before > 0 ? before : 0, behind < in.part.width ? behind : in.part.width};
}
NEOX_HOST_DEVICE float gradient(const FactoredInput& in, std::int64_t r, std::int64_t c) {
  return in.grad[in.part.index(r, c)] * *in.grad_scale;
}
NEOX_HOST_DEVICE float least(const FactoredInput& in, std::int64_t r, std::int64_t c) {
  const float of_row = in.rows[in.part.row + r];
  if (in.columns == nullptr) return of_row;
  const float of_column = in.columns[in.part.column + c];
  return of_row < of_column ? of_row : of_column;
}
NEOX_HOST_DEVICE float nu_of(const Sm3& rule, const FactoredInput& in, std::int64_t r,
                             std::int64_t c) {
  return rule.nu(gradient(in, r, c), least(in, r, c));
}

/// One block for each row.
struct RowMaxima {
  static constexpr int kThreads = 256;
  Sm3 rule;
  FactoredInput in;
  float* new_rows;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t r = in.part.first_row() + block.x();
    const Columns columns = columns_of(in, r);
    float largest = 0.0f;  // nu is at least 0
    for (std::int64_t c = columns.begin + block.thread(); c < columns.end; c += block.threads()) {
      largest = fmaxf(largest, nu_of(rule, in, r, c));
    }
    largest = block.max(largest, 0.0f);
    float* of_row = new_rows + in.part.row + r;
    if (block.thread() == 0) *of_row = fmaxf(*of_row, largest);
  }
};

/// Of a vector: every row is an element.
struct ElementMaxima {
  Sm3 rule;
  FactoredInput in;
  float* new_rows;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    for (int i = 0; i < N; ++i) {
      const std::int64_t r = in.part.begin + at + i;
      float* of_row = new_rows + in.part.row + r;
      *of_row = fmaxf(*of_row, nu_of(rule, in, r, 0));
    }
  }
};

constexpr std::int64_t kRowsOfPiece = 64;

/// scratch[y][c] = the maximum of column c over the y-th piece of the rows.
struct ColumnMaxima {
  Sm3 rule;
  FactoredInput in;
  float* scratch;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t piece, std::int64_t at) const {
    const std::int64_t first = in.part.first_row() + piece * kRowsOfPiece;
    const std::int64_t last = in.part.first_row() + in.part.row_count(in.n);
    const std::int64_t end = first + kRowsOfPiece < last ? first + kRowsOfPiece : last;
    for (int i = 0; i < N; ++i) {
      const std::int64_t c = at + i;
      float largest = 0.0f;
      for (std::int64_t r = first; r < end; ++r) {
        const Columns columns = columns_of(in, r);
        if (c >= columns.begin && c < columns.end) {
          largest = fmaxf(largest, nu_of(rule, in, r, c));
        }
      }
      scratch[piece * in.part.width + c] = largest;
    }
  }
};

struct FoldColumns {
  const float* scratch;
  std::int64_t pieces, width;
  float* new_columns;  // of the slice
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t at) const {
    for (int i = 0; i < N; ++i) {
      float largest = new_columns[at + i];
      for (std::int64_t p = 0; p < pieces; ++p) {
        largest = fmaxf(largest, scratch[p * width + at + i]);
      }
      new_columns[at + i] = largest;
    }
  }
};

std::int64_t pieces_of(const MatrixPart& part, std::int64_t n) {
  return (part.row_count(n) + kRowsOfPiece - 1) / kRowsOfPiece;
}

/// W: dtype of the compute copy; float: there is none.
template <class W>
struct Step {
  Sm3 rule;
  FactoredInput in;
  Sm3Arrays arrays;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t at) const {
    const std::int64_t r = in.part.first_row() + row;
    const Columns columns = columns_of(in, r);
    for (int i = 0; i < N; ++i) {
      const std::int64_t c = at + i;
      if (c < columns.begin || c >= columns.end) continue;
      const std::int64_t e = in.part.index(r, c);
      float u = rule.direction(gradient(in, r, c), least(in, r, c));
      if (arrays.momentum != nullptr) {
        u = rule.momentum * arrays.momentum[e] + (1.0f - rule.momentum) * u;
        arrays.momentum[e] = u;
      }
      float p[1] = {arrays.main[e]};
      p[0] -= rule.lr * u + rule.decay * p[0];
      arrays.main[e] = p[0];
      if constexpr (!std::is_same_v<W, float>) store<1>(static_cast<W*>(arrays.weights) + e, p);
    }
  }
};

template <class W>
void launch_step(const Launch& launch, const Sm3& rule, const FactoredInput& in,
                 const Sm3Arrays& arrays) {
  const std::int64_t rows = in.part.row_count(in.n);
  run<1>(launch, Step<W>{rule, in, arrays}, row_extent<1>(rows, in.part.width, true));
}

}  // namespace

std::int64_t sm3_scratch_elements(const MatrixPart& part, std::int64_t n) {
  return pieces_of(part, n) * part.width;
}

void sm3_maxima(const Launch& launch, const Sm3& rule, const FactoredInput& in, float* scratch,
                float* new_rows, float* new_columns) {
  if (new_columns == nullptr && in.part.width == 1) {
    return run<1>(launch, ElementMaxima{rule, in, new_rows}, flat_extent<1>(in.n, true));
  }
  const std::int64_t rows = in.part.row_count(in.n), pieces = pieces_of(in.part, in.n);
  launch_blocks(launch, {rows}, RowMaxima::kThreads, 0, RowMaxima{rule, in, new_rows});
  if (new_columns == nullptr) return;
  run<1>(launch, ColumnMaxima{rule, in, scratch}, row_extent<1>(pieces, in.part.width, true));
  run<1>(launch, FoldColumns{scratch, pieces, in.part.width, new_columns + in.part.column},
         flat_extent<1>(pieces > 0 ? in.part.width : 0, true));
}

void sm3_step(const Launch& launch, const Sm3& rule, const FactoredInput& in,
              const Sm3Arrays& arrays) {
  if (arrays.weights == nullptr) {
    launch_step<float>(launch, rule, in, arrays);
  } else if (arrays.weights_type == DType::bf16) {
    launch_step<bf16>(launch, rule, in, arrays);
  } else {
    launch_step<f16>(launch, rule, in, arrays);
  }
}

}  // namespace neox::cuda
