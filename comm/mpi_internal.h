#pragma once
// What the MPI sources share. Includes mpi.h, so only source files of comm/ include it.

#include <span>

#include <mpi.h>

#include "comm/communicator.h"

namespace neox {

/// Throws Error with MPI's own text unless `code` is MPI_SUCCESS. peer < 0: the whole group.
void check_mpi(int code, const char* call, Collective operation, int peer = -1);

MPI_Datatype mpi_type(DType dtype);
MPI_Op mpi_op(ReduceOp op);

/// A Communicator that takes `group` over and frees it; of one rank (or MPI_COMM_NULL): a self
/// communicator. Collective over the group.
std::unique_ptr<Communicator> adopt_communicator(MPI_Comm group, const std::string& name);

/// Waits for requests without taking the core from a thread that computes: a few tests in a row,
/// then sleeps that grow in step with the time waited, so that a wait is late by a small share of
/// itself, and many ranks that wait on few cores leave these to the ranks that compute. One per
/// wait.
class Backoff {
 public:
  void pause();

 private:
  int tests_ = 0;
  std::int64_t slept_us_ = 0;
};

/// Tests all of `requests` once; true when all have finished.
bool test_all(std::span<MPI_Request> requests, Collective operation);

/// Asks the kernel to wake this thread soon and run it briefly, so that the sleeps of Backoff mean
/// what they say also next to threads that compute.
void use_short_slices();

}  // namespace neox
