#pragma once

#include <fstream>
#include <string>

#include "core/train/inference.h"

namespace neox {

/// One JSON object a line: context, text, length, finished, message, duration_seconds (the keys of
/// GPT-NeoX's generation files).
class SampleWriter {
 public:
  /// `path` empty: writes nothing. Throws Error when the file can't be written. An older file is
  /// replaced at the first write, not before.
  explicit SampleWriter(const std::string& path);
  void write(const GeneratedSample& sample);

 private:
  std::string path_;
  std::ofstream out_;
};

}  // namespace neox
