#pragma once

namespace neox {

// Exit codes of the programs under MPI. Scripts tell by them what to do next (docs/slurm.md).
constexpr int kExitFailure = 1;   ///< the input or the run is wrong: a restart would end the same
constexpr int kExitSlow = 84;     ///< of --preflight: nothing is wrong, but a rank is slow
constexpr int kExitStopped = 85;  ///< stopped early with its state saved: start it again
constexpr int kExitLostRanks =
    86;  ///< a rank failed alone, stalled or vanished: a restart may help

}  // namespace neox
