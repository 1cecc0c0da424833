#include "core/parallel/replica_check.h"

#include <algorithm>
#include <map>
#include <sstream>

#include <fmt/ranges.h>

#include "comm/agreement.h"

namespace neox {
namespace {

constexpr std::size_t kMostReported = 8;  // tensors

// "layers.0.attention.dense.weight", or with the part that this rank holds.
std::string name_of_copy(const ParameterSpec& spec) {
  if (spec.slice == Slice::whole(spec.global)) return spec.name;
  return fmt::format("{} (from {}, {})", spec.name, spec.slice.offset.str(),
                     spec.slice.extent.str());
}

bool divided(const ParameterSpec& spec) {
  return !(spec.slice == Slice::whole(spec.global));
}

// The names that any rank of the job gave, in order.
std::vector<std::string> gather_names(Communicator& world, const std::set<std::string>& mine) {
  std::set<std::string> all;
  for (const std::string& text : world.host_all_gather(fmt::format("{}", fmt::join(mine, "\n")))) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) all.insert(line);
  }
  return {all.begin(), all.end()};
}

/// Ranks by the hash of their copy of one tensor.
using Copies = std::map<std::string, std::vector<int>>;

std::string describe(const std::string& name, const Copies& copies,
                     std::span<const std::string> hosts) {
  const auto fewer = [](const auto& a, const auto& b) { return a.second.size() < b.second.size(); };
  const auto most = std::max_element(copies.begin(), copies.end(), fewer);
  const std::size_t votes = most->second.size();
  const bool majority = std::count_if(copies.begin(), copies.end(), [&](const auto& copy) {
                          return copy.second.size() == votes;
                        }) == 1;
  std::vector<std::string> parts;
  for (auto copy = copies.begin(); copy != copies.end(); ++copy) {
    if (majority && copy == most) continue;
    parts.push_back(name_ranks(copy->second, hosts));
  }
  if (majority) {
    const bool one = parts.size() == 1 && parts[0].starts_with("rank ");
    return fmt::format("{}: {} differ{} from {}", name, fmt::join(parts, " and "), one ? "s" : "",
                       name_ranks(most->second, hosts));
  }
  return fmt::format("{}: {} differ from each other, none is in the majority", name,
                     fmt::join(parts, " and "));
}

}  // namespace

ReplicaCheck::ReplicaCheck(const ParameterStore& store, const ReplicaGroups& groups,
                           const Backend& ops, Stream& stream)
    : store_(store), groups_(groups), ops_(ops), stream_(stream) {
  require(store.mode() == StoreMode::training,
          "internal error: comparing replicas needs a store in training mode");
  add_items();
  const Shape shape{static_cast<std::int64_t>(items_.size())};
  hashes_ = OwnedTensor(shape, DType::u64, ops.device());
  host_hashes_ = OwnedTensor(shape, DType::u64);
}

void ReplicaCheck::add_items() {
  for (ParameterId id = 0; id < store_.size(); ++id) {
    const std::string name = name_of_copy(store_.spec(id));
    items_.push_back({id, false, name});
    const bool has_state = store_.has_separate_main() || !store_.optimizer_states().empty();
    if (!has_state || store_.sharded(State::optimizer0)) continue;
    items_.push_back({id, true, name + " (optimizer state)"});
  }
}

// ---- hashes ------------------------------------------------------------------------------------

void ReplicaCheck::hash_state(const Item& item, const Tensor& out) {
  bool further = false;
  const auto add = [&](State state) {
    ops_.hash(stream_, store_.whole_shard(state, item.id).local, out, further);
    further = true;
  };
  const auto states = static_cast<int>(store_.optimizer_states().size());
  for (int i = 0; i < states; ++i) add(optimizer_state(i));
  if (store_.has_separate_main()) add(State::main);
}

void ReplicaCheck::hash_all(BlockObserver& weights) {
  for (int block = 0; block < store_.block_count(); ++block) {
    weights.weights_needed(block, false);
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const Item& item = items_[i];
      if (store_.block_of(item.id) != block) continue;
      const auto at = static_cast<std::int64_t>(i);
      const Tensor out = hashes_.tensor.slice(at, at + 1);
      if (item.state) {
        hash_state(item, out);
      } else {
        ops_.hash(stream_, store_.weight(item.id), out, false);
      }
    }
    weights.weights_done(block);
  }
  copy(stream_, hashes_, host_hashes_);
  stream_.synchronize();
}

// ---- comparison --------------------------------------------------------------------------------

// Adds the names of those of the chosen items that are not equal on all ranks of the group.
template <class Chosen>
void ReplicaCheck::compare(Communicator& group, const Chosen& chosen,
                           std::set<std::string>& different) const {
  if (group.size() == 1) return;
  const auto* hashes = host_hashes_.tensor.ptr<std::uint64_t>();
  std::vector<std::uint64_t> largest;  // of each hash and its complement
  std::vector<const Item*> compared;
  for (std::size_t i = 0; i < items_.size(); ++i) {
    if (!chosen(store_.spec(items_[i].id))) continue;
    compared.push_back(&items_[i]);
    largest.insert(largest.end(), {hashes[i], ~hashes[i]});
  }
  if (compared.empty()) return;
  group.host_all_reduce(std::span<std::uint64_t>(largest), ReduceOp::max);
  for (std::size_t i = 0; i < compared.size(); ++i) {
    if (largest[2 * i] != ~largest[2 * i + 1]) different.insert(compared[i]->name);
  }
}

void ReplicaCheck::run(BlockObserver& weights, std::int64_t step,
                       std::span<const std::string> hosts) {
  hash_all(weights);
  std::set<std::string> different;
  compare(
      groups_.data, [](const ParameterSpec&) { return true; }, different);
  compare(
      groups_.tensor, [](const ParameterSpec& s) { return !divided(s); }, different);
  compare(
      groups_.key_value, [](const ParameterSpec& s) { return s.sum == GradientSum::key_value; },
      different);
  compare(
      groups_.embedding, [](const ParameterSpec& s) { return s.tied_across_stages; }, different);
  std::int64_t anywhere = different.empty() ? 0 : 1;
  groups_.world.host_all_reduce(std::span(&anywhere, 1), ReduceOp::max);
  if (anywhere != 0) report(different, step, hosts);
  last_good_step_ = step;
}

void ReplicaCheck::report(const std::set<std::string>& different, std::int64_t step,
                          std::span<const std::string> hosts) const {
  const std::vector<std::string> names = gather_names(groups_.world, different);
  const std::size_t shown = std::min(names.size(), kMostReported);
  // Also ranks outside the groups that found it may hold a copy.
  const auto* hashes = host_hashes_.tensor.ptr<std::uint64_t>();
  std::string mine;
  for (std::size_t n = 0; n < shown; ++n) {
    const auto item = std::find_if(items_.begin(), items_.end(),
                                   [&](const Item& i) { return i.name == names[n]; });
    const auto index = static_cast<std::size_t>(item - items_.begin());
    mine += item == items_.end() ? "-\n" : fmt::format("{:016x}\n", hashes[index]);
  }
  std::vector<Copies> copies(shown);
  const std::vector<std::string> all = groups_.world.host_all_gather(mine);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    std::istringstream lines(all[rank]);
    for (Copies& tensor : copies) {
      std::string hash;
      std::getline(lines, hash);
      if (hash != "-") tensor[hash].push_back(static_cast<int>(rank));
    }
  }
  std::string text;
  for (std::size_t n = 0; n < shown; ++n)
    text += "  " + describe(names[n], copies[n], hosts) + "\n";
  if (shown < names.size()) text += fmt::format("  and {} more tensors\n", names.size() - shown);
  fail(
      "replica check after step {}: copies of a parameter that must be equal bit for bit are not:\n"
      "{}{}; a faulty memory or processor, or nodes with different libraries, do this: test or "
      "leave out the nodes named, and resume from a checkpoint of {} (checkpoint.iteration)",
      step, text,
      last_good_step_ >= 0 ? fmt::format("after step {} they were equal", last_good_step_)
                           : "this was the first check",
      last_good_step_ >= 0 ? fmt::format("step {} or before", last_good_step_)
                           : std::string("before that"));
}

}  // namespace neox
