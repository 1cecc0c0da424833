#include "io/checkpoint/checkpoint_stream.h"

#include <algorithm>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

#include "core/base/log.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/format.h"
#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

// Summed and written piece by piece, so that the second pass finds the data in the cache.
constexpr std::int64_t kPieceBytes = std::int64_t{2} << 20;

struct RemoveAtExit {
  const std::string& path;
  ~RemoveAtExit() { unlink(path.c_str()); }
};

}  // namespace

struct CheckpointStream::State {
  std::string directory, temporary, final_path;
  std::vector<CheckpointTensorSpec> tensors;
  std::vector<bool> written;
  PosixFile file;
  FileLayout layout;
  std::int64_t step = 0;
  bool owner = false;
  ~State() {
    if (owner) unlink(temporary.c_str());
  }

  void lay_out(const CheckpointInfo& info);
  std::size_t index_of(const std::string& path) const;
};

void CheckpointStream::State::lay_out(const CheckpointInfo& info) {
  std::vector<PlannedTensor> planned;
  for (const CheckpointTensorSpec& tensor : tensors) {
    require(tensor.shape.numel() > 0, "{} has no elements ({})", tensor.path, tensor.shape.str());
    planned.push_back({tensor.path, tensor.dtype, tensor.shape, tensor.attributes, {}});
  }
  // As in a run's saves, the library gets a sparse file in memory: it cannot report a full disk.
  const PosixFile image = PosixFile::scratch();
  const RemoveAtExit remove{image.path()};
  layout = create_hdf5_layout(image.path(), planned, info);
  file = PosixFile(temporary, O_RDWR | O_CREAT | O_EXCL);
  owner = true;
  static_cast<void>(file.try_lock());  // marks the file as alive
  layout.header.file_bytes = image.size();
  file.resize(layout.header.file_bytes);
  file.reserve(layout.header.file_bytes);
  file.copy_from(image);
  std::size_t entry_index = tensors.size();
  for (const auto& [path, text] : info.texts) {
    TableEntry& entry = layout.entries[entry_index++];
    std::string padded = text;  // the dataset of an empty text is one zero byte
    padded.resize(static_cast<std::size_t>(entry.bytes));
    file.write(padded.data(), entry.bytes, entry.offset);
    entry.sum = sum64(reinterpret_cast<const std::byte*>(padded.data()), 1, entry.bytes, 0);
  }
}

std::size_t CheckpointStream::State::index_of(const std::string& path) const {
  const auto found = std::lower_bound(
      tensors.begin(), tensors.end(), path,
      [](const CheckpointTensorSpec& t, const std::string& p) { return t.path < p; });
  require(found != tensors.end() && found->path == path, "{}: tensor {} was not announced",
          final_path, path);
  return static_cast<std::size_t>(found - tensors.begin());
}

CheckpointStream::CheckpointStream(const std::string& directory,
                                   std::vector<CheckpointTensorSpec> tensors,
                                   const CheckpointInfo& info)
    : state_(std::make_unique<State>()) {
  std::sort(tensors.begin(), tensors.end(),
            [](const auto& a, const auto& b) { return a.path < b.path; });
  for (std::size_t i = 1; i < tensors.size(); ++i) {
    require(tensors[i - 1].path != tensors[i].path, "tensor {} was announced twice",
            tensors[i].path);
  }
  state_->directory = directory;
  state_->step = info.step;
  state_->temporary = directory + "/" + temporary_file_name(info.step);
  state_->final_path = directory + "/" + checkpoint_file_name(info.step);
  state_->tensors = std::move(tensors);
  state_->written.resize(state_->tensors.size());
  state_->lay_out(info);
}

CheckpointStream::~CheckpointStream() = default;

std::span<const CheckpointTensorSpec> CheckpointStream::tensors() const {
  return state_->tensors;
}

void CheckpointStream::write(const std::string& path, ConstTensor tensor) {
  const std::size_t index = state_->index_of(path);
  const CheckpointTensorSpec& spec = state_->tensors[index];
  require(spec.dtype == tensor.dtype && spec.shape == tensor.shape,
          "tensor {} was announced as {} {}, but is {} {}", path, name_of(spec.dtype),
          spec.shape.str(), name_of(tensor.dtype), tensor.shape.str());
  require(tensor.device.is_cpu(), "tensor {} is not in host memory", path);
  require(!state_->written[index], "tensor {} was written twice", path);
  TableEntry& entry = state_->layout.entries[index];
  const auto element = static_cast<std::int64_t>(size_of(spec.dtype));
  const std::int64_t most = kPieceBytes / element, all = tensor.numel();
  for (std::int64_t at = 0; at < all; at += most) {
    const std::int64_t count = std::min(most, all - at);
    const std::byte* data = tensor.data + at * element;
    entry.sum += sum64(data, static_cast<std::size_t>(element), count, at);
    state_->file.write(data, count * element, entry.offset + at * element);
  }
  state_->written[index] = true;
}

std::string CheckpointStream::commit() {
  State& s = *state_;
  for (std::size_t i = 0; i < s.tensors.size(); ++i) {
    require(s.written[i], "{}: tensor {} was not written", s.final_path, s.tensors[i].path);
  }
  write_table(s.file, s.layout.header.table, s.layout.entries);
  write_header(s.file, s.layout.header, s.layout.entries);
  s.file.sync();
  read_verified(s.file);
  rename_file(s.temporary, s.final_path);
  s.owner = false;
  s.file.close();
  sync_directory(s.directory);
  const std::string warning = write_latest(s.directory, checkpoint_file_name(s.step));
  if (!warning.empty()) log_warning("{}", warning);
  return s.final_path;
}

}  // namespace neox
