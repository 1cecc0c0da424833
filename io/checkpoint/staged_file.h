#pragma once
// A checkpoint file on its way: laid out under a temporary name, filled, and committed by rename.

#include <cstdint>
#include <span>
#include <string>

#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/format.h"
#include "io/checkpoint/hdf5_file.h"

namespace neox {

/// One process lays a file out and commits it (rank 0 of a save); others may write its tensors in
/// between, at the places that `layout` says. What was not committed is removed.
struct StagedFile {
  std::string temporary, final_path;
  PosixFile file;     ///< of who laid it out; holds the lock that marks the file as alive
  FileLayout layout;  ///< complete there; other ranks fill in the places of the tensors

  StagedFile() = default;
  ~StagedFile();
  StagedFile(const StagedFile&) = delete;
  StagedFile& operator=(const StagedFile&) = delete;

  /// <directory>/step<info.step>.h5 with `tensors`, sorted by path; texts are written and summed at
  /// once. Makes the directory. Throws Error when there is no space, or anything fails.
  void lay_out(const std::string& directory, std::span<const PlannedTensor> tensors,
               const CheckpointInfo& info);
  /// When every tensor is on the disk; sums[i]: sum64 of the i-th. Writes table and header, makes
  /// them durable, reads them back, and gives the file its name. Throws Error.
  void commit(std::span<const std::uint64_t> sums);

 private:
  std::string directory_;
  bool owner_ = false;
};

/// Makes the checkpoint directory, and removes what dead jobs left there. Throws Error.
void prepare_directory(const std::string& directory);

}  // namespace neox
