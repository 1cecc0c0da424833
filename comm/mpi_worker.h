#pragma once
// The thread that runs a group's queued operations. Includes mpi.h, so only sources of comm/
// include it.

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "comm/mpi_internal.h"
#include "comm/staging.h"

namespace neox {

/// One queued operation. `count` is n of the shapes in communicator.h.
struct MpiOperation {
  Collective kind = Collective::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::f32;
  int peer = 0;  ///< root, destination or source
  const std::byte* in = nullptr;
  std::byte* out = nullptr;
  std::int64_t count = 0;  ///< elements
  /// Whose memory `in` and `out` are, when the tensors are a device's: the operation waits until it
  /// is ready, and stores the result.
  Staging* staging = nullptr;
  Staging::Slot* slot = nullptr;
};

/// Runs operations in the order of submit() on its own thread, which starts with the first one.
/// Sends and receives are started in order and finish whenever their peer is there, so that two
/// ranks that both send first don't wait for each other forever. After a failure every later wait()
/// throws it.
class MpiWorker {
 public:
  explicit MpiWorker(MPI_Comm group);
  /// Runs what is queued; during exception unwinding gives it up.
  ~MpiWorker();
  MpiWorker(const MpiWorker&) = delete;
  MpiWorker& operator=(const MpiWorker&) = delete;

  std::uint64_t submit(const MpiOperation& operation);
  /// Blocks until operation `id` has finished; throws its Error. `group`: name for the watchdog.
  /// Returns how long it blocked, in nanoseconds: 0 when the operation had finished before.
  std::int64_t wait(std::uint64_t id, const std::string& group);

 private:
  struct Slot {
    MpiOperation operation;
    int pieces_left = 0;
    bool done = false;
  };

  Slot& slot(std::uint64_t id) { return ring_[static_cast<std::size_t>(id % ring_.size())]; }
  void grow();
  void run();
  void serve();
  void finish(std::uint64_t id);
  void fail_all(const std::string& message);

  void await_device(const MpiOperation& operation);
  void set_on_device(bool waits);
  void execute(const MpiOperation& operation);
  void reduce(const MpiOperation& operation);
  void all_gather(const MpiOperation& operation);
  void all_to_all(const MpiOperation& operation);
  void broadcast_pieces(const MpiOperation& operation, std::byte* data, std::int64_t bytes,
                        int root);
  // Waits for requests of the running operation; sends and receives progress meanwhile.
  void wait_all(std::span<MPI_Request> requests, Collective kind);
  void post_point_to_point(std::uint64_t id, const MpiOperation& operation);
  bool progress_point_to_point();
  struct Block;
  void plan_block(const MpiOperation& operation, std::int64_t index, Block& block) const;
  void start_block(const MpiOperation& operation, Block& block);
  void combine_block(const MpiOperation& operation, Block& block);
  bool advance_block(const MpiOperation& operation, Block& block);

  MPI_Comm group_;
  int rank_ = 0, size_ = 1;
  int uncaught_ = 0;

  std::mutex mutex_;
  std::condition_variable queued_, finished_;
  std::vector<Slot> ring_;    // ids [oldest_, next_) live at id % size
  std::uint64_t oldest_ = 1;  // every id below has finished
  std::uint64_t cursor_ = 1;  // next to start
  std::uint64_t next_ = 1;    // next to hand out
  std::optional<std::string> error_;
  bool closing_ = false;
  bool on_device_ = false;  // the operation at the head waits for work of this rank's own device
  std::atomic<bool> stop_{false};

  // Owned by the thread.
  struct Piece {
    std::uint64_t id;
    Collective kind;
    int peer;
  };
  std::vector<MPI_Request> point_requests_;
  std::vector<Piece> point_pieces_;
  std::vector<int> point_done_;
  /// A block of a reduction on its way: every rank sends part q to rank q, which combines the parts
  /// in rank order and (all_reduce) sends the result back to everyone.
  struct Block {
    enum class Phase : std::uint8_t { idle, gathering, returning } phase = Phase::idle;
    int tag = 0;
    std::int64_t first_part = 0;   ///< element of part 0 in `in`
    std::int64_t part_stride = 0;  ///< elements from part q to part q+1
    std::int64_t part_count = 0;   ///< elements of a part; the last ones may have fewer
    std::int64_t total = 0;        ///< elements of all parts
    std::vector<MPI_Request> requests;
    std::vector<std::byte> received;
    std::vector<const std::byte*> sources;

    std::int64_t count_of(int part) const;
  };
  std::vector<Block> blocks_;
  std::vector<MPI_Request> window_;
  std::thread thread_;
};

}  // namespace neox
