// Backward of layer_norm and rms_norm: of xhat w (+ b) with xhat = (x - mean) rstd. With g = dy w:
//   dx = residual_grad + rstd (g - [centered] mean(g) - xhat mean(g xhat))
//   dw = sum over rows of dy xhat, db = sum over rows of dy
// Sums over rows are made in two steps: each block sums some rows, then the sums of the blocks are
// added in their order. Products that are added are written as fmaf: what a call leaves out must
// not change how the rest rounds.

#include "kernels/cuda/norm_kernels.h"
#include "kernels/cuda/norm_rows.cuh"

namespace neox::cuda {
namespace {

/// Elements of a row in one thread's registers: as many as leave 512 threads of a block without
/// spilling, where x and dy take less room in 16 bits.
template <class T>
constexpr int kKeptFloats = std::is_same_v<T, float> ? 20 : 24;
constexpr int kKeptThreads = 512;
template <class T>
constexpr std::int64_t kKeptColumns = std::int64_t{kKeptFloats<T>} * kKeptThreads;
constexpr int kReadThreads = 256;
constexpr std::int64_t kMostRowGroups = 64;

template <class T>
struct Operands {
  explicit Operands(const NormBackward& f)
      : dy(static_cast<const T*>(f.dy)),
        x(static_cast<const T*>(f.x)),
        w(static_cast<const T*>(f.w)),
        residual_grad(static_cast<const T*>(f.residual_grad)),
        mean(f.mean),
        rstd(f.rstd),
        dx(static_cast<T*>(f.dx)),
        rows(f.rows),
        h(f.h),
        inverse_h(static_cast<float>(1.0 / static_cast<double>(f.h))) {}
  const T *dy, *x, *w, *residual_grad;
  const float *mean, *rstd;
  T* dx;
  std::int64_t rows, h;
  float inverse_h;
};

/// One element's dx, the means taken over the row.
NEOX_HOST_DEVICE inline float input_gradient(float dy, float w, float xhat, float mean_g,
                                             float mean_gx, float rstd, float residual) {
  return fmaf(fmaf(-xhat, mean_gx, fmaf(dy, w, -mean_g)), rstd, residual);
}

/// Rows of dy and x in registers, each read once. Weight: partial [blocks, 1 or 2, h] receives the
/// sums over a block's rows, for dw and (if centered) for db.
template <class T, bool Centered, bool Input, bool Weight>
struct KeptBackward {
  Operands<T> of;
  static constexpr int kThreads = kKeptThreads;
  static constexpr int kN = kVector<T>, kHeld = kKeptFloats<T> / kN;
  using Row = RowPart<T>[kHeld];
  using Sums = float[kHeld][kN];

  float* partial;
  int team_size, teams;

  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const int team = block.thread() / team_size, member = block.thread() % team_size;
    const int parts = static_cast<int>(of.h / kN);
    const std::int64_t step = block.grid_x() * teams;
    Sums dw = {}, db = {};
    int turn = 0;
    for (std::int64_t first = block.x() * teams; first < of.rows; first += step) {
      const std::int64_t row = first + team;
      const int here = row < of.rows ? parts : 0;  // a team without a row still meets the others
      Row x, dy;
      const auto* from_x = reinterpret_cast<const RowPart<T>*>(of.x + row * of.h);
      const auto* from_dy = reinterpret_cast<const RowPart<T>*>(of.dy + row * of.h);
      NEOX_UNROLL
      for (int k = 0; k < kHeld; ++k) {
        const int part = member + k * team_size;
        if (part >= here) continue;
        x[k] = from_x[part];
        dy[k] = from_dy[part];
      }
      const float center = Centered && here > 0 ? of.mean[row] : 0.0f;
      const float scale = here > 0 ? of.rstd[row] : 0.0f;
      float sums[2] = {0.0f, 0.0f};  // of g xhat, of g
      NEOX_UNROLL
      for (int k = 0; k < kHeld; ++k) {
        const int part = member + k * team_size;
        if (part >= here) continue;
        float d[kN], v[kN], w[kN];
        unpack<T>(dy[k], d);
        unpack<T>(x[k], v);
        if constexpr (Input) load<kN>(of.w + part * kN, w);
        NEOX_UNROLL
        for (int i = 0; i < kN; ++i) {
          const float xhat = (v[i] - center) * scale;
          if constexpr (Weight) dw[k][i] = fmaf(d[i], xhat, dw[k][i]);
          if constexpr (Weight && Centered) db[k][i] += d[i];
          if constexpr (Input) sums[0] = fmaf(d[i] * w[i], xhat, sums[0]);
          if constexpr (Input && Centered) sums[1] = fmaf(d[i], w[i], sums[1]);
        }
      }
      if constexpr (Input) {
        add_up(block, sums, turn++);
        write_input(row, member, here, x, dy, center, scale, sums);
      }
    }
    if constexpr (Weight) {
      constexpr int kSums = Centered ? 2 : 1;
      float* to = partial + block.x() * kSums * of.h;
      write_sums(block, team, member, dw, to);
      if constexpr (Centered) write_sums(block, team, member, db, to + of.h);
    }
  }

  /// The means of g xhat and g over the row, from this thread's sums.
  NEOX_HOST_DEVICE void add_up(const Block& block, float (&sums)[2], int turn) const {
    if constexpr (Centered) {
      team_sum(block, sums, team_size, turn);
      sums[1] *= of.inverse_h;
    } else {
      float one[1] = {sums[0]};
      team_sum(block, one, team_size, turn);
      sums[0] = one[0];
    }
    sums[0] *= of.inverse_h;
  }

  NEOX_HOST_DEVICE void write_input(std::int64_t row, int member, int here, const Row& x,
                                    const Row& dy, float center, float scale,
                                    const float (&means)[2]) const {
    NEOX_UNROLL
    for (int k = 0; k < kHeld; ++k) {
      const int part = member + k * team_size;
      if (part >= here) continue;
      float d[kN], v[kN], w[kN], residual[kN] = {};
      unpack<T>(dy[k], d);
      unpack<T>(x[k], v);
      load<kN>(of.w + part * kN, w);
      const std::int64_t at = row * of.h + part * kN;
      if (of.residual_grad != nullptr) load<kN>(of.residual_grad + at, residual);
      NEOX_UNROLL
      for (int i = 0; i < kN; ++i) {
        const float xhat = (v[i] - center) * scale;
        d[i] = input_gradient(d[i], w[i], xhat, means[1], means[0], scale, residual[i]);
      }
      store<kN>(of.dx + at, d);
    }
  }

  /// to[h] = the sums of all teams, in their order.
  NEOX_HOST_DEVICE void write_sums(const Block& block, int team, int member, const Sums& sums,
                                   float* to) const {
    const int parts = static_cast<int>(of.h / kN), columns = parts * kN;
    float* mine = teams == 1 ? to : block.shared<float>() + team * columns;
    block.sync();  // the shared memory was another sum's
    NEOX_UNROLL
    for (int k = 0; k < kHeld; ++k) {
      const int part = member + k * team_size;
      if (part < parts) store<kN>(mine + part * kN, sums[k]);
    }
    if (teams == 1) return;
    block.sync();
    for (int column = block.thread(); column < columns; column += block.threads()) {
      float sum = 0.0f;
      for (int k = 0; k < teams; ++k) sum += block.shared<float>()[k * columns + column];
      to[column] = sum;
    }
  }
};

/// dx for rows of any length and alignment, a block for each: read twice, the second time mostly
/// from the cache.
template <class T, int N>
struct ReadInput {
  Operands<T> of;
  static constexpr int kThreads = kReadThreads;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t begin = std::int64_t{block.thread()} * N;
    const std::int64_t step = std::int64_t{block.threads()} * N;
    for (std::int64_t row = block.x(); row < of.rows; row += block.grid_x()) {
      const float center = of.mean != nullptr ? of.mean[row] : 0.0f;
      const float scale = of.rstd[row];
      float sums[2] = {0.0f, 0.0f}, d[N], v[N], w[N];
      for (std::int64_t column = begin; column < of.h; column += step) {
        load<N>(of.dy + row * of.h + column, d);
        load<N>(of.x + row * of.h + column, v);
        load<N>(of.w + column, w);
        for (int i = 0; i < N; ++i) {
          sums[0] = fmaf(d[i] * w[i], (v[i] - center) * scale, sums[0]);
          sums[1] = fmaf(d[i], w[i], sums[1]);
        }
      }
      block.sum(sums);
      const float mean_gx = sums[0] * of.inverse_h;
      const float mean_g = of.mean != nullptr ? sums[1] * of.inverse_h : 0.0f;
      for (std::int64_t column = begin; column < of.h; column += step) {
        const std::int64_t at = row * of.h + column;
        float residual[N] = {};
        load<N>(of.dy + at, d);
        load<N>(of.x + at, v);
        load<N>(of.w + column, w);
        if (of.residual_grad != nullptr) load<N>(of.residual_grad + at, residual);
        for (int i = 0; i < N; ++i) {
          const float xhat = (v[i] - center) * scale;
          d[i] = input_gradient(d[i], w[i], xhat, mean_g, mean_gx, scale, residual[i]);
        }
        store<N>(of.dx + at, d);
      }
    }
  }
};

/// Sums of dy xhat and dy over groups of rows: grid [columns, groups], partial [groups, 2, h].
template <class T, int N>
struct ReadWeight {
  Operands<T> of;
  static constexpr int kThreads = kReadThreads;
  std::int64_t group_rows;
  float* partial;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t column = (block.x() * block.threads() + block.thread()) * N;
    if (column >= of.h) return;
    const std::int64_t next = (block.y() + 1) * group_rows, end = next < of.rows ? next : of.rows;
    float dw[N] = {}, db[N] = {}, d[N], v[N];
    for (std::int64_t row = block.y() * group_rows; row < end; ++row) {
      load<N>(of.dy + row * of.h + column, d);
      load<N>(of.x + row * of.h + column, v);
      const float center = of.mean != nullptr ? of.mean[row] : 0.0f;
      const float scale = of.rstd[row];
      for (int i = 0; i < N; ++i) {
        dw[i] = fmaf(d[i], (v[i] - center) * scale, dw[i]);
        db[i] += d[i];
      }
    }
    float* to = partial + block.y() * 2 * of.h + column;
    store<N>(to, dw);
    store<N>(to + of.h, db);
  }
};

/// out[which][h] (+)= the sum of partial [count, sums, h] over the first index. A block adds 32
/// columns: each warp every 16th row, then the warps' sums in their order.
struct AddPartials {
  static constexpr int kThreads = 512;
  const float* partial;
  std::int64_t count, h;
  int sums;
  float *dw, *db;
  bool accumulate;
  NEOX_HOST_DEVICE void operator()(const Block& block) const {
    const std::int64_t column = block.x() * kWarp + block.lane(), which = block.y();
    float sum = 0.0f;
    if (column < h) {
      for (std::int64_t i = block.warp(); i < count; i += block.warps()) {
        sum += partial[(i * sums + which) * h + column];
      }
    }
    auto* of_warps = block.shared<float>();
    of_warps[block.thread()] = sum;
    block.sync();
    if (block.warp() > 0 || column >= h) return;
    sum = 0.0f;
    for (int warp = 0; warp < block.warps(); ++warp) sum += of_warps[warp * kWarp + block.lane()];
    float* out = which == 0 ? dw : db;
    out[column] = accumulate ? out[column] + sum : sum;
  }
};

void add_partials(const Launch& launch, const NormBackward& f, const float* partial,
                  std::int64_t count, int sums) {
  launch_blocks(launch, {(f.h + kWarp - 1) / kWarp, f.db != nullptr ? 2 : 1}, AddPartials::kThreads,
                sizeof(float) * AddPartials::kThreads,
                AddPartials{partial, count, f.h, sums, f.dw, f.db, f.accumulate});
}

template <class T>
Teams kept_teams(std::int64_t h) {
  return teams_for(h / kVector<T>, kKeptFloats<T> / kVector<T>, 256);
}

/// As many blocks as run at once with 128 registers a thread. Depends on the shape only, so dw has
/// the same bits with and without dx.
std::int64_t kept_blocks(int multiprocessors, std::int64_t rows, Teams teams) {
  const std::int64_t at_once = std::int64_t{multiprocessors} * (kKeptThreads / teams.threads());
  return std::min((rows + teams.teams - 1) / teams.teams, at_once);
}

template <class T, bool Centered, bool Input, bool Weight>
void launch_kept(const Launch& launch, const NormBackward& f, float* scratch) {
  using Kernel = KeptBackward<T, Centered, Input, Weight>;
  const Teams teams = kept_teams<T>(f.h);
  const std::int64_t blocks = kept_blocks(launch.multiprocessors, f.rows, teams);
  std::size_t shared = team_sum_bytes<2>();
  if (Weight && teams.teams > 1) {
    shared = std::max(shared, sizeof(float) * static_cast<std::size_t>(teams.teams * f.h));
  }
  launch_blocks(launch, {blocks}, teams.threads(), shared,
                Kernel{Operands<T>(f), scratch, teams.size, teams.teams});
  if (Weight) add_partials(launch, f, scratch, blocks, Centered ? 2 : 1);
}

template <class T, int N>
void launch_read_input(const Launch& launch, const NormBackward& f) {
  const std::int64_t blocks = std::min(f.rows, kBlocksPerMultiprocessor * launch.multiprocessors);
  launch_blocks(launch, {blocks}, threads_for(f.h / N, kReadThreads), 0,
                ReadInput<T, N>{Operands<T>(f)});
}

std::int64_t group_rows(std::int64_t rows) {
  return std::max<std::int64_t>(16, (rows + kMostRowGroups - 1) / kMostRowGroups);
}

template <class T, int N>
void launch_read_weight(const Launch& launch, const NormBackward& f, float* scratch) {
  const std::int64_t in_group = group_rows(f.rows), groups = (f.rows + in_group - 1) / in_group;
  const std::int64_t columns = std::int64_t{kReadThreads} * N;
  launch_blocks(launch, {(f.h + columns - 1) / columns, groups}, kReadThreads, 0,
                ReadWeight<T, N>{Operands<T>(f), in_group, scratch});
  add_partials(launch, f, scratch, groups, 2);
}

template <class T, bool Centered>
void backward(const Launch& launch, const NormBackward& f, float* scratch) {
  const bool input = f.dx != nullptr, weight = f.dw != nullptr;
  // Each result is computed in a way that depends on its own operands only.
  const bool whole = f.h % kVector<T> == 0;
  const bool input_vectors = whole && aligned(f.dy, f.x, f.w, f.residual_grad, f.dx);
  const bool weight_vectors = whole && aligned(f.dy, f.x);
  const bool short_rows = f.h <= kKeptColumns<T>;
  const bool keep_input = input && input_vectors && short_rows;
  const bool keep_weight = weight && weight_vectors && short_rows;
  if (keep_input && keep_weight) return launch_kept<T, Centered, true, true>(launch, f, scratch);
  if (keep_input) {
    launch_kept<T, Centered, true, false>(launch, f, scratch);
  } else if (input) {
    input_vectors ? launch_read_input<T, kVector<T>>(launch, f)
                  : launch_read_input<T, 1>(launch, f);
  }
  if (keep_weight) {
    launch_kept<T, Centered, false, true>(launch, f, scratch);
  } else if (weight) {
    weight_vectors ? launch_read_weight<T, kVector<T>>(launch, f, scratch)
                   : launch_read_weight<T, 1>(launch, f, scratch);
  }
}

}  // namespace

std::size_t norm_backward_scratch(int multiprocessors, DType dtype, std::int64_t rows,
                                  std::int64_t h) {
  std::int64_t blocks = (rows + group_rows(rows) - 1) / group_rows(rows);
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    if (h > kKeptColumns<T>) return;
    blocks = std::max(blocks, kept_blocks(multiprocessors, rows, kept_teams<T>(h)));
  });
  return sizeof(float) * static_cast<std::size_t>(2 * h * blocks);
}

void norm_backward(const Launch& launch, const NormBackward& f, float* scratch) {
  visit_float(f.dtype, [&](auto zero) {
    using T = decltype(zero);
    f.mean != nullptr ? backward<T, true>(launch, f, scratch)
                      : backward<T, false>(launch, f, scratch);
  });
}

}  // namespace neox::cuda
