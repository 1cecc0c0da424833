// neox_convert: looks at checkpoints, verifies and compares them; converts models and
// configurations.

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

#include "comm/mpi.h"
#include "core/base/log.h"
#include "core/config/neox_yaml.h"
#include "core/config/option.h"
#include "core/config/parse.h"
#include "core/train/checkpoint_tools.h"
#include "core/train/hf_convert.h"
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
    "  neox_convert from-hf HF_DIR DIR           Hugging Face model folder -> checkpoint, weights\n"
    "                                            only, with the tokenizer's files\n"
    "  neox_convert to-hf FILE|DIR HF_DIR        checkpoint -> Hugging Face model folder\n"
    "  neox_convert from-yaml FILE...            GPT-NeoX configuration -> INI, on stdout\n"
    "\n"
    "neox_convert COMMAND --help lists a command's options. Of a directory, the newest checkpoint\n"
    "is taken (verify: all of them); --step N takes another.";

struct Request {
  std::int64_t step = -1, ranks = 0;
  bool show_config = false, summary = false;
  double tolerance = 0;
  bool skip_check = false;
  std::string precision, dtype, max_shard_size = "5GB";
};

Program general_program() {
  Program program;
  program.name = "neox_convert";
  program.summary = "Looks at checkpoints; converts models and configurations.";
  program.usage = kCommands;
  program.positional = "COMMAND";
  return program;
}

std::vector<std::string> all_sections() {
  std::vector<std::string> names;
  for (const Section& section : sections()) names.emplace_back(section.name);
  return names;
}

// Fills in the commands that convert; false for others.
bool conversion_program(const std::string& command, Request& request, Program& program) {
  const ProgramOption skip_check = {
      "skip-check", &request.skip_check,
      "Do not compare logits before and after, which takes the whole model's memory"};
  if (command == "from-hf") {
    program.summary =
        "Makes a checkpoint of a Hugging Face model folder (safetensors): weights only, step 0.";
    program.positional = "HF_DIR DIR";
    program.options = {
        {"precision", &request.precision,
         "fp32 or bfloat16 [default: bfloat16 where all tensors are, else fp32]", "TYPE"},
        skip_check};
  } else if (command == "to-hf") {
    program.summary = "Makes a Hugging Face model folder (safetensors) of a checkpoint.";
    program.positional = "FILE|DIR HF_DIR";
    program.options.push_back({"dtype", &request.dtype,
                               "float32, bfloat16 or float16 [default: the checkpoint's]", "TYPE"});
    program.options.push_back(
        {"max-shard-size", &request.max_shard_size, "Largest file [default: 5GB]", "SIZE"});
    program.options.push_back(skip_check);
  } else if (command == "from-yaml") {
    program.summary =
        "Translates GPT-NeoX configurations, merged as deepy.py does, to an INI file on stdout.";
    program.positional = "FILE...";
    program.options.clear();
    program.sections = all_sections();
  } else {
    return false;
  }
  return true;
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
  } else if (!conversion_program(command, request, program)) {
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

std::optional<DType> dtype_of(const std::string& option, const std::string& text, bool half) {
  if (text.empty()) return std::nullopt;
  if (text == "fp32" || text == "float32" || text == "f32") return DType::f32;
  if (text == "bf16" || text == "bfloat16") return DType::bf16;
  if (half && (text == "fp16" || text == "float16" || text == "f16")) return DType::f16;
  fail("--{} {}: expected {}", option, text,
       half ? "float32, bfloat16 or float16" : "fp32 or bfloat16");
}

int run_conversion(const std::string& name, const Request& request, const ParsedCommand& command) {
  const std::vector<std::string>& files = command.positional;
  if (name == "from-yaml") {
    std::fputs(ini_from_neox_yaml(files, command).c_str(), stdout);
  } else if (name == "from-hf") {
    FromHfOptions options;
    options.precision = dtype_of("precision", request.precision, false);
    options.check = !request.skip_check;
    std::fputs(convert_from_hf(files[0], files[1], options).c_str(), stdout);
  } else {
    const auto self = make_self_communicator();
    CheckpointReader reader = open(*self, files[0], request.step);
    ToHfOptions options;
    options.dtype = dtype_of("dtype", request.dtype, true);
    options.max_shard_bytes = parse_byte_count(request.max_shard_size);
    options.check = !request.skip_check;
    std::fputs(convert_to_hf(reader, files[1], options).c_str(), stdout);
  }
  return 0;
}

void check_arguments(const std::string& name, const ParsedCommand& command) {
  const std::size_t given = command.positional.size();
  if (name == "from-yaml") {
    require(given >= 1, "neox_convert from-yaml takes one or more files; none given");
    return;
  }
  const bool two = name == "diff" || name == "from-hf" || name == "to-hf";
  const char* what = name == "diff"      ? "two checkpoints"
                     : name == "from-hf" ? "a Hugging Face folder and a new folder"
                     : name == "to-hf"   ? "a checkpoint and a new folder"
                                         : "one file or directory";
  require(given == (two ? 2 : 1), "neox_convert {} takes {}; {} given", name, what, given);
  require(name == "merge-config" || command.origins.empty(),
          "neox_convert {} has no use for a configuration (--config)", name);
}

int run_command(const std::string& name, const Request& request, const ParsedCommand& command,
                MpiEnvironment& mpi) {
  const std::vector<std::string>& files = command.positional;
  check_arguments(name, command);
  if (name == "verify") {
    const VerifyResult result = verify_checkpoints(mpi.world(), files[0], request.step);
    if (mpi.rank() == 0) std::fputs(result.text.c_str(), stdout);
    return result.damaged > 0 ? 1 : 0;
  }
  require(mpi.size() == 1, "neox_convert {} runs on one rank; it was started on {}", name,
          mpi.size());
  if (name == "from-hf" || name == "to-hf" || name == "from-yaml") {
    return run_conversion(name, request, command);
  }
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
    fail(
        "{}; give inspect, verify, diff, merge-config, from-hf, to-hf or from-yaml (--help "
        "explains)",
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
