#pragma once
// Do the copies of a parameter that several ranks hold still agree?

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/model/block_observer.h"
#include "core/model/parameter_store.h"

namespace neox {

/// The groups whose ranks hold copies of each other's parameters.
struct ReplicaGroups {
  Communicator& world;
  Communicator& data;       ///< of all parameters
  Communicator& tensor;     ///< of those that tensor parallelism does not divide
  Communicator& key_value;  ///< of key/value heads
  Communicator& embedding;  ///< of ParameterSpec::tied_across_stages
};

/// Copies are equal bit for bit in every layout: all ranks that hold one compute with the same
/// gradient. Compares 64-bit hashes (HashOps) of the weights, and in ZeRO stage 0 also of main
/// weights and optimizer state; in the other stages each rank has only a part of those. In stage 3
/// the weights are gathered for it, as for a validation.
class ReplicaCheck {
 public:
  /// The store is committed in training mode. What is passed must outlive this.
  ReplicaCheck(const ParameterStore& store, const ReplicaGroups& groups, const Backend& ops,
               Stream& stream);

  /// Returns when all copies agree. Otherwise every rank throws the same Error: it names the
  /// tensors, the ranks (`hosts`: of every rank) that differ from the most common copy, and what to
  /// do. `weights` brings each block's weights; `step`: steps done. Collective over the world.
  void run(BlockObserver& weights, std::int64_t step, std::span<const std::string> hosts);

 private:
  struct Item {
    ParameterId id = 0;
    bool state = false;  // optimizer state and main weights; else the weights
    std::string name;    // equal on the ranks that hold a copy, and only there
  };
  void add_items();
  void hash_all(BlockObserver& weights);
  void hash_state(const Item& item, const Tensor& out);
  template <class Chosen>
  void compare(Communicator& group, const Chosen& chosen, std::set<std::string>& different) const;
  [[noreturn]] void report(const std::set<std::string>& different, std::int64_t step,
                           std::span<const std::string> hosts) const;

  const ParameterStore& store_;
  ReplicaGroups groups_;
  const Backend& ops_;
  Stream& stream_;
  std::vector<Item> items_;
  OwnedTensor hashes_;       // u64 [items]
  OwnedTensor host_hashes_;  // the same in host memory
  std::int64_t last_good_step_ = -1;
};

}  // namespace neox
