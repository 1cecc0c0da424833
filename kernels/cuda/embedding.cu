// Embedding, and its backward after the sort.

#include <type_traits>

#include "kernels/cuda/embedding_kernels.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vectors.cuh"

namespace neox::cuda {
namespace {

/// Row of an id in the table, or -1.
NEOX_HOST_DEVICE std::int64_t table_row(std::int32_t id, std::int64_t first_id, std::int64_t n) {
  const std::int64_t row = id - first_id;
  return row >= 0 && row < n ? row : -1;
}

template <class T, bool HasPlaces>
struct LookUp {
  const std::int32_t* ids;
  const T* table;
  std::int64_t first_id, n;
  const std::int32_t* positions;
  const T* places;
  T* y;
  std::int64_t width;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t row, std::int64_t column) const {
    const std::int64_t token = table_row(ids[row], first_id, n);
    float sum[N] = {};
    if (token >= 0) load<N>(table + token * width + column, sum);
    if constexpr (HasPlaces) {
      float place[N];
      load<N>(places + std::int64_t{positions[row]} * width + column, place);
      for (int i = 0; i < N; ++i) sum[i] += place[i];
    }
    store<N>(y + row * width + column, sum);
  }
};

template <class T, bool HasPlaces>
void launch_embedding(const Launch& launch, const Embedding& e) {
  const LookUp<T, HasPlaces> body{
      e.ids,       static_cast<const T*>(e.table),  e.first_id,           e.n,
      e.positions, static_cast<const T*>(e.places), static_cast<T*>(e.y), e.width};
  constexpr int kN = kVector<T>;
  run<kN>(launch, body, row_extent<kN>(e.rows, e.width, aligned(e.table, e.places, e.y)));
}

struct MakeKeys {
  const std::int32_t* ids;
  std::int64_t first_id, n;
  std::uint32_t *keys, *order;
  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t, std::int64_t row) const {
    static_assert(N == 1);
    const std::int64_t at = table_row(ids[row], first_id, n);
    keys[row] = static_cast<std::uint32_t>(at >= 0 ? at : n);
    order[row] = static_cast<std::uint32_t>(row);
  }
};

/// The thread at the first pair of a key adds all rows of that key, so nobody else writes there.
template <class T>
struct AddSorted {
  const std::uint32_t *keys, *order;
  const T* dy;
  float* dtable;
  std::int64_t rows, width, n;
  static constexpr int kAhead = 4;  // rows under way: a frequent id is a long chain of sums

  template <int N>
  NEOX_HOST_DEVICE void run(std::int64_t first, std::int64_t column) const {
    const std::uint32_t key = keys[first];
    if (key >= n || (first > 0 && keys[first - 1] == key)) return;
    float* to = dtable + std::int64_t{key} * width + column;
    float sum[N];
    load<N>(to, sum);
    std::int64_t p = first;
    for (; p + kAhead <= rows && keys[p + kAhead - 1] == key; p += kAhead) {
      float term[kAhead][N];
      for (int a = 0; a < kAhead; ++a) {
        load<N>(dy + std::int64_t{order[p + a]} * width + column, term[a]);
      }
      for (int a = 0; a < kAhead; ++a) {
        for (int i = 0; i < N; ++i) sum[i] += term[a][i];
      }
    }
    for (; p < rows && keys[p] == key; ++p) {
      float term[N];
      load<N>(dy + std::int64_t{order[p]} * width + column, term);
      for (int i = 0; i < N; ++i) sum[i] += term[i];
    }
    store<N>(to, sum);
  }
};

}  // namespace

void embedding(const Launch& launch, DType dtype, const Embedding& e) {
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    e.positions != nullptr ? launch_embedding<T, true>(launch, e)
                           : launch_embedding<T, false>(launch, e);
  });
}

void embedding_keys(const Launch& launch, const std::int32_t* ids, std::int64_t rows,
                    std::int64_t first_id, std::int64_t n, std::uint32_t* keys,
                    std::uint32_t* order) {
  run<1>(launch, MakeKeys{ids, first_id, n, keys, order}, flat_extent<1>(rows, false));
}

void embedding_sum(const Launch& launch, DType dtype, const EmbeddingSum& s) {
  visit_float(dtype, [&](auto zero) {
    using T = decltype(zero);
    const AddSorted<T> body{s.keys,  s.order, static_cast<const T*>(s.dy), s.dtable, s.rows,
                            s.width, s.n};
    constexpr int kN = kVector<T>;
    run<kN>(launch, body, row_extent<kN>(s.rows, s.width, aligned(s.dy, s.dtable)));
  });
}

}  // namespace neox::cuda
