#pragma once
// The frame around every program's main(): errors become one clear message and an exit code.

#include <functional>
#include <string>

#include "comm/mpi.h"
#include "comm/watchdog.h"

namespace neox {

/// The work of a program; returns the exit code.
using ProgramBody = std::function<int(int argc, char** argv)>;
using MpiProgramBody =
    std::function<int(int argc, char** argv, MpiEnvironment& mpi, Watchdog& watchdog)>;

/// Runs `body` and returns the program's exit code. What it throws is printed to stderr as
/// "<name>: <message>"; with --verbose (or set_verbose_errors) also the place in the code that
/// raised it. Refuses to start on a CPU that this binary was not built for.
int run_program(const std::string& name, int argc, char** argv, const ProgramBody& body);

/// The same with MPI around it. With several ranks the message names its rank. When all ranks fail
/// with the same message, only rank 0 prints it, and the ranks leave together; a rank that fails
/// alone (no other arrives within two seconds) prints its own and ends the whole job. A watchdog
/// ends it when a rank vanishes, and when one stalls once `body` has set a limit.
int run_mpi_program(const std::string& name, int argc, char** argv, const MpiProgramBody& body);

/// Also print the place of an error in the code: for programs that learn it from a configuration
/// file.
void set_verbose_errors(bool verbose);

/// "<name>: <message>[ (<file>:<line>)]"; `rank` < 0: not named; every line of the message begins
/// with the name. For the exception being handled.
std::string describe_current_exception(const std::string& name, int rank, bool verbose);

}  // namespace neox
