#pragma once
// The values of one tensor of a checkpoint, from first to last, in bounded memory.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "io/checkpoint/checkpoint.h"
#include "io/checkpoint/posix_file.h"

namespace neox {

class StoredValues {
 public:
  /// Elements per piece: two tensors read side by side need some 40 MiB.
  static constexpr std::int64_t kPiece = std::int64_t{1} << 20;

  /// `path`: the file; `tensor`: one of CheckpointReader::tensors().
  StoredValues(const std::string& path, const StoredTensor& tensor);

  /// The next elements, row-major, at most kPiece; empty after the last. 64-bit integers beyond
  /// 2^53 are rounded. Throws Error when the file cannot be read and, with the last piece, when the
  /// tensor's sum does not match.
  std::span<const double> next();

 private:
  PosixFile file_;
  StoredTensor tensor_;
  std::int64_t at_ = 0;
  std::uint64_t sum_ = 0;
  std::vector<std::byte> bytes_;
  std::vector<double> values_;
};

}  // namespace neox
