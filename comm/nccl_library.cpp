// Opens NCCL at run time: a program linked to libnccl.so.2 would not start without it.

#include "comm/nccl_library.h"

#include "core/base/error.h"
#include "core/base/shared_library.h"

#ifdef NEOX_HAS_NCCL
#include <algorithm>
#include <initializer_list>
#include <utility>

#include <nccl.h>
#endif

namespace neox {

std::string nccl_result_name(int code) {
  constexpr const char* kNames[] = {
      "ncclSuccess",         "ncclUnhandledCudaError", "ncclSystemError", "ncclInternalError",
      "ncclInvalidArgument", "ncclInvalidUsage",       "ncclRemoteError", "ncclInProgress"};
  if (code >= 0 && code < static_cast<int>(std::size(kNames))) return kNames[code];
  return fmt::format("ncclResult_t {}", code);
}

#ifdef NEOX_HAS_NCCL
namespace {

// ncclCommSplit and non-blocking communicators that survive an abort.
constexpr int kLeastVersion = 21800;

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::f64:
      return ncclFloat64;
    case DType::i8:
      return ncclInt8;
    case DType::u8:
      return ncclUint8;
    case DType::i32:
      return ncclInt32;
    case DType::u32:
      return ncclUint32;
    case DType::i64:
      return ncclInt64;
    case DType::u64:
      return ncclUint64;
    case DType::i16:
    case DType::u16:
      break;
  }
  fail("NCCL has no element type for {}", name_of(dtype));
}

ncclRedOp_t nccl_op(ReduceOp op) {
  return op == ReduceOp::sum ? ncclSum : op == ReduceOp::max ? ncclMax : ncclMin;
}

ncclComm_t handle(NcclHandle comm) {
  return static_cast<ncclComm_t>(comm);
}
cudaStream_t queue(void* stream) {
  return static_cast<cudaStream_t>(stream);
}

ncclConfig_t nccl_config(const NcclConfig& config) {
  ncclConfig_t result = NCCL_CONFIG_INITIALIZER;
  result.blocking = config.blocking ? 1 : 0;
  if (config.max_ctas > 0) result.maxCTAs = config.max_ctas;
  return result;
}

struct Functions {
#define NEOX_NCCL_FUNCTIONS(X)                                                                \
  X(GetVersion)                                                                               \
  X(GetUniqueId)                                                                              \
  X(CommInitRankConfig)                                                                       \
  X(CommSplit) X(CommGetAsyncError) X(CommFinalize) X(CommDestroy) X(CommAbort) X(GroupStart) \
      X(GroupEnd) X(AllReduce) X(ReduceScatter) X(AllGather) X(Broadcast) X(Send) X(Recv)     \
          X(GetErrorString) X(GetLastError)
#define NEOX_DECLARE(name) decltype(&nccl##name) name = nullptr;
  NEOX_NCCL_FUNCTIONS(NEOX_DECLARE)
#undef NEOX_DECLARE

  /// The first name that `library` does not have; null when it has all.
  const char* load(const SharedLibrary& library) {
#define NEOX_LOAD(name) \
  if (!library.try_find("nccl" #name, name)) return "nccl" #name;
    NEOX_NCCL_FUNCTIONS(NEOX_LOAD)
#undef NEOX_LOAD
#undef NEOX_NCCL_FUNCTIONS
    return nullptr;
  }
};

class Nccl final : public NcclLibrary {
 public:
  explicit Nccl(const Functions& functions) : nccl_(functions) {}

  int version_code() const {
    int code = 0;
    return nccl_.GetVersion(&code) == ncclSuccess ? code : 0;
  }
  std::string version() override {
    const int code = version_code();
    return fmt::format("{}.{}.{}", code / 10000, code / 100 % 100, code % 100);
  }
  int get_unique_id(NcclId& id) override {
    ncclUniqueId unique;
    const int code = nccl_.GetUniqueId(&unique);
    static_assert(sizeof unique.internal == sizeof id.bytes);
    std::copy(std::begin(unique.internal), std::end(unique.internal), id.bytes.begin());
    return code;
  }
  int comm_init_rank(NcclHandle& comm, int ranks, const NcclId& id, int rank,
                     const NcclConfig& config) override {
    ncclUniqueId unique;
    std::copy(id.bytes.begin(), id.bytes.end(), std::begin(unique.internal));
    ncclConfig_t settings = nccl_config(config);
    ncclComm_t made = nullptr;
    const int code = nccl_.CommInitRankConfig(&made, ranks, unique, rank, &settings);
    comm = made;
    return code;
  }
  // NCCL writes the new handle when the split is complete, which a non-blocking parent reports
  // later: `part` itself must be what it writes to.
  int comm_split(NcclHandle parent, int color, int key, NcclHandle& part,
                 const NcclConfig& config) override {
    static_assert(sizeof(NcclHandle) == sizeof(ncclComm_t));
    ncclConfig_t settings = nccl_config(config);
    return nccl_.CommSplit(handle(parent), color < 0 ? NCCL_SPLIT_NOCOLOR : color, key,
                           reinterpret_cast<ncclComm_t*>(&part), &settings);
  }
  int comm_get_async_error(NcclHandle comm, int& code) override {
    ncclResult_t state = ncclSuccess;
    const int result = nccl_.CommGetAsyncError(handle(comm), &state);
    code = state;
    return result;
  }
  int comm_finalize(NcclHandle comm) override { return nccl_.CommFinalize(handle(comm)); }
  int comm_destroy(NcclHandle comm) override { return nccl_.CommDestroy(handle(comm)); }
  int comm_abort(NcclHandle comm) override { return nccl_.CommAbort(handle(comm)); }
  int group_start() override { return nccl_.GroupStart(); }
  int group_end() override { return nccl_.GroupEnd(); }
  int all_reduce(const void* in, void* out, std::size_t count, DType dtype, ReduceOp op,
                 NcclHandle comm, void* stream) override {
    return nccl_.AllReduce(in, out, count, nccl_type(dtype), nccl_op(op), handle(comm),
                           queue(stream));
  }
  int reduce_scatter(const void* in, void* out, std::size_t out_count, DType dtype, ReduceOp op,
                     NcclHandle comm, void* stream) override {
    return nccl_.ReduceScatter(in, out, out_count, nccl_type(dtype), nccl_op(op), handle(comm),
                               queue(stream));
  }
  int all_gather(const void* in, void* out, std::size_t in_count, DType dtype, NcclHandle comm,
                 void* stream) override {
    return nccl_.AllGather(in, out, in_count, nccl_type(dtype), handle(comm), queue(stream));
  }
  int broadcast(const void* in, void* out, std::size_t count, DType dtype, int root,
                NcclHandle comm, void* stream) override {
    return nccl_.Broadcast(in, out, count, nccl_type(dtype), root, handle(comm), queue(stream));
  }
  int send(const void* data, std::size_t count, DType dtype, int peer, NcclHandle comm,
           void* stream) override {
    return nccl_.Send(data, count, nccl_type(dtype), peer, handle(comm), queue(stream));
  }
  int recv(void* data, std::size_t count, DType dtype, int peer, NcclHandle comm,
           void* stream) override {
    return nccl_.Recv(data, count, nccl_type(dtype), peer, handle(comm), queue(stream));
  }
  std::string error_text(int code, NcclHandle comm) override {
    const char* text = nccl_.GetErrorString(static_cast<ncclResult_t>(code));
    const char* last = nccl_.GetLastError(handle(comm));
    std::string result = text == nullptr ? "" : text;
    if (last != nullptr && *last != '\0') result += fmt::format("; last error: {}", last);
    return result;
  }

 private:
  Functions nccl_;
};

std::unique_ptr<NcclLibrary> open_nccl(std::string& reason) {
  const SharedLibrary library("libnccl.so.2", NEOX_NCCL_FOLDER);
  if (!library.problem().empty()) {
    reason = fmt::format(
        "NCCL could not be opened ({}; set LD_LIBRARY_PATH to the folder of libnccl.so.2)",
        library.problem());
    return nullptr;
  }
  Functions functions;
  if (const char* missing = functions.load(library)) {
    reason =
        fmt::format("the NCCL found has no function {}; version 2.18 or later is needed", missing);
    return nullptr;
  }
  auto nccl = std::make_unique<Nccl>(functions);
  if (nccl->version_code() < kLeastVersion) {
    reason = fmt::format("NCCL {} was found, version 2.18 or later is needed", nccl->version());
    return nullptr;
  }
  reason.clear();
  return nccl;
}

}  // namespace

NcclLibrary* nccl_library(std::string& reason) {
  struct Opened {
    std::string reason;
    std::unique_ptr<NcclLibrary> library = open_nccl(reason);
  };
  static const Opened opened;
  reason = opened.reason;
  return opened.library.get();
}

#else

NcclLibrary* nccl_library(std::string& reason) {
  reason = "this program was built without NCCL";
  return nullptr;
}

#endif

}  // namespace neox
