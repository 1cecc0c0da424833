#pragma once
// Checkpoints: one HDF5 file of global tensors, written by every rank and readable by any layout.
// The format (docs: checkpoint-format) keeps nothing of the layout that wrote it.

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "comm/communicator.h"
#include "core/tensor/shard.h"

namespace neox {

using AttributeValue = std::variant<std::int64_t, double, std::string>;
using Attributes = std::map<std::string, AttributeValue>;

/// One tensor as one rank sees it. `shard.name` is for messages; the dataset is `path`.
struct CheckpointTensor {
  std::string path;  ///< "/model/embed_in/weight"
  /// shard.slice is this rank's box of the global tensor. shard.local holds either the whole box
  /// (slice.extent.numel() elements, row-major) or just its elements [write_begin, write_end), as a
  /// ZeRO partition does. Host memory.
  Shard shard;
  /// Elements of the box, in row-major order, that this rank writes: replicas split them, so that
  /// all ranks together write every element exactly once. Reading ignores them when `local` holds
  /// the whole box: it always fills all of `local`.
  std::int64_t write_begin = 0;
  std::int64_t write_end = 0;
  Attributes attributes{};  ///< of the dataset; equal on every rank that passes the tensor
};

/// Everything small in a checkpoint. Rank 0's is written; on load every rank gets the same.
struct CheckpointInfo {
  std::int64_t step = 0;
  std::int64_t consumed_samples = 0;
  std::int64_t consumed_tokens = 0;
  std::map<std::string, Attributes> groups{};  ///< "/optimizer" -> attributes of that group
  std::map<std::string, std::string> texts{};  ///< "/config/ini" -> the text
  std::map<std::string, std::string> links{};  ///< tied tensor's path -> path it stands for
};

/// direct: rank 0 lays the file out, every rank pwrites its parts. hdf5: collective transfers of
/// parallel HDF5 instead of pwrite. Both write the same bytes; hdf5 may hang when the disk fills.
enum class CheckpointIo : std::uint8_t { direct, hdf5 };
std::string_view name_of(CheckpointIo io);
/// Throws Error on other text than "direct" and "hdf5".
CheckpointIo checkpoint_io_from_name(std::string_view name);

struct SaveOptions {
  CheckpointIo io = CheckpointIo::direct;
  /// After the commit, older checkpoints than the newest `keep_last` are removed; 0 keeps all.
  std::int64_t keep_last = 0;
  /// Whether the checkpoint of a step stays however old it is; empty: none does. Asked on rank 0.
  std::function<bool(std::int64_t step)> keep = {};
  /// Whether the checkpoint of a step is one that the run did not continue from (it was damaged, or
  /// another history's): it does not count among the newest `keep_last`. Asked on rank 0.
  std::function<bool(std::int64_t step)> discarded = {};
};

struct SaveReport {
  std::string path;        ///< of the committed file
  std::int64_t bytes = 0;  ///< file size
  /// Work of this rank; the commit is rank 0's alone.
  double layout_seconds = 0, write_seconds = 0, sync_seconds = 0, commit_seconds = 0;
  double seconds() const { return layout_seconds + write_seconds + sync_seconds + commit_seconds; }
};

/// One save of <directory>/step0000001000.h5, which is committed by rename: after a crash at any
/// moment the directory holds the old checkpoints, and the new one either whole or not at all. It
/// has three parts: planning and laying out the file (the constructor), writing, committing. The
/// latter two take long where disks are slow, and need neither MPI nor HDF5 (with
/// CheckpointIo::direct): they may go on in threads of their own while the ranks communicate
/// otherwise. finish() does what is left to do.
///
/// An older file of the same step (a history that the run fell back from) is replaced.
class CheckpointSave {
 public:
  /// Every rank passes the tensors it holds; their data must neither change nor go until the save
  /// is finished or destroyed. Collective. Throws the same Error on every rank, with no file left
  /// behind, when anything fails anywhere: uncovered or doubly written elements, no space, I/O
  /// errors.
  CheckpointSave(Communicator& group, const std::string& directory,
                 std::span<const CheckpointTensor> tensors, const CheckpointInfo& info,
                 const SaveOptions& options = {});
  /// Waits for the thread. What was not committed leaves no file.
  ~CheckpointSave();
  CheckpointSave(CheckpointSave&&) noexcept;
  CheckpointSave& operator=(CheckpointSave&&) noexcept;

  /// Writes this rank's parts in a thread, which calls `fill` first: until then the tensors' data
  /// may be undefined. When fill throws, the save fails with its message. Not with
  /// CheckpointIo::hdf5, whose writes communicate.
  void start(const std::function<void()>& fill = {});
  /// After start(): waits until all ranks have written, then rank 0 commits in a thread.
  /// Collective; throws as the constructor does.
  void start_commit();
  bool committing() const;
  /// True when this rank's thread, of start() or start_commit(), is through, well or not. Never
  /// waits.
  bool through() const;
  /// Collective; throws as the constructor does.
  SaveReport finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The three parts in one call.
SaveReport save_checkpoint(Communicator& group, const std::string& directory,
                           std::span<const CheckpointTensor> tensors, const CheckpointInfo& info,
                           const SaveOptions& options = {});

/// A tensor of a checkpoint file.
struct StoredTensor {
  std::string path;
  DType dtype = DType::f32;
  Shape shape;
  Attributes attributes{};
  std::int64_t file_offset = 0;  ///< bytes
  std::uint64_t sum = 0;         ///< "sum64-splitmix-v1" of all elements
};

/// A checkpoint that is damaged, or that some rank cannot read: another one may do.
class UnreadableCheckpoint : public Error {
 public:
  using Error::Error;
};

/// A checkpoint opened for reading. A rank-local program passes a make_self_communicator().
class CheckpointReader {
 public:
  /// Checks header, file size, metadata hash, tensor table, then every dataset's shape, type and
  /// offset. Collective; throws the same UnreadableCheckpoint on every rank when the file is
  /// missing, is not ours, is of another format version, or is damaged.
  CheckpointReader(Communicator& group, std::string path);
  ~CheckpointReader();
  CheckpointReader(CheckpointReader&&) noexcept;
  CheckpointReader& operator=(CheckpointReader&&) noexcept;

  const std::string& path() const;
  const CheckpointInfo& info() const;
  const std::vector<StoredTensor>& tensors() const;
  /// Follows tied tensors; null when there is no such tensor.
  const StoredTensor* find(const std::string& tensor_path) const;

  /// Fills every tensors[i].shard.local from its slice of the stored tensor, under any layout.
  /// Collective: every rank passes what it wants (maybe nothing). All read data is verified: the
  /// sums of tensors that all ranks together read exactly once (or in equal copies) come for free,
  /// others are read once more. Throws on every rank the same Error where a tensor is missing or of
  /// another shape or type, UnreadableCheckpoint, with the tensor's name, where it is damaged.
  void read(std::span<CheckpointTensor> tensors);
  /// Reads what read() has not verified, shared out over the ranks, and checks every sum.
  /// Collective; throws the same UnreadableCheckpoint on every rank.
  void verify();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct FoundCheckpoint {
  std::int64_t step = 0;
  std::string path;
};
/// Committed checkpoints of a directory, newest first; empty when there is no such directory.
/// Rank-local.
std::vector<FoundCheckpoint> find_checkpoints(const std::string& directory);
/// Throws UnreadableCheckpoint when the file holds another step than its name says.
void check_step_of_name(const CheckpointReader& reader, const FoundCheckpoint& found);

/// What is done with a checkpoint before it counts as whole. It throws UnreadableCheckpoint where
/// it finds damage; what it did before must not matter then. Collective.
using CheckpointUse = std::function<void(CheckpointReader&)>;
inline void verify_all(CheckpointReader& reader) {
  reader.verify();
}

/// Opens the newest checkpoint that is whole, and logs which it skipped and why: the damaged ones,
/// and those that some rank cannot read (PosixFile::read repeats what may pass; a host that can
/// read none of them ends the run rather than its history). By default every byte is verified; a
/// `use` that reads what is needed before it verifies saves reading it twice. Null when the
/// directory holds none at all; throws Error when it holds some but none is whole: a run must not
/// start from scratch over a damaged history. Steps after `last_step` are left aside. Collective.
std::unique_ptr<CheckpointReader> open_newest(
    Communicator& group, const std::string& directory, const CheckpointUse& use = verify_all,
    std::int64_t last_step = std::numeric_limits<std::int64_t>::max());
/// Opens one step. Throws Error listing the steps that exist when it is missing, or saying what is
/// damaged. Collective.
std::unique_ptr<CheckpointReader> open_step(Communicator& group, const std::string& directory,
                                            std::int64_t step,
                                            const CheckpointUse& use = verify_all);

/// Creates the directory, or throws the Error that a save would meet there: so that a run learns it
/// before its first step. Collective.
void prepare_checkpoint_directory(Communicator& group, const std::string& directory);

/// Removes temporary files of dead jobs (this job's own, or older than a day). Collective; called
/// by save_checkpoint too, at the first save of a run in a directory.
void clean_checkpoint_directory(Communicator& group, const std::string& directory);

}  // namespace neox
