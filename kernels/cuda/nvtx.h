#pragma once

namespace neox {

/// From now on trace::Range is an NVTX range: a coloured bar on the time line of Nsight Systems.
/// Without such a tool around the program a range costs a few nanoseconds.
void show_nvtx_ranges();

}  // namespace neox
