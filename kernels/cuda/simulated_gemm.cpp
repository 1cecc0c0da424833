#include "kernels/cuda/simulated_gemm.h"

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/cuda/simulated_runtime.h"

namespace neox {
namespace {

constexpr std::int64_t kTileM = 32;
constexpr std::int64_t kTileN = 16;
constexpr std::int64_t kTileK = 256;
using Accumulators = std::array<std::array<float, kTileM>, kTileN>;

/// Panels of op(A) and op(B) in f32 for one tile of D.
struct Panels {
  std::array<std::array<float, kTileM>, kTileK> a;  ///< [k][m]
  std::array<std::array<float, kTileN>, kTileK> b;  ///< [k][n]
};

/// panel[l][i] = op(matrix)(first + i, first_k + l), zero outside; `k_runs`: k is the axis that
/// runs through memory.
template <class T, std::size_t Width>
void fill_panel(std::array<std::array<float, Width>, kTileK>& panel, const T* matrix,
                std::int64_t ld, bool k_runs, std::int64_t first, std::int64_t extent,
                std::int64_t first_k, std::int64_t depth) {
  const std::int64_t width = std::min<std::int64_t>(Width, extent - first);
  for (std::int64_t l = 0; l < depth; ++l) {
    auto& row = panel[static_cast<std::size_t>(l)];
    row.fill(0.0f);
    for (std::int64_t i = 0; i < width; ++i) {
      const std::int64_t at =
          k_runs ? (first + i) * ld + first_k + l : (first_k + l) * ld + first + i;
      row[static_cast<std::size_t>(i)] = static_cast<float>(matrix[at]);
    }
  }
}

void multiply_panels(const Panels& panels, std::int64_t depth, Accumulators& sums) {
  for (std::size_t l = 0; l < static_cast<std::size_t>(depth); ++l) {
    for (std::size_t j = 0; j < kTileN; ++j) {
      const float b = panels.b[l][j];
      for (std::size_t i = 0; i < kTileM; ++i) sums[j][i] += panels.a[l][i] * b;
    }
  }
}

template <class T, class R>
class SimulatedPlan final : public GemmPlan {
 public:
  explicit SimulatedPlan(const GemmKey& key) : key_(key) {}

  void run(Stream& stream, const GemmOperands& operands) override {
    if (!record_simulated(stream, [this, operands] { compute(operands); })) compute(operands);
  }

 private:
  void compute(const GemmOperands& operands) const {
    if (key_.epilogue == GemmEpilogue::bias_gradient) sum_b(operands);
#pragma omp parallel for schedule(static)
    for (std::int64_t j = 0; j < key_.n; j += kTileN) {
      Panels panels;
      for (std::int64_t i = 0; i < key_.m; i += kTileM) tile(operands, i, j, panels);
    }
  }

  void tile(const GemmOperands& operands, std::int64_t first_m, std::int64_t first_n,
            Panels& panels) const {
    Accumulators sums{};
    for (std::int64_t l = 0; l < key_.k; l += kTileK) {
      const std::int64_t depth = std::min(kTileK, key_.k - l);
      fill_panel(panels.a, static_cast<const T*>(operands.a), key_.lda, key_.transpose_a, first_m,
                 key_.m, l, depth);
      fill_panel(panels.b, static_cast<const T*>(operands.b), key_.ldb, !key_.transpose_b, first_n,
                 key_.n, l, depth);
      multiply_panels(panels, depth, sums);
    }
    const auto* bias =
        key_.epilogue == GemmEpilogue::bias ? static_cast<const R*>(operands.vector) : nullptr;
    for (std::int64_t j = first_n; j < std::min(key_.n, first_n + kTileN); ++j) {
      R* column = static_cast<R*>(operands.d) + j * key_.ldd;
      const auto& from = sums[static_cast<std::size_t>(j - first_n)];
      for (std::int64_t i = first_m; i < std::min(key_.m, first_m + kTileM); ++i) {
        float value = from[static_cast<std::size_t>(i - first_m)];
        if (key_.accumulate) value += static_cast<float>(column[i]);
        if (bias != nullptr) value += static_cast<float>(bias[i]);
        column[i] = static_cast<R>(value);
      }
    }
  }

  void sum_b(const GemmOperands& operands) const {
    const auto* b = static_cast<const T*>(operands.b);
    for (std::int64_t j = 0; j < key_.n; ++j) {
      float sum = 0;
      for (std::int64_t l = 0; l < key_.k; ++l) {
        sum += static_cast<float>(b[key_.transpose_b ? l * key_.ldb + j : j * key_.ldb + l]);
      }
      static_cast<float*>(operands.vector)[j] = sum;
    }
  }

  GemmKey key_;
};

}  // namespace

std::unique_ptr<GemmPlan> SimulatedGemm::make_plan(const GemmKey& key, const GemmOperands&,
                                                   Stream&) {
  if (key.epilogue != GemmEpilogue::none && !epilogues_) return nullptr;
  return visit_float(key.operand, [&](auto operand) -> std::unique_ptr<GemmPlan> {
    using T = decltype(operand);
    if (key.result == DType::f32) return std::make_unique<SimulatedPlan<T, float>>(key);
    return std::make_unique<SimulatedPlan<T, T>>(key);
  });
}

}  // namespace neox
