#include "core/model/block_graphs.h"

#include "core/base/log.h"

namespace neox {
namespace {

std::uint64_t word(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}

}  // namespace

BlockCall::Key BlockCall::key() const {
  Key key = {static_cast<std::uint64_t>(part),
             block,
             static_cast<std::uint64_t>(batch),
             static_cast<std::uint64_t>(seq),
             accumulates ? 1u : 0u,
             word(input),
             word(output),
             word(weights),
             word(gradients),
             word(saved)};
  std::size_t at = 10;
  for (const Arena* arena : arenas) {
    key[at++] = word(arena);
    key[at++] = arena == nullptr ? 0 : arena->mark();
  }
  return key;
}

BlockGraphs::BlockGraphs(Stream& stream, GraphMode mode)
    : stream_(stream), tools_(device_tools(stream.device().kind)), mode_(mode) {
  const std::string reason = tools_.why_no_graphs();
  require(reason.empty(), "system.cuda_graphs = on, but the run computes on {}: {}; use auto",
          name_of(stream.device()), reason);
}

// Null: do the work without a graph.
BlockGraphs::Entry* BlockGraphs::find(const BlockCall& call) {
  if (mode_ == GraphMode::off) return nullptr;
  // A workspace that grew has moved, and recorded work would use the memory that was given back.
  const std::int64_t allocations = allocation_counts(MemoryOwner::backend).calls;
  if (allocations != backend_allocations_) {
    entries_.clear();
    backend_allocations_ = allocations;
  }
  const BlockCall::Key key = call.key();
  const auto found = entries_.find(key);
  if (found != entries_.end()) return &found->second;
  if (entries_.size() < kMostEntries) entries_.try_emplace(key);
  return nullptr;
}

BlockGraphs::Marks BlockGraphs::marks(const BlockCall& call) {
  Marks marks{};
  for (std::size_t i = 0; i < marks.size(); ++i) {
    if (call.arenas[i] != nullptr) marks[i] = call.arenas[i]->mark();
  }
  return marks;
}

void BlockGraphs::begin() {
  tools_.begin_capture(stream_);
}

void BlockGraphs::end(const BlockCall& call, Entry& entry) {
  entry.graph = tools_.end_capture(stream_);
  entry.after = marks(call);
  entry.saved = *call.saved;
  entry.block_gradients = *call.block_gradients;
  ++recorded_;
}

// Something in the work can't be recorded: it is done without.
void BlockGraphs::give_up(const BlockCall& call, const Marks& before, const Error& error) {
  drop();
  if (mode_ == GraphMode::on) {
    fail("system.cuda_graphs = on, but the work of a layer cannot be recorded ({}); use auto",
         error.what());
  }
  log_warning("going on without CUDA graphs: the work of a layer cannot be recorded ({})",
              error.what());
  mode_ = GraphMode::off;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (call.arenas[i] != nullptr) call.arenas[i]->release(before[i]);
  }
}

void BlockGraphs::drop() {
  tools_.drop_capture(stream_);
}

void BlockGraphs::launch(const BlockCall& call, const Entry& entry) {
  entry.graph->launch(stream_);
  for (std::size_t i = 0; i < entry.after.size(); ++i) {
    if (call.arenas[i] != nullptr) call.arenas[i]->release(entry.after[i]);
  }
  *call.saved = entry.saved;
  *call.block_gradients = entry.block_gradients;
  ++launched_;
}

}  // namespace neox
