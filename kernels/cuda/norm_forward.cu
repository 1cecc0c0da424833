// layer_norm and rms_norm. Products that are added are written as fmaf, so that all kernels of a
// result round alike.

#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/norm_rows.cuh"

namespace neox::cuda {
namespace {

constexpr int kKeptFloats = 32;  // elements of a row in one thread's registers
constexpr int kKeptThreads = 1024;
constexpr std::int64_t kKeptColumns = std::int64_t{kKeptFloats} * kKeptThreads;

/// Rows in registers: memory is read and written once.
template <class T, bool Centered>
struct KeptForward {
  static constexpr int kThreads = kKeptThreads;
  static constexpr int kN = kVector<T>, kHeld = kKeptFloats / kN;

  const T *x, *w, *b;
  T* y;
  float *mean, *rstd;
  std::int64_t rows, h;
  float inverse_h, eps;
  int team_size, teams;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const int team = block.thread() / team_size, member = block.thread() % team_size;
    const int parts = static_cast<int>(h / kN);
    const std::int64_t step = block.grid_x() * teams;
    int turn = 0;
    for (std::int64_t first = block.x() * teams; first < rows; first += step) {
      const std::int64_t row = first + team;
      const int here = row < rows ? parts : 0;  // a team without a row still meets the others
      RowPart<T> kept[kHeld];
      float sum[1] = {0.0f};
      const auto* from = reinterpret_cast<const RowPart<T>*>(x + row * h);
      NEOX_UNROLL
      for (int k = 0; k < kHeld; ++k) {
        const int part = member + k * team_size;
        if (part < here) kept[k] = from[part];
      }
      float center = 0.0f;
      if constexpr (Centered) {
        for_each(kept, member, here, [&](int, const float(&v)[kN]) {
          for (int i = 0; i < kN; ++i) sum[0] += v[i];
        });
        team_sum(block, sum, team_size, turn++);
        center = sum[0] * inverse_h;
        sum[0] = 0.0f;
      }
      for_each(kept, member, here, [&](int, const float(&v)[kN]) {
        for (int i = 0; i < kN; ++i) sum[0] = fmaf(v[i] - center, v[i] - center, sum[0]);
      });
      team_sum(block, sum, team_size, turn++);
      const float scale = 1.0f / sqrtf(fmaf(sum[0], inverse_h, eps));
      if (here > 0 && member == 0) {
        if (Centered) mean[row] = center;
        rstd[row] = scale;
      }
      for_each(kept, member, here, [&](int column, const float(&v)[kN]) {
        float weight[kN], result[kN];
        load<kN>(w + column, weight);
        for (int i = 0; i < kN; ++i) result[i] = (v[i] - center) * scale;
        if (b != nullptr) {
          float shift[kN];
          load<kN>(b + column, shift);
          for (int i = 0; i < kN; ++i) result[i] = fmaf(result[i], weight[i], shift[i]);
        } else {
          for (int i = 0; i < kN; ++i) result[i] *= weight[i];
        }
        store<kN>(y + row * h + column, result);
      });
    }
  }

  /// f(column, values) for this thread's parts of the row.
  template <class F>
  NEOX_HOST_DEVICE void for_each(const RowPart<T> (&kept)[kHeld], int member, int here,
                                 const F& f) const {
    NEOX_UNROLL
    for (int k = 0; k < kHeld; ++k) {
      const int part = member + k * team_size;
      if (part >= here) continue;
      float values[kN];
      unpack<T>(kept[k], values);
      f(part * kN, values);
    }
  }
};

/// Rows of any length and alignment, a block for each: read three times, mostly from the cache.
template <class T, int N>
struct ReadForward {
  static constexpr int kThreads = 512;
  const T *x, *w, *b;
  T* y;
  float *mean, *rstd;
  std::int64_t rows, h;
  float inverse_h, eps;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t begin = std::int64_t{block.thread()} * N;
    const std::int64_t step = std::int64_t{block.threads()} * N;
    for (std::int64_t row = block.x(); row < rows; row += block.grid_x()) {
      const T* from = x + row * h;
      float center = 0.0f, v[N];
      if (mean != nullptr) {
        float sum = 0.0f;
        for (std::int64_t at = begin; at < h; at += step) {
          load<N>(from + at, v);
          for (int i = 0; i < N; ++i) sum += v[i];
        }
        center = block.sum(sum) * inverse_h;
      }
      float square = 0.0f;
      for (std::int64_t at = begin; at < h; at += step) {
        load<N>(from + at, v);
        for (int i = 0; i < N; ++i) square = fmaf(v[i] - center, v[i] - center, square);
      }
      const float scale = 1.0f / sqrtf(fmaf(block.sum(square), inverse_h, eps));
      if (block.thread() == 0) {
        if (mean != nullptr) mean[row] = center;
        rstd[row] = scale;
      }
      for (std::int64_t at = begin; at < h; at += step) {
        float weight[N], shift[N] = {};
        load<N>(from + at, v);
        load<N>(w + at, weight);
        if (b != nullptr) load<N>(b + at, shift);
        for (int i = 0; i < N; ++i) v[i] = fmaf((v[i] - center) * scale, weight[i], shift[i]);
        store<N>(y + row * h + at, v);
      }
    }
  }
};

template <class T>
struct Pointers {
  explicit Pointers(const NormForward& f)
      : x(static_cast<const T*>(f.x)),
        w(static_cast<const T*>(f.w)),
        b(static_cast<const T*>(f.b)),
        y(static_cast<T*>(f.y)) {}
  const T *x, *w, *b;
  T* y;
};

template <class T, bool Centered>
void launch_kept(const Launch& launch, const NormForward& f, float inverse_h) {
  using Kernel = KeptForward<T, Centered>;
  const Pointers<T> p(f);
  const Teams teams = teams_for(f.h / Kernel::kN, Kernel::kHeld, 128);
  const std::int64_t blocks = std::min((f.rows + teams.teams - 1) / teams.teams,
                                       kBlocksPerMultiprocessor * launch.multiprocessors);
  launch_blocks(launch, {blocks}, teams.threads(), team_sum_bytes<1>(),
                Kernel{p.x, p.w, p.b, p.y, f.mean, f.rstd, f.rows, f.h, inverse_h, f.eps,
                       teams.size, teams.teams});
}

template <class T, int N>
void launch_read(const Launch& launch, const NormForward& f, float inverse_h) {
  const Pointers<T> p(f);
  const std::int64_t blocks = std::min(f.rows, kBlocksPerMultiprocessor * launch.multiprocessors);
  launch_blocks(
      launch, {blocks}, threads_for(f.h / N, ReadForward<T, N>::kThreads), 0,
      ReadForward<T, N>{p.x, p.w, p.b, p.y, f.mean, f.rstd, f.rows, f.h, inverse_h, f.eps});
}

}  // namespace

void norm_forward(const Launch& launch, const NormForward& f) {
  const float inverse_h = static_cast<float>(1.0 / static_cast<double>(f.h));
  visit_float(f.dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool vectors = f.h % kVector<T> == 0 && aligned(f.x, f.w, f.b, f.y);
    if (!vectors) return launch_read<T, 1>(launch, f, inverse_h);
    if (f.h > kKeptColumns) {
      return launch_read<T, kVector<T>>(launch, f, inverse_h);
    }
    f.mean != nullptr ? launch_kept<T, true>(launch, f, inverse_h)
                      : launch_kept<T, false>(launch, f, inverse_h);
  });
}

}  // namespace neox::cuda
