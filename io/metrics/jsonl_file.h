#pragma once
// Files of one JSON object a line, each with the "step" that it belongs to.

#include <cstdint>
#include <string>

#include "io/metrics/append_file.h"

namespace neox {

/// Opens `path` for appending, but first removes, atomically, the lines after step `resumed_step`
/// (the steps about to be done again) and lines that are not whole. Creates missing folders. `what`
/// the lines are, for messages. Throws Error naming the file when it can't be written or holds
/// something else.
AppendFile open_jsonl(const std::string& path, const char* what, std::int64_t resumed_step);

}  // namespace neox
