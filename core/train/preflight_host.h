#pragma once
// What a preflight reads from the operating system, on this rank's node.

#include <cstdint>
#include <string>

#include "core/train/preflight_facts.h"

namespace neox {

/// Fills cores, node_cores, threads, open_files, shm_free and host_available.
void measure_host(RankFacts& facts);

/// Bytes that this process and its neighbours may still take: MemAvailable, or what the memory
/// limits of its control groups (version 1 or 2) leave, page cache counted as free. -1 when
/// nothing says. `root`: of the file system, for tests.
std::int64_t memory_available(const std::string& root = "");

/// Bytes free to this user in the file system of `path`; -1 when it cannot be told.
std::int64_t disk_free(const std::string& path);

/// Writes and syncs a file of `bytes` in the directory; seconds. The file has no name when the
/// writing begins, so nothing is left behind whatever happens. Throws Error.
double timed_write(const std::string& directory, std::int64_t bytes);

/// A file that exists as long as this does.
class MarkerFile {
 public:
  /// In the directory, with a name that clean-up after saves knows. Throws Error.
  explicit MarkerFile(const std::string& directory);
  ~MarkerFile();
  MarkerFile(const MarkerFile&) = delete;
  MarkerFile& operator=(const MarkerFile&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Whether `path` is there, now or, for the caches of a network file system, within `seconds`.
bool appears(const std::string& path, double seconds);

}  // namespace neox
