#pragma once
// Who of a group has come to a point.

#include <memory>
#include <vector>

#include <mpi.h>

namespace neox {

/// All ranks of the group make one; nothing here blocks, so whoever waits can give up and say who
/// is missing: rank 0 collects, and tells those who came. Roll calls with the same tag must follow
/// one another in the same order on all ranks.
class RollCall {
 public:
  RollCall(MPI_Comm group, int tag);
  /// Messages under way are left behind.
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  /// This rank has come.
  void here();
  /// Makes progress. True: all have come, or somebody has given up.
  bool over();
  /// Rank 0: ends the roll call without those who have not come. Does nothing elsewhere.
  void give_up();
  /// After over(): ranks that had not come when rank 0 gave up (at most 64 of them).
  const std::vector<int>& missing() const { return missing_; }

 private:
  struct Messages;
  void announce();

  MPI_Comm group_;
  int tag_, rank_ = 0, size_ = 1;
  bool here_ = false, over_ = false;
  std::vector<int> missing_;
  std::unique_ptr<Messages> messages_;
};

}  // namespace neox
