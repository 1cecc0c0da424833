#include "kernels/cpu/gemm.h"

#include <algorithm>

#include "kernels/cpu/skinny.h"

namespace neox {
namespace {

// Below this many rows packing costs more than it saves.
constexpr std::int64_t kMinPackedRows = 32;
// Larger copies are kept from the first use: sharing scratch memory would not make it smaller.
constexpr std::size_t kLargeCopy = std::size_t{32} << 20;
// Transposed output gradients are made in slices of about this size, which stay in cache.
constexpr std::int64_t kSliceBytes = std::int64_t{16} << 20;
// Rows of one weight-gradient product; more are accumulated, so that scratch memory stays bounded.
constexpr std::int64_t kMaxGradientRows = 2048;
// f32 products over so long a contraction (dx of an output layer) are fastest on the plain weights,
// this many columns at a time: the library then copies blocks that fit the cache.
constexpr std::int64_t kLongContraction = 16384;
constexpr std::int64_t kLongContractionColumns = 384;

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Height of equal slices of `total` rows, each a multiple of 64 and at most about `limit`.
std::int64_t slice_height(std::int64_t total, std::int64_t limit) {
  const std::int64_t slices = (total + limit - 1) / limit;
  return std::min(total, round_up((total + slices - 1) / slices, 64));
}

std::int64_t element_size(DType dtype) {
  return static_cast<std::int64_t>(size_of(dtype));
}

void convert(ConstTensor from, Tensor to) {
  const std::int64_t n = from.numel();
  visit_float(from.dtype, [&](auto from_zero) {
    visit_float(to.dtype, [&](auto to_zero) {
      const auto* source = from.ptr<decltype(from_zero)>();
      auto* target = to.ptr<decltype(to_zero)>();
#pragma omp parallel for schedule(static) if (n > 16384)
      for (std::int64_t i = 0; i < n; ++i) {
        target[i] = static_cast<decltype(to_zero)>(static_cast<float>(source[i]));
      }
    });
  });
}

Tensor f32_scratch(const Shape& shape, ScratchBuffer& scratch) {
  return {scratch.at_least(static_cast<std::size_t>(shape.numel()) * sizeof(float)), shape,
          DType::f32, Device{}};
}

// y = bias, or (accumulate) y: the product over nothing.
void empty_product(ConstTensor bias, Tensor y, bool accumulate) {
  if (accumulate) return;
  visit_float(y.dtype, [&](auto zero) {
    using T = decltype(zero);
    T* to = y.ptr<T>();
    for (std::int64_t r = 0; r < y.rows(); ++r) {
      Tensor row(reinterpret_cast<std::byte*>(to + r * y.cols()), {y.cols()}, y.dtype, y.device);
      if (bias) {
        convert(bias, row);
      } else {
        std::fill_n(row.template ptr<T>(), y.cols(), T{});
      }
    }
  });
}

}  // namespace

std::size_t CpuGemm::KeptHash::operator()(const KeptKey& key) const {
  auto h = reinterpret_cast<std::uintptr_t>(key.weights) >> 6;
  for (const std::int64_t v : {key.out, key.in, static_cast<std::int64_t>(key.dtype),
                               static_cast<std::int64_t>(key.use)}) {
    h = (h ^ static_cast<std::uintptr_t>(v)) * 0x9E3779B97F4A7C15u;
  }
  return h;
}

bool CpuGemm::fast(DType dtype) const {
  static const bool bf16 = Matmul::has_bf16();
  return dtype == DType::f32 || (dtype == DType::bf16 && bf16);
}

ConstTensor CpuGemm::converted(ConstTensor t, ScratchBuffer& scratch) const {
  if (!t || t.dtype == DType::f32) return t;
  const Tensor copy = f32_scratch(t.shape, scratch);
  convert(t, copy);
  return copy;
}

void CpuGemm::forward(ConstTensor x, ConstTensor w, ConstTensor bias, Tensor y) {
  const std::int64_t rows = x.rows(), in = w.cols(), out = w.rows();
  if (rows == 0 || out == 0) return;
  if (in == 0) return empty_product(bias, y, false);
  if (skinny_supports(rows, w.dtype)) {
    const Tensor xf = f32_scratch(x.shape, left_);
    convert(x, xf);
    return skinny_product(xf, w, bias, y);
  }
  const bool native = fast(w.dtype);
  const Tensor target = native || y.dtype == DType::f32 ? y : f32_scratch(y.shape, result_);
  const ConstTensor a = native ? x : converted(x, left_);
  const ConstTensor weights = native ? w : converted(w, right_);
  const ConstTensor b = native ? bias : converted(bias, bias_);
  WeightProduct product;
  product.plain = {.m = rows,
                   .n = out,
                   .k = in,
                   .lda = in,
                   .ldb = in,
                   .ldc = out,
                   .in = weights.dtype,
                   .out = target.dtype,
                   .rhs = Rhs::transposed,
                   .bias = static_cast<bool>(bias)};
  product.a = a.data;
  product.w = weights;
  product.bias = b.data;
  product.c = target.data;
  product.keep = native;
  multiply_weights(product);
  if (target.data != y.data) convert(target, y);
}

void CpuGemm::backward_input(ConstTensor dy, ConstTensor w, Tensor dx, bool accumulate) {
  const std::int64_t rows = dy.rows(), in = w.cols(), out = w.rows();
  if (rows == 0 || in == 0) return;
  if (out == 0) return empty_product({}, dx, accumulate);
  const bool native = fast(w.dtype);
  const Tensor target = native || dx.dtype == DType::f32 ? dx : f32_scratch(dx.shape, result_);
  if (accumulate && target.data != dx.data) convert(dx, target);
  const ConstTensor a = native ? dy : converted(dy, left_);
  const ConstTensor weights = native ? w : converted(w, right_);
  WeightProduct product;
  product.plain = {.m = rows,
                   .n = in,
                   .k = out,
                   .lda = out,
                   .ldb = in,
                   .ldc = in,
                   .in = weights.dtype,
                   .out = target.dtype,
                   .rhs = Rhs::rows,
                   .accumulate = accumulate};
  product.a = a.data;
  product.w = weights;
  product.c = target.data;
  product.keep = native;
  multiply_weights(product);
  if (target.data != dx.data) convert(target, dx);
}

void CpuGemm::multiply_weights(const WeightProduct& product) {
  const MatmulProblem& plain = product.plain;
  if (plain.rhs == Rhs::rows && plain.in == DType::f32 && plain.k >= kLongContraction) {
    for (std::int64_t first = 0; first < plain.n; first += kLongContractionColumns) {
      MatmulProblem columns = plain;
      columns.n = std::min(kLongContractionColumns, plain.n - first);
      matmul_.run(columns, product.a, product.w.data + first * element_size(plain.in), nullptr,
                  product.c + first * element_size(plain.out));
    }
    return;
  }
  if (product.plain.m >= kMinPackedRows) {
    MatmulProblem packed = product.plain;
    packed.rhs = Rhs::packed;
    packed.ldb = 0;
    if (const auto layout = matmul_.layout(packed)) {
      const std::byte* b = packed_weights(product, *layout, matmul_.packed_bytes(packed));
      return matmul_.run(packed, product.a, b, product.bias, product.c);
    }
  }
  matmul_.run(product.plain, product.a, product.w.data, product.bias, product.c);
}

// The weights in the layout of the product: the kept copy, or one in scratch memory.
const std::byte* CpuGemm::packed_weights(const WeightProduct& product, const PackedLayout& layout,
                                         std::size_t bytes) {
  Kept* kept = product.keep ? kept_copy(product, bytes) : nullptr;
  if (kept != nullptr && kept->packed) return kept->buffer.data();
  std::byte* copy = kept != nullptr ? kept->buffer.data() : packed_.at_least(bytes);
  if (product.plain.rhs == Rhs::transposed) {
    pack_transposed(product.w.data, product.plain.ldb, layout, copy);
  } else {
    pack_rows(product.w.data, product.plain.ldb, layout, copy);
  }
  if (kept != nullptr) kept->packed = true;
  return copy;
}

// The place for a kept copy of these weights; null while they have been used only once since they
// changed, or when the limit is reached.
CpuGemm::Kept* CpuGemm::kept_copy(const WeightProduct& product, std::size_t bytes) {
  Kept& kept = kept_[{product.w.data, product.w.rows(), product.w.cols(), product.w.dtype,
                      product.plain.rhs}];
  if (kept.generation != generation_) {
    kept.generation = generation_;
    kept.uses = 0;
    kept.packed = false;
  }
  if (kept.buffer.data() != nullptr) return &kept;
  if (++kept.uses < 2 && bytes <= kLargeCopy) return nullptr;
  if (kept_bytes_ + static_cast<std::int64_t>(bytes) > kMaxKeptBytes) return nullptr;
  kept.buffer = Buffer(bytes, Device{});
  kept_bytes_ += static_cast<std::int64_t>(bytes);
  return &kept;
}

void CpuGemm::backward_weight(ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) {
  const std::int64_t rows = dy.rows();
  if (rows == 0) {
    empty_product({}, dw, accumulate);
    if (db) empty_product({}, db, accumulate);
    return;
  }
  const bool native = fast(x.dtype);
  const std::int64_t pieces = (rows + kMaxGradientRows - 1) / kMaxGradientRows;
  const std::int64_t piece = round_up((rows + pieces - 1) / pieces, 32);
  const ConstTensor flat_dy = dy.reshape({rows, dw.rows()});
  const ConstTensor flat_x = x.reshape({rows, dw.cols()});
  for (std::int64_t first = 0; first < rows; first += piece) {
    const std::int64_t last = std::min(rows, first + piece);
    const ConstTensor dy_piece = flat_dy.slice(first, last), x_piece = flat_x.slice(first, last);
    weight_gradient(native ? dy_piece : converted(dy_piece, left_),
                    native ? x_piece : converted(x_piece, right_), dw, db, accumulate || first > 0);
  }
}

void CpuGemm::weight_gradient(ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                              bool accumulate) {
  const std::int64_t rows = dy.rows(), out = dw.rows(), in = dw.cols();
  if (out == 0) return;
  // The fast kernels want the transposed dy dense; zeros up to a whole block of k keep it simple.
  const std::int64_t k = transposed_stride(rows, dy.dtype);
  const std::int64_t limit = std::max<std::int64_t>(64, kSliceBytes / (k * element_size(dy.dtype)));
  const MatmulProblem slice = {.m = slice_height(out, limit),
                               .n = in,
                               .k = k,
                               .lda = k,
                               .ldc = in,
                               .in = dy.dtype,
                               .rhs = Rhs::packed,
                               .accumulate = accumulate};
  const auto layout = in > 0 ? matmul_.layout(slice) : std::nullopt;
  if (layout) return weight_gradient_packed(slice, *layout, dy, x, dw, db, accumulate);
  if (db) {  // the sums are a by-product of the transposed copy, which plain kernels do not need
    std::byte* unused =
        transposed_.at_least(static_cast<std::size_t>(k * out * element_size(dy.dtype)));
    transpose_matrix(dy.data, out, rows, out, dy.dtype, unused, k, db.ptr<float>(), accumulate);
  }
  if (in == 0) return;
  matmul_.run({.m = out,
               .n = in,
               .k = rows,
               .lda = out,
               .ldb = in,
               .ldc = in,
               .in = dy.dtype,
               .rhs = Rhs::rows,
               .transpose_a = true,
               .accumulate = accumulate},
              dy.data, x.data, nullptr, dw.data);
}

void CpuGemm::weight_gradient_packed(const MatmulProblem& slice, PackedLayout layout,
                                     ConstTensor dy, ConstTensor x, Tensor dw, Tensor db,
                                     bool accumulate) {
  const std::int64_t rows = dy.rows(), out = dw.rows(), in = dw.cols();
  const std::int64_t size = element_size(dy.dtype);
  layout.k = rows;  // rows that do not exist are packed as zeros
  std::byte* packed = packed_.at_least(matmul_.packed_bytes(slice));
  pack_rows(x.data, in, layout, packed);
  std::byte* a = transposed_.at_least(static_cast<std::size_t>(slice.m * slice.lda * size));
  for (std::int64_t first = 0; first < out; first += slice.m) {
    MatmulProblem part = slice;
    part.m = std::min(slice.m, out - first);
    transpose_matrix(dy.data + first * size, out, rows, part.m, dy.dtype, a, part.lda,
                     db ? db.ptr<float>() + first : nullptr, accumulate);
    matmul_.run(part, a, packed, nullptr, dw.data + first * in * element_size(DType::f32));
  }
}

}  // namespace neox
