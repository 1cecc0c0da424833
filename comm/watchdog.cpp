#include "comm/watchdog.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <fcntl.h>
#include <mutex>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "comm/activity.h"
#include "comm/shared_slots.h"
#include "comm/stall.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"

namespace neox {
namespace {

constexpr std::chrono::milliseconds kBeat{250};
constexpr std::int64_t kSecond = 1'000'000'000;
// After this long an announced end has failed, and the processes are killed.
constexpr std::int64_t kEndOverdue = 2 * kSecond;
// A launcher that ends the job kills node by node; what it kills must not look like the cause.
constexpr std::int64_t kPatienceOnSeveralNodes = 3 * kSecond / 2;

std::uint64_t pid_namespace() {
  struct stat info {};
  return ::stat("/proc/self/ns/pid", &info) == 0 ? static_cast<std::uint64_t>(info.st_ino) : 0;
}

/// The state letter of /proc/<pid>/stat; 'X' when there is no such process, '?' when unknown.
char process_state(int pid) {
  std::array<char, 64> path{};
  fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/stat", pid);
  const int file = open(path.data(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno == ENOENT && kill(pid, 0) != 0 && errno == ESRCH ? 'X' : '?';
  std::array<char, 512> text{};
  const ssize_t n = read(file, text.data(), text.size() - 1);
  close(file);
  if (n <= 0) return n < 0 && errno == ESRCH ? 'X' : '?';
  // "pid (name) S ...": the name may hold anything.
  const std::string_view line(text.data(), static_cast<std::size_t>(n));
  const std::size_t end = line.rfind(") ");
  return end == std::string_view::npos || end + 2 >= line.size() ? '?' : line[end + 2];
}

std::string waiting_text(const ActivitySlot& slot) {
  const bool by_device = slot.waits_in < 0;
  const int kind = by_device ? slot.device_waits_in : slot.waits_in;
  if (kind < 0 || kind >= static_cast<int>(Collective::count)) return {};
  const auto collective = static_cast<Collective>(kind);
  const int peer = by_device ? slot.device_peer : slot.peer;
  const char* preposition = collective == Collective::send ? "to" : "from";
  const std::string other = peer < 0 ? "" : fmt::format(" {} its rank {}", preposition, peer);
  const std::string what = collective == Collective::host ? "a host reduction or broadcast"
                                                          : std::string(name_of(collective));
  return fmt::format("{}{} of the {} group", what, other,
                     by_device ? slot.device_group.get() : slot.group.get());
}

}  // namespace

class Watchdog::State {
 public:
  explicit State(MpiEnvironment& mpi);
  ~State();

  std::atomic<std::int64_t> limit_ns = 0;
  SharedSlots slots;

 private:
  void run();
  void check(std::int64_t now);
  void look_for_vanished(std::int64_t now);
  void look_for_stalled(std::int64_t now);
  RankView view_of(const ActivitySlot& slot, std::int64_t now) const;
  void end_job(const std::string& message);
  void kill_node();

  MpiEnvironment& mpi_;
  std::uint64_t pid_namespace_ = pid_namespace();
  std::int64_t vanished_ns_ = 0;  // when the neighbour was first seen to be gone
  std::int64_t last_beat_ns_ = 0;
  std::int64_t trust_from_ns_ = 0;
  bool closing_ = false;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::thread thread_;
};

Watchdog::State::State(MpiEnvironment& mpi) : slots(mpi.node()), mpi_(mpi) {
  if (!slots.problem().empty()) {
    log_warning(
        "the ranks of {} cannot watch each other ({}): a rank that stops or vanishes is only "
        "noticed by the launcher",
        mpi.host(), slots.problem());
  }
  ActivitySlot& own = slots.own();
  own.rank = mpi.rank();
  own.pid = getpid();
  own.pid_namespace = pid_namespace_;
  own.heartbeat_ns = monotonic_ns();
  redirect_activity(&own);
  own.state = SlotState::running;
  thread_ = std::thread([this] { run(); });
}

Watchdog::State::~State() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wake_.notify_one();
  thread_.join();
  slots.own().state = SlotState::left;
  redirect_activity(nullptr);
}

void Watchdog::State::run() {
  sigset_t all;
  sigfillset(&all);
  sigdelset(&all, SIGALRM);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are for the program's own threads
  last_beat_ns_ = monotonic_ns();
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, kBeat, [this] { return closing_; })) {
    const std::int64_t now = monotonic_ns();
    slots.own().heartbeat_ns = now;
    // After a pause of this process, or of the machine, the others' heartbeats look old.
    if (now - last_beat_ns_ > 2 * kSecond) trust_from_ns_ = now + 3 * kSecond;
    last_beat_ns_ = now;
    check(now);
  }
}

void Watchdog::State::check(std::int64_t now) {
  const std::int64_t ending = slots.header().ending_ns;
  if (ending != 0) {
    if (now - ending > kEndOverdue) kill_node();
    return;
  }
  look_for_vanished(now);
  if (limit_ns > 0 && now >= trust_from_ns_) look_for_stalled(now);
}

// Every rank looks after the next one only: of several that vanish, one has a living predecessor.
void Watchdog::State::look_for_vanished(std::int64_t now) {
  const std::size_t ranks = slots.all().size();
  const ActivitySlot& next = slots.all()[(slots.own_index() + 1) % ranks];
  if (ranks == 1 || next.pid_namespace != pid_namespace_ || next.pid == 0) return;
  const char state = process_state(next.pid);
  const bool gone = state == 'X' || state == 'Z';
  if (!gone || next.state != SlotState::running) return;
  if (vanished_ns_ == 0) vanished_ns_ = now;
  if (mpi_.local_size() < mpi_.size() && now - vanished_ns_ < kPatienceOnSeveralNodes) return;
  end_job(
      fmt::format("{} has vanished: it was killed (by hand, or by the kernel for want of "
                  "memory: see dmesg) or crashed",
                  describe(view_of(next, now), mpi_.host())));
}

void Watchdog::State::look_for_stalled(std::int64_t now) {
  const double limit = static_cast<double>(limit_ns) / kSecond;
  bool late = false;
  for (const ActivitySlot& slot : slots.all()) {
    late = late || (slot.state == SlotState::running && now - slot.progress_ns > limit_ns);
  }
  if (!late) return;
  std::vector<RankView> views;
  for (const ActivitySlot& slot : slots.all()) {
    if (slot.state == SlotState::running) views.push_back(view_of(slot, now));
  }
  const std::string report =
      find_stall(views, mpi_.host(), limit, mpi_.local_size() == mpi_.size());
  if (!report.empty()) end_job(report);
}

RankView Watchdog::State::view_of(const ActivitySlot& slot, std::int64_t now) const {
  const auto age = [&](std::int64_t then) { return static_cast<double>(now - then) / kSecond; };
  RankView view;
  view.rank = slot.rank;
  view.pid = slot.pid;
  view.process_state = slot.pid_namespace == pid_namespace_ ? process_state(view.pid) : '?';
  view.heartbeat_age = age(slot.heartbeat_ns);
  view.progress_age = age(slot.progress_ns);
  view.unlimited = slot.unlimited != 0;
  view.phase = slot.phase.get();
  view.step = slot.step;
  view.micro_batch = slot.micro_batch;
  view.waits_in = waiting_text(slot);
  view.on_device = slot.waits_in >= 0 && slot.on_device != 0;
  return view;
}

// One rank of the node reports, the others keep quiet and see to it that the end comes.
void Watchdog::State::end_job(const std::string& message) {
  std::int64_t nobody = 0;
  if (!slots.header().ending_ns.compare_exchange_strong(nobody, monotonic_ns())) return;
  alarm(2);  // ends this process even when the log or MPI hang
  log_error("watchdog: {}; the job ends", message);
  mpi_.abort(kExitLostRanks);
}

void Watchdog::State::kill_node() {
  for (const ActivitySlot& slot : slots.all()) {
    const bool mine = &slot == &slots.own();
    if (mine || slot.state != SlotState::running || slot.pid_namespace != pid_namespace_) continue;
    if (slot.pid > 0) kill(slot.pid, SIGKILL);
  }
  kill(getpid(), SIGKILL);
}

// ---- public ------------------------------------------------------------------------------------

Watchdog::Watchdog(MpiEnvironment& mpi) : state_(std::make_unique<State>(mpi)) {}
Watchdog::~Watchdog() = default;

void Watchdog::set_limit(double seconds) {
  state_->limit_ns = static_cast<std::int64_t>(seconds * kSecond);
}

void Watchdog::job_ends() {
  std::int64_t nobody = 0;
  state_->slots.header().ending_ns.compare_exchange_strong(nobody, monotonic_ns());
}

}  // namespace neox
