// neox_train: trains a model as its configuration says.

#include <cstdio>

#include "comm/mpi.h"
#include "core/base/exit_code.h"
#include "core/base/log.h"
#include "core/base/version.h"
#include "core/config/describe.h"
#include "core/config/parse.h"
#include "core/config/resolve.h"
#include "core/train/dry_run.h"
#include "core/train/preflight.h"
#include "core/train/program.h"
#include "core/train/run_vocabulary.h"
#include "core/train/trainer.h"

namespace {

using namespace neox;

Program describe_program(DryRunRequest& dry_run, bool& preflight, bool& profile) {
  Program program;
  program.name = "neox_train";
  program.summary = "Trains a transformer language model.";
  program.usage =
      "mpirun -np N neox_train --config FILE [--config FILE ...] [--section.option VALUE ...]";
  program.sections = {"model", "parallel", "precision", "batch",     "optimizer",  "schedule",
                      "train", "system",   "data",      "tokenizer", "checkpoint", "guards",
                      "logging"};
  program.options = dry_run.options();
  program.options.push_back(
      {"preflight", &preflight,
       "check all nodes instead of training; exit code 1: an error, 84: a slow node"});
  program.options.push_back({"profile", &profile, "same as --logging.profile"});
  return program;
}

void set_up_logging(const Config& config, const MpiEnvironment& mpi) {
  set_log_rank(mpi.rank(), mpi.size());
  set_verbose_errors(config.logging.verbose);
  if (config.logging.verbose) set_log_level(LogLevel::debug);
  log_info("neox {} on {} rank{}, host {}", version(), mpi.size(), mpi.size() == 1 ? "" : "s",
           mpi.host());
}

int train(int argc, char** argv, MpiEnvironment& mpi, Watchdog& watchdog) {
  require(argc > 1, "no configuration: give --config FILE (--help lists all options)");
  DryRunRequest dry_run;
  bool preflight = false, profile = false;
  const ParsedCommand command =
      parse_command_line(argc, argv, describe_program(dry_run, preflight, profile));
  if (!command.answer.empty()) {
    if (mpi.rank() == 0) std::fputs(command.answer.c_str(), stdout);
    return 0;
  }
  dry_run.check();
  require(!dry_run.wanted || !command.print_config,
          "--dry-run and --print-config exclude each other");
  require(!preflight || !(dry_run.wanted || command.print_config),
          "--preflight and {} exclude each other", dry_run.wanted ? "--dry-run" : "--print-config");
  if (dry_run.wanted) {
    if (mpi.rank() == 0) {
      std::fputs(dry_run_report(dry_run, command, mpi.size()).c_str(), stdout);
    }
    return 0;
  }
  Config config = command.config;
  config.logging.profile = config.logging.profile || profile;
  resolve(config, mpi.size(), command.origins);
  complete_from_tokenizer(config);
  const std::string text = effective_ini(config, command.config);
  if (command.print_config) {
    if (mpi.rank() == 0) std::fputs(text.c_str(), stdout);
    return 0;
  }
  set_up_logging(config, mpi);
  for (const std::string& note : command.notes) log_info("{}", note);
  watchdog.set_limit(config.train.watchdog_timeout);
  if (preflight) {
    const PreflightReport report = run_preflight(mpi.world(), mpi.node(), config, {mpi.host()});
    if (mpi.rank() == 0) std::fputs(report.text.c_str(), stdout);
    std::fflush(stdout);  // a launcher may kill this rank when another has left with such a code
    return report.exit_code;
  }
  Trainer trainer(mpi.world(), mpi.node(), config, text);
  const StopReason reason = trainer.run();
  return reason == StopReason::signal || reason == StopReason::job_end ? kExitStopped : 0;
}

}  // namespace

int main(int argc, char** argv) {
  return neox::run_mpi_program("neox_train", argc, argv, train);
}
