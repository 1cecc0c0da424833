#include "io/checkpoint/directory.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <system_error>
#include <unistd.h>

#include "core/base/log.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/posix_file.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTemporary = ".tmp-", kRemoved = ".del-";

std::string host_name() {
  char name[256] = {};
  std::string host = gethostname(name, sizeof name - 1) == 0 ? name : "unknown";
  std::replace(host.begin(), host.end(), '-', '_');  // '-' separates the parts of the name
  return host;
}

std::string job_name() {
  if (const char* id = std::getenv("SLURM_JOB_ID"); id != nullptr && *id != '\0') {
    return std::string("slurm") + id;
  }
  return fmt::format("{}.{}", host_name(), getpid());
}

std::optional<std::int64_t> step_of(const std::string& name) {
  constexpr std::string_view kPrefix = "step", kSuffix = ".h5";
  if (!name.starts_with(kPrefix) || !name.ends_with(kSuffix)) return std::nullopt;
  const std::string digits =
      name.substr(kPrefix.size(), name.size() - kPrefix.size() - kSuffix.size());
  const bool number =
      digits.size() >= 10 && digits.size() <= 18 &&
      std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isdigit(c); });
  if (!number) return std::nullopt;
  return std::stoll(digits);
}

// ".tmp-step0000001000-node04.1234-a1b2c3.h5" -> "node04.1234"
std::string job_of_leftover(const std::string& name) {
  const std::size_t end = name.rfind('-');
  const std::size_t begin = end == std::string::npos ? end : name.rfind('-', end - 1);
  return begin == std::string::npos ? "" : name.substr(begin + 1, end - begin - 1);
}

bool is_dead_process_here(const std::string& job) {
  const std::size_t dot = job.rfind('.');
  if (dot == std::string::npos || job.substr(0, dot) != host_name()) return false;
  const long pid = std::strtol(job.c_str() + dot + 1, nullptr, 10);
  if (pid <= 0) return false;
  if (kill(static_cast<pid_t>(pid), 0) == -1) return errno == ESRCH;
  // A killed launcher leaves its processes to init, which may take its time to reap them.
  std::ifstream stat(fmt::format("/proc/{}/stat", pid));
  std::string text;
  std::getline(stat, text);
  const std::size_t name_end = text.rfind(") ");
  return name_end != std::string::npos && text.compare(name_end + 2, 1, "Z") == 0;
}

bool may_remove(const fs::path& path) {
  const std::string job = job_of_leftover(path.filename().string());
  const auto age = fs::file_time_type::clock::now() - fs::last_write_time(path);
  if (job != job_name() && !is_dead_process_here(job) && age < std::chrono::hours(24)) return false;
  return PosixFile(path.string(), O_RDWR).try_lock();
}

std::string hexadecimal_nonce() {
  std::random_device device;
  return fmt::format("{:08x}", device());
}

}  // namespace

std::string checkpoint_file_name(std::int64_t step) {
  return fmt::format("step{:010}.h5", step);
}

std::string temporary_file_name(std::int64_t step) {
  return fmt::format("{}step{:010}-{}-{}.h5", kTemporary, step, job_name(), hexadecimal_nonce());
}

void remove_leftovers(const std::string& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kTemporary) && !name.starts_with(kRemoved)) continue;
    try {
      if (!may_remove(entry.path())) continue;
      remove_file(entry.path().string());
      log_info("removed {}, left behind by an unfinished save", entry.path().string());
    } catch (const std::exception& failure) {
      log_warning("a leftover of an unfinished save stays: {}", failure.what());
    }
  }
}

std::string remove_old_checkpoints(const std::string& directory, std::int64_t step,
                                   const SaveOptions& options) {
  if (options.keep_last <= 0) return "";
  try {
    std::int64_t counted = 0;
    for (const FoundCheckpoint& found : find_checkpoints(directory)) {
      if (found.step > step) continue;
      if (!fs::is_regular_file(found.path)) continue;  // no checkpoint, and not ours
      const bool among_last = counted < options.keep_last;
      if (!options.discarded || !options.discarded(found.step)) ++counted;
      if (among_last || (options.keep && options.keep(found.step))) continue;
      // The new name first: a half-removed file must not look like a checkpoint.
      const std::string doomed = fmt::format("{}/{}step{:010}-{}-{}.h5", directory, kRemoved,
                                             found.step, job_name(), hexadecimal_nonce());
      rename_file(found.path, doomed);
      remove_file(doomed);
    }
    sync_directory(directory);
  } catch (const std::exception& failure) {
    return fmt::format("an old checkpoint could not be removed: {}", failure.what());
  }
  return "";
}

std::string write_latest(const std::string& directory, const std::string& file_name) {
  const std::string temporary =
      fmt::format("{}/{}latest-{}-{}", directory, kTemporary, job_name(), hexadecimal_nonce());
  try {
    PosixFile file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
    const std::string line = file_name + "\n";
    file.write(line.data(), static_cast<std::int64_t>(line.size()), 0);
    file.sync();
    file.close();
    rename_file(temporary, directory + "/latest");
    sync_directory(directory);
  } catch (const std::exception& failure) {
    unlink(temporary.c_str());
    return fmt::format("the checkpoint is safe, but {}/latest was not updated: {}", directory,
                       failure.what());
  }
  return "";
}

std::vector<FoundCheckpoint> find_checkpoints(const std::string& directory) {
  std::vector<FoundCheckpoint> found;
  std::error_code error;
  require(!fs::is_regular_file(directory, error),
          "{} is a file; give the directory that holds the checkpoints", directory);
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (const auto step = step_of(entry.path().filename().string())) {
      found.push_back({*step, entry.path().string()});
    }
  }
  require(!error || error == std::errc::no_such_file_or_directory,
          "the checkpoint directory {} cannot be listed: {}", directory, error.message());
  std::sort(found.begin(), found.end(),
            [](const FoundCheckpoint& a, const FoundCheckpoint& b) { return a.step > b.step; });
  return found;
}

}  // namespace neox
