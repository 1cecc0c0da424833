#include "core/train/preflight_host.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <fcntl.h>
#include <fstream>
#include <limits>
#include <sched.h>
#include <sstream>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <omp.h>

#include "comm/activity.h"
#include "core/base/rng.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/posix_file.h"

namespace neox {
namespace {

constexpr std::int64_t kUnknown = -1;

// The number after `key` at the start of a line; kUnknown without one. "max" is no number.
std::int64_t number_in(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    std::int64_t value = 0;
    if (std::istringstream(line.substr(key.size())) >> value) return value;
  }
  return kUnknown;
}

std::int64_t smaller_known(std::int64_t a, std::int64_t b) {
  if (a < 0 || b < 0) return std::max(a, b);
  return std::min(a, b);
}

struct ControlGroupFiles {
  const char* limit;
  const char* used;
  const char* cache;  // in memory.stat: page cache that goes when memory is needed
};

// What the limits of the group at `path` below `mount` and of those around it leave.
std::int64_t left_by_groups(const std::string& mount, std::string path,
                            const ControlGroupFiles& files) {
  std::int64_t left = kUnknown;
  while (true) {
    const std::string folder = mount + path;
    const std::int64_t limit = number_in(folder + "/" + files.limit, "");
    const std::int64_t used = number_in(folder + "/" + files.used, "");
    // Version 1 has a huge number where there is no limit.
    if (limit >= 0 && limit < std::numeric_limits<std::int64_t>::max() / 2 && used >= 0) {
      const std::int64_t cache =
          std::max<std::int64_t>(0, number_in(folder + "/memory.stat", files.cache));
      left = smaller_known(left, std::max<std::int64_t>(0, limit - used + cache));
    }
    const std::size_t slash = path.rfind('/');
    if (path.empty() || slash == std::string::npos) return left;
    path.resize(slash);
  }
}

std::int64_t cores_of_this_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : kUnknown;
}

}  // namespace

std::int64_t memory_available(const std::string& root) {
  std::int64_t available = number_in(root + "/proc/meminfo", "MemAvailable:");
  if (available >= 0) available *= 1024;
  std::ifstream groups(root + "/proc/self/cgroup");
  // "0::/slurm/job_1" (version 2), "9:memory:/slurm/job_1" (version 1)
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) {
      available = smaller_known(available,
                                left_by_groups(root + "/sys/fs/cgroup", path,
                                               {"memory.max", "memory.current", "inactive_file "}));
    } else if (("," + controllers + ",").find(",memory,") != std::string::npos) {
      available =
          smaller_known(available, left_by_groups(root + "/sys/fs/cgroup/memory", path,
                                                  {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                                   "total_inactive_file "}));
    }
  }
  return available;
}

std::int64_t disk_free(const std::string& path) {
  const auto space = disk_space(path);
  return space ? space->bytes : kUnknown;
}

void measure_host(RankFacts& facts) {
  facts.cores = cores_of_this_process();
  facts.node_cores = ::sysconf(_SC_NPROCESSORS_ONLN);
  facts.threads = omp_get_max_threads();
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
    facts.open_files = static_cast<std::int64_t>(
        std::min<rlim_t>(files.rlim_cur, std::numeric_limits<std::int64_t>::max()));
  }
  facts.shm_free = disk_free("/dev/shm");
  facts.host_available = memory_available();
}

double timed_write(const std::string& directory, std::int64_t bytes) {
  const PosixFile file(directory + "/" + temporary_file_name(0), O_RDWR | O_CREAT | O_EXCL);
  remove_file(file.path());
  // Bytes that no file system can compress, or make a hole of.
  std::vector<std::uint32_t> block(std::size_t{1} << 18);
  const RngKey key = RngKey::for_tensor(0, "preflight");
  for (std::size_t i = 0; i < block.size(); ++i) block[i] = philox_word(key, i);
  const auto size = static_cast<std::int64_t>(block.size() * sizeof(std::uint32_t));
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t done = 0; done < bytes; done += size) {
    file.write(block.data(), std::min(size, bytes - done), done);
  }
  file.sync();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  return took.count();
}

MarkerFile::MarkerFile(const std::string& directory)
    : path_(directory + "/" + temporary_file_name(0)) {
  PosixFile(path_, O_WRONLY | O_CREAT | O_EXCL).close();
}

MarkerFile::~MarkerFile() {
  ::unlink(path_.c_str());
}

bool appears(const std::string& path, double seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (::access(path.c_str(), F_OK) != 0) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    Activity::tick();
  }
  return true;
}

}  // namespace neox
