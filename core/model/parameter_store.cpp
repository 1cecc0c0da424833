#include "core/model/parameter_store.h"

#include <algorithm>
#include <tuple>

namespace neox {
namespace {

// Every parameter (or fused run) starts on a cache line of the narrowest dtype, and so does every
// rank's part of a bucket.
constexpr std::int64_t kAlignment = 64;

std::int64_t align(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

// ---- building ----------------------------------------------------------------------------------

void ParameterStore::begin_block(std::string name) {
  blocks_.emplace_back().name = std::move(name);
}

ParameterId ParameterStore::add(ParameterSpec spec) {
  require(!blocks_.empty(), "internal error: parameter {} was added before any block", spec.name);
  entries_.push_back({std::move(spec), block_count() - 1});
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

void ParameterStore::share(ParameterId id) {
  const int owner = entry(id).block;
  require(owner + 1 < block_count(), "internal error: {} is already in the open block",
          spec(id).name);
  blocks_.back().shared.push_back(id);
  blocks_.back().uses.push_back(owner);
  blocks_[index(owner)].used = true;
}

void ParameterStore::declare_optimizer_states(std::vector<std::string> names) {
  require(numel_ == 0, "internal error: optimizer states were declared after commit");
  require(names.size() <= optimizer_.size(), "internal error: {} optimizer states, at most {} fit",
          names.size(), optimizer_.size());
  optimizer_states_ = std::move(names);
}

// ---- layout ------------------------------------------------------------------------------------

// Parameters tied across stages come first, in buckets of their own: both stages then cut them
// alike, so that owned parts can be summed. Those to be summed over other groups lie together.
void ParameterStore::lay_out_block(int block, std::int64_t& offset) {
  struct Run {  // of fused parameters
    std::size_t first, last;
    auto key(const std::vector<Entry>& entries) const {
      const ParameterSpec& s = entries[first].spec;
      return std::tuple(!s.tied_across_stages, s.sum, !s.decay, !s.counted);
    }
  };
  std::vector<Run> runs;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].block != block) continue;
    if (entries_[i].fused_with_previous) {
      runs.back().last = i;
    } else {
      runs.push_back({i, i});
    }
  }
  std::stable_sort(runs.begin(), runs.end(),
                   [&](const Run& a, const Run& b) { return a.key(entries_) < b.key(entries_); });
  Block& b = blocks_[index(block)];
  b.begin = offset;
  b.first_bucket = buckets_.size();
  std::int64_t segment = offset;
  const auto close_segment = [&] {
    offset = align(offset, kAlignment * plan_.size);
    cut_buckets(segment, offset);
    segment = offset;
  };
  bool tied = !runs.empty() && entries_[runs[0].first].spec.tied_across_stages;
  for (const Run& run : runs) {
    if (tied != entries_[run.first].spec.tied_across_stages) close_segment();
    tied = entries_[run.first].spec.tied_across_stages;
    offset = align(offset, kAlignment);
    for (std::size_t i = run.first; i <= run.last; ++i) {
      entries_[i].offset = offset;
      offset += entries_[i].spec.slice.extent.numel();
      add_range(entries_[i], offset);
    }
    const ParameterSpec& last = entries_[run.last].spec;
    offset += std::max<std::int64_t>(last.reserve - last.slice.extent.numel(), 0);
  }
  close_segment();
  b.end = offset;
  b.buckets = buckets_.size() - b.first_bucket;
}

void ParameterStore::add_range(const Entry& entry, std::int64_t end) {
  const FlatRange range{entry.offset, end, entry.spec.decay, entry.spec.counted};
  if (range.size() == 0) return;
  FlatRange* last = ranges_.empty() ? nullptr : &ranges_.back();
  if (last != nullptr && last->end == range.begin && last->decay == range.decay &&
      last->counted == range.counted) {
    last->end = end;
  } else {
    ranges_.push_back(range);
  }
}

void ParameterStore::cut_buckets(std::int64_t begin, std::int64_t end) {
  if (begin == end) return;
  const std::int64_t n = end - begin;
  const std::int64_t count = (n + plan_.bucket_elements - 1) / plan_.bucket_elements;
  const std::int64_t step = align((n + count - 1) / count, kAlignment * plan_.size);
  for (std::int64_t at = begin; at < end; at += step) {
    buckets_.push_back({at, std::min(at + step, end)});
  }
}

std::vector<StatePiece> ParameterStore::owned_pieces_in(const FlatRange& range) const {
  std::vector<StatePiece> pieces;
  auto bucket =
      std::upper_bound(buckets_.begin(), buckets_.end(), range.begin,
                       [](std::int64_t at, const Bucket& other) { return at < other.end; });
  for (; bucket != buckets_.end() && bucket->begin < range.end; ++bucket) {
    const std::int64_t part = bucket->size() / plan_.size;
    const std::int64_t own = bucket->begin + plan_.rank * part;
    const std::int64_t begin = std::max(own, range.begin), end = std::min(own + part, range.end);
    if (begin >= end) continue;
    const std::int64_t owned = bucket->begin / plan_.size + begin - own;
    pieces.push_back({begin, owned, end - begin, range.decay, range.counted});
  }
  return pieces;
}

std::vector<StatePiece> ParameterStore::update_pieces_in(const FlatRange& range) const {
  if (plan_.zero_stage > 0) return owned_pieces_in(range);
  if (range.size() == 0) return {};
  return {{range.begin, 0, range.size(), range.decay, range.counted}};
}

void ParameterStore::lay_out() {
  std::int64_t offset = 0;
  ranges_.clear();
  buckets_.clear();
  for (int block = block_count() - 1; block >= 0; --block) lay_out_block(block, offset);
  numel_ = offset;
  owned_pieces_.clear();
  update_pieces_.clear();
  for (const FlatRange& range : ranges_) {
    for (const StatePiece& piece : owned_pieces_in(range)) owned_pieces_.push_back(piece);
    for (const StatePiece& piece : update_pieces_in(range)) update_pieces_.push_back(piece);
  }
}

// ---- memory ------------------------------------------------------------------------------------

void ParameterStore::commit(Device device, DType compute, StoreMode mode, bool dry_run,
                            const ShardPlan& plan) {
  require(plan.size >= 1 && 0 <= plan.rank && plan.rank < plan.size && plan.bucket_elements > 0 &&
              0 <= plan.zero_stage && plan.zero_stage <= 3,
          "internal error: a shard plan of rank {} of {}, stage {}, buckets of {}", plan.rank,
          plan.size, plan.zero_stage, plan.bucket_elements);
  plan_ = plan;
  if (plan.size == 1 || mode == StoreMode::inference) plan_.zero_stage = 0;
  device_ = device;
  compute_ = compute;
  mode_ = mode;
  dry_run_ = dry_run;
  lay_out();
  allocate();
}

Tensor ParameterStore::new_buffer(std::int64_t elements, DType dtype, std::size_t& bytes) {
  const Shape shape{elements};
  const std::size_t size = static_cast<std::size_t>(elements) * size_of(dtype);
  bytes += size;
  if (dry_run_) return {nullptr, shape, dtype, device_};
  return buffers_.emplace_back(size, device_).view(shape, dtype);
}

void ParameterStore::allocate() {
  memory_ = {};
  buffers_.clear();
  const auto allocate_state = [&](State state, DType dtype, std::size_t& bytes) {
    return new_buffer(sharded(state) ? owned_numel() : numel_, dtype, bytes);
  };
  std::vector<Tensor> all;
  weights_ = all.emplace_back(allocate_state(State::weights, compute_, memory_.weights));
  main_ = weights_;
  if (mode_ == StoreMode::training) {
    const DType f32 = DType::f32;
    if (has_separate_main()) {
      main_ = all.emplace_back(allocate_state(State::main, f32, memory_.main));
    }
    grads_ = all.emplace_back(allocate_state(State::gradients, f32, memory_.gradients));
    for (std::size_t i = 0; i < optimizer_states_.size(); ++i) {
      const State state = optimizer_state(static_cast<int>(i));
      optimizer_[i] = all.emplace_back(allocate_state(state, f32, memory_.optimizer));
    }
  }
  for (Block& b : blocks_) {
    const auto whole = [&](State state, const Tensor& flat, std::size_t& bytes) {
      if (!flat) return Tensor{};
      if (!sharded(state)) return flat.slice(b.begin, b.end);
      if (!b.used) return Tensor{};
      return all.emplace_back(new_buffer(b.end - b.begin, flat.dtype, bytes));
    };
    b.weights = whole(State::weights, weights_, memory_.weights);
    b.gradients = whole(State::gradients, grads_, memory_.gradients);
  }
  if (dry_run_) return;
  const auto stream = make_stream(device_);
  // Padding must stay zero; this also touches every page once.
  for (const Tensor& tensor : all) fill_zero(*stream, tensor);
  stream->synchronize();
}

bool ParameterStore::sharded(State state) const {
  switch (state) {
    case State::weights:
      return plan_.zero_stage >= 3;
    case State::main:
      return has_separate_main() ? plan_.zero_stage >= 1 : plan_.zero_stage >= 3;
    case State::gradients:
      return plan_.zero_stage >= 2;
    case State::optimizer0:
    case State::optimizer1:
    case State::optimizer2:
      return plan_.zero_stage >= 1;
  }
  fail("internal error: unknown state");
}

const Tensor& ParameterStore::buffer_of(State state) const {
  const Tensor* const buffers[] = {&weights_,      &main_,         &grads_,
                                   &optimizer_[0], &optimizer_[1], &optimizer_[2]};
  return *buffers[static_cast<std::size_t>(state)];
}

// ---- what the model sees -----------------------------------------------------------------------

ParameterId ParameterStore::find(const std::string& name) const {
  for (int id = 0; id < size(); ++id) {
    if (spec(id).name == name) return id;
  }
  fail("the model has no parameter '{}'", name);
}

Tensor ParameterStore::block_view(const Tensor& bound, const char* what, ParameterId id,
                                  const Shape& shape) const {
  const Entry& e = entry(id);
  const Block& b = blocks_[index(e.block)];
  require(bool(bound), "internal error: the {} of {} are not here: block {} was not asked for",
          what, e.spec.name, b.name);
  const std::int64_t begin = e.offset - b.begin;
  return bound.slice(begin, begin + shape.numel()).reshape(shape);
}

Shape ParameterStore::fused_shape(ParameterId first, int count) const {
  Shape shape = spec(first).slice.extent;
  std::int64_t rows = 0;
  for (int i = 0; i < count; ++i) rows += spec(first + i).slice.extent[0];
  shape.set(0, rows);
  return shape;
}

Tensor ParameterStore::weight(ParameterId id) const {
  return fused_weight(id, 1);
}

Tensor ParameterStore::grad(ParameterId id) const {
  return fused_grad(id, 1);
}

Tensor ParameterStore::fused_weight(ParameterId first, int count) const {
  return block_view(bound_weights(block_of(first)), "weights", first, fused_shape(first, count));
}

Tensor ParameterStore::fused_grad(ParameterId first, int count) const {
  return block_view(bound_gradients(block_of(first)), "gradients", first,
                    fused_shape(first, count));
}

// ---- state, piece by piece ---------------------------------------------------------------------

FlatRange ParameterStore::range_of(ParameterId id) const {
  const Entry& e = entry(id);
  return {e.offset, e.offset + e.spec.slice.extent.numel(), e.spec.decay, e.spec.counted};
}

Tensor ParameterStore::piece(State state, const StatePiece& piece) const {
  const std::int64_t begin = sharded(state) ? piece.owned : piece.flat;
  return buffer_of(state).slice(begin, begin + piece.size);
}

Tensor ParameterStore::owned(State state, const Bucket& bucket) const {
  const std::int64_t part = bucket.size() / plan_.size;
  const std::int64_t begin =
      sharded(state) ? bucket.begin / plan_.size : bucket.begin + plan_.rank * part;
  return buffer_of(state).slice(begin, begin + part);
}

std::vector<ParameterPiece> ParameterStore::parameter_pieces(
    ParameterId id, const std::vector<StatePiece>& pieces) const {
  std::vector<ParameterPiece> result;
  for (const StatePiece& piece : pieces) result.push_back({piece.flat - entry(id).offset, piece});
  return result;
}

std::vector<ParameterPiece> ParameterStore::owned_pieces(ParameterId id) const {
  return parameter_pieces(id, owned_pieces_in(range_of(id)));
}

std::vector<ParameterPiece> ParameterStore::update_pieces(ParameterId id) const {
  return parameter_pieces(id, update_pieces_in(range_of(id)));
}

std::vector<StatePiece> ParameterStore::update_pieces_of(
    const std::function<bool(const ParameterSpec&)>& chosen) const {
  std::vector<StatePiece> pieces;
  for (ParameterId id = 0; id < size(); ++id) {
    if (!chosen(spec(id))) continue;
    for (const StatePiece& piece : update_pieces_in(range_of(id))) pieces.push_back(piece);
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const StatePiece& a, const StatePiece& b) { return a.flat < b.flat; });
  std::vector<StatePiece> joined;
  for (const StatePiece& piece : pieces) {
    const StatePiece* last = joined.empty() ? nullptr : &joined.back();
    const bool continues = last != nullptr && last->flat + last->size == piece.flat &&
                           (plan_.zero_stage == 0 || last->owned + last->size == piece.owned);
    if (continues) {
      joined.back().size += piece.size;
    } else {
      joined.push_back(piece);
    }
  }
  return joined;
}

Shard ParameterStore::shard(State state, ParameterId id, const ParameterPiece& piece) const {
  const ParameterSpec& s = spec(id);
  const Tensor local = this->piece(state, piece.piece);
  return {s.name, local.dtype, s.global, s.slice, local};
}

Shard ParameterStore::whole_shard(State state, ParameterId id) const {
  const ParameterSpec& s = spec(id);
  require(plan_.zero_stage == 0 || (state == State::weights && !sharded(state)),
          "internal error: {} is not whole on this rank", s.name);
  const FlatRange range = range_of(id);
  const Tensor& flat = buffer_of(state);
  return {s.name, flat.dtype, s.global, s.slice,
          flat.slice(range.begin, range.end).reshape(s.slice.extent)};
}

// ---- flat space --------------------------------------------------------------------------------

std::int64_t ParameterStore::parameter_count() const {
  std::int64_t n = 0;
  for (const Entry& e : entries_) {
    if (e.spec.counted) n += e.spec.slice.extent.numel();
  }
  return n;
}

Tensor ParameterStore::weights() const {
  require(!sharded(State::weights), "internal error: the weights are sharded");
  return weights_;
}

Tensor ParameterStore::grads() const {
  require(!sharded(State::gradients), "internal error: the gradients are sharded");
  return grads_;
}

FlatRange ParameterStore::block_range(int block) const {
  const Block& b = blocks_.at(index(block));
  return {b.begin, b.end};
}

std::span<const Bucket> ParameterStore::block_buckets(int block) const {
  const Block& b = blocks_.at(index(block));
  return std::span(buckets_).subspan(b.first_bucket, b.buckets);
}

// ---- presence ----------------------------------------------------------------------------------

void ParameterStore::bind_weights(int block, Tensor memory) {
  blocks_.at(index(block)).weights = memory;
}

void ParameterStore::bind_gradients(int block, Tensor memory) {
  blocks_.at(index(block)).gradients = memory;
}

void ParameterStore::set_accumulates(int block, bool value) {
  for (Entry& e : entries_) {
    if (e.block == block) e.accumulates = value;
  }
}

void ParameterStore::set_shared_accumulates(int block, bool value) {
  for (const ParameterId id : blocks_.at(index(block)).shared) {
    entries_[index(id)].accumulates = value;
  }
}

void ParameterStore::weights_changed(const Backend& ops) {
  ++version_;
  ops.weights_changed();
}

void ParameterStore::refresh_weights(const Backend& ops, Stream& stream) {
  if (has_separate_main() && mode_ == StoreMode::training) {
    for (const StatePiece& p : update_pieces_) {
      ops.cast(stream, piece(State::main, p), piece(State::weights, p));
    }
  }
  weights_changed(ops);
}

}  // namespace neox
