#include "comm/mpi_worker.h"

#include <algorithm>
#include <cstring>
#include <exception>

namespace neox {
namespace {

// Open MPI reduces 1 MiB pieces 2.5 times as fast as one large call (they stay in the cache), and
// counts stay far from the 2^31 limit of MPI's int.
constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;
constexpr std::int64_t kScratchFloats = kPieceBytes / 4;
constexpr std::size_t kWindow = 4;
// Copies (gather, point to point) gain nothing from small pieces; these only respect the int limit.
constexpr std::int64_t kCopyPieceBytes = std::int64_t{256} << 20;
constexpr int kPointToPointTag = 1, kAllToAllTag = 2;

bool is_16_bit_float(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f16;
}

template <class T>
void widen(const std::byte* from, float* to, std::int64_t n) {
  const T* values = reinterpret_cast<const T*>(from);
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(values[i]);
}

template <class T>
void narrow(const float* from, std::byte* to, std::int64_t n) {
  T* values = reinterpret_cast<T*>(to);
  for (std::int64_t i = 0; i < n; ++i) values[i] = T(from[i]);
}

void to_float(DType dtype, const std::byte* from, float* to, std::int64_t n) {
  dtype == DType::bf16 ? widen<bf16>(from, to, n) : widen<f16>(from, to, n);
}

void from_float(DType dtype, const float* from, std::byte* to, std::int64_t n) {
  dtype == DType::bf16 ? narrow<bf16>(from, to, n) : narrow<f16>(from, to, n);
}

std::int64_t pieces_of(std::int64_t total, std::int64_t piece) {
  return (total + piece - 1) / piece;
}

// Elements of one reduction piece: 16-bit floats travel as f32.
std::int64_t piece_elements(DType dtype) {
  return is_16_bit_float(dtype) ? kScratchFloats
                                : kPieceBytes / static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace

MpiWorker::MpiWorker(MPI_Comm group) : group_(group), uncaught_(std::uncaught_exceptions()) {
  MPI_Comm_rank(group_, &rank_);
  MPI_Comm_size(group_, &size_);
  ring_.resize(256);
  window_.assign(kWindow, MPI_REQUEST_NULL);
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

void MpiWorker::wait(std::uint64_t id) {
  std::unique_lock lock(mutex_);
  const auto is_done = [&] { return id < oldest_ || slot(id).done; };
  finished_.wait(lock, [&] { return is_done() || error_.has_value(); });
  if (!is_done()) throw Error(*error_);
}

void MpiWorker::finish(std::uint64_t id) {
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
  use_precise_sleeps();
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
    } else if (operation.kind == Collective::send || operation.kind == Collective::recv) {
      post_point_to_point(id, operation);
      backoff = {};
    } else {
      execute(operation);
      finish(id);
    }
  }
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

template <class Start, class End>
void MpiWorker::pipeline(const MpiOperation& operation, std::int64_t pieces, Start start, End end) {
  const auto window = static_cast<std::int64_t>(kWindow);
  for (std::int64_t i = 0; i < pieces + window; ++i) {
    const auto at = static_cast<std::size_t>(i % window);
    if (i >= window && i - window < pieces) {
      wait_all(std::span(&window_[at], 1), operation.kind);
      end(i - window, at);
    }
    if (i < pieces) start(i, at, &window_[at]);
  }
}

float* MpiWorker::scratch(std::size_t window_slot) {
  if (scratch_.empty()) scratch_.resize(kWindow * kScratchFloats);
  return scratch_.data() + window_slot * kScratchFloats;
}

void MpiWorker::execute(const MpiOperation& operation) {
  const std::int64_t bytes = operation.count * static_cast<std::int64_t>(size_of(operation.dtype));
  switch (operation.kind) {
    case Collective::all_reduce:
      return all_reduce(operation);
    case Collective::reduce_scatter:
      return reduce_scatter(operation);
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

void MpiWorker::all_reduce(const MpiOperation& operation) {
  const bool widened = is_16_bit_float(operation.dtype);
  const std::int64_t piece = piece_elements(operation.dtype);
  const auto element = static_cast<std::int64_t>(size_of(operation.dtype));
  const MPI_Datatype type = widened ? MPI_FLOAT : mpi_type(operation.dtype);
  const auto size_at = [&](std::int64_t i) { return std::min(piece, operation.count - i * piece); };
  const auto start = [&](std::int64_t i, std::size_t at, MPI_Request* request) {
    std::byte* data = operation.out + i * piece * element;
    void* buffer = data;
    if (widened) {
      to_float(operation.dtype, data, scratch(at), size_at(i));
      buffer = scratch(at);
    }
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, buffer, static_cast<int>(size_at(i)), type,
                             mpi_op(operation.op), group_, request),
              "MPI_Iallreduce", operation.kind);
  };
  const auto end = [&](std::int64_t i, std::size_t at) {
    if (!widened) return;
    from_float(operation.dtype, scratch(at), operation.out + i * piece * element, size_at(i));
  };
  pipeline(operation, pieces_of(operation.count, piece), start, end);
}

// Pieces are reduced to the rank that owns them, which is faster than MPI_Reduce_scatter and, like
// it, adds in an order that depends on the group and the size only.
void MpiWorker::reduce_scatter(const MpiOperation& operation) {
  const bool widened = is_16_bit_float(operation.dtype);
  const std::int64_t piece = piece_elements(operation.dtype);
  const auto element = static_cast<std::int64_t>(size_of(operation.dtype));
  const MPI_Datatype type = widened ? MPI_FLOAT : mpi_type(operation.dtype);
  const auto size_at = [&](std::int64_t c) { return std::min(piece, operation.count - c * piece); };
  const auto start = [&](std::int64_t i, std::size_t at, MPI_Request* request) {
    const int owner = static_cast<int>(i % size_);
    const std::int64_t c = i / size_;
    const std::byte* from = operation.in + (owner * operation.count + c * piece) * element;
    void* to = operation.out + c * piece * element;
    const void* send = from;
    if (widened) {
      to_float(operation.dtype, from, scratch(at), size_at(c));
      send = to = scratch(at);
    }
    if (owner == rank_ && send == to) send = MPI_IN_PLACE;
    check_mpi(MPI_Ireduce(send, owner == rank_ ? to : nullptr, static_cast<int>(size_at(c)), type,
                          mpi_op(operation.op), owner, group_, request),
              "MPI_Ireduce", operation.kind, owner);
  };
  const auto end = [&](std::int64_t i, std::size_t at) {
    if (!widened || i % size_ != rank_) return;
    const std::int64_t c = i / size_;
    from_float(operation.dtype, scratch(at), operation.out + c * piece * element, size_at(c));
  };
  pipeline(operation, pieces_of(operation.count, piece) * size_, start, end);
}

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
  const auto start = [&](std::int64_t i, std::size_t, MPI_Request* request) {
    const std::int64_t begin = i * kPieceBytes;
    const auto n = static_cast<int>(std::min(bytes - begin, kPieceBytes));
    check_mpi(MPI_Ibcast(data + begin, n, MPI_BYTE, root, group_, request), "MPI_Ibcast",
              operation.kind, root);
  };
  pipeline(operation, pieces_of(bytes, kPieceBytes), start, [](std::int64_t, std::size_t) {});
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
