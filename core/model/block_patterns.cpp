#include "core/model/block_patterns.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/base/rng.h"
#include "core/config/attention_kinds.h"

namespace neox {
namespace {

class Pattern {
 public:
  Pattern(const ModelConfig& model, AttentionKind kind, std::int64_t head)
      : m_(model),
        kind_(kind),
        head_(model.sparse_different_layout_per_head ? head : 0),
        blocks_((model.max_position_embeddings + model.sparse_block - 1) / model.sparse_block),
        kept_(static_cast<std::size_t>(blocks_ * blocks_)) {}

  std::vector<std::uint8_t> make() {
    switch (kind_) {
      case AttentionKind::global:
      case AttentionKind::window:
        fail("internal error: {} is not sparse", name_of(kind_));
      case AttentionKind::local:
        slide(m_.sparse_num_local_blocks);
        break;
      case AttentionKind::sparse_fixed:
        fixed();
        break;
      case AttentionKind::sparse_variable:
        windows();
        global_columns();
        random(std::max<std::int64_t>(0, m_.sparse_num_random_blocks));
        break;
      case AttentionKind::bigbird:
        slide(m_.sparse_num_sliding_window_blocks);
        for (std::int64_t j = 0; j < m_.sparse_num_global_blocks; ++j) column(j);
        random(m_.sparse_num_random_blocks < 0 ? 1 : m_.sparse_num_random_blocks);
        break;
      case AttentionKind::bslongformer:
        slide(m_.sparse_num_sliding_window_blocks);
        global_columns();
        global_rows();
        break;
    }
    return std::move(kept_);
  }

 private:
  // A causal pattern leaves later blocks away.
  void keep(std::int64_t i, std::int64_t j) {
    if (i < blocks_ && j <= i) kept_[static_cast<std::size_t>(i * blocks_ + j)] = 1;
  }
  void column(std::int64_t j) {
    for (std::int64_t i = j; i < blocks_; ++i) keep(i, j);
  }
  void slide(std::int64_t window) {
    for (std::int64_t i = 0; i < blocks_; ++i) {
      for (std::int64_t j = std::max<std::int64_t>(0, i - window / 2); j <= i; ++j) keep(i, j);
    }
  }
  // Blocks [first, first + size) see each other.
  void window(std::int64_t first, std::int64_t size) {
    for (std::int64_t i = first; i < std::min(first + size, blocks_); ++i) {
      for (std::int64_t j = first; j <= i; ++j) keep(i, j);
    }
  }

  void fixed() {
    const std::int64_t local = m_.sparse_num_local_blocks, global = m_.sparse_num_global_blocks;
    const std::int64_t turn = 1 + head_ % m_.sparse_num_different_global_patterns;
    for (std::int64_t first = 0; first < blocks_; first += local) {
      window(first, local);
      // The last window may be too short for its place.
      const bool whole = first + local <= blocks_;
      const std::int64_t place = first + local - turn * global;
      const std::int64_t begin = whole ? place : std::min(place, blocks_ - global);
      for (std::int64_t j = std::max<std::int64_t>(begin, 0); j < begin + global; ++j) column(j);
    }
  }

  void windows() {
    const auto& sizes = m_.sparse_local_window_blocks;
    std::int64_t first = 0;
    for (std::size_t i = 0; first < blocks_; ++i) {
      const std::int64_t size = sizes[std::min(i, sizes.size() - 1)];
      window(first, size);
      first += size;
    }
  }

  template <class F>
  void each_global(const F& f) const {
    const auto& begins = m_.sparse_global_block_indices;
    const auto& ends = m_.sparse_global_block_end_indices;
    for (std::size_t g = 0; g < begins.size(); ++g) {
      const std::int64_t end = ends.empty() ? begins[g] + 1 : ends[g];
      for (std::int64_t j = begins[g]; j < std::min(end, blocks_); ++j) f(j);
    }
  }
  void global_columns() {
    each_global([&](std::int64_t j) { column(j); });
  }
  void global_rows() {
    each_global([&](std::int64_t i) {
      for (std::int64_t j = 0; j <= i; ++j) keep(i, j);
    });
  }

  void random(std::int64_t count) {
    const RngKey key =
        RngKey::for_tensor(0, fmt::format("blocks of {}, head {}", name_of(kind_), head_));
    std::uint64_t draw = 0;
    for (std::int64_t i = 0; i < blocks_; ++i) {
      std::vector<std::int64_t> drawn;
      while (static_cast<std::int64_t>(drawn.size()) < std::min(count, i + 1)) {
        const auto j =
            static_cast<std::int64_t>(philox_word(key, draw++) % static_cast<std::uint64_t>(i + 1));
        if (std::find(drawn.begin(), drawn.end(), j) != drawn.end()) continue;
        drawn.push_back(j);
        keep(i, j);
      }
    }
  }

  const ModelConfig& m_;
  AttentionKind kind_;
  std::int64_t head_, blocks_;
  std::vector<std::uint8_t> kept_;
};

}  // namespace

std::vector<std::uint8_t> kept_blocks(const ModelConfig& model, AttentionKind kind,
                                      std::int64_t head) {
  return Pattern(model, kind, head).make();
}

BlockPatterns::BlockPatterns(const ModelConfig& model, AxisRange heads, Device device,
                             Stream& stream, bool dry_run)
    : block_(model.sparse_block) {
  const std::int64_t blocks = (model.max_position_embeddings + block_ - 1) / block_;
  const std::int64_t patterns = model.sparse_different_layout_per_head ? heads.size : 1;
  for (const AttentionKind kind : attention_kinds(model)) {
    if (!is_sparse(kind) || kept_.contains(kind)) continue;
    OwnedTensor& kept = kept_[kind];
    kept = OwnedTensor({patterns, blocks, blocks}, DType::u8, device, dry_run);
    if (dry_run) continue;
    const OwnedTensor host(kept.tensor.shape, DType::u8);
    for (std::int64_t head = 0; head < patterns; ++head) {
      const auto bytes = kept_blocks(model, kind, heads.begin + head);
      std::copy(bytes.begin(), bytes.end(),
                reinterpret_cast<std::uint8_t*>(host.tensor.data) + head * blocks * blocks);
    }
    copy(stream, host, kept);
    stream.synchronize();
  }
}

BlockPattern BlockPatterns::of(AttentionKind kind) const {
  const auto found = kept_.find(kind);
  if (found == kept_.end()) return {};
  return {block_, found->second};
}

std::size_t BlockPatterns::bytes() const {
  std::size_t bytes = 0;
  for (const auto& [kind, kept] : kept_) bytes += kept.tensor.bytes();
  return bytes;
}

}  // namespace neox
