#include "comm/mpi_worker.h"

#include <algorithm>
#include <cstring>
#include <exception>

#include "comm/activity.h"
#include "comm/activity_slot.h"
#include "comm/reduce.h"

namespace neox {
namespace {

// A reduction works on blocks of one part per rank. Parts of half a MiB stay in the cache; blocks
// in flight hide the latency of one another. The received parts of all blocks take at most
// kScratchBytes.
constexpr std::int64_t kPartBytes = std::int64_t{512} << 10;
constexpr std::int64_t kScratchBytes = std::int64_t{16} << 20;
constexpr std::size_t kBlocks = 8;
constexpr std::int64_t kBroadcastPieceBytes = std::int64_t{1} << 20;
constexpr std::size_t kBroadcastWindow = 4;
// Copies (gather, point to point) gain nothing from small pieces; these only respect the int limit.
constexpr std::int64_t kCopyPieceBytes = std::int64_t{256} << 20;
constexpr int kPointToPointTag = 1, kAllToAllTag = 2, kReduceTag = 16;

std::int64_t pieces_of(std::int64_t total, std::int64_t piece) {
  return (total + piece - 1) / piece;
}

std::int64_t part_elements(DType dtype, int ranks) {
  const std::int64_t fits = kScratchBytes / (ranks * static_cast<std::int64_t>(kBlocks));
  return std::max<std::int64_t>(std::min(kPartBytes, fits), 4096) /
         static_cast<std::int64_t>(size_of(dtype));
}

bool has_peer(Collective kind) {
  return kind == Collective::send || kind == Collective::recv || kind == Collective::broadcast;
}

}  // namespace

MpiWorker::MpiWorker(MPI_Comm group) : group_(group), uncaught_(std::uncaught_exceptions()) {
  MPI_Comm_rank(group_, &rank_);
  MPI_Comm_size(group_, &size_);
  ring_.resize(256);
  window_.assign(kBroadcastWindow, MPI_REQUEST_NULL);
  point_requests_.reserve(64);
  point_pieces_.reserve(64);
  point_done_.reserve(64);
}

MpiWorker::~MpiWorker() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    // Peers may never come: nobody may wait for them while an exception is on its way to main().
    if (std::uncaught_exceptions() > uncaught_) stop_ = true;
  }
  queued_.notify_one();
  thread_.join();
}

// ---- queue
// ---------------------------------------------------------------------------------------

void MpiWorker::grow() {
  std::vector<Slot> larger(ring_.size() * 2);
  for (std::uint64_t id = oldest_; id < next_; ++id) {
    larger[static_cast<std::size_t>(id % larger.size())] = slot(id);
  }
  ring_ = std::move(larger);
}

std::uint64_t MpiWorker::submit(const MpiOperation& operation) {
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    if (error_) throw Error(*error_);
    if (next_ - oldest_ == ring_.size()) grow();
    id = next_++;
    slot(id) = Slot{operation, 0, false};
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  }
  queued_.notify_one();
  return id;
}

std::int64_t MpiWorker::wait(std::uint64_t id, const std::string& group) {
  std::unique_lock lock(mutex_);
  const auto is_done = [&] { return id < oldest_ || slot(id).done; };
  if (is_done()) {
    Activity::tick();
    return 0;
  }
  const std::int64_t begin = monotonic_ns();
  const MpiOperation& operation = slot(id).operation;
  Activity::Waiting waiting(operation.kind, group, has_peer(operation.kind) ? operation.peer : -1);
  finished_.wait(lock, [&] {
    waiting.on_device(on_device_);
    return is_done() || error_.has_value();
  });
  if (!is_done()) throw Error(*error_);
  return monotonic_ns() - begin;
}

void MpiWorker::finish(std::uint64_t id) {
  MpiOperation operation;
  {
    const std::lock_guard lock(mutex_);
    operation = slot(id).operation;
  }
  if (operation.slot != nullptr) operation.staging->store(*operation.slot);
  {
    const std::lock_guard lock(mutex_);
    slot(id).done = true;
    while (oldest_ < next_ && slot(oldest_).done) ++oldest_;
  }
  finished_.notify_all();
}

void MpiWorker::fail_all(const std::string& message) {
  {
    const std::lock_guard lock(mutex_);
    error_ = message;
  }
  finished_.notify_all();
}

void MpiWorker::run() {
  use_short_slices();
  try {
    serve();
  } catch (const std::exception& error) {
    fail_all(error.what());
  }
}

void MpiWorker::serve() {
  Backoff backoff;
  for (;;) {
    MpiOperation operation;
    std::uint64_t id = 0;
    {
      std::unique_lock lock(mutex_);
      if (point_requests_.empty()) {
        queued_.wait(lock, [&] { return closing_ || cursor_ < next_; });
      }
      if (stop_ || (closing_ && cursor_ == next_ && point_requests_.empty())) return;
      if (cursor_ < next_) {
        id = cursor_++;
        operation = slot(id).operation;
      }
    }
    if (id == 0) {
      if (progress_point_to_point()) {
        backoff = {};
      } else {
        backoff.pause();
      }
      continue;
    }
    await_device(operation);
    if (operation.kind == Collective::send || operation.kind == Collective::recv) {
      post_point_to_point(id, operation);
      backoff = {};
    } else {
      execute(operation);
      finish(id);
    }
  }
}

// ---- device
// --------------------------------------------------------------------------------------

void MpiWorker::set_on_device(bool waits) {
  {
    const std::lock_guard lock(mutex_);
    on_device_ = waits;
  }
  finished_.notify_all();
}

void MpiWorker::await_device(const MpiOperation& operation) {
  if (operation.slot == nullptr) return;
  operation.staging->load_late(*operation.slot);
  if (operation.slot->ready()) return;
  set_on_device(true);
  Backoff backoff;
  while (!operation.slot->ready()) {
    require(!stop_, "{} was given up: its group is being destroyed", name_of(operation.kind));
    if (!progress_point_to_point()) backoff.pause();
  }
  set_on_device(false);
}

// ---- point to point
// -------------------------------------------------------------------------------

void MpiWorker::post_point_to_point(std::uint64_t id, const MpiOperation& operation) {
  const std::int64_t bytes = operation.count * static_cast<std::int64_t>(size_of(operation.dtype));
  const std::int64_t pieces = std::max<std::int64_t>(1, pieces_of(bytes, kCopyPieceBytes));
  {
    const std::lock_guard lock(mutex_);
    slot(id).pieces_left = static_cast<int>(pieces);
  }
  for (std::int64_t i = 0; i < pieces; ++i) {
    const std::int64_t begin = i * kCopyPieceBytes;
    const int n = static_cast<int>(std::min(bytes - begin, kCopyPieceBytes));
    MPI_Request request = MPI_REQUEST_NULL;
    if (operation.kind == Collective::send) {
      check_mpi(MPI_Isend(operation.in + begin, n, MPI_BYTE, operation.peer, kPointToPointTag,
                          group_, &request),
                "MPI_Isend", operation.kind, operation.peer);
    } else {
      check_mpi(MPI_Irecv(operation.out + begin, n, MPI_BYTE, operation.peer, kPointToPointTag,
                          group_, &request),
                "MPI_Irecv", operation.kind, operation.peer);
    }
    point_requests_.push_back(request);
    point_pieces_.push_back({id, operation.kind, operation.peer});
  }
}

bool MpiWorker::progress_point_to_point() {
  if (point_requests_.empty()) return false;
  // One by one, so that an error names its operation and peer.
  point_done_.clear();
  for (std::size_t i = 0; i < point_requests_.size(); ++i) {
    int done = 0;
    check_mpi(MPI_Test(&point_requests_[i], &done, MPI_STATUS_IGNORE), "MPI_Test",
              point_pieces_[i].kind, point_pieces_[i].peer);
    if (done != 0) point_done_.push_back(static_cast<int>(i));
  }
  for (auto it = point_done_.rbegin(); it != point_done_.rend(); ++it) {
    const auto i = static_cast<std::size_t>(*it);
    const std::uint64_t id = point_pieces_[i].id;
    point_requests_[i] = point_requests_.back();
    point_pieces_[i] = point_pieces_.back();
    point_requests_.pop_back();
    point_pieces_.pop_back();
    bool last = false;
    {
      const std::lock_guard lock(mutex_);
      last = --slot(id).pieces_left == 0;
    }
    if (last) finish(id);
  }
  return !point_done_.empty();
}

// ---- collectives
// ----------------------------------------------------------------------------------

void MpiWorker::wait_all(std::span<MPI_Request> requests, Collective kind) {
  Backoff backoff;
  while (!test_all(requests, kind)) {
    require(!stop_, "{} was given up: its group is being destroyed", name_of(kind));
    if (!progress_point_to_point()) backoff.pause();
  }
}

void MpiWorker::execute(const MpiOperation& operation) {
  const std::int64_t bytes = operation.count * static_cast<std::int64_t>(size_of(operation.dtype));
  switch (operation.kind) {
    case Collective::all_reduce:
    case Collective::reduce_scatter:
      return reduce(operation);
    case Collective::all_gather:
      return all_gather(operation);
    case Collective::all_to_all:
      return all_to_all(operation);
    case Collective::broadcast:
      return broadcast_pieces(operation, operation.out, bytes, operation.peer);
    default:
      fail("{} is not a queued operation", name_of(operation.kind));
  }
}

// ---- reductions
// ----------------------------------------------------------------------------------- Direct
// exchange moves as many bytes as a ring in two steps instead of 2 (ranks - 1), adds in rank order
// whatever the size of the group's nodes, and sends 16-bit floats as 16 bits. MPI_Reduce with
// nonblocking progress was 8 times slower, MPI_Iallreduce equally fast.

std::int64_t MpiWorker::Block::count_of(int part) const {
  return std::clamp<std::int64_t>(total - part * part_count, 0, part_count);
}

void MpiWorker::plan_block(const MpiOperation& operation, std::int64_t index, Block& block) const {
  const std::int64_t part = part_elements(operation.dtype, size_);
  if (operation.kind == Collective::all_reduce) {
    block.first_part = index * part * size_;
    block.total = std::min(operation.count - block.first_part, part * size_);
    block.part_count = block.part_stride = pieces_of(block.total, size_);
  } else {
    block.first_part = index * part;
    block.part_count = std::min(operation.count - block.first_part, part);
    block.part_stride = operation.count;
    block.total = block.part_count * size_;
  }
}

void MpiWorker::start_block(const MpiOperation& operation, Block& block) {
  const auto element = static_cast<std::int64_t>(size_of(operation.dtype));
  block.phase = Block::Phase::gathering;
  block.requests.clear();
  const std::int64_t own = block.count_of(rank_);
  for (int q = 0; q < size_; ++q) {
    const std::byte* part = operation.in + (block.first_part + q * block.part_stride) * element;
    if (q == rank_) {
      block.sources[static_cast<std::size_t>(q)] = part;
      continue;
    }
    if (own > 0) {
      std::byte* to = block.received.data() + q * part_elements(operation.dtype, size_) * element;
      block.sources[static_cast<std::size_t>(q)] = to;
      check_mpi(MPI_Irecv(to, static_cast<int>(own * element), MPI_BYTE, q, block.tag, group_,
                          &block.requests.emplace_back(MPI_REQUEST_NULL)),
                "MPI_Irecv", operation.kind, q);
    }
    if (block.count_of(q) > 0) {
      check_mpi(MPI_Isend(part, static_cast<int>(block.count_of(q) * element), MPI_BYTE, q,
                          block.tag, group_, &block.requests.emplace_back(MPI_REQUEST_NULL)),
                "MPI_Isend", operation.kind, q);
    }
  }
}

void MpiWorker::combine_block(const MpiOperation& operation, Block& block) {
  const auto element = static_cast<std::int64_t>(size_of(operation.dtype));
  const bool all = operation.kind == Collective::all_reduce;
  block.phase = all ? Block::Phase::returning : Block::Phase::idle;
  block.requests.clear();
  const std::int64_t own = block.count_of(rank_);
  const std::int64_t own_at = block.first_part + (all ? rank_ * block.part_stride : 0);
  std::byte* result = operation.out + own_at * element;
  if (own > 0) reduce_elements(operation.dtype, operation.op, block.sources, result, own);
  if (!all) return;
  for (int q = 0; q < size_; ++q) {
    if (q == rank_) continue;
    if (const std::int64_t n = block.count_of(q); n > 0) {
      std::byte* to = operation.out + (block.first_part + q * block.part_stride) * element;
      check_mpi(MPI_Irecv(to, static_cast<int>(n * element), MPI_BYTE, q, block.tag + 1, group_,
                          &block.requests.emplace_back(MPI_REQUEST_NULL)),
                "MPI_Irecv", operation.kind, q);
    }
    if (own > 0) {
      check_mpi(MPI_Isend(result, static_cast<int>(own * element), MPI_BYTE, q, block.tag + 1,
                          group_, &block.requests.emplace_back(MPI_REQUEST_NULL)),
                "MPI_Isend", operation.kind, q);
    }
  }
}

// True when the block took a step.
bool MpiWorker::advance_block(const MpiOperation& operation, Block& block) {
  if (block.phase == Block::Phase::idle || !test_all(block.requests, operation.kind)) return false;
  if (block.phase == Block::Phase::gathering) {
    combine_block(operation, block);
  } else {
    block.phase = Block::Phase::idle;
  }
  return true;
}

void MpiWorker::reduce(const MpiOperation& operation) {
  const std::int64_t part = part_elements(operation.dtype, size_);
  const std::int64_t span = operation.kind == Collective::all_reduce ? part * size_ : part;
  const std::int64_t blocks = pieces_of(operation.count, span);
  const std::size_t scratch = static_cast<std::size_t>(part * size_) * size_of(operation.dtype);
  blocks_.resize(kBlocks);
  for (std::size_t i = 0; i < kBlocks; ++i) {
    blocks_[i].tag = kReduceTag + 2 * static_cast<int>(i);
    blocks_[i].sources.resize(static_cast<std::size_t>(size_));
    if (blocks_[i].received.size() < scratch) blocks_[i].received.resize(scratch);
  }
  // Block i uses slot i % kBlocks: messages of a slot (a tag) stay in order on every rank.
  std::int64_t started = 0, finished = 0;
  Backoff backoff;
  while (finished < blocks) {
    bool moved = false;
    for (Block& block : blocks_) {
      if (!advance_block(operation, block)) continue;
      moved = true;
    }
    while (finished < started &&
           blocks_[static_cast<std::size_t>(finished) % kBlocks].phase == Block::Phase::idle) {
      ++finished;
    }
    while (started < blocks && started < finished + static_cast<std::int64_t>(kBlocks)) {
      Block& block = blocks_[static_cast<std::size_t>(started) % kBlocks];
      plan_block(operation, started++, block);
      start_block(operation, block);
      moved = true;
    }
    if (moved || progress_point_to_point()) {
      backoff = {};
    } else {
      require(!stop_, "{} was given up: its group is being destroyed", name_of(operation.kind));
      backoff.pause();
    }
  }
}

// ---- copies
// ---------------------------------------------------------------------------------------

void MpiWorker::all_gather(const MpiOperation& operation) {
  const std::int64_t part = operation.count * static_cast<std::int64_t>(size_of(operation.dtype));
  std::byte* own = operation.out + rank_ * part;
  if (part > 0 && operation.in != own)
    std::memcpy(own, operation.in, static_cast<std::size_t>(part));
  if (part <= kCopyPieceBytes) {
    const auto n = static_cast<int>(part);
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, operation.out, n, MPI_BYTE, group_,
                             &request),
              "MPI_Iallgather", operation.kind);
    wait_all(std::span(&request, 1), operation.kind);
    return;
  }
  for (int root = 0; root < size_; ++root) {
    broadcast_pieces(operation, operation.out + root * part, part, root);
  }
}

void MpiWorker::broadcast_pieces(const MpiOperation& operation, std::byte* data, std::int64_t bytes,
                                 int root) {
  const std::int64_t pieces = pieces_of(bytes, kBroadcastPieceBytes);
  const auto window = static_cast<std::int64_t>(kBroadcastWindow);
  for (std::int64_t i = 0; i < pieces + window; ++i) {
    MPI_Request& request = window_[static_cast<std::size_t>(i % window)];
    if (i >= window && i - window < pieces) wait_all(std::span(&request, 1), operation.kind);
    if (i >= pieces) continue;
    const std::int64_t begin = i * kBroadcastPieceBytes;
    const auto n = static_cast<int>(std::min(bytes - begin, kBroadcastPieceBytes));
    check_mpi(MPI_Ibcast(data + begin, n, MPI_BYTE, root, group_, &request), "MPI_Ibcast",
              operation.kind, root);
  }
}

void MpiWorker::all_to_all(const MpiOperation& operation) {
  const std::int64_t part = operation.count * static_cast<std::int64_t>(size_of(operation.dtype));
  if (part == 0) return;
  std::memcpy(operation.out + rank_ * part, operation.in + rank_ * part,
              static_cast<std::size_t>(part));
  const std::int64_t pieces = pieces_of(part, kCopyPieceBytes);
  for (std::int64_t i = 0; i < (size_ - 1) * pieces; ++i) {
    const auto shift = static_cast<int>(1 + i / pieces);
    const std::int64_t begin = i % pieces * kCopyPieceBytes;
    const auto n = static_cast<int>(std::min(part - begin, kCopyPieceBytes));
    const int to = (rank_ + shift) % size_, from = (rank_ - shift + size_) % size_;
    MPI_Request both[2] = {MPI_REQUEST_NULL, MPI_REQUEST_NULL};
    check_mpi(MPI_Irecv(operation.out + from * part + begin, n, MPI_BYTE, from, kAllToAllTag,
                        group_, &both[0]),
              "MPI_Irecv", operation.kind, from);
    check_mpi(MPI_Isend(operation.in + to * part + begin, n, MPI_BYTE, to, kAllToAllTag, group_,
                        &both[1]),
              "MPI_Isend", operation.kind, to);
    wait_all(both, operation.kind);
  }
}

}  // namespace neox
