#pragma once
// What the saves of a running job do to its checkpoint directory, as the kernel reports it.

#include <chrono>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace neox::testing {

/// Hears of every temporary file that is made and every rename to a checkpoint's name, in order and
/// without gaps, from its construction on.
class SaveWatch {
 public:
  explicit SaveWatch(std::string directory);
  ~SaveWatch();
  SaveWatch(const SaveWatch&) = delete;
  SaveWatch& operator=(const SaveWatch&) = delete;

  /// Takes in what has happened; waits up to `seconds` for something to happen.
  void update(double seconds = 0.0);

  /// Saves whose file was made, whether or not they are through.
  int begun() const { return begun_; }
  /// Name of the temporary file that exists now; empty: no save is under way.
  const std::string& under_way() const { return under_way_; }
  /// Steps whose file was renamed to its final name.
  const std::set<std::int64_t>& committed() const { return committed_; }
  /// Seconds from the temporary file to the rename, of every save seen whole.
  const std::vector<double>& durations() const { return durations_; }

 private:
  void take_in(std::uint32_t mask, const std::string& name);

  std::string directory_;
  int inotify_ = -1;
  int begun_ = 0;
  std::string under_way_;
  std::chrono::steady_clock::time_point begun_at_{};
  std::set<std::int64_t> committed_;
  std::vector<double> durations_;
};

}  // namespace neox::testing
