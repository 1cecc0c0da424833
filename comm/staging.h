#pragma once
// Device tensors on their way through host memory, for transports that know only that.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "core/tensor/buffer.h"

namespace neox {

/// Page-locked memory, copy streams and events of one group on one device. One operation takes one
/// slot:
///   caller:  begin, load (if it has an input)           what the caller's stream holds so far
///                                                        -> copy to the slot, on a stream of ours
///   worker:  waits until Slot::ready(), communicates, store -> copy to the device, likewise
///   caller:  finish                                      its stream waits for the copy
/// A slot goes back to the pool in finish(), so the number of slots follows from the order of the
/// caller's calls alone: a program that repeats itself allocates nothing after its first round.
class Staging {
 public:
  struct Slot {
    std::byte* data() const { return memory.data(); }

    Buffer memory;
    std::unique_ptr<Event> begun;     ///< the caller's stream has come to the operation
    std::unique_ptr<Event> loaded;    ///< the input is in `memory`
    std::unique_ptr<Event> stored;    ///< the output has left `memory`
    Tensor output;                    ///< on the device; empty: nothing is stored
    const std::byte* from = nullptr;  ///< in `memory`
    bool store_queued = false;
    ConstTensor late_input;  ///< still to be loaded, by the worker
    std::byte* late_to = nullptr;
    const Event* awaited = nullptr;  ///< after it the operation may run

    /// Throws the device's error.
    bool ready() const { return awaited->done(); }
  };

  explicit Staging(Device device);
  /// Waits for the copies under way; during exception unwinding leaves them their memory.
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  Device device() const { return device_; }

  /// A slot of at least `bytes`, for an operation behind what is queued on `stream`.
  Slot& begin(std::size_t bytes, Stream& stream);
  /// Queues the copy of `input` to `to`, inside the slot; when an operation under way will write
  /// the input, leaves that to load_late().
  void load(Slot& slot, ConstTensor input, std::byte* to);
  /// What store() will copy back.
  static void set_output(Slot& slot, Tensor output, const std::byte* from);
  /// Remembers the slot as that of operation `id`.
  void keep(Slot& slot, std::uint64_t id);
  /// Gives a slot back that was not kept.
  void drop(Slot& slot);

  // ---- from the worker's thread --------------------------------------------------------------
  /// When the operations before this one are done: what load() left.
  void load_late(Slot& slot);
  /// Queues the copy of the result to the output.
  void store(Slot& slot);

  /// Operation `id` has communicated: lets `stream` (a host stream: the host) wait for its output,
  /// and gives its slot back. May be called again for the same id.
  void finish(std::uint64_t id, Stream& stream);

 private:
  struct Class {  // slots of one size
    std::size_t bytes = 0;
    std::vector<Slot*> free;
  };
  Class& class_of(std::size_t bytes);
  void queue_load(Slot& slot, ConstTensor input, std::byte* to);
  bool will_be_written(ConstTensor input) const;
  void join(Event& event, Stream& stream) const;

  Device device_;
  int uncaught_;
  std::unique_ptr<Stream> loading_, storing_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Class> classes_;
  struct Kept {
    std::uint64_t id;
    Slot* slot;
  };
  std::vector<Kept> kept_;
  std::mutex mutex_;                    // streams and last_stored_: caller and worker
  std::unique_ptr<Event> last_stored_;  // of all operations so far
};

}  // namespace neox
