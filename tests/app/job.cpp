#include "tests/app/job.h"

#include <array>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>

namespace neox::testing {
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void nap() {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

// Empty when the process is gone, also in the middle of reading.
std::string contents(const fs::path& path) {
  std::string text;
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return text;
  std::array<char, 4096> buffer{};
  for (ssize_t got = 0; (got = ::read(file, buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
  ::close(file);
  return text;
}

// Value of a variable in the environment a process was started with.
std::string variable(const fs::path& process, const std::string& name) {
  const std::string environment = '\0' + contents(process / "environ");
  const std::size_t at = environment.find('\0' + name + '=');
  return at == std::string::npos ? "" : environment.c_str() + at + name.size() + 2;
}

bool alive(pid_t pid) {
  const std::string stat = contents(fmt::format("/proc/{}/stat", pid));
  const std::size_t end = stat.rfind(") ");
  return end != std::string::npos && stat[end + 2] != 'Z' && stat[end + 2] != 'X';
}

}  // namespace

Job::Job(const Workspace& workspace, const std::string& command, const std::string& folder)
    : workspace_(workspace), shared_memory_(fs::path("/dev/shm") / workspace.path().filename()) {
  // Ranks that are killed leave their segments there.
  std::error_code ignored;
  fs::create_directory(shared_memory_, ignored);
  fs::create_directories(workspace.path() / folder);
  workspace.write(".job", "export PATH=" NEOX_BINARY_DIR
                          "/bin:$PATH OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                          "OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
                          "OMP_NUM_THREADS=1 OMPI_MCA_btl_vader_backing_directory='" +
                              shared_memory_.string() + "' NEOX_TEST_JOB='" +
                              workspace.path().string() + "'\nexec " + command + "\n");
  const std::string shell = fmt::format(
      "cd '{}' && exec bash '{}' > '{}' 2> '{}' < /dev/null", (workspace.path() / folder).string(),
      workspace.file(".job"), workspace.file(".job-out"), workspace.file(".job-err"));
  workspace.write(".job-err", "");
  launcher_ = fork();
  if (launcher_ == 0) {
    execl("/bin/bash", "bash", "-c", shell.c_str(), nullptr);
    _exit(127);
  }
}

Job::~Job() {
  for (const char* program : {"neox_train", "fault_cases"}) {
    for (const auto& [rank, pid] : ranks(program)) ::kill(pid, SIGKILL);
  }
  if (!reaped_) {
    ::kill(launcher_, SIGKILL);
    waitpid(launcher_, nullptr, 0);
  }
  std::error_code ignored;
  fs::remove_all(shared_memory_, ignored);
}

std::map<int, pid_t> Job::ranks(const std::string& program) const {
  std::map<int, pid_t> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (contents(entry.path() / "comm") != program + "\n") continue;
    const auto pid = static_cast<pid_t>(std::stol(name));
    if (variable(entry.path(), "NEOX_TEST_JOB") != workspace_.path() || !alive(pid)) continue;
    const std::string rank = variable(entry.path(), "OMPI_COMM_WORLD_RANK");
    if (!rank.empty()) found[std::stoi(rank)] = pid;
  }
  return found;
}

bool Job::wait_for_ranks(int count, double seconds, const std::string& program) const {
  for (const auto start = Clock::now(); since(start) < seconds; nap()) {
    if (static_cast<int>(ranks(program).size()) == count) return true;
  }
  return false;
}

bool Job::wait_for_text(const std::string& text, double seconds) {
  for (const auto start = Clock::now(); since(start) < seconds; nap()) {
    if (err().find(text) != std::string::npos) return true;
    if (!running()) return false;
  }
  return false;
}

bool Job::running() {
  if (reaped_) return false;
  int status = 0;
  if (waitpid(launcher_, &status, WNOHANG) != launcher_) return true;
  reaped_ = true;
  exit_code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

double Job::wait(double seconds, const std::string& program) {
  for (const auto start = Clock::now(); since(start) < seconds; nap()) {
    if (!running() && ranks(program).empty()) return since(start);
  }
  return -1;
}

void Job::kill_launcher() {
  if (!running()) return;
  ::kill(launcher_, SIGKILL);
  while (running()) nap();
}

bool Job::launcher_crashed() const {
  return err().find(fmt::format(":{}] *** Process received signal ***", launcher_)) !=
         std::string::npos;
}

std::string Job::describe() const {
  std::string text;
  const auto add = [&](const std::string& name, pid_t pid) {
    text += fmt::format("{}: {}  in {}\n", name, contents(fmt::format("/proc/{}/stat", pid)),
                        contents(fmt::format("/proc/{}/wchan", pid)));
  };
  if (!reaped_) add("launcher", launcher_);
  for (const auto& [rank, pid] : ranks()) add(fmt::format("rank {}", rank), pid);
  return text;
}

std::string Job::err() const {
  return workspace_.read(".job-err");
}

}  // namespace neox::testing
