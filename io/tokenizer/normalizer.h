#pragma once
// Text normalizers of tokenizer.json: steps applied in order.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

enum class NormalizerStep : std::uint8_t {
  nfc,
  nfd,
  nfkc,
  nfkd,       ///< Unicode normal forms (ICU)
  lowercase,  ///< each character's lowercase mapping, without context
  strip_left,
  strip_right  ///< white space at the ends removed
};

class Normalizer {
 public:
  void add(NormalizerStep step) { steps_.push_back(step); }
  bool empty() const { return steps_.empty(); }

  /// The normal form of valid UTF-8: `text` itself where nothing changes, else `storage`, which
  /// then holds it.
  std::string_view apply(std::string_view text, std::string& storage) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace neox
