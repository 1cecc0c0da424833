#include "io/checkpoint/checkpoint_stream.h"

#include <algorithm>
#include <utility>

#include "core/base/log.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/staged_file.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

// Summed and written piece by piece, so that the second pass finds the data in the cache.
constexpr std::int64_t kPieceBytes = std::int64_t{2} << 20;

}  // namespace

struct CheckpointStream::State {
  StagedFile staged;
  std::vector<CheckpointTensorSpec> tensors;
  std::vector<std::uint64_t> sums;
  std::vector<bool> written;
  std::string directory;
  std::int64_t step = 0;

  std::size_t index_of(const std::string& path) const;
};

std::size_t CheckpointStream::State::index_of(const std::string& path) const {
  const auto found = std::lower_bound(
      tensors.begin(), tensors.end(), path,
      [](const CheckpointTensorSpec& t, const std::string& p) { return t.path < p; });
  require(found != tensors.end() && found->path == path, "{}: tensor {} was not announced",
          staged.final_path, path);
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
  std::vector<PlannedTensor> planned;
  for (const CheckpointTensorSpec& tensor : tensors) {
    require(tensor.shape.numel() > 0, "{} has no elements ({})", tensor.path, tensor.shape.str());
    planned.push_back({tensor.path, tensor.dtype, tensor.shape, tensor.attributes, {}});
  }
  state_->directory = directory;
  state_->step = info.step;
  state_->tensors = std::move(tensors);
  state_->sums.resize(state_->tensors.size());
  state_->written.resize(state_->tensors.size());
  state_->staged.lay_out(directory, planned, info);
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
  const std::int64_t offset = state_->staged.layout.entries[index].offset;
  const auto element = static_cast<std::int64_t>(size_of(spec.dtype));
  const std::int64_t most = kPieceBytes / element, all = tensor.numel();
  for (std::int64_t at = 0; at < all; at += most) {
    const std::int64_t count = std::min(most, all - at);
    const std::byte* data = tensor.data + at * element;
    state_->sums[index] += sum64(data, static_cast<std::size_t>(element), count, at);
    state_->staged.file.write(data, count * element, offset + at * element);
  }
  state_->written[index] = true;
}

std::string CheckpointStream::commit() {
  State& s = *state_;
  for (std::size_t i = 0; i < s.tensors.size(); ++i) {
    require(s.written[i], "{}: tensor {} was not written", s.staged.final_path, s.tensors[i].path);
  }
  s.staged.commit(s.sums);
  const std::string warning = write_latest(s.directory, checkpoint_file_name(s.step));
  if (!warning.empty()) log_warning("{}", warning);
  return s.staged.final_path;
}

}  // namespace neox
