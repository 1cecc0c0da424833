// Plans without training. So far: pipeline schedules, drawn and measured (--show-schedule).
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vector>

#include <boost/program_options.hpp>
#include <fmt/core.h>

#include "core/base/error.h"
#include "core/base/version.h"
#include "core/parallel/schedule.h"
#include "core/parallel/schedule_check.h"
#include "core/parallel/schedule_drawing.h"
#include "core/parallel/schedule_simulator.h"

namespace neox {
namespace {

namespace po = boost::program_options;

constexpr std::int64_t kMaxCost = 1'000'000;

struct CommandLine {
  bool show_schedule = false;
  std::string kind, costs, svg;
  int stages = 1, chunks = 1, micro_batches = 1;
};

constexpr const char* kUsage =
    "Shows how a pipeline schedule runs: a Gantt chart, idle time, memory.\n"
    "\n"
    "  neox_plan --show-schedule --schedule zb-h1 --stages 4 --micro-batches 8 --svg zb-h1.svg\n"
    "\n"
    "The schedule is checked (complete, in order, messages matched, free of deadlock) and played\n"
    "with the given costs. Costs are of one micro-batch in one chunk, so with --chunks 2 a stage\n"
    "takes twice as long for a micro-batch.\n";

po::options_description describe(CommandLine& out) {
  po::options_description all("Options", 100);
  all.add_options()                                                                          //
      ("show-schedule", po::bool_switch(&out.show_schedule), "draw and measure a schedule")  //
      ("schedule", po::value(&out.kind)->default_value("1f1b")->value_name("NAME"),
       "gpipe, 1f1b, interleaved, zb-h1 or forward-only")                                       //
      ("stages", po::value(&out.stages)->default_value(4)->value_name("N"), "pipeline stages")  //
      ("micro-batches", po::value(&out.micro_batches)->default_value(8)->value_name("N"),
       "micro-batches of one step")  //
      ("chunks", po::value(&out.chunks)->default_value(1)->value_name("N"),
       "parts of the model per stage (gpipe, interleaved, forward-only)")  //
      ("costs", po::value(&out.costs)->default_value("1,1,1")->value_name("F,B,W[,M]"),
       "whole numbers: forward, input gradient, weight gradient, and a message")         //
      ("svg", po::value(&out.svg)->value_name("FILE"), "also write the chart as image")  //
      ("help,h", "this text")("version", "the version");
  return all;
}

PassCosts parse_costs(const std::string& text) {
  std::vector<std::int64_t> numbers;
  const char* at = text.data();
  const char* const end = at + text.size();
  bool good = true;
  while (good) {
    std::int64_t number = 0;
    const auto [stop, error] = std::from_chars(at, end, number);
    good =
        error == std::errc() && number >= 0 && number <= kMaxCost && (stop == end || *stop == ',');
    numbers.push_back(number);
    if (stop == end) break;
    at = stop + 1;
  }
  require(good && (numbers.size() == 3 || numbers.size() == 4),
          "--costs {}: expected three or four whole numbers from 0 to {} with commas, as 2,2,1",
          text, kMaxCost);
  require(numbers[0] + numbers[1] + numbers[2] > 0, "--costs {}: one must be larger than 0", text);
  return {numbers[0], numbers[1], numbers[2], numbers.size() == 4 ? numbers[3] : 0};
}

int terminal_width() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 100;
}

std::string title(const Schedule& s, const PassCosts& costs, const Simulation& run) {
  const bool training = s.kind != ScheduleKind::forward_only;
  return fmt::format(
      "{}: {} stages{}, {} micro-batches, costs F {}{}{}; idle {:.1f} %", name_of(s.kind), s.stages,
      s.chunks > 1 ? fmt::format(" x {} chunks", s.chunks) : "", s.micro_batches, costs.forward,
      training ? fmt::format(" B {} W {}", costs.backward_input, costs.backward_weight) : "",
      costs.message > 0 ? fmt::format(" message {}", costs.message) : "",
      100 * run.bubble_fraction(0));
}

void print_figures(const Schedule& s, const PassCosts& costs, const Simulation& run) {
  fmt::print(
      "\nmakespan {}, of it {} at work and {} idle on every stage: {:.1f} % idle, {:.1f} % of "
      "the work\n",
      run.makespan, run.busy[0], run.bubble(0), 100 * run.bubble_fraction(0),
      100.0 * static_cast<double>(run.bubble(0)) / static_cast<double>(run.busy[0]));
  fmt::print("idle time by formula (p stages, m micro-batches, v chunks): {}\n",
             describe_bubble_formula(s, costs));
  fmt::print(
      "\nHeld at most, in units of one micro-batch and one chunk:\n"
      "stage  activations (bound)  gradients kept for W  buffers: receive F B, send F B\n");
  for (int stage = 0; stage < s.stages; ++stage) {
    const StageBuffers b = stage_buffers(s, stage);
    fmt::print("{:5}  {:11} ({:5})  {:20}  {:18} {}, {:6} {}\n", stage, b.activations,
               activation_bound(s, stage), b.output_gradients, b.receive_forward,
               b.receive_backward, b.send_forward, b.send_backward);
  }
}

void show_schedule(const CommandLine& line) {
  const PassCosts given = parse_costs(line.costs);
  const Schedule s =
      make_schedule(schedule_kind(line.kind), line.stages, line.chunks, line.micro_batches);
  const auto problems = validate(s);
  require(problems.empty(), "the schedule is wrong, please report this: {}",
          problems.empty() ? "" : problems.front());
  const Simulation run = simulate(s, given);
  require(run.makespan > 0, "--costs {}: a forward pass must cost something in schedule {}",
          line.costs, line.kind);
  const std::string heading = title(s, given, run);
  fmt::print(
      "{}\n\n{}", heading,
      draw_text(s, run, {.width = terminal_width(), .colour = ::isatty(STDOUT_FILENO) != 0}));
  print_figures(s, given, run);
  if (line.svg.empty()) return;
  std::ofstream file(line.svg, std::ios::binary);
  file << draw_svg(s, run, heading);
  file.close();
  require(file.good(), "--svg {}: cannot be written", line.svg);
  fmt::print("\nwrote {}\n", line.svg);
}

int run(int argc, char** argv) {
  CommandLine line;
  const po::options_description options = describe(line);
  po::variables_map given;
  po::store(
      po::command_line_parser(argc, argv)
          .options(options)
          .positional(po::positional_options_description())
          .style(po::command_line_style::default_style & ~po::command_line_style::allow_guessing)
          .run(),
      given);
  if (given.count("help") != 0 || argc == 1) {
    std::cout << kUsage << '\n' << options;
    return argc == 1 ? 1 : 0;
  }
  if (given.count("version") != 0) {
    fmt::print("neox_plan {}\n", version());
    return 0;
  }
  po::notify(given);
  require(line.show_schedule, "--show-schedule is missing (--help explains)");
  show_schedule(line);
  return 0;
}

}  // namespace
}  // namespace neox

int main(int argc, char** argv) {
  try {
    return neox::run(argc, argv);
  } catch (const boost::program_options::too_many_positional_options_error&) {
    fmt::print(stderr, "neox_plan: an argument belongs to no option\n");
    return 1;
  } catch (const std::exception& error) {
    fmt::print(stderr, "neox_plan: {}\n", error.what());
    return 1;
  }
}
