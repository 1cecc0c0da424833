#pragma once
// Attention masks for tests.

#include <cstdint>
#include <string>

#include "core/tensor/buffer.h"
#include "kernels/attention.h"

namespace neox::test {

struct MaskForm {
  std::int64_t window = 0;
  std::int64_t document = 0;  ///< mean length of documents; 0: no documents
  std::int64_t block = 0;     ///< of a random pattern
  bool per_head = false;      ///< another pattern for each head
};
std::string describe(const MaskForm& form);

/// A mask in host memory, with random documents and a random pattern that keeps about a third.
class OwnedMask {
 public:
  OwnedMask() = default;
  OwnedMask(const MaskForm& form, const AttentionProblem& problem);
  AttentionMask view() const;
  /// The same on a device.
  OwnedMask on(Stream& stream) const;

 private:
  std::int64_t window_ = 0, block_ = 0;
  OwnedTensor documents_, kept_;
};

}  // namespace neox::test
