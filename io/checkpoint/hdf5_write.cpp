// The reference writer: the same bytes through H5Dwrite. Collective transfers of MPI-IO can hang or
// lose data on a full disk, so it is not the default.

#include <algorithm>
#include <vector>

#include <mpi.h>

#include "io/checkpoint/hdf5_file.h"
#include "io/checkpoint/hdf5_internal.h"

namespace neox {
namespace {

// Independent transfers of 2 GiB and more fail ("Out of range"); this is well below.
constexpr std::int64_t kTransferBytes = std::int64_t{1} << 30;

using Extents = std::vector<hsize_t>;

Extents extents_of(const Shape& shape) {
  Extents extents;
  for (int i = 0; i < shape.rank(); ++i) extents.push_back(static_cast<hsize_t>(shape[i]));
  return extents;
}

// Selects the part's boxes; their union in row-major order is the order of the part's elements.
void select(hid_t space, const Part& part, std::string_view what) {
  if (part.global.rank() == 0) return;  // a scalar: selected as a whole
  H5S_seloper_t operation = H5S_SELECT_SET;
  for (const Slice& box : boxes_of(part)) {
    const Extents start = extents_of(box.offset), count = extents_of(box.extent);
    check_hdf5(H5Sselect_hyperslab(space, operation, start.data(), nullptr, count.data(), nullptr),
               "H5Sselect_hyperslab", what);
    operation = H5S_SELECT_OR;
  }
}

void transfer(hid_t dataset, hid_t transfer_list, const PlannedTensor& tensor, const Part* part,
              const std::byte* data) {
  const Hid type = hdf5_type(tensor.dtype);
  const Hid file_space = own_hdf5(H5Dget_space(dataset), "H5Dget_space", tensor.path);
  const hsize_t count = part == nullptr ? 1 : static_cast<hsize_t>(part->end - part->begin);
  const Hid memory_space = own_hdf5(H5Screate_simple(1, &count, nullptr), "H5Screate", tensor.path);
  static const std::byte kNothing{};
  if (part == nullptr) {  // a collective call needs every rank, also those without data
    check_hdf5(H5Sselect_none(file_space.get()), "H5Sselect_none", tensor.path);
    check_hdf5(H5Sselect_none(memory_space.get()), "H5Sselect_none", tensor.path);
    data = &kNothing;
  } else {
    select(file_space.get(), *part, tensor.path);
  }
  check_hdf5(
      H5Dwrite(dataset, type.get(), memory_space.get(), file_space.get(), transfer_list, data),
      "H5Dwrite", tensor.path);
}

// The rank's parts, cut so that no transfer is too large.
std::vector<PlannedPart> pieces_of_rank(const PlannedTensor& tensor, int rank) {
  const auto element = static_cast<std::int64_t>(size_of(tensor.dtype));
  const std::int64_t most = kTransferBytes / element;
  std::vector<PlannedPart> pieces;
  for (const PlannedPart& planned : tensor.parts) {
    if (planned.rank != rank) continue;
    for (std::int64_t at = planned.part.begin; at < planned.part.end; at += most) {
      PlannedPart piece = planned;
      piece.part.begin = at;
      piece.part.end = std::min(at + most, planned.part.end);
      if (piece.data != nullptr) piece.data += (at - planned.part.begin) * element;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

std::size_t most_pieces(const PlannedTensor& tensor, int ranks) {
  std::size_t most = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    most = std::max(most, pieces_of_rank(tensor, rank).size());
  }
  return most;
}

}  // namespace

void write_with_hdf5(Communicator& group, const std::string& path,
                     const std::vector<PlannedTensor>& tensors) {
  silence_hdf5();
  const Hid access = own_hdf5(H5Pcreate(H5P_FILE_ACCESS), "H5Pcreate", path);
  check_hdf5(H5Pset_file_locking(access.get(), false, true), "H5Pset_file_locking", path);
  const Hid transfer_list = own_hdf5(H5Pcreate(H5P_DATASET_XFER), "H5Pcreate", path);
  if (group.size() > 1) {
    require(group.native() != nullptr, "checkpoint io = hdf5 needs an MPI group: use io = direct");
    check_hdf5(
        H5Pset_fapl_mpio(access.get(), *static_cast<MPI_Comm*>(group.native()), MPI_INFO_NULL),
        "H5Pset_fapl_mpio", path);
    check_hdf5(H5Pset_dxpl_mpio(transfer_list.get(), H5FD_MPIO_COLLECTIVE), "H5Pset_dxpl_mpio",
               path);
  }
  Hid file = own_hdf5(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()), "H5Fopen", path);
  for (const PlannedTensor& tensor : tensors) {
    const Hid dataset =
        own_hdf5(H5Dopen2(file.get(), tensor.path.c_str(), H5P_DEFAULT), "H5Dopen2", tensor.path);
    const std::vector<PlannedPart> own = pieces_of_rank(tensor, group.rank());
    // Every rank makes as many collective calls as the one with the most pieces.
    const std::size_t rounds = most_pieces(tensor, group.size());
    for (std::size_t round = 0; round < rounds; ++round) {
      const bool some = round < own.size();
      transfer(dataset.get(), transfer_list.get(), tensor, some ? &own[round].part : nullptr,
               some ? own[round].data : nullptr);
    }
  }
  close_hdf5_file(file, path);
}

}  // namespace neox
