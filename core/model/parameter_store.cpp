#include "core/model/parameter_store.h"

#include <algorithm>

namespace neox {
namespace {

// Every parameter (or fused run) starts on a cache line of the narrowest dtype.
constexpr std::int64_t kAlignment = 64;

std::int64_t align(std::int64_t n) {
  return (n + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

void ParameterStore::begin_block(std::string name) {
  blocks_.push_back({std::move(name), 0, 0});
}

ParameterId ParameterStore::add(ParameterSpec spec) {
  require(!blocks_.empty(), "internal error: parameter {} was added before any block", spec.name);
  entries_.push_back({std::move(spec), block_count() - 1, false, 0});
  return size() - 1;
}

ParameterId ParameterStore::add_fused(std::vector<ParameterSpec> specs) {
  const ParameterId first = size();
  for (auto& s : specs) {
    add(std::move(s));
    entries_.back().fused_with_previous = size() - 1 != first;
  }
  return first;
}

const ParameterStore::Entry& ParameterStore::entry(ParameterId id) const {
  return entries_.at(static_cast<std::size_t>(id));
}

void ParameterStore::lay_out() {
  std::int64_t offset = 0;
  decay_ranges_.clear();
  for (int block = block_count() - 1; block >= 0; --block) {
    auto& b = blocks_[static_cast<std::size_t>(block)];
    b.begin = offset;
    for (const bool decay : {true, false}) {
      const std::int64_t begin = offset;
      for (auto& e : entries_) {
        if (e.block != block || e.spec.decay != decay) continue;
        if (!e.fused_with_previous) offset = align(offset);
        e.offset = offset;
        offset += e.spec.slice.extent.numel();
      }
      offset = align(offset);
      if (offset == begin) continue;
      if (!decay_ranges_.empty() && decay_ranges_.back().decay == decay) {
        decay_ranges_.back().end = offset;
      } else {
        decay_ranges_.push_back({begin, offset, decay});
      }
    }
    b.end = offset;
  }
  numel_ = offset;
}

void ParameterStore::commit(Device device, DType compute, StoreMode mode, bool dry_run) {
  lay_out();
  device_ = device;
  compute_ = compute;
  mode_ = mode;
  const auto stream = dry_run ? nullptr : make_stream(device);
  const auto allocate = [&](Buffer& buffer, DType dtype) {
    const Shape shape{numel_};
    if (dry_run) return Tensor(nullptr, shape, dtype, device);
    buffer = Buffer(static_cast<std::size_t>(numel_) * size_of(dtype), device);
    const Tensor flat = buffer.view(shape, dtype);
    fill_zero(*stream, flat);  // padding must stay zero; this also touches every page once
    return flat;
  };
  weights_ = allocate(weights_buffer_, compute);
  main_ = weights_;
  if (mode == StoreMode::training) {
    if (has_separate_main()) main_ = allocate(main_buffer_, DType::f32);
    grads_ = allocate(grads_buffer_, DType::f32);
    exp_avg_ = allocate(exp_avg_buffer_, DType::f32);
    exp_avg_sq_ = allocate(exp_avg_sq_buffer_, DType::f32);
  }
  if (stream) stream->synchronize();
}

ParameterId ParameterStore::find(const std::string& name) const {
  for (int id = 0; id < size(); ++id) {
    if (spec(id).name == name) return id;
  }
  fail("the model has no parameter '{}'", name);
}

Tensor ParameterStore::view(const Tensor& flat, ParameterId id) const {
  const Entry& e = entry(id);
  return flat.slice(e.offset, e.offset + e.spec.slice.extent.numel()).reshape(e.spec.slice.extent);
}

Tensor ParameterStore::fused_view(const Tensor& flat, ParameterId first, int count) const {
  Shape shape = entry(first).spec.slice.extent;
  std::int64_t rows = 0;
  for (int i = 0; i < count; ++i) rows += entry(first + i).spec.slice.extent[0];
  shape.set(0, rows);
  const std::int64_t offset = entry(first).offset;
  return flat.slice(offset, offset + shape.numel()).reshape(shape);
}

Tensor ParameterStore::weight(ParameterId id) const {
  return view(weights_, id);
}

Tensor ParameterStore::grad(ParameterId id) const {
  return view(grads_, id);
}

Tensor ParameterStore::fused_weight(ParameterId first, int count) const {
  return fused_view(weights_, first, count);
}

Tensor ParameterStore::fused_grad(ParameterId first, int count) const {
  return fused_view(grads_, first, count);
}

Shard ParameterStore::shard(const Tensor& flat, ParameterId id) const {
  const auto& s = spec(id);
  return {s.name, flat.dtype, s.global, s.slice, view(flat, id)};
}

Shard ParameterStore::weight_shard(ParameterId id) const {
  return shard(weights_, id);
}

Shard ParameterStore::main_shard(ParameterId id) const {
  return shard(main_, id);
}

Shard ParameterStore::exp_avg_shard(ParameterId id) const {
  return shard(exp_avg_, id);
}

Shard ParameterStore::exp_avg_sq_shard(ParameterId id) const {
  return shard(exp_avg_sq_, id);
}

std::int64_t ParameterStore::parameter_count() const {
  std::int64_t n = 0;
  for (const auto& e : entries_) n += e.spec.slice.extent.numel();
  return n;
}

FlatRange ParameterStore::block_range(int block) const {
  const auto& b = blocks_.at(static_cast<std::size_t>(block));
  return {b.begin, b.end, false};
}

void ParameterStore::refresh_weights(const Backend& ops, Stream& stream) const {
  if (main_.data != weights_.data) ops.cast(stream, main_, weights_);
  ops.weights_changed();
}

}  // namespace neox
