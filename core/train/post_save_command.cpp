#include "core/train/post_save_command.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <spawn.h>
#include <string_view>
#include <sys/wait.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "comm/activity.h"
#include "core/base/log.h"

namespace neox {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPause = std::chrono::milliseconds(20);
constexpr auto kGrace = std::chrono::seconds(2);  // between SIGTERM and SIGKILL

bool belongs_to_launcher(std::string_view variable) {
  constexpr std::array<std::string_view, 7> kPrefixes = {
      "OMPI_COMM_", "OMPI_MCA_", "OMPI_UNIVERSE_", "OMPI_APP_", "PMIX_", "PMI_", "PRTE_"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return variable.starts_with(prefix); });
}

std::vector<std::string> environment_of(std::int64_t step, const std::string& path) {
  std::vector<std::string> variables;
  for (char** at = environ; *at != nullptr; ++at) {
    if (!belongs_to_launcher(*at)) variables.emplace_back(*at);
  }
  variables.push_back("NEOX_CHECKPOINT=" + path);
  variables.push_back(fmt::format("NEOX_CHECKPOINT_STEP={}", step));
  return variables;
}

// posix_spawn, not fork: this process holds MPI's, CUDA's and other threads' state.
int spawn(const std::string& command, std::vector<std::string> environment, pid_t& child) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, STDERR_FILENO, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t usual, none;
  sigfillset(&usual);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &usual);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
  std::string shell = "sh", option = "-c", text = command;
  std::array<char*, 4> arguments = {shell.data(), option.data(), text.data(), nullptr};
  std::vector<char*> variables;
  for (std::string& variable : environment) variables.push_back(variable.data());
  variables.push_back(nullptr);
  const int error =
      posix_spawn(&child, "/bin/sh", &files, &attributes, arguments.data(), variables.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

}  // namespace

PostSaveCommand::PostSaveCommand(std::string command, std::chrono::duration<double> limit)
    : command_(std::move(command)), limit_(limit) {}

void PostSaveCommand::add(std::int64_t step, std::string path) {
  jobs_.push_back({step, std::move(path)});
  poll();
}

void PostSaveCommand::start_next() {
  while (running_ < 0 && !jobs_.empty()) {
    const Job& job = jobs_.front();
    const int error = spawn(command_, environment_of(job.step, job.path), running_);
    if (error == 0) return;
    running_ = -1;
    log_warning("checkpoint.post_save_command could not be started for {}: {}", job.path,
                std::generic_category().message(error));
    jobs_.pop_front();
  }
}

void PostSaveCommand::poll() {
  if (running_ > 0) {
    int status = 0;
    const pid_t ended = waitpid(running_, &status, WNOHANG);
    if (ended == 0 || (ended < 0 && errno == EINTR)) return;
    if (ended == running_) report(status);
    running_ = -1;
    jobs_.pop_front();
  }
  start_next();
}

void PostSaveCommand::report(int status) const {
  const std::string& path = jobs_.front().path;
  if (WIFSIGNALED(status)) {
    log_warning("checkpoint.post_save_command was killed by signal {} for {}", WTERMSIG(status),
                path);
  } else if (WEXITSTATUS(status) != 0) {
    log_warning("checkpoint.post_save_command ended with exit code {} for {}", WEXITSTATUS(status),
                path);
  } else {
    log_debug("checkpoint.post_save_command is done with {}", path);
  }
}

bool PostSaveCommand::needs(std::int64_t step) const {
  return std::any_of(jobs_.begin(), jobs_.end(), [&](const Job& job) { return job.step == step; });
}

void PostSaveCommand::finish() {
  poll();
  if (jobs_.empty()) return;
  log_info("waiting for checkpoint.post_save_command ({} to go, at most {:g} s)", jobs_.size(),
           limit_.count());
  const auto start = Clock::now();
  while (!jobs_.empty() && Clock::now() - start < limit_) {
    Activity::tick();
    std::this_thread::sleep_for(kPause);
    poll();
  }
  if (jobs_.empty()) return;
  for (const Job& job : jobs_) {
    log_warning(
        "checkpoint.post_save_command was not done with {} after {:g} s "
        "(checkpoint.post_save_timeout): do it by hand",
        job.path, limit_.count());
  }
  end_running();
}

void PostSaveCommand::end_running() {
  const auto start = Clock::now();
  int status = 0;
  kill(-running_, SIGTERM);
  while (waitpid(running_, &status, WNOHANG) == 0) {
    if (Clock::now() - start > kGrace) kill(-running_, SIGKILL);
    std::this_thread::sleep_for(kPause);
  }
  running_ = -1;
  jobs_.clear();
}

}  // namespace neox
