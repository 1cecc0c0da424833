#include <algorithm>
#include <array>

#include "comm/mpi_internal.h"
#include "comm/roll_call_internal.h"

namespace neox {
namespace {
constexpr std::size_t kNamed = 64;
}

// MPI may read and write these after the roll call is given up.
struct RollCall::Messages {
  std::int32_t mine = 1;
  std::array<std::int32_t, kNamed + 1> verdict{};  // number of missing ranks, then the ranks
  std::vector<std::int32_t> arrived;
  std::vector<MPI_Request> requests;  // rank 0: one arrival per rank; others: the verdict
  std::vector<MPI_Request> sends;
  bool idle() const {
    const auto open = [](MPI_Request request) { return request != MPI_REQUEST_NULL; };
    return std::none_of(requests.begin(), requests.end(), open) &&
           std::none_of(sends.begin(), sends.end(), open);
  }
};

RollCall::RollCall(MPI_Comm group, int tag)
    : group_(group), tag_(tag), messages_(std::make_unique<Messages>()) {
  MPI_Comm_rank(group_, &rank_);
  MPI_Comm_size(group_, &size_);
  Messages& m = *messages_;
  const auto size = static_cast<std::size_t>(size_);
  m.sends.assign(size, MPI_REQUEST_NULL);
  if (rank_ != 0) {
    m.requests.assign(1, MPI_REQUEST_NULL);
    check_mpi(MPI_Irecv(m.verdict.data(), static_cast<int>(m.verdict.size()), MPI_INT32_T, 0, tag_,
                        group_, &m.requests[0]),
              "MPI_Irecv", Collective::barrier, 0);
    return;
  }
  m.arrived.assign(size, 0);
  m.requests.assign(size, MPI_REQUEST_NULL);
  for (int r = 1; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    check_mpi(MPI_Irecv(&m.arrived[i], 1, MPI_INT32_T, r, tag_, group_, &m.requests[i]),
              "MPI_Irecv", Collective::barrier, r);
  }
}

RollCall::~RollCall() {
  Messages& m = *messages_;
  for (MPI_Request& request : m.sends) {
    int done = 0;
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
  }
  if (m.idle()) return;
  for (MPI_Request& request : m.requests) {
    if (request == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&request);
    MPI_Request_free(&request);
  }
  static_cast<void>(messages_.release());
}

void RollCall::here() {
  if (here_) return;
  here_ = true;
  if (rank_ == 0) return;
  check_mpi(MPI_Isend(&messages_->mine, 1, MPI_INT32_T, 0, tag_, group_, &messages_->sends[0]),
            "MPI_Isend", Collective::barrier, 0);
}

void RollCall::announce() {
  Messages& m = *messages_;
  m.verdict[0] = static_cast<std::int32_t>(missing_.size());
  for (std::size_t i = 0; i < std::min(missing_.size(), kNamed); ++i)
    m.verdict[i + 1] = missing_[i];
  for (int r = 1; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (m.arrived[i] == 0) continue;
    check_mpi(MPI_Isend(m.verdict.data(), static_cast<int>(m.verdict.size()), MPI_INT32_T, r, tag_,
                        group_, &m.sends[i]),
              "MPI_Isend", Collective::barrier, r);
  }
  over_ = true;
}

bool RollCall::over() {
  if (over_) return true;
  Messages& m = *messages_;
  if (!test_all(m.requests, Collective::barrier)) return false;
  if (rank_ == 0) {
    if (here_) announce();
    return over_;
  }
  const auto count = std::min<std::size_t>(static_cast<std::size_t>(m.verdict[0]), kNamed);
  missing_.assign(m.verdict.begin() + 1,
                  m.verdict.begin() + 1 + static_cast<std::ptrdiff_t>(count));
  return over_ = true;
}

void RollCall::give_up() {
  if (rank_ != 0 || over_) return;
  Messages& m = *messages_;
  if (!here_) missing_.push_back(0);
  for (int r = 1; r < size_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    int done = 0;
    check_mpi(MPI_Test(&m.requests[i], &done, MPI_STATUS_IGNORE), "MPI_Test", Collective::barrier,
              r);
    if (m.arrived[i] == 0) missing_.push_back(r);
  }
  announce();
}

}  // namespace neox
