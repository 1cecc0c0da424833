// neox_convert: looks at checkpoints, verifies and compares them.

#include <cstdio>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/config/option.h"
#include "core/config/parse.h"
#include "core/train/checkpoint_tools.h"
#include "core/train/program.h"

namespace {

using namespace neox;

constexpr const char* kCommands =
    "\n"
    "  neox_convert inspect FILE|DIR             what a checkpoint holds\n"
    "  neox_convert verify FILE|DIR              read every byte; exit code 1 when one is damaged\n"
    "  neox_convert diff A B                     compare two; exit code 1 when they differ\n"
    "  neox_convert merge-config FILE|DIR        the configuration of a checkpoint, as INI, with\n"
    "                                            --config FILE and --section.option VALUE over it\n"
    "\n"
    "neox_convert COMMAND --help lists a command's options. Of a directory, the newest checkpoint\n"
    "is taken (verify: all of them); --step N takes another.";

struct Request {
  std::int64_t step = -1, ranks = 0;
  bool show_config = false, summary = false;
  double tolerance = 0;
};

Program general_program() {
  Program program;
  program.name = "neox_convert";
  program.summary = "Looks at checkpoints, verifies and compares them.";
  program.usage = kCommands;
  program.positional = "COMMAND";
  return program;
}

std::vector<std::string> all_sections() {
  std::vector<std::string> names;
  for (const Section& section : sections()) names.emplace_back(section.name);
  return names;
}

// A program of its own for each command; nothing of name "" for unknown ones.
Program program_of(const std::string& command, Request& request) {
  Program program;
  program.name = "neox_convert " + command;
  program.positional = "FILE|DIR";
  program.options = {{"step", &request.step, "Step to take from a directory", "N"}};
  if (command == "inspect") {
    program.summary = "Says what a checkpoint holds: step, model, sizes, table of contents.";
    program.options.push_back(
        {"show-config", &request.show_config, "Print the stored configuration too"});
    program.options.push_back({"summary", &request.summary, "Leave the table of contents out"});
  } else if (command == "verify") {
    program.summary = "Reads every byte and checks every sum; under mpirun, all ranks share it.";
  } else if (command == "diff") {
    program.summary = "Compares configuration, facts and tensors of two checkpoints.";
    program.positional = "FILE|DIR FILE|DIR";
    program.options.push_back({"tolerance", &request.tolerance,
                               "Largest difference that counts as none, relative to the tensor's "
                               "largest magnitude",
                               "X"});
  } else if (command == "merge-config") {
    program.summary = "Prints a checkpoint's configuration with files and options put over it.";
    program.sections = all_sections();
    program.options.push_back(
        {"ranks", &request.ranks, "Check it for so many ranks, and derive batch sizes anew", "N"});
  } else {
    program.name.clear();
  }
  return program;
}

int answer(const ParsedCommand& command) {
  std::fputs(command.answer.c_str(), stdout);
  return 0;
}

CheckpointReader open(Communicator& self, const std::string& where, std::int64_t step) {
  return CheckpointReader(self, checkpoint_file_of(where, step));
}

int run_command(const std::string& name, const Request& request, const ParsedCommand& command,
                MpiEnvironment& mpi) {
  const std::vector<std::string>& files = command.positional;
  const std::size_t wanted = name == "diff" ? 2 : 1;
  require(files.size() == wanted, "neox_convert {} takes {}; {} given", name,
          wanted == 2 ? "two checkpoints" : "one file or directory", files.size());
  require(name == "merge-config" || command.origins.empty(),
          "neox_convert {} has no use for a configuration (--config)", name);
  if (name == "verify") {
    const VerifyResult result = verify_checkpoints(mpi.world(), files[0], request.step);
    if (mpi.rank() == 0) std::fputs(result.text.c_str(), stdout);
    return result.damaged > 0 ? 1 : 0;
  }
  require(mpi.size() == 1, "neox_convert {} runs on one rank; it was started on {}", name,
          mpi.size());
  const auto self = make_self_communicator();
  const CheckpointReader reader = open(*self, files[0], request.step);
  if (name == "inspect") {
    std::fputs(inspect_text(reader, {request.show_config, request.summary}).c_str(), stdout);
  } else if (name == "merge-config") {
    require(request.ranks >= 0, "--ranks {}: expected at least 1", request.ranks);
    std::fputs(merged_ini(reader, command, request.ranks).c_str(), stdout);
  } else {
    require(request.tolerance >= 0, "--tolerance {}: expected at least 0", request.tolerance);
    const CheckpointReader other = open(*self, files[1], request.step);
    const DiffResult result = diff_checkpoints(reader, other, request.tolerance);
    std::fputs(result.text.c_str(), stdout);
    return result.equal ? 0 : 1;
  }
  return 0;
}

int convert(int argc, char** argv, MpiEnvironment& mpi, Watchdog&) {
  const std::string name = argc > 1 ? argv[1] : "";
  Request request;
  const Program program = program_of(name, request);
  if (program.name.empty()) {
    const ParsedCommand general = parse_command_line(argc, argv, general_program());
    if (!general.answer.empty()) return mpi.rank() == 0 ? answer(general) : 0;
    fail("{}; give inspect, verify, diff or merge-config (--help explains)",
         general.positional.empty() ? "no command"
                                    : "unknown command '" + general.positional.front() + "'");
  }
  const ParsedCommand command = parse_command_line(argc - 1, argv + 1, program);
  if (!command.answer.empty()) return mpi.rank() == 0 ? answer(command) : 0;
  return run_command(name, request, command, mpi);
}

}  // namespace

int main(int argc, char** argv) {
  return neox::run_mpi_program("neox_convert", argc, argv, convert);
}
