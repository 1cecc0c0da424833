#include "core/train/dry_run.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <utility>

#include "comm/dry_run_communicator.h"
#include "core/base/format.h"
#include "core/config/resolve.h"
#include "core/parallel/layout.h"
#include "core/train/run_vocabulary.h"

namespace neox {
namespace {

constexpr std::int64_t kMaxRanks = std::int64_t{1} << 20;

std::string plural(std::int64_t n, std::string_view noun) {
  return fmt::format("{} {}{}", format_grouped(n), noun, n == 1 ? "" : "s");
}

// How many ranks to plan for, and why so many.
struct JobSize {
  std::int64_t ranks = 1;
  std::string reason;
};

JobSize job_size(const DryRunRequest& request, const Config& config, int started) {
  if (request.ranks != DryRunRequest::kNotGiven) return {request.ranks, "--ranks"};
  if (started > 1) return {started, "as many as were started"};
  const ParallelConfig& p = config.parallel;
  const std::int64_t model =
      std::max<std::int64_t>(p.pipe_parallel_size, 1) * p.model_parallel_size;
  const BatchConfig& b = config.batch;
  const std::int64_t replica = b.train_micro_batch_size_per_gpu * b.gradient_accumulation_steps;
  if (b.train_batch_size > 0 && replica > 0 && b.train_batch_size % replica == 0) {
    return {model * (b.train_batch_size / replica),
            "what the three batch sizes imply; --ranks N plans for another number"};
  }
  return {model, "the fewest for tensor x pipe; --ranks N plans for another number"};
}

std::string layers_text(const RankPlan& plan) {
  std::string text;
  for (const ModelChunk& c : plan.chunks) {
    text += text.empty() ? "" : "; ";
    if (c.embedding) text += "embedding, ";
    text += c.end_layer - c.first_layer == 1
                ? fmt::format("layer {}", c.first_layer)
                : fmt::format("layers {}-{}", c.first_layer, c.end_layer - 1);
    if (c.head) text += ", head";
  }
  return text;
}

std::string job_text(const Config& config, const JobSize& size) {
  const ParallelConfig& p = config.parallel;
  const ParallelLayout layout = parallel_layout(p, static_cast<int>(size.ranks));
  const std::string chunks = p.virtual_pipeline_size > 1
                                 ? fmt::format(" of {} chunks", p.virtual_pipeline_size)
                                 : std::string();
  return fmt::format(
      "dry run: {} ({})\n"
      "layout: tensor {}{} x data {} (ZeRO {}) x pipe {}{} ({}), recompute {}\n"
      "model: {} parameters, {}; {} samples of {} tokens a step = {} x {} micro-batches of {}\n",
      plural(size.ranks, "rank"), size.reason, layout.tensor,
      p.sequence_parallel && layout.tensor > 1 ? " (rows sharded)" : "", layout.data, p.zero_stage,
      layout.pipe, chunks, p.pipeline_schedule, p.recompute,
      format_grouped(count_parameters(config.model)), name_of(config.precision.precision),
      format_grouped(config.batch.train_batch_size), config.model.seq_length,
      plural(layout.data, "data-parallel rank"), config.batch.gradient_accumulation_steps,
      config.batch.train_micro_batch_size_per_gpu);
}

std::string rank_text(const RankPlan& plan) {
  return fmt::format(
      "\nrank {}: tensor {}, data {}, pipe {}: {}\n"
      "parameters: {}\n"
      "memory (without what the backend keeps for itself):\n{}"
      "work of a step, repeated forward passes included: {}FLOP\n"
      "communication of a step:\n{}",
      plan.rank, plan.at.tensor, plan.at.data, plan.at.pipe, layers_text(plan),
      format_grouped(plan.parameters), plan.memory.table(), format_count(plan.work.flops),
      traffic_table(plan.traffic));
}

// ---- all ranks ----------------------------------------------------------------------------------

// Consecutive or not: ranks that need and do the same.
struct EqualRanks {
  RankPlan first;
  std::int64_t count = 0;
  int last = 0;

  bool same(const RankPlan& o) const {
    return first.memory == o.memory && first.parameters == o.parameters &&
           first.at.pipe == o.at.pipe && first.work.flops == o.work.flops &&
           first.sent_bytes() == o.sent_bytes();
  }
};

// Ranks [first, first + plans.size()), on all cores: each is a program of its own.
void plan_ranks(const Config& config, int first, int ranks, std::vector<RankPlan>& plans) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr problem;
  std::mutex mutex;
  const auto work = [&] {
    try {
      for (std::size_t i = next++; i < plans.size(); i = next++) {
        plans[i] = plan_rank(config, first + static_cast<int>(i), ranks);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      problem = std::current_exception();
      next = plans.size();
    }
  };
  std::vector<std::jthread> threads;
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  while (threads.size() < std::min(cores, plans.size())) threads.emplace_back(work);
  threads.clear();  // joins
  if (problem) std::rethrow_exception(problem);
}

std::vector<EqualRanks> plan_all(const Config& config, int ranks) {
  constexpr int kAtOnce = 64;  // bounds memory
  std::vector<EqualRanks> groups;
  for (int first = 0; first < ranks; first += kAtOnce) {
    std::vector<RankPlan> plans(static_cast<std::size_t>(std::min(kAtOnce, ranks - first)));
    plan_ranks(config, first, ranks, plans);
    for (RankPlan& plan : plans) {
      const int rank = plan.rank;
      auto group = std::find_if(groups.begin(), groups.end(),
                                [&](const EqualRanks& g) { return g.same(plan); });
      if (group == groups.end()) group = groups.insert(groups.end(), {std::move(plan), 0, rank});
      ++group->count;
      group->last = rank;
    }
  }
  return groups;
}

std::string bytes_text(double bytes) {
  return format_bytes(static_cast<std::uint64_t>(bytes + 0.5));
}

std::string table_of(const std::vector<EqualRanks>& groups) {
  const auto by_memory = [](const EqualRanks& a, const EqualRanks& b) {
    return a.first.memory.total() < b.first.memory.total();
  };
  const auto [least, most] = std::minmax_element(groups.begin(), groups.end(), by_memory);
  const std::size_t low = least->first.memory.total(), high = most->first.memory.total();
  std::string text = fmt::format(
      "\n  {:>6}  {:>13}  {:>4}  {:>15}  {:>11}  {:>11}  {:>11}  {:>10}  {:>11}\n", "ranks",
      "from - to", "pipe", "parameters", "memory", "of it state", "activations", "FLOP", "sent");
  for (const EqualRanks& g : groups) {
    const MemoryPlan& m = g.first.memory;
    const std::size_t state = m.weights + m.main_weights + m.gradients + m.optimizer;
    const char* mark = low == high         ? ""
                       : m.total() == high ? "  most"
                       : m.total() == low  ? "  least"
                                           : "";
    text += fmt::format(
        "  {:>6}  {:>13}  {:>4}  {:>15}  {:>11}  {:>11}  {:>11}  {:>10}  {:>11}{}\n", g.count,
        g.count == 1 ? fmt::format("{}", g.last) : fmt::format("{} - {}", g.first.rank, g.last),
        g.first.at.pipe, format_grouped(g.first.parameters), format_bytes(m.total()),
        format_bytes(state), format_bytes(m.activations), format_count(g.first.work.flops),
        bytes_text(g.first.sent_bytes()), mark);
  }
  return text;
}

std::string totals_of(const std::vector<EqualRanks>& groups) {
  double bytes = 0, flops = 0, sent = 0;
  for (const EqualRanks& g : groups) {
    const auto n = static_cast<double>(g.count);
    bytes += n * static_cast<double>(g.first.memory.total());
    flops += n * g.first.work.flops;
    sent += n * g.first.sent_bytes();
  }
  return fmt::format("all ranks together: memory {}, {}FLOP and {} sent in a step\n",
                     bytes_text(bytes), format_count(flops), bytes_text(sent));
}

}  // namespace

double RankPlan::sent_bytes() const {
  double bytes = 0;
  for (const GroupTraffic& group : traffic) {
    for (std::size_t c = 0; c < kCollectives; ++c) {
      const auto collective = static_cast<Collective>(c);
      bytes += link_bytes(collective, group.counts.total(collective), group.size);
    }
  }
  return bytes;
}

RankPlan plan_rank(const Config& config, int rank, int ranks) {
  const auto world = make_dry_run_communicator(rank, ranks);
  Engine engine(*world, config, EngineMode::dry_run);
  const std::vector<MicroBatch> batches(
      static_cast<std::size_t>(config.batch.gradient_accumulation_steps));
  // Of the first step only ZeRO 3 remembers more than that it was one: its order of gathers.
  const bool whole = config.parallel.zero_stage == 3;
  engine.train_step(std::span(batches).first(whole ? batches.size() : 1), 1.0, 0,
                    config.optimizer.lr);
  engine.counted()->reset_counts();
  const std::vector<GroupTraffic> before = engine.traffic();
  engine.train_step(batches, 1.0, 1, config.optimizer.lr);

  RankPlan plan;
  plan.rank = rank;
  plan.at = engine.topology().coordinates();
  plan.chunks = engine.model().partition().chunks;
  const ParameterStore& store = engine.model().parameters();
  for (ParameterId id = 0; id < store.size(); ++id) {
    plan.parameters += store.spec(id).slice.extent.numel();
  }
  plan.memory = engine.memory_plan();
  plan.work = engine.counted()->total();
  plan.traffic = engine.traffic();
  for (std::size_t i = 0; i < before.size(); ++i) plan.traffic[i].counts -= before[i].counts;
  return plan;
}

std::vector<ProgramOption> DryRunRequest::options() {
  return {{"dry-run", &wanted,
           "compute nothing: show memory, work and communication of rank 0 (no data needed)"},
          {"rank", &rank, "with --dry-run: of rank R instead", "R"},
          {"all-ranks", &all_ranks, "with --dry-run: a line for every kind of rank"},
          {"ranks", &ranks, "with --dry-run: of a job of N ranks, whatever was started", "N"}};
}

void DryRunRequest::check() const {
  const bool detail = all_ranks || rank != kNotGiven || ranks != kNotGiven;
  require(wanted || !detail, "{} says what a dry run shows: add --dry-run",
          all_ranks           ? "--all-ranks"
          : rank != kNotGiven ? "--rank"
                              : "--ranks");
  require(!all_ranks || rank == kNotGiven, "--rank {} and --all-ranks exclude each other", rank);
  require(ranks == kNotGiven || (1 <= ranks && ranks <= kMaxRanks),
          "--ranks {}: expected a number from 1 to {}", ranks, kMaxRanks);
}

std::string dry_run_report(const DryRunRequest& request, const ParsedCommand& command,
                           int started) {
  request.check();
  Config config = command.config;
  const JobSize size = job_size(request, config, started);
  resolve(config, size.ranks, command.origins);
  if (config.model.vocab_size == 0) complete_from_tokenizer(config);
  const auto ranks = static_cast<int>(size.ranks);
  if (request.all_ranks) {
    const std::vector<EqualRanks> groups = plan_all(config, ranks);
    return job_text(config, size) + table_of(groups) + totals_of(groups);
  }
  const std::int64_t rank = request.rank == DryRunRequest::kNotGiven ? 0 : request.rank;
  require(0 <= rank && rank < size.ranks, "--rank {}: the ranks of this job go from 0 to {}", rank,
          size.ranks - 1);
  const RankPlan plan = plan_rank(config, static_cast<int>(rank), ranks);
  return job_text(config, size) + rank_text(plan);
}

}  // namespace neox
