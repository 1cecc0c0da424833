#pragma once
// Models from Hugging Face folders to checkpoints and back. Tensor by tensor: memory is bounded by
// the largest parameter, but for the self-check, which computes with the whole model.

#include <cstdint>
#include <optional>
#include <string>

#include "core/base/dtype.h"
#include "io/checkpoint/checkpoint.h"

namespace neox {

struct FromHfOptions {
  std::optional<DType> precision;  ///< f32 or bf16; open: bf16 where all tensors are, otherwise f32
  bool check = true;               ///< compare logits before and after
};
/// Writes <checkpoint_directory>/step0000000000.h5, weights only, with the tokenizer files beside
/// it. The directory must be absent or empty; it appears when all is done. Returns a report for the
/// user, ending with a newline. Throws Error, leaving nothing, on anything that this program cannot
/// represent, and when the logits differ.
std::string convert_from_hf(const std::string& hf_directory,
                            const std::string& checkpoint_directory, const FromHfOptions& options);

struct ToHfOptions {
  std::optional<DType> dtype;  ///< f32, bf16 or f16; open: the checkpoint's
  std::int64_t max_shard_bytes = 5'000'000'000;
  bool check = true;
};
/// Writes safetensors, config.json, generation_config.json and tokenizer files to the directory,
/// which must be absent or empty. Returns and throws as above.
std::string convert_to_hf(CheckpointReader& reader, const std::string& hf_directory,
                          const ToHfOptions& options);

/// "5GB", "500MB", "2GiB", "1000000" -> bytes. Throws Error on other text and on 0.
std::int64_t parse_byte_count(const std::string& text);

}  // namespace neox
