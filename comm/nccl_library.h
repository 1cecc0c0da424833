#pragma once
// What NcclCommunicator needs of NCCL: its C functions behind an interface, so that programs start
// where there is no NCCL, and tests can put something else in its place.

#include <array>
#include <cstddef>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace neox {

/// NCCL's result codes, by their numbers.
inline constexpr int kNcclSuccess = 0, kNcclInProgress = 7;
/// "ncclSuccess", "ncclSystemError", ...
std::string nccl_result_name(int code);

struct NcclId {
  std::array<char, 128> bytes{};
};
/// ncclComm_t
using NcclHandle = void*;

struct NcclConfig {
  bool blocking = true;
  int max_ctas = 0;  ///< most thread blocks of an operation; 0: NCCL's choice
};

/// Each function returns a result code of NCCL and does what the NCCL function of that name does;
/// `stream` is Stream::native(). Counts are elements; dtypes those of supports().
class NcclLibrary {
 public:
  virtual ~NcclLibrary() = default;
  /// "2.28.9"
  virtual std::string version() = 0;
  virtual int get_unique_id(NcclId& id) = 0;
  virtual int comm_init_rank(NcclHandle& comm, int ranks, const NcclId& id, int rank,
                             const NcclConfig& config) = 0;
  /// A negative color: into no group.
  virtual int comm_split(NcclHandle parent, int color, int key, NcclHandle& part,
                         const NcclConfig& config) = 0;
  virtual int comm_get_async_error(NcclHandle comm, int& code) = 0;
  virtual int comm_finalize(NcclHandle comm) = 0;
  virtual int comm_destroy(NcclHandle comm) = 0;
  virtual int comm_abort(NcclHandle comm) = 0;
  virtual int group_start() = 0;
  virtual int group_end() = 0;
  virtual int all_reduce(const void* in, void* out, std::size_t count, DType dtype, ReduceOp op,
                         NcclHandle comm, void* stream) = 0;
  virtual int reduce_scatter(const void* in, void* out, std::size_t out_count, DType dtype,
                             ReduceOp op, NcclHandle comm, void* stream) = 0;
  virtual int all_gather(const void* in, void* out, std::size_t in_count, DType dtype,
                         NcclHandle comm, void* stream) = 0;
  virtual int broadcast(const void* in, void* out, std::size_t count, DType dtype, int root,
                        NcclHandle comm, void* stream) = 0;
  virtual int send(const void* data, std::size_t count, DType dtype, int peer, NcclHandle comm,
                   void* stream) = 0;
  virtual int recv(void* data, std::size_t count, DType dtype, int peer, NcclHandle comm,
                   void* stream) = 0;
  /// NCCL's text for a code, and the last error it met in this process.
  virtual std::string error_text(int code, NcclHandle comm) = 0;

  /// NCCL has no 16-bit integers.
  static bool supports(DType dtype) { return dtype != DType::i16 && dtype != DType::u16; }
};

/// NCCL itself, found and opened at the first call; it stays open. Null when there is none, and
/// then `reason` says why: "this program was built without NCCL", "libnccl.so.2 was not found:
/// ...".
NcclLibrary* nccl_library(std::string& reason);

}  // namespace neox
