#pragma once
// NCCL without GPUs: the same calls, on the streams of the deferred device, with messages of MPI.
// It keeps a log, refuses what NCCL refuses, and fails on demand.

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "comm/nccl_library.h"

namespace neox {

class FakeNccl final : public NcclLibrary {
 public:
  FakeNccl();
  ~FakeNccl() override;

  /// "init 2 ranks as 0, non-blocking", "all_reduce", "group_start", ... in the order of calls.
  std::vector<std::string> log() const;
  /// How many lines of the log begin so.
  int count(const std::string& beginning) const;

  /// New groups never become ready.
  std::atomic<bool> hang_init{false};
  /// The next call that would start an operation returns this instead.
  std::atomic<int> fail_next_operation{0};
  /// Every group says so from now on when asked for asynchronous errors.
  std::atomic<int> async_error{0};
  /// Operations don't end.
  std::atomic<bool> hang_operations{false};

  std::string version() override { return "0.0.1"; }
  int get_unique_id(NcclId& id) override;
  int comm_init_rank(NcclHandle& comm, int ranks, const NcclId& id, int rank,
                     const NcclConfig& config) override;
  int comm_split(NcclHandle parent, int color, int key, NcclHandle& part,
                 const NcclConfig& config) override;
  int comm_get_async_error(NcclHandle comm, int& code) override;
  int comm_finalize(NcclHandle comm) override;
  int comm_destroy(NcclHandle comm) override;
  int comm_abort(NcclHandle comm) override;
  int group_start() override;
  int group_end() override;
  int all_reduce(const void* in, void* out, std::size_t n, DType dtype, ReduceOp op,
                 NcclHandle comm, void* stream) override;
  int reduce_scatter(const void* in, void* out, std::size_t out_count, DType dtype, ReduceOp op,
                     NcclHandle comm, void* stream) override;
  int all_gather(const void* in, void* out, std::size_t in_count, DType dtype, NcclHandle comm,
                 void* stream) override;
  int broadcast(const void* in, void* out, std::size_t n, DType dtype, int root, NcclHandle comm,
                void* stream) override;
  int send(const void* data, std::size_t n, DType dtype, int peer, NcclHandle comm,
           void* stream) override;
  int recv(void* data, std::size_t n, DType dtype, int peer, NcclHandle comm,
           void* stream) override;
  std::string error_text(int code, NcclHandle comm) override;

 private:
  struct Comm;
  struct Transfer;
  void note(const std::string& line);
  std::shared_ptr<Comm> find(NcclHandle handle) const;
  int new_tag();
  NcclHandle adopt(std::shared_ptr<Comm> comm);
  int ready_for(const std::shared_ptr<Comm>& comm, const char* operation);
  void enqueue(std::shared_ptr<Transfer> transfer, void* stream);
  void advance_init(Comm& comm);
  void advance_split(Comm& comm);

  mutable std::recursive_mutex mutex_;
  std::vector<std::string> log_;
  std::map<NcclHandle, std::shared_ptr<Comm>> comms_;
};

}  // namespace neox
