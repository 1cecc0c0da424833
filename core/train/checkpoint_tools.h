#pragma once
// What neox_convert says about checkpoints. Texts are for people and end with a newline.

#include <cstdint>
#include <string>

#include "comm/communicator.h"
#include "core/config/parse.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

/// `where`: a checkpoint file, or a directory: then its checkpoint of `step`, the newest when
/// `step` < 0. Throws Error when there is none.
std::string checkpoint_file_of(const std::string& where, std::int64_t step);

struct InspectOptions {
  bool config = false;   ///< the stored configuration too
  bool summary = false;  ///< without the table of contents
};
/// Step, model, sizes, state of optimizer and generators, table of contents. Reads no tensor.
std::string inspect_text(const CheckpointReader& reader, const InspectOptions& options);

struct VerifyResult {
  std::string text;  ///< a line per checkpoint; of a damaged one, what is damaged
  std::int64_t damaged = 0;
};
/// Reads every byte of a file, or of all checkpoints of a directory (of one, when `step` >= 0),
/// shared out over the ranks. Collective. Throws Error when there is nothing to verify.
VerifyResult verify_checkpoints(Communicator& group, const std::string& where, std::int64_t step);

struct DiffResult {
  std::string text;
  bool equal = true;
};
/// Configuration, facts and tensors in which the two differ. A tensor differs when its largest
/// absolute difference exceeds `tolerance` times its largest magnitude in either file; NaN equals
/// NaN. Reads piece by piece and verifies what it reads; throws Error when it is damaged.
DiffResult diff_checkpoints(const CheckpointReader& a, const CheckpointReader& b, double tolerance);

/// The checkpoint's configuration with what `command` sets put over it, as INI. With `ranks` > 0 it
/// is checked for that many ranks, and batch.gradient_accumulation_steps is derived anew unless
/// given. Throws Error listing what does not fit.
std::string merged_ini(const CheckpointReader& reader, const ParsedCommand& command,
                       std::int64_t ranks);

}  // namespace neox
