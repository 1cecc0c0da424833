#pragma once
// MPI bootstrap: MPI_Init .. MPI_Finalize, the world group, and the way a failing rank ends the
// job.

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace neox {

/// Exactly one per process, first thing in main(). Works without mpirun as a world of one. Where
/// MPI already runs, it is neither started nor ended. Throws Error without MPI_THREAD_MULTIPLE.
///   MpiEnvironment mpi(&argc, &argv);
///   try { ... } catch (const std::exception& e) { print it; mpi.abort(1); }
class MpiEnvironment {
 public:
  MpiEnvironment(int* argc, char*** argv);
  ~MpiEnvironment();
  MpiEnvironment(const MpiEnvironment&) = delete;
  MpiEnvironment& operator=(const MpiEnvironment&) = delete;

  Communicator& world() { return *world_; }
  int rank() const { return world_->rank(); }
  int size() const { return world_->size(); }
  const std::string& host() const { return host_; }
  /// Ranks on this rank's node.
  Communicator& node() { return *node_; }
  int local_size() const { return node_->size(); }
  int local_rank() const { return node_->rank(); }

  /// Ends every rank of the job at once. Call on a failure that other ranks can't know of.
  [[noreturn]] void abort(int exit_code);

 private:
  std::unique_ptr<Communicator> world_, node_;
  std::string host_;
  int uncaught_ = 0;
  bool owner_ = false;
};

/// The group of all ranks, over MPI; a self communicator when there is one. MPI must be running.
std::unique_ptr<Communicator> make_world_communicator();

/// "Open MPI v4.1.4": the library that runs, in one line.
std::string mpi_library_version();

}  // namespace neox
