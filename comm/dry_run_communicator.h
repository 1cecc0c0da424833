#pragma once

#include <memory>

#include "comm/communicator.h"

namespace neox {

/// A group of `size` of which only this process' `rank` exists. Operations check their arguments,
/// count their traffic exactly as a real group does, and are finished at once; tensors need no
/// memory, and what memory they have is not touched (a received tensor keeps its old contents).
/// Nothing of the other ranks is invented:
///  - barrier: counted;
///  - host_all_reduce: the values stay this rank's own, for a sum too;
///  - host_broadcast: returns the text passed here, whoever the root is;
///  - host_all_gather: returns this rank's text `size` times, as if all ranks said the same;
///  - split: the group that this rank would get, as another dry-run group (one rank: a self
///    communicator).
std::unique_ptr<Communicator> make_dry_run_communicator(int rank, int size);

}  // namespace neox
