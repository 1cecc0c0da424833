#include <array>
#include <cstdlib>
#include <exception>

#include "comm/abort_hooks.h"
#include "comm/mpi.h"
#include "comm/mpi_internal.h"

namespace neox {

MpiEnvironment::MpiEnvironment(int* argc, char*** argv) : uncaught_(std::uncaught_exceptions()) {
  int running = 0;
  MPI_Initialized(&running);
  if (running == 0) {
    int provided = 0;
    const int code = MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided);
    require(code == MPI_SUCCESS, "MPI could not be started (MPI_Init_thread returned {})", code);
    owner_ = true;
    require(provided == MPI_THREAD_MULTIPLE,
            "this MPI library does not support calls from several threads (it offers level {}, "
            "MPI_THREAD_MULTIPLE is needed): use one built with thread support",
            provided);
  }
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler",
            Collective::host);

  std::array<char, MPI_MAX_PROCESSOR_NAME + 1> name{};
  int length = 0;
  check_mpi(MPI_Get_processor_name(name.data(), &length), "MPI_Get_processor_name",
            Collective::host);
  host_.assign(name.data(), static_cast<std::size_t>(length));

  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node),
            "MPI_Comm_split_type", Collective::host);
  node_ = adopt_communicator(node, "node");
  world_ = make_world_communicator();
}

MpiEnvironment::~MpiEnvironment() {
  const bool unwinding = std::uncaught_exceptions() > uncaught_;
  const bool alone = size() == 1;
  node_.reset();
  world_.reset();
  // MPI_Finalize waits for every rank, and after a failure the others may never come. main() then
  // calls abort(); a process that only returns is taken down by mpirun, which sees the missing
  // call.
  if (owner_ && (alone || !unwinding)) MPI_Finalize();
}

void MpiEnvironment::abort(int exit_code) {
  run_abort_hooks(1.0);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);  // for MPI libraries whose MPI_Abort returns
}

std::string mpi_library_version() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING + 1> text{};
  int length = 0;
  check_mpi(MPI_Get_library_version(text.data(), &length), "MPI_Get_library_version",
            Collective::host);
  const std::string whole(text.data(), static_cast<std::size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));  // who built it follows
}

}  // namespace neox
