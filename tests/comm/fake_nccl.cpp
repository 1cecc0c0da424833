#include "tests/comm/fake_nccl.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <iterator>
#include <optional>
#include <tuple>
#include <utility>

#include <mpi.h>

#include "comm/reduce.h"
#include "tests/support/deferred_runtime.h"

namespace neox {
namespace {

constexpr int kInvalidArgument = 4, kInvalidUsage = 5;
constexpr int kFirstTag = 1 << 20;
constexpr int kInitTag = 1, kSplitTag = 2;  // beside that of the operations, 0

int world_rank() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return rank;
}
int world_size() {
  int size = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

struct Messages {
  std::vector<MPI_Request> requests;
  void send(const void* data, std::size_t bytes, int to, int tag) {
    MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, tag, MPI_COMM_WORLD,
              &requests.emplace_back(MPI_REQUEST_NULL));
  }
  void recv(void* data, std::size_t bytes, int from, int tag) {
    MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, tag, MPI_COMM_WORLD,
              &requests.emplace_back(MPI_REQUEST_NULL));
  }
  bool done() {
    int all = 0;
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &all, MPI_STATUSES_IGNORE);
    return all != 0;
  }
};

}  // namespace

struct FakeNccl::Comm {
  int tag = 0, rank = 0, size = 1;
  std::vector<int> members;  // world ranks
  bool blocking = true, finalized = false;
  std::atomic<bool> aborted{false};

  struct Init {
    Messages messages;
    int root = 0;
    int step = 0;
    std::vector<std::array<int, 2>> cards;  // rank, world rank
  };
  std::unique_ptr<Init> init;
  struct Split {
    Messages messages;
    std::array<int, 3> mine{};  // color, key, tag
    std::vector<std::array<int, 3>> all;
    NcclHandle* part = nullptr;
    bool blocking = true;
  };
  std::unique_ptr<Split> split;
};

// One operation, or a group of them.
struct FakeNccl::Transfer {
  std::shared_ptr<Comm> comm;
  std::vector<std::function<void(Transfer&)>> starts, finishes;
  Messages messages;
  std::vector<std::vector<std::byte>> received;
  bool started = false;

  void send(const void* data, std::size_t bytes, int to) {
    messages.send(data, bytes, comm->members[static_cast<std::size_t>(to)], comm->tag);
  }
  void recv(void* data, std::size_t bytes, int from) {
    messages.recv(data, bytes, comm->members[static_cast<std::size_t>(from)], comm->tag);
  }
  bool run() {
    if (!started) {
      started = true;
      for (const auto& start : starts) start(*this);
    }
    if (!messages.done()) return false;
    for (const auto& finish : finishes) finish(*this);
    return true;
  }
};

namespace {
// As NCCL's, a group is one thread's.
thread_local int group_depth = 0;
thread_local void* group_stream = nullptr;
thread_local int group_error = 0;
}  // namespace

FakeNccl::FakeNccl() = default;
FakeNccl::~FakeNccl() = default;

void FakeNccl::note(const std::string& line) {
  const std::lock_guard lock(mutex_);
  log_.push_back(line);
}
std::vector<std::string> FakeNccl::log() const {
  const std::lock_guard lock(mutex_);
  return log_;
}
int FakeNccl::count(const std::string& beginning) const {
  const auto lines = log();
  return static_cast<int>(std::count_if(
      lines.begin(), lines.end(), [&](const auto& line) { return line.starts_with(beginning); }));
}

std::shared_ptr<FakeNccl::Comm> FakeNccl::find(NcclHandle handle) const {
  const std::lock_guard lock(mutex_);
  const auto it = comms_.find(handle);
  return it == comms_.end() ? nullptr : it->second;
}

int FakeNccl::new_tag() {
  static std::atomic<int> next{0};
  return kFirstTag + 4 * (next++ * world_size() + world_rank());
}

NcclHandle FakeNccl::adopt(std::shared_ptr<Comm> comm) {
  const std::lock_guard lock(mutex_);
  const NcclHandle handle = comm.get();
  comms_[handle] = std::move(comm);
  return handle;
}

// ---- groups
// ---------------------------------------------------------------------------------------

int FakeNccl::get_unique_id(NcclId& id) {
  note("get_unique_id");
  const std::array<int, 2> card = {world_rank(), new_tag()};
  std::memcpy(id.bytes.data(), card.data(), sizeof card);
  return kNcclSuccess;
}

int FakeNccl::comm_init_rank(NcclHandle& comm, int ranks, const NcclId& id, int rank,
                             const NcclConfig& config) {
  note(fmt::format("init {} ranks as {}, {}", ranks, rank,
                   config.blocking ? "blocking" : "non-blocking"));
  if (config.blocking) return kInvalidUsage;
  std::array<int, 2> card{};
  std::memcpy(card.data(), id.bytes.data(), sizeof card);
  auto made = std::make_shared<Comm>();
  made->tag = card[1];
  made->rank = rank;
  made->size = ranks;
  made->blocking = false;
  made->members.assign(static_cast<std::size_t>(ranks), world_rank());
  made->init = std::make_unique<Comm::Init>();
  made->init->root = card[0];
  comm = adopt(std::move(made));
  return kNcclInProgress;
}

// Rank 0 collects who is who and tells everybody.
void FakeNccl::advance_init(Comm& comm) {
  if (!comm.init || hang_init) return;
  Comm::Init& init = *comm.init;
  const std::size_t table = comm.members.size() * sizeof(int);
  if (init.step == 0) {
    init.cards.resize(static_cast<std::size_t>(comm.size));
    init.cards[0] = {comm.rank, world_rank()};
    if (comm.rank != 0) {
      init.messages.send(init.cards[0].data(), sizeof init.cards[0], init.root,
                         comm.tag + kInitTag);
      init.messages.recv(comm.members.data(), table, init.root, comm.tag + kInitTag);
    }
    for (std::size_t i = 1; comm.rank == 0 && i < init.cards.size(); ++i) {
      init.messages.recv(init.cards[i].data(), sizeof init.cards[i], MPI_ANY_SOURCE,
                         comm.tag + kInitTag);
    }
    init.step = 1;
  }
  if (init.step == 1 && init.messages.done()) {
    for (const auto& [rank, world] : init.cards) {
      if (comm.rank == 0) comm.members[static_cast<std::size_t>(rank)] = world;
    }
    for (int r = 1; comm.rank == 0 && r < comm.size; ++r) {
      init.messages.send(comm.members.data(), table, comm.members[static_cast<std::size_t>(r)],
                         comm.tag + kInitTag);
    }
    init.step = 2;
  }
  if (init.step == 2 && init.messages.done()) comm.init.reset();
}

int FakeNccl::comm_split(NcclHandle parent, int color, int key, NcclHandle& part,
                         const NcclConfig& config) {
  note(fmt::format("split color {} key {}, {}", color, key,
                   config.blocking ? "blocking" : "non-blocking"));
  const auto comm = find(parent);
  if (!comm || comm->init || comm->split) return kInvalidUsage;
  part = nullptr;
  comm->split = std::make_unique<Comm::Split>();
  Comm::Split& split = *comm->split;
  split.part = &part;
  split.blocking = config.blocking;
  split.mine = {color, key, new_tag()};
  split.all.resize(comm->members.size());
  for (std::size_t r = 0; r < comm->members.size(); ++r) {
    split.messages.recv(split.all[r].data(), sizeof split.all[r], comm->members[r],
                        comm->tag + kSplitTag);
    split.messages.send(split.mine.data(), sizeof split.mine, comm->members[r],
                        comm->tag + kSplitTag);
  }
  return kNcclInProgress;
}

void FakeNccl::advance_split(Comm& comm) {
  if (!comm.split || hang_init || !comm.split->messages.done()) return;
  const auto split = std::move(comm.split);
  const int color = split->mine[0];
  if (color < 0) return;
  std::vector<int> ranks;
  const auto at = [&](int r) -> const std::array<int, 3>& {
    return split->all[static_cast<std::size_t>(r)];
  };
  for (int r = 0; r < comm.size; ++r) {
    if (at(r)[0] == color) ranks.push_back(r);
  }
  std::sort(ranks.begin(), ranks.end(),
            [&](int a, int b) { return std::tuple(at(a)[1], a) < std::tuple(at(b)[1], b); });
  auto made = std::make_shared<Comm>();
  made->tag = at(ranks[0])[2];
  made->size = static_cast<int>(ranks.size());
  made->blocking = split->blocking;
  for (const int r : ranks) {
    if (r == comm.rank) made->rank = static_cast<int>(made->members.size());
    made->members.push_back(comm.members[static_cast<std::size_t>(r)]);
  }
  *split->part = adopt(std::move(made));
}

int FakeNccl::comm_get_async_error(NcclHandle handle, int& code) {
  const std::lock_guard lock(mutex_);
  const auto comm = find(handle);
  if (!comm) return kInvalidArgument;
  advance_init(*comm);
  advance_split(*comm);
  code = comm->init || comm->split ? kNcclInProgress : async_error.load();
  return kNcclSuccess;
}

int FakeNccl::comm_finalize(NcclHandle handle) {
  const auto comm = find(handle);
  if (!comm || comm->finalized) return kInvalidUsage;
  note(fmt::format("finalize {} of {}", comm->blocking ? "group" : "root", comm->size));
  comm->finalized = true;
  return kNcclSuccess;
}

int FakeNccl::comm_destroy(NcclHandle handle) {
  const std::lock_guard lock(mutex_);
  const auto comm = find(handle);
  if (!comm || !comm->finalized) return kInvalidUsage;
  note(fmt::format("destroy {} of {}", comm->blocking ? "group" : "root", comm->size));
  comms_.erase(handle);
  return kNcclSuccess;
}

int FakeNccl::comm_abort(NcclHandle handle) {
  const std::lock_guard lock(mutex_);
  const auto comm = find(handle);
  if (!comm) return kInvalidArgument;
  note(fmt::format("abort {} of {}", comm->blocking ? "group" : "root", comm->size));
  comm->aborted = true;
  // MPI may still write there.
  static_cast<void>(comm->init.release());
  static_cast<void>(comm->split.release());
  comms_.erase(handle);
  return kNcclSuccess;
}

// ---- operations
// -----------------------------------------------------------------------------------

namespace {
thread_local std::shared_ptr<void> group_transfer;
}

int FakeNccl::ready_for(const std::shared_ptr<Comm>& comm, const char* operation) {
  note(operation);
  if (!comm || !comm->blocking || comm->finalized) return kInvalidUsage;
  const int code = fail_next_operation.exchange(0);
  if (group_depth > 0 && code != 0) group_error = code;
  return code;
}

void FakeNccl::enqueue(std::shared_ptr<Transfer> transfer, void* stream) {
  if (group_depth > 0) {
    if (!group_transfer) {
      group_transfer = transfer;
      group_stream = stream;
      return;
    }
    auto& whole = *static_cast<Transfer*>(group_transfer.get());
    std::move(transfer->starts.begin(), transfer->starts.end(), std::back_inserter(whole.starts));
    return;
  }
  enqueue_deferred(stream, [this, transfer] {
    if (transfer->comm->aborted) {  // MPI may still use what it was given
      static_cast<void>(new std::shared_ptr<Transfer>(transfer));
      return true;
    }
    return !hang_operations && transfer->run();
  });
}

int FakeNccl::group_start() {
  note("group_start");
  ++group_depth;
  return kNcclSuccess;
}

int FakeNccl::group_end() {
  note("group_end");
  if (group_depth == 0) return kInvalidUsage;
  if (--group_depth > 0) return kNcclSuccess;
  if (const int code = std::exchange(group_error, 0); code != 0) {  // then nothing is done
    group_transfer.reset();
    return code;
  }
  if (!group_transfer) return kNcclSuccess;
  auto whole = std::static_pointer_cast<Transfer>(std::move(group_transfer));
  group_transfer.reset();
  enqueue(std::move(whole), group_stream);
  return kNcclSuccess;
}

int FakeNccl::all_reduce(const void* in, void* out, std::size_t n, DType dtype, ReduceOp op,
                         NcclHandle handle, void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "all_reduce"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = n * size_of(dtype);
  transfer->starts.push_back([=](Transfer& t) {
    t.received.resize(t.comm->members.size(), std::vector<std::byte>(bytes));
    for (int r = 0; r < t.comm->size; ++r) {
      if (r == t.comm->rank) continue;
      t.recv(t.received[static_cast<std::size_t>(r)].data(), bytes, r);
      t.send(in, bytes, r);
    }
  });
  transfer->finishes.push_back([=](Transfer& t) {
    std::vector<const std::byte*> sources;
    for (const auto& part : t.received) sources.push_back(part.data());
    sources[static_cast<std::size_t>(t.comm->rank)] = static_cast<const std::byte*>(in);
    reduce_elements(dtype, op, sources, static_cast<std::byte*>(out), static_cast<std::int64_t>(n));
  });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

int FakeNccl::reduce_scatter(const void* in, void* out, std::size_t out_count, DType dtype,
                             ReduceOp op, NcclHandle handle, void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "reduce_scatter"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = out_count * size_of(dtype);
  const auto* parts = static_cast<const std::byte*>(in);
  transfer->starts.push_back([=](Transfer& t) {
    t.received.resize(t.comm->members.size(), std::vector<std::byte>(bytes));
    for (int r = 0; r < t.comm->size; ++r) {
      if (r == t.comm->rank) continue;
      t.recv(t.received[static_cast<std::size_t>(r)].data(), bytes, r);
      t.send(parts + static_cast<std::size_t>(r) * bytes, bytes, r);
    }
  });
  transfer->finishes.push_back([=](Transfer& t) {
    std::vector<const std::byte*> sources;
    for (const auto& part : t.received) sources.push_back(part.data());
    const auto rank = static_cast<std::size_t>(t.comm->rank);
    sources[rank] = parts + rank * bytes;
    reduce_elements(dtype, op, sources, static_cast<std::byte*>(out),
                    static_cast<std::int64_t>(out_count));
  });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

int FakeNccl::all_gather(const void* in, void* out, std::size_t in_count, DType dtype,
                         NcclHandle handle, void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "all_gather"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = in_count * size_of(dtype);
  transfer->starts.push_back([=](Transfer& t) {
    auto* parts = static_cast<std::byte*>(out);
    for (int r = 0; r < t.comm->size; ++r) {
      std::byte* part = parts + static_cast<std::size_t>(r) * bytes;
      if (r == t.comm->rank) {
        if (part != in) std::memcpy(part, in, bytes);
        continue;
      }
      t.recv(part, bytes, r);
      t.send(in, bytes, r);
    }
  });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

int FakeNccl::broadcast(const void* in, void* out, std::size_t n, DType dtype, int root,
                        NcclHandle handle, void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "broadcast"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = n * size_of(dtype);
  transfer->starts.push_back([=](Transfer& t) {
    for (int r = 0; r < t.comm->size; ++r) {
      if (t.comm->rank == root && r != root) t.send(in, bytes, r);
    }
    if (t.comm->rank != root) t.recv(out, bytes, root);
  });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

int FakeNccl::send(const void* data, std::size_t n, DType dtype, int peer, NcclHandle handle,
                   void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "send"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = n * size_of(dtype);
  transfer->starts.push_back([=](Transfer& t) { t.send(data, bytes, peer); });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

int FakeNccl::recv(void* data, std::size_t n, DType dtype, int peer, NcclHandle handle,
                   void* stream) {
  const auto comm = find(handle);
  if (const int code = ready_for(comm, "recv"); code != 0) return code;
  auto transfer = std::make_shared<Transfer>();
  transfer->comm = comm;
  const std::size_t bytes = n * size_of(dtype);
  transfer->starts.push_back([=](Transfer& t) { t.recv(data, bytes, peer); });
  enqueue(std::move(transfer), stream);
  return kNcclSuccess;
}

std::string FakeNccl::error_text(int code, NcclHandle) {
  return fmt::format("text of {}; last error: the fake's", code);
}

}  // namespace neox
