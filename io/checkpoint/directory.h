#pragma once
// Names and housekeeping of a checkpoint directory. Rank-local: rank 0 calls these.

#include <cstdint>
#include <functional>
#include <string>

namespace neox {

/// "step0000001000.h5"
std::string checkpoint_file_name(std::int64_t step);
/// ".tmp-step0000001000-<job>-<nonce>.h5": hidden, and unique to this job and save. <job> is
/// "slurm<id>", or "<host>.<pid>" outside SLURM.
std::string temporary_file_name(std::int64_t step);
/// Removes files that unfinished saves and removals left behind: those of this job, of dead
/// processes of this host, and those older than a day. Files that a living process has locked stay.
void remove_leftovers(const std::string& directory);
/// Removes checkpoints older than the newest `keep_last` up to `step`, except those that `keep`
/// (may be empty) wants. Later steps (of a history that the run fell back from) stay. Returns what
/// failed, for a warning; empty: nothing did.
std::string remove_old_checkpoints(const std::string& directory, std::int64_t step,
                                   std::int64_t keep_last,
                                   const std::function<bool(std::int64_t)>& keep);
/// Makes `latest` name the file. A hint for people; never read. Returns as above.
std::string write_latest(const std::string& directory, const std::string& file_name);

}  // namespace neox
