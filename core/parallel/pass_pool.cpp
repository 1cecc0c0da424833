#include "core/parallel/pass_pool.h"

#include <algorithm>

namespace neox {

PassCounts count_passes(const StageActions& actions, int chunks) {
  PassCounts most;
  most.passes.resize(static_cast<std::size_t>(chunks));
  std::vector<int> now(most.passes.size());
  int split = 0;
  for (const Action& action : actions) {
    const auto chunk = static_cast<std::size_t>(action.chunk);
    switch (action.kind) {
      case ActionKind::forward:
        most.passes[chunk] = std::max(most.passes[chunk], ++now[chunk]);
        break;
      case ActionKind::backward_input:
        most.split = std::max(most.split, ++split);
        break;
      case ActionKind::backward_weight:
        --split;
        --now[chunk];
        break;
      case ActionKind::backward:
        --now[chunk];
        break;
      default:
        break;
    }
  }
  return most;
}

StageActions join_backward_halves(const StageActions& actions) {
  StageActions joined;
  for (Action action : actions) {
    if (action.kind == ActionKind::backward_weight) continue;
    if (action.kind == ActionKind::backward_input) action.kind = ActionKind::backward;
    joined.push_back(action);
  }
  return joined;
}

void PassPool::reserve(const PassCounts& counts, const std::vector<std::size_t>& keep_bytes,
                       std::size_t gradient_bytes) {
  for (std::size_t chunk = 0; chunk < pools_.size(); ++chunk) {
    while (static_cast<int>(pools_[chunk].size()) < counts.passes[chunk]) {
      pools_[chunk].push_back({ChunkPass(device_, dry_run_)});
      pools_[chunk].back().pass.keep.commit(keep_bytes[chunk]);
    }
  }
  while (static_cast<int>(gradient_arenas_.size()) < counts.split) {
    gradient_arenas_.emplace_back(device_, dry_run_);
    gradient_arenas_.back().commit(gradient_bytes);
    free_gradients_.push_back(&gradient_arenas_.back());
  }
}

PassPool::Slot& PassPool::slot(int chunk, int micro_batch) {
  auto& pool = pools_.at(static_cast<std::size_t>(chunk));
  const auto found = std::find_if(pool.begin(), pool.end(),
                                  [&](const Slot& s) { return s.micro_batch == micro_batch; });
  require(found != pool.end(), "internal error: micro-batch {} is not under way in chunk {}",
          micro_batch, chunk);
  return *found;
}

ChunkPass& PassPool::acquire(int chunk, int micro_batch) {
  Slot& free = slot(chunk, -1);
  free.micro_batch = micro_batch;
  return free.pass;
}

ChunkPass& PassPool::find(int chunk, int micro_batch) {
  return slot(chunk, micro_batch).pass;
}

void PassPool::split(ChunkPass& pass) {
  require(!free_gradients_.empty(), "internal error: no memory for another split backward");
  pass.gradients = free_gradients_.back();
  free_gradients_.pop_back();
}

void PassPool::release(int chunk, int micro_batch) {
  Slot& used = slot(chunk, micro_batch);
  used.pass.clear();
  if (used.pass.gradients != nullptr) free_gradients_.push_back(used.pass.gradients);
  used.pass.gradients = nullptr;
  used.micro_batch = -1;
}

std::size_t PassPool::bytes() const {
  std::size_t bytes = 0;
  for (const auto& pool : pools_) {
    for (const Slot& s : pool) bytes += s.pass.keep.high_water();
  }
  for (const Arena& arena : gradient_arenas_) bytes += arena.high_water();
  return bytes;
}

}  // namespace neox
