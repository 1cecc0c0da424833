#pragma once
// Operations of one NCCL handle, one after the other on a stream of their own. Private to
// comm/nccl_*.

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

#include "comm/nccl_domain.h"

namespace neox {

/// All members but the constructor are called with `mutex` held.
class NcclLane {
 public:
  explicit NcclLane(NcclDomain& domain);
  ~NcclLane();
  NcclLane(const NcclLane&) = delete;
  NcclLane& operator=(const NcclLane&) = delete;

  /// Queues launch(handle, native stream), which returns a result code, behind `ready`; there NCCL
  /// may make connections, for which the others must come. Returns the operation's number, from 1.
  template <class Launch>
  std::uint64_t run(Collective kind, int peer, const std::string& group, const char* call,
                    Event& ready, Launch&& launch) {
    ready.make_wait(*stream_);
    Entry& entry = entry_of(issued_ + 1);
    entry.begun->record(*stream_);
    domain_.check(launch(handle, stream_->native()), call, group, handle);
    entry.done->record(*stream_);
    entry.kind = kind;
    entry.peer = peer;
    return ++issued_;
  }
  std::uint64_t issued() const { return issued_; }
  /// Lets `stream` (a host stream: the host) wait for operation `number`.
  void join(std::uint64_t number, Stream& stream);

  /// The operation that has begun on this device and does not end; null when there is none.
  struct Stuck {
    Collective kind;
    int peer;
    std::uint64_t number;
  };
  std::optional<Stuck> running();

  /// Waits for all operations and gives the handle up, or `abort`s it.
  void close(bool abort) noexcept;

  std::mutex mutex;
  NcclHandle handle = nullptr;
  Stream& stream() { return *stream_; }

 private:
  struct Entry {
    std::unique_ptr<Event> begun, done;
    Collective kind = Collective::barrier;
    int peer = -1;
  };
  // A later operation of the lane ends later, so an entry that was used again is as good.
  Entry& entry_of(std::uint64_t number) { return ring_[number % ring_.size()]; }

  NcclDomain& domain_;
  std::unique_ptr<Stream> stream_;
  std::array<Entry, 32> ring_;
  std::uint64_t issued_ = 0, ended_ = 0;
};

}  // namespace neox
