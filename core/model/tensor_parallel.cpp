#include "core/model/tensor_parallel.h"

namespace neox {
namespace {

Shape with_rows(Shape shape, std::int64_t rows) {
  shape.set(0, rows);
  return shape;
}

}  // namespace

TensorParallel::Gathering TensorParallel::gather(Stream& stream, Arena& arena,
                                                 ConstTensor local) const {
  if (!rows_sharded()) return {local, {}};
  const Tensor full = arena.take(with_rows(local.shape, local.shape[0] * size()), local.dtype);
  return {full, group_->all_gather(local, full, stream)};
}

Tensor TensorParallel::partial(Arena& arena, Tensor out) const {
  if (!rows_sharded()) return out;
  return arena.take(with_rows(out.shape, out.shape[0] * size()), out.dtype);
}

Work TensorParallel::reduce(Stream& stream, Tensor partial, Tensor out) const {
  if (alone()) return {};
  if (rows_sharded_) return group_->reduce_scatter(partial, out, ReduceOp::sum, stream);
  return group_->all_reduce(out, ReduceOp::sum, stream);
}

void TensorParallel::gather_parts(Stream& stream, ConstTensor part, Tensor out) const {
  const TrafficScope scope(*group_, Purpose::loss);
  group_->all_gather(part, out, stream).wait(stream);
}

}  // namespace neox
