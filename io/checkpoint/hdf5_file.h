#pragma once
// HDF5 for checkpoints. Only these sources know the library; at most one thread may be inside it.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "io/checkpoint/boxes.h"
#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/format.h"

namespace neox {

/// What one rank writes of a tensor. `data` is null on the other ranks.
struct PlannedPart {
  Part part;
  int rank = 0;
  const std::byte* data = nullptr;
};

/// A tensor of the file to be written, as all ranks together describe it.
struct PlannedTensor {
  std::string path;
  DType dtype = DType::f32;
  Shape shape;
  Attributes attributes;
  std::vector<PlannedPart> parts;  ///< cover the tensor exactly once
};

/// The laid-out file: tables in the order tensors, then texts.
struct FileLayout {
  FileHeader header;
  std::vector<TableEntry> entries;
};

/// Creates the file with all groups, attributes, links and datasets, space allotted and tensor data
/// unwritten, and takes its name away: it is the caller's through a descriptor opened before.
/// Serial; for one rank. Throws Error with HDF5's own text.
FileLayout create_hdf5_layout(const std::string& path, const std::vector<PlannedTensor>& tensors,
                              const CheckpointInfo& info);

/// What the HDF5 library finds in a file, to be compared with the table.
struct Hdf5Contents {
  std::vector<StoredTensor> tensors;        ///< without sums
  std::map<std::string, TableEntry> texts;  ///< place of each text, by path
  CheckpointInfo info;                      ///< without texts
};
/// Serial; for one rank.
Hdf5Contents read_hdf5_contents(const std::string& path);

/// Writes this rank's parts with collective transfers of the parallel driver (with the serial one
/// in a group of one). Collective.
void write_with_hdf5(Communicator& group, const std::string& path,
                     const std::vector<PlannedTensor>& tensors);

/// Throws Error unless `path` is "/" followed by names joined with "/".
void check_hdf5_path(const std::string& path);

}  // namespace neox
