// Saving: plan (who writes what), layout (rank 0), write (everyone), commit (rank 0). The phases
// share nothing but the structs below, so that `write` can run in another thread.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fcntl.h>
#include <functional>
#include <map>
#include <set>
#include <system_error>
#include <thread>

#include "comm/activity.h"
#include "core/base/log.h"
#include "io/checkpoint/boxes.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/collective.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/format.h"
#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/staged_file.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

// Summed and written piece by piece, so that the second pass finds the data in the cache.
constexpr std::int64_t kWritePiece = std::int64_t{2} << 20;

struct Plan {
  std::vector<PlannedTensor> tensors;  // sorted by path
};

class Stopwatch {
 public:
  /// Seconds since the last call.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// ---- plan
// ------------------------------------------------------------------------------------------

const std::byte* data_of(const CheckpointTensor& tensor) {
  const Shard& shard = tensor.shard;
  const std::int64_t held = shard.local.numel(), whole = shard.slice.extent.numel();
  require(held == whole || held == tensor.write_end - tensor.write_begin,
          "{}: the shard holds {} elements; its slice has {}, the part to write {}", tensor.path,
          held, whole, tensor.write_end - tensor.write_begin);
  if (held != whole) return shard.local.data;
  return shard.local.data + tensor.write_begin * static_cast<std::int64_t>(size_of(shard.dtype));
}

std::string pack_local(std::span<const CheckpointTensor> tensors, std::int64_t step) {
  require(step >= 0, "a checkpoint of step {}", step);
  Packer packer;
  packer.put(step);
  for (const CheckpointTensor& tensor : tensors) {
    const Shard& shard = tensor.shard;
    check_slice(tensor, true);
    if (tensor.write_begin < tensor.write_end) data_of(tensor);
    packer.put(tensor.path);
    packer.put(static_cast<std::int64_t>(shard.dtype));
    packer.put(shard.global);
    packer.put(shard.slice.offset);
    packer.put(shard.slice.extent);
    packer.put(tensor.write_begin);
    packer.put(tensor.write_end);
    packer.put(tensor.attributes);
  }
  return packer.take();
}

// Adds one rank's tensors. Every rank sees the same texts in the same order, so all throw alike.
void add_rank(std::map<std::string, PlannedTensor>& planned, int rank, const std::string& text,
              std::int64_t step) {
  Unpacker unpacker(text);
  const std::int64_t their_step = unpacker.number();
  require(their_step == step, "rank {} saves step {}, rank 0 step {}", rank, their_step, step);
  while (!unpacker.empty()) {
    PlannedTensor tensor;
    tensor.path = unpacker.text();
    tensor.dtype = static_cast<DType>(unpacker.number());
    tensor.shape = unpacker.shape();
    Part part{tensor.shape, {}, 0, 0};
    part.slice.offset = unpacker.shape();
    part.slice.extent = unpacker.shape();
    part.begin = unpacker.number();
    part.end = unpacker.number();
    tensor.attributes = unpacker.attributes();
    PlannedTensor& known = planned.try_emplace(tensor.path, tensor).first->second;
    require(known.dtype == tensor.dtype && known.shape == tensor.shape,
            "{} is {} {} on rank {}, and {} {} on lower ranks", tensor.path, name_of(tensor.dtype),
            tensor.shape.str(), rank, name_of(known.dtype), known.shape.str());
    require(known.attributes == tensor.attributes, "{} has other attributes on rank {}",
            tensor.path, rank);
    if (part.begin < part.end) known.parts.push_back({part, rank, nullptr});
  }
}

void check_coverage(const PlannedTensor& tensor) {
  std::vector<Part> parts;
  std::vector<std::string> names;
  for (const PlannedPart& planned : tensor.parts) {
    parts.push_back(planned.part);
    names.push_back(fmt::format("rank {}", planned.rank));
  }
  require(tensor.shape.numel() > 0, "{} has no elements ({})", tensor.path, tensor.shape.str());
  if (const auto error = coverage_error(tensor.shape, parts, names)) {
    fail("{} {} is not written exactly once: {}", tensor.path, tensor.shape.str(), *error);
  }
}

Plan make_plan(Communicator& group, std::span<const CheckpointTensor> tensors, std::int64_t step) {
  std::string packed;
  collectively(group, "saving a checkpoint", [&] { packed = pack_local(tensors, step); });
  const std::vector<std::string> texts = group.host_all_gather(packed);
  const std::int64_t step0 = Unpacker(texts[0]).number();
  std::map<std::string, PlannedTensor> planned;
  for (int rank = 0; rank < group.size(); ++rank) {
    add_rank(planned, rank, texts[static_cast<std::size_t>(rank)], step0);
  }
  // Own parts appear in the plan in the order of `tensors`.
  std::map<std::string, std::vector<const std::byte*>> own;
  for (const CheckpointTensor& tensor : tensors) {
    if (tensor.write_begin < tensor.write_end) own[tensor.path].push_back(data_of(tensor));
  }
  Plan plan;
  for (auto& [path, tensor] : planned) {
    check_coverage(tensor);
    std::size_t next = 0;
    for (PlannedPart& part : tensor.parts) {
      if (part.rank == group.rank()) part.data = own[path][next++];
    }
    plan.tensors.push_back(std::move(tensor));
  }
  return plan;
}

// ---- layout
// ----------------------------------------------------------------------------------------

void lay_out(Communicator& group, StagedFile& staged, const std::string& directory,
             const Plan& plan, const CheckpointInfo& info, const std::string& what) {
  collectively(group, what, [&] {
    if (group.rank() == 0) staged.lay_out(directory, plan.tensors, info);
  });
  Packer packer;
  packer.put(staged.temporary);
  packer.put(staged.final_path);
  packer.put(staged.layout.header.file_bytes);
  for (const TableEntry& entry : staged.layout.entries) packer.put(entry.offset);
  const std::string packed = group.host_broadcast(packer.take(), 0);
  if (group.rank() == 0) return;
  Unpacker unpacker(packed);
  staged.temporary = unpacker.text();
  staged.final_path = unpacker.text();
  staged.layout.header.file_bytes = unpacker.number();
  for (const PlannedTensor& tensor : plan.tensors) {
    staged.layout.entries.push_back({tensor.path, unpacker.number(), 0, 0});
  }
}

// ---- write
// -----------------------------------------------------------------------------------------

// Sums of this rank's parts, in the order of the plan; writes them unless `file` is null.
std::vector<std::uint64_t> write_parts(const PosixFile* file, const FileLayout& layout,
                                       const Plan& plan, int rank) {
  std::vector<std::uint64_t> sums(plan.tensors.size(), 0);
  for (std::size_t t = 0; t < plan.tensors.size(); ++t) {
    const PlannedTensor& tensor = plan.tensors[t];
    const auto element = static_cast<std::int64_t>(size_of(tensor.dtype));
    const std::int64_t most = kWritePiece / element;
    for (const PlannedPart& planned : tensor.parts) {
      if (planned.rank != rank) continue;
      for_each_run(planned.part, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
        for (std::int64_t at = 0; at < count; at += most) {
          const std::int64_t n = std::min(most, count - at);
          const std::byte* data = planned.data + (local + at) * element;
          sums[t] += sum64(data, static_cast<std::size_t>(element), n, global + at);
          if (file == nullptr) continue;
          file->write(data, n * element, layout.entries[t].offset + (global + at) * element);
        }
      });
    }
  }
  return sums;
}

// What a rank's writing came to.
struct Written {
  std::vector<std::uint64_t> sums;
  std::string error;  // empty: all is on the disk
  double write_seconds = 0, sync_seconds = 0;
};

// Fills and writes this rank's parts (with `write`), and makes the file durable. Every node holds
// its own dirty pages, so every rank syncs. A sync that failed is never repeated: Linux has already
// dropped the pages. Communicates with nobody.
Written write_and_sync(const std::string& path, const FileLayout& layout, const Plan& plan,
                       int rank, bool write, const std::function<void()>& fill) {
  Written result;
  try {
    if (fill) fill();
    Stopwatch watch;
    PosixFile file(path, O_WRONLY);
    result.sums = write_parts(write ? &file : nullptr, layout, plan, rank);
    result.write_seconds = watch.lap();
    file.sync();
    file.close();
    result.sync_seconds = watch.lap();
  } catch (const std::exception& failure) {
    result.error = failure.what();
    if (result.error.empty()) result.error = "unknown failure";
  }
  return result;
}

}  // namespace

void prepare_checkpoint_directory(Communicator& group, const std::string& directory) {
  collectively(group, "preparing checkpoint.save", [&] {
    if (group.rank() == 0) prepare_directory(directory);
  });
}

struct CheckpointSave::State {
  State(Communicator& ranks, std::string where, std::int64_t at, const SaveOptions& how)
      : group(ranks),
        directory(std::move(where)),
        what(fmt::format("saving the checkpoint of step {}", at)),
        options(how),
        step(at) {}
  ~State() { join(); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void in_thread(const std::function<void()>& work) {
    through = false;
    try {
      thread = std::thread([this, work] {
        const Activity::Background background;
        work();
        through = true;
      });
    } catch (const std::system_error&) {
      work();  // this rank may start no more threads: it works now
      through = true;
    }
  }
  void join() {
    std::int64_t ticks = Activity::background_ticks();
    while (thread.joinable() && !through) {  // a slow disk is not a hang
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      const std::int64_t now = Activity::background_ticks();
      if (std::exchange(ticks, now) != now) Activity::tick();
    }
    if (thread.joinable()) thread.join();
  }

  void write(bool parts, const std::function<void()>& fill = {}) {
    written = write_and_sync(staged.temporary, staged.layout, plan, group.rank(), parts, fill);
  }
  void write_without_thread();
  void gather();
  void commit_and_tidy() noexcept;

  enum class Phase : std::uint8_t { laid_out, writing, committing };

  Communicator& group;
  std::string directory, what;
  SaveOptions options;
  std::int64_t step;
  Plan plan;
  StagedFile staged;
  SaveReport report;
  Phase phase = Phase::laid_out;
  Written written;
  // Rank 0 only:
  std::set<std::int64_t> milestones, discarded;  // what the options said of older checkpoints
  std::string commit_error;
  std::vector<std::string> warnings;
  std::thread thread;
  std::atomic<bool> through{false};
};

void CheckpointSave::State::write_without_thread() {
  if (options.io == CheckpointIo::hdf5) {
    Stopwatch watch;
    std::string error;
    try {
      write_with_hdf5(group, staged.temporary, plan.tensors);
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    agree(group, what, error);
    report.write_seconds = watch.lap();
  }
  write(options.io == CheckpointIo::direct);
}

// Waits until all ranks have written; then rank 0 has all that it needs for the commit.
void CheckpointSave::State::gather() {
  if (phase == Phase::laid_out) write_without_thread();
  join();
  phase = Phase::committing;
  agree(group, what, written.error);
  report.write_seconds += written.write_seconds;
  report.sync_seconds = written.sync_seconds;
  group.host_all_reduce(std::span(written.sums), ReduceOp::sum);
  // Asked here: the thread must not call back into the program.
  if (group.rank() != 0 || options.keep_last <= 0) return;
  try {
    for (const FoundCheckpoint& found : find_checkpoints(directory)) {
      if (options.keep && options.keep(found.step)) milestones.insert(found.step);
      if (options.discarded && options.discarded(found.step)) discarded.insert(found.step);
    }
  } catch (const std::exception& failure) {  // an Error would be rank 0's alone
    warnings.push_back(fmt::format("old checkpoints stay: {}", failure.what()));
    options.keep_last = 0;
  }
}

void CheckpointSave::State::commit_and_tidy() noexcept {
  Stopwatch watch;
  try {
    staged.commit(written.sums);
  } catch (const std::exception& failure) {
    commit_error = failure.what();
    if (commit_error.empty()) commit_error = "unknown failure";
    return;
  }
  warnings.push_back(write_latest(directory, checkpoint_file_name(step)));
  const SaveOptions retention{options.io, options.keep_last,
                              [this](std::int64_t old) { return milestones.contains(old); },
                              [this](std::int64_t old) { return discarded.contains(old); }};
  warnings.push_back(remove_old_checkpoints(directory, step, retention));
  std::erase(warnings, "");
  report.commit_seconds = watch.lap();
}

CheckpointSave::CheckpointSave(Communicator& group, const std::string& directory,
                               std::span<const CheckpointTensor> tensors,
                               const CheckpointInfo& info, const SaveOptions& options)
    : state_(std::make_unique<State>(group, directory, info.step, options)) {
  Stopwatch watch;
  state_->plan = make_plan(group, tensors, info.step);
  lay_out(group, state_->staged, directory, state_->plan, info, state_->what);
  state_->report.layout_seconds = watch.lap();
}

CheckpointSave::~CheckpointSave() = default;
CheckpointSave::CheckpointSave(CheckpointSave&&) noexcept = default;
CheckpointSave& CheckpointSave::operator=(CheckpointSave&&) noexcept = default;

void CheckpointSave::start(const std::function<void()>& fill) {
  State& s = *state_;
  require(s.options.io == CheckpointIo::direct && s.phase == State::Phase::laid_out,
          "internal error: a checkpoint is written in a thread only directly, and once");
  s.phase = State::Phase::writing;
  s.in_thread([&s, fill] { s.write(true, fill); });
}

void CheckpointSave::start_commit() {
  State& s = *state_;
  require(s.phase == State::Phase::writing,
          "internal error: a commit in a thread follows writing in a thread, and once");
  s.gather();
  if (s.group.rank() == 0) s.in_thread([&s] { s.commit_and_tidy(); });
}

bool CheckpointSave::committing() const {
  return state_->phase == State::Phase::committing;
}

bool CheckpointSave::through() const {
  return state_->through;
}

SaveReport CheckpointSave::finish() {
  State& s = *state_;
  if (s.phase != State::Phase::committing) {
    s.gather();
    if (s.group.rank() == 0) s.commit_and_tidy();
  }
  s.join();
  agree(s.group, s.what, s.commit_error);
  for (const std::string& warning : s.warnings) log_warning("{}", warning);
  s.report.path = s.staged.final_path;
  s.report.bytes = s.staged.layout.header.file_bytes;
  return s.report;
}

SaveReport save_checkpoint(Communicator& group, const std::string& directory,
                           std::span<const CheckpointTensor> tensors, const CheckpointInfo& info,
                           const SaveOptions& options) {
  return CheckpointSave(group, directory, tensors, info, options).finish();
}

void clean_checkpoint_directory(Communicator& group, const std::string& directory) {
  if (group.rank() == 0) remove_leftovers(directory);
  group.barrier();
}

std::string_view name_of(CheckpointIo io) {
  return io == CheckpointIo::direct ? "direct" : "hdf5";
}

CheckpointIo checkpoint_io_from_name(std::string_view name) {
  if (name == "direct") return CheckpointIo::direct;
  if (name == "hdf5") return CheckpointIo::hdf5;
  fail("checkpoint io is '{}'; it can be direct or hdf5", name);
}

}  // namespace neox
