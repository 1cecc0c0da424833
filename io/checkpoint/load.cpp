// Reading: rank 0 verifies header, table and metadata and looks at the HDF5 structure; then every
// rank preads exactly the bytes of its slices.

#include <algorithm>
#include <array>
#include <fcntl.h>
#include <filesystem>
#include <map>
#include <system_error>
#include <utility>

#include "core/base/log.h"
#include "io/checkpoint/boxes.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/collective.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/format.h"
#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

constexpr std::int64_t kVerifyPiece = std::int64_t{4} << 20;

// Damage is found, or reading fails, on any rank.
template <class F>
void readable(Communicator& group, const std::string& what, F&& f) {
  try {
    collectively(group, what, f);
  } catch (const Error& error) {
    throw UnreadableCheckpoint(error.what());
  }
}

// All ranks know the same sums, so all throw alike.
[[noreturn]] void fail_damaged(const std::string& path, const std::string& tensor) {
  throw UnreadableCheckpoint(
      fmt::format("{} is damaged: the sum of {} does not match", path, tensor));
}

struct Opened {
  CheckpointInfo info;
  std::vector<StoredTensor> tensors;
};

void check_against_table(const std::string& path, const VerifiedFile& verified,
                         Hdf5Contents& contents, std::map<std::string, TableEntry>& table) {
  require(contents.info.step == verified.header.step, "{}: the header says step {}, the file {}",
          path, verified.header.step, contents.info.step);
  for (const TableEntry& entry : verified.entries) table[entry.path] = entry;
  require(table.size() == contents.tensors.size() + contents.texts.size() &&
              table.size() == verified.entries.size(),
          "{}: the table lists {} datasets, the file holds {}", path, verified.entries.size(),
          contents.tensors.size() + contents.texts.size());
  const auto check = [&](const std::string& name, std::int64_t offset, std::int64_t bytes) {
    const auto found = table.find(name);
    require(found != table.end() && found->second.offset == offset && found->second.bytes == bytes,
            "{}: {} is not where the table says (was the file rewritten by h5repack?)", path, name);
    return found->second.sum;
  };
  for (StoredTensor& tensor : contents.tensors) {
    const std::int64_t bytes =
        tensor.shape.numel() * static_cast<std::int64_t>(size_of(tensor.dtype));
    tensor.sum = check(tensor.path, tensor.file_offset, bytes);
  }
  for (const auto& [name, text] : contents.texts) check(name, text.offset, text.bytes);
}

Opened open_on_rank_0(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  require(type == std::filesystem::file_type::regular ||
              type == std::filesystem::file_type::not_found ||  // open() says why
              type == std::filesystem::file_type::none,
          "{} is not a checkpoint: it is no file but a directory, pipe or device", path);
  const PosixFile file(path, O_RDONLY);
  const VerifiedFile verified = read_verified(file);
  Hdf5Contents contents = read_hdf5_contents(path);
  std::map<std::string, TableEntry> table;
  check_against_table(path, verified, contents, table);
  for (const auto& [name, place] : contents.texts) {
    std::string text(static_cast<std::size_t>(place.bytes), '\0');
    file.read(text.data(), place.bytes, place.offset);
    require(sum64(reinterpret_cast<const std::byte*>(text.data()), 1, place.bytes, 0) ==
                table[name].sum,
            "{} is damaged: the sum of {} does not match", path, name);
    text.resize(text.find_last_not_of('\0') + 1);
    contents.info.texts[name] = std::move(text);
  }
  return {std::move(contents.info), std::move(contents.tensors)};
}

std::string pack(const Opened& opened) {
  Packer packer;
  const CheckpointInfo& info = opened.info;
  for (const std::int64_t n : {info.step, info.consumed_samples, info.consumed_tokens})
    packer.put(n);
  packer.put(static_cast<std::int64_t>(info.groups.size()));
  for (const auto& [path, attributes] : info.groups) {
    packer.put(path);
    packer.put(attributes);
  }
  for (const auto* strings : {&info.texts, &info.links}) {
    packer.put(static_cast<std::int64_t>(strings->size()));
    for (const auto& [path, text] : *strings) {
      packer.put(path);
      packer.put(text);
    }
  }
  for (const StoredTensor& tensor : opened.tensors) {
    packer.put(tensor.path);
    packer.put(static_cast<std::int64_t>(tensor.dtype));
    packer.put(tensor.shape);
    packer.put(tensor.attributes);
    packer.put(tensor.file_offset);
    packer.put(tensor.sum);
  }
  return packer.take();
}

Opened unpack(std::string_view bytes) {
  Unpacker unpacker(bytes);
  Opened opened;
  CheckpointInfo& info = opened.info;
  for (std::int64_t* n : {&info.step, &info.consumed_samples, &info.consumed_tokens}) {
    *n = unpacker.number();
  }
  for (std::int64_t left = unpacker.number(); left > 0; --left) {
    std::string path = unpacker.text();
    info.groups[std::move(path)] = unpacker.attributes();
  }
  for (auto* strings : {&info.texts, &info.links}) {
    for (std::int64_t left = unpacker.number(); left > 0; --left) {
      std::string path = unpacker.text();
      (*strings)[std::move(path)] = unpacker.text();
    }
  }
  while (!unpacker.empty()) {
    StoredTensor tensor;
    tensor.path = unpacker.text();
    tensor.dtype = static_cast<DType>(unpacker.number());
    tensor.shape = unpacker.shape();
    tensor.attributes = unpacker.attributes();
    tensor.file_offset = unpacker.number();
    tensor.sum = unpacker.bits();
    opened.tensors.push_back(std::move(tensor));
  }
  return opened;
}

/// What one rank read of one tensor.
struct ReadPart {
  std::size_t tensor = 0;
  int rank = 0;
  Part part;
  std::uint64_t sum = 0;
};

}  // namespace

struct CheckpointReader::State {
  Communicator* group = nullptr;
  std::string path;
  Opened opened;
  std::vector<bool> whole;  // tensors whose sum was checked

  std::size_t index_of(const std::string& tensor_path) const;
  ReadPart plan_one(const CheckpointTensor& wanted) const;
  void read_one(const PosixFile& file, const CheckpointTensor& wanted, ReadPart& plan) const;
  std::vector<ReadPart> gather(const std::vector<ReadPart>& own) const;
  std::vector<std::size_t> check_sums(const std::vector<ReadPart>& parts);
  void verify(const std::vector<std::size_t>& which);
};

// tensors().size() when there is none.
std::size_t CheckpointReader::State::index_of(const std::string& tensor_path) const {
  const auto link = opened.info.links.find(tensor_path);
  const std::string& wanted = link == opened.info.links.end() ? tensor_path : link->second;
  const auto& tensors = opened.tensors;
  const auto at = std::lower_bound(
      tensors.begin(), tensors.end(), wanted,
      [](const StoredTensor& tensor, const std::string& name) { return tensor.path < name; });
  if (at == tensors.end() || at->path != wanted) return tensors.size();
  return static_cast<std::size_t>(at - tensors.begin());
}

CheckpointReader::CheckpointReader(Communicator& group, std::string path)
    : state_(std::make_unique<State>()) {
  state_->group = &group;
  state_->path = group.host_broadcast(std::move(path), 0);
  Opened opened;
  readable(group, "opening the checkpoint " + state_->path, [&] {
    if (group.rank() == 0) opened = open_on_rank_0(state_->path);
  });
  state_->opened = unpack(group.host_broadcast(group.rank() == 0 ? pack(opened) : "", 0));
  std::sort(state_->opened.tensors.begin(), state_->opened.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) { return a.path < b.path; });
  state_->whole.resize(state_->opened.tensors.size());
}

CheckpointReader::~CheckpointReader() = default;
CheckpointReader::CheckpointReader(CheckpointReader&&) noexcept = default;
CheckpointReader& CheckpointReader::operator=(CheckpointReader&&) noexcept = default;

const std::string& CheckpointReader::path() const {
  return state_->path;
}
const CheckpointInfo& CheckpointReader::info() const {
  return state_->opened.info;
}
const std::vector<StoredTensor>& CheckpointReader::tensors() const {
  return state_->opened.tensors;
}
const StoredTensor* CheckpointReader::find(const std::string& tensor_path) const {
  const std::size_t index = state_->index_of(tensor_path);
  return index == tensors().size() ? nullptr : &tensors()[index];
}

// ---- read
// ------------------------------------------------------------------------------------------

ReadPart CheckpointReader::State::plan_one(const CheckpointTensor& wanted) const {
  const Shard& shard = wanted.shard;
  check_slice(wanted, shard.local.numel() != shard.slice.extent.numel());
  const std::size_t index = index_of(wanted.path);
  require(index < opened.tensors.size(), "{} holds no tensor {}", path, wanted.path);
  const StoredTensor& stored = opened.tensors[index];
  require(stored.dtype == shard.dtype && stored.shape == shard.global,
          "{} is {} {} in {}, and {} {} in this run", wanted.path, name_of(stored.dtype),
          stored.shape.str(), path, name_of(shard.dtype), shard.global.str());
  ReadPart result{
      index, group->rank(), {shard.global, shard.slice, 0, shard.slice.extent.numel()}, 0};
  if (shard.local.numel() != result.part.end) {
    result.part.begin = wanted.write_begin;
    result.part.end = wanted.write_end;
  }
  require(shard.local.numel() == result.part.end - result.part.begin,
          "{}: room for {} elements; the slice has {}, the part {}", wanted.path,
          shard.local.numel(), shard.slice.extent.numel(), wanted.write_end - wanted.write_begin);
  return result;
}

void CheckpointReader::State::read_one(const PosixFile& file, const CheckpointTensor& wanted,
                                       ReadPart& plan) const {
  const StoredTensor& stored = opened.tensors[plan.tensor];
  const auto element = static_cast<std::int64_t>(size_of(stored.dtype));
  const std::int64_t most = kVerifyPiece / element;
  for_each_run(plan.part, [&](std::int64_t local, std::int64_t global, std::int64_t count) {
    for (std::int64_t at = 0; at < count; at += most) {
      const std::int64_t n = std::min(most, count - at);
      std::byte* to = wanted.shard.local.data + (local + at) * element;
      file.read(to, n * element, stored.file_offset + (global + at) * element);
      plan.sum += sum64(to, static_cast<std::size_t>(element), n, global + at);
    }
  });
}

std::vector<ReadPart> CheckpointReader::State::gather(const std::vector<ReadPart>& own) const {
  Packer packer;
  for (const ReadPart& read : own) {
    packer.put(static_cast<std::int64_t>(read.tensor));
    packer.put(read.part.slice.offset);
    packer.put(read.part.slice.extent);
    packer.put(read.part.begin);
    packer.put(read.part.end);
    packer.put(read.sum);
  }
  const std::vector<std::string> texts = group->host_all_gather(packer.take());
  std::vector<ReadPart> all;
  for (int rank = 0; rank < group->size(); ++rank) {
    Unpacker unpacker(texts[static_cast<std::size_t>(rank)]);
    while (!unpacker.empty()) {
      ReadPart read;
      read.tensor = static_cast<std::size_t>(unpacker.number());
      read.rank = rank;
      read.part.global = opened.tensors.at(read.tensor).shape;
      read.part.slice.offset = unpacker.shape();
      read.part.slice.extent = unpacker.shape();
      read.part.begin = unpacker.number();
      read.part.end = unpacker.number();
      read.sum = unpacker.bits();
      all.push_back(read);
    }
  }
  return all;
}

// Throws on a mismatch; returns the tensors that the parts don't cover exactly once, copies apart.
std::vector<std::size_t> CheckpointReader::State::check_sums(const std::vector<ReadPart>& parts) {
  std::map<std::size_t, std::vector<const ReadPart*>> by_tensor;
  for (const ReadPart& read : parts) {
    if (read.part.begin == read.part.end) continue;
    auto& known = by_tensor[read.tensor];
    const auto same = std::find_if(known.begin(), known.end(),
                                   [&](const ReadPart* other) { return other->part == read.part; });
    if (same == known.end()) {
      known.push_back(&read);
      continue;
    }
    if ((*same)->sum != read.sum) {
      throw UnreadableCheckpoint(fmt::format("ranks {} and {} read different bytes of {} in {}",
                                             (*same)->rank, read.rank,
                                             opened.tensors[read.tensor].path, path));
    }
  }
  std::vector<std::size_t> unchecked;
  for (const auto& [index, unique] : by_tensor) {
    const StoredTensor& tensor = opened.tensors[index];
    std::vector<Part> boxes;
    std::uint64_t sum = 0;
    for (const ReadPart* read : unique) {
      boxes.push_back(read->part);
      sum += read->sum;
    }
    if (coverage_error(tensor.shape, boxes, std::vector<std::string>(boxes.size()))) {
      unchecked.push_back(index);
    } else if (sum != tensor.sum) {
      fail_damaged(path, tensor.path);
    } else {
      whole[index] = true;
    }
  }
  return unchecked;
}

void CheckpointReader::read(std::span<CheckpointTensor> tensors) {
  State& state = *state_;
  std::vector<ReadPart> own;
  collectively(*state.group, "reading the checkpoint " + state.path, [&] {
    for (const CheckpointTensor& wanted : tensors) own.push_back(state.plan_one(wanted));
  });
  readable(*state.group, "reading the checkpoint " + state.path, [&] {
    const PosixFile file(state.path, O_RDONLY);
    for (std::size_t i = 0; i < own.size(); ++i) state.read_one(file, tensors[i], own[i]);
  });
  // Every rank checks the same gathered sums, so all throw alike.
  state.verify(state.check_sums(state.gather(own)));
}

// ---- verify
// ----------------------------------------------------------------------------------------

void CheckpointReader::State::verify(const std::vector<std::size_t>& which) {
  if (which.empty()) return;
  std::vector<std::uint64_t> sums(which.size(), 0);
  readable(*group, "verifying the checkpoint " + path, [&] {
    const PosixFile file(path, O_RDONLY);
    std::vector<std::byte> buffer(kVerifyPiece);
    for (std::size_t i = 0; i < which.size(); ++i) {
      const StoredTensor& tensor = opened.tensors[which[i]];
      const auto element = static_cast<std::int64_t>(size_of(tensor.dtype));
      const std::int64_t n = tensor.shape.numel(), most = kVerifyPiece / element;
      const std::int64_t begin = n / group->size() * group->rank() +
                                 std::min<std::int64_t>(n % group->size(), group->rank());
      const std::int64_t end =
          begin + n / group->size() + (group->rank() < n % group->size() ? 1 : 0);
      for (std::int64_t at = begin; at < end; at += most) {
        const std::int64_t count = std::min(most, end - at);
        file.read(buffer.data(), count * element, tensor.file_offset + at * element);
        sums[i] += sum64(buffer.data(), static_cast<std::size_t>(element), count, at);
      }
    }
  });
  group->host_all_reduce(std::span(sums), ReduceOp::sum);
  for (std::size_t i = 0; i < which.size(); ++i) {
    const StoredTensor& tensor = opened.tensors[which[i]];
    if (sums[i] != tensor.sum) fail_damaged(path, tensor.path);
    whole[which[i]] = true;
  }
}

void CheckpointReader::verify() {
  std::vector<std::size_t> rest;
  for (std::size_t i = 0; i < tensors().size(); ++i) {
    if (!state_->whole[i]) rest.push_back(i);
  }
  state_->verify(rest);
}

// ---- choice
// ----------------------------------------------------------------------------------------

namespace {

// Only rank 0 lists: network file systems may show other clients other contents for a while.
std::vector<FoundCheckpoint> find_on_rank_0(Communicator& group, const std::string& directory) {
  std::vector<FoundCheckpoint> found;
  collectively(group, "looking for checkpoints", [&] {
    if (group.rank() == 0) found = find_checkpoints(directory);
  });
  Packer packer;
  for (const FoundCheckpoint& f : found) {
    packer.put(f.step);
    packer.put(f.path);
  }
  const std::string packed = group.host_broadcast(packer.take(), 0);
  Unpacker unpacker(packed);
  found.clear();
  while (!unpacker.empty()) {
    const std::int64_t step = unpacker.number();
    found.push_back({step, unpacker.text()});
  }
  return found;
}

}  // namespace

namespace {

std::unique_ptr<CheckpointReader> open_whole(Communicator& group, const FoundCheckpoint& found,
                                             const CheckpointUse& use) {
  auto reader = std::make_unique<CheckpointReader>(group, found.path);
  check_step_of_name(*reader, found);
  use(*reader);
  return reader;
}

}  // namespace

void check_step_of_name(const CheckpointReader& reader, const FoundCheckpoint& found) {
  if (reader.info().step == found.step) return;
  throw UnreadableCheckpoint(
      fmt::format("{} holds the checkpoint of step {}: somebody renamed it; call it {} again",
                  found.path, reader.info().step, checkpoint_file_name(reader.info().step)));
}

std::unique_ptr<CheckpointReader> open_newest(Communicator& group, const std::string& directory,
                                              const CheckpointUse& use, std::int64_t last_step) {
  std::string newest_reason;
  std::int64_t damaged = 0;
  for (const FoundCheckpoint& found : find_on_rank_0(group, directory)) {
    if (found.step > last_step) continue;
    try {
      return open_whole(group, found, use);
    } catch (const UnreadableCheckpoint& error) {
      if (++damaged == 1) newest_reason = error.what();
      if (group.rank() == 0) log_warning("skipping step {}: {}", found.step, error.what());
    }
  }
  require(
      damaged == 0,
      "none of the {} checkpoints in {} can be loaded (the newest: {}); move them away to start "
      "a new run there",
      damaged, directory, newest_reason);
  return nullptr;
}

std::unique_ptr<CheckpointReader> open_step(Communicator& group, const std::string& directory,
                                            std::int64_t step, const CheckpointUse& use) {
  std::string steps;
  for (const FoundCheckpoint& found : find_on_rank_0(group, directory)) {
    if (found.step != step) {
      steps += fmt::format("{}{}", steps.empty() ? "" : ", ", found.step);
      continue;
    }
    return open_whole(group, found, use);
  }
  fail("there is no checkpoint of step {} in {}; {}", step, directory,
       steps.empty() ? "there are none at all" : "there are steps " + steps);
}

}  // namespace neox
