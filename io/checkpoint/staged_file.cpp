#include "io/checkpoint/staged_file.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>

#include "core/base/format.h"
#include "core/base/log.h"
#include "io/checkpoint/directory.h"
#include "io/checkpoint/sum64.h"

namespace neox {
namespace {

// Metadata, table and what file systems use for themselves.
constexpr std::int64_t kSpaceReserve = std::int64_t{16} << 20;
// What the layout alone takes at most: HDF5's metadata block, and more for many datasets.
constexpr std::int64_t kLayoutBytes = std::int64_t{8} << 20, kDatasetLayoutBytes = 4096;

void check_space(const std::string& directory, std::int64_t bytes) {
  const auto space = disk_space(directory);
  if (!space) return;  // the writes will tell
  require(!space->no_inodes,
          "no more files can be made in {}: its file system has no inodes left. Remove some files",
          directory);
  const std::int64_t needed = bytes + kSpaceReserve;
  require(space->bytes >= needed,
          "not enough space in {}: {} needed, {} available. Free some, or keep fewer checkpoints",
          directory, format_bytes(static_cast<std::uint64_t>(needed)),
          format_bytes(static_cast<std::uint64_t>(space->bytes)));
}

void check_size_limit(std::int64_t bytes) {
  rlimit limit{};
  if (getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return;
  require(static_cast<std::uint64_t>(bytes + kSpaceReserve) <= limit.rlim_cur,
          "the checkpoint needs a file of {}; this process may write files of {} (ulimit -f)",
          format_bytes(static_cast<std::uint64_t>(bytes + kSpaceReserve)),
          format_bytes(limit.rlim_cur));
}

struct RemoveAtExit {
  const std::string& path;
  ~RemoveAtExit() { unlink(path.c_str()); }
};

std::int64_t data_bytes(std::span<const PlannedTensor> tensors, const CheckpointInfo& info) {
  std::int64_t bytes = 0;
  for (const PlannedTensor& tensor : tensors) {
    bytes += tensor.shape.numel() * static_cast<std::int64_t>(size_of(tensor.dtype));
  }
  for (const auto& [path, text] : info.texts) bytes += static_cast<std::int64_t>(text.size());
  return bytes;
}

}  // namespace

void prepare_directory(const std::string& directory) {
  try {
    create_directories(directory);
  } catch (const Error& error) {
    fail("the checkpoint directory cannot be created: {}", error.what());
  }
  if (access(directory.c_str(), W_OK | X_OK) != 0) {
    // A statement of its own: errno is read after the call, which arguments of one call are not.
    const int code = errno;
    fail("the checkpoint directory {} is not writable: {}", directory,
         std::generic_category().message(code));
  }
  remove_leftovers(directory);
}

StagedFile::~StagedFile() {
  if (!owner_) return;
  try {
    remove_file(temporary);
  } catch (const std::exception& failure) {
    log_warning("an unfinished checkpoint stays until the next save: {}", failure.what());
  }
}

void StagedFile::lay_out(const std::string& directory, std::span<const PlannedTensor> tensors,
                         const CheckpointInfo& info) {
  prepare_directory(directory);
  const std::int64_t bytes = data_bytes(tensors, info);
  check_space(directory, bytes);
  check_size_limit(bytes);
  directory_ = directory;
  temporary = directory + "/" + temporary_file_name(info.step);
  final_path = directory + "/" + checkpoint_file_name(info.step);
  owner_ = true;
  // The library cannot close a file whose disk is full, and then crashes at exit: it gets a sparse
  // file in memory, and everything that reaches the disk goes through calls that report errors.
  const auto datasets = static_cast<std::int64_t>(tensors.size() + info.texts.size());
  const PosixFile image = PosixFile::scratch(kLayoutBytes + datasets * kDatasetLayoutBytes);
  const RemoveAtExit remove{image.path()};
  layout = create_hdf5_layout(image.path(), {tensors.begin(), tensors.end()}, info);
  file = PosixFile(temporary, O_RDWR | O_CREAT | O_EXCL);
  static_cast<void>(file.try_lock());
  FileHeader& header = layout.header;
  header.file_bytes = image.size();
  file.resize(header.file_bytes);
  file.reserve(header.file_bytes);
  file.copy_from(image);
  auto entry = layout.entries.begin() + static_cast<std::ptrdiff_t>(tensors.size());
  for (const auto& [path, text] : info.texts) {
    std::string padded = text;  // the dataset of an empty text is one zero byte
    padded.resize(static_cast<std::size_t>(entry->bytes));
    file.write(padded.data(), entry->bytes, entry->offset);
    entry->sum = sum64(reinterpret_cast<const std::byte*>(padded.data()), 1, entry->bytes, 0);
    ++entry;
  }
}

void StagedFile::commit(std::span<const std::uint64_t> sums) {
  for (std::size_t t = 0; t < sums.size(); ++t) layout.entries[t].sum = sums[t];
  write_table(file, layout.header.table, layout.entries);
  write_header(file, layout.header, layout.entries);
  file.sync();
  read_verified(file);
  rename_file(temporary, final_path);
  owner_ = false;  // committed
  file.close();
  sync_directory(directory_);
}

}  // namespace neox
