#pragma once
// What tensor-parallel ranks say to each other inside a layer. The residual stream [rows, h] is
// either held alike by all of them or, with sequence parallelism, divided by rows.

#include "comm/communicator.h"
#include "core/tensor/arena.h"

namespace neox {

class TensorParallel {
 public:
  /// Alone: nothing to say.
  TensorParallel() = default;
  /// `group` must outlive this.
  TensorParallel(Communicator& group, bool rows_sharded)
      : group_(group.size() > 1 ? &group : nullptr), rows_sharded_(rows_sharded) {}

  bool alone() const { return group_ == nullptr; }
  int rank() const { return alone() ? 0 : group_->rank(); }
  int size() const { return alone() ? 1 : group_->size(); }
  bool rows_sharded() const { return !alone() && rows_sharded_; }

  /// Rows of the residual stream held here, of a micro-batch of `rows`.
  std::int64_t local_rows(std::int64_t rows) const { return rows_sharded() ? rows / size() : rows; }
  std::int64_t first_row(std::int64_t rows) const {
    return rows_sharded() ? rows / size() * rank() : 0;
  }

  /// All rows of `local`, under way: `full` may be read after work.wait(). Without sharded rows it
  /// is `local` itself.
  struct Gathering {
    ConstTensor full{};
    Work work{};
    ConstTensor wait(Stream& stream) const {
      work.wait(stream);
      return full;
    }
  };
  /// What the following messages are for, in tables of traffic.
  void set_purpose(Purpose purpose) const {
    if (!alone()) group_->set_purpose(purpose);
  }
  Gathering gather(Stream& stream, Arena& arena, ConstTensor local) const;

  /// Where a layer puts its part of the sum that becomes `out`: all rows, in `arena`; `out` itself
  /// when rows are not sharded.
  Tensor partial(Arena& arena, Tensor out) const;
  /// out = sum of every rank's `partial`, under way: both stay untouched until Work::wait.
  Work reduce(Stream& stream, Tensor partial, Tensor out) const;

  /// out [ranks, ...] = every rank's `part`.
  void gather_parts(Stream& stream, ConstTensor part, Tensor out) const;

 private:
  Communicator* group_ = nullptr;
  bool rows_sharded_ = false;
};

}  // namespace neox
