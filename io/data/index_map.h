#pragma once
// Which tokens make up sample i: GPT-NeoX's "packed" index maps, element for element
// (GPT2Dataset of megatron/data/gpt2_dataset.py): the documents of a range repeated for enough
// epochs, shuffled as one array, laid end to end and cut every seq_length tokens; the cuts are
// shuffled too.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "io/data/index_cache.h"
#include "io/data/indexed_dataset.h"

namespace neox {

/// The parts of a dataset, in the order of the split text.
enum class DataPart : std::uint8_t { train, valid, test };
/// "train", "valid", "test"
std::string_view name_of(DataPart part);

/// Boundaries b[0..3] of a split: part k is documents [b[k], b[k+1]). `text` holds one to three
/// proportions separated by ',' or '/'. Throws Error when they are not numbers >= 0 with a sum > 0.
/// Rounding is GPT-NeoX's: half to even, the surplus taken off every boundary but the first.
std::array<std::int64_t, 4> split_boundaries(const std::string& text, std::int64_t documents);

struct IndexMapSpec {
  std::int64_t first_document = 0;  // range of sequences [first, last)
  std::int64_t last_document = 0;
  std::int64_t seq_length = 0;   // a sample has seq_length + 1 tokens, one shared with the next
  std::int64_t num_samples = 0;  // at least so many; not used when num_epochs is set
  std::int64_t num_epochs = 0;   // 0: the fewest that give num_samples
  std::int64_t seed = 1234;      // [0, 2^32)
};

/// Sizes that follow from a spec and the number of tokens in its range.
struct IndexMapSizes {
  std::int64_t epochs = 0;
  std::int64_t positions = 0;  // entries of doc_idx: epochs x documents
  std::int64_t samples = 0;    // (epochs x tokens - 1) / seq_length
  bool wide_samples = false;   // sample_idx is i64
  bool wide_shuffle = false;   // shuffle_idx is i64
};
/// Throws Error when the range is empty or has no tokens, or a value is out of range.
IndexMapSizes index_map_sizes(const IndexMapSpec& spec, std::int64_t tokens);

class IndexMap {
 public:
  /// Where a sample starts: an index into doc_idx() and a token of that document.
  struct Start {
    std::int64_t position = 0;
    std::int64_t offset = 0;
  };

  /// Builds the map of `data`, or reads it from `cache_dir` ("" keeps it in memory).
  static IndexMap make(const IndexedDataset& data, const IndexMapSpec& spec,
                       const std::string& cache_dir = "", const std::string& name = "samples");

  std::int64_t size() const { return sizes_.samples; }
  std::int64_t epochs() const { return sizes_.epochs; }
  const IndexMapSizes& sizes() const { return sizes_; }
  bool from_file() const { return image_.from_file(); }
  /// Text that names all the order depends on.
  const std::string& key() const { return key_; }

  /// Cut k in [0, size()] of the shuffled documents.
  Start start(std::int64_t k) const;
  /// Which cut sample i in [0, size()) begins at.
  std::int64_t shuffled(std::int64_t i) const;
  /// The documents in the order they are laid end to end, [positions].
  std::span<const std::int32_t> doc_idx() const { return image_.array<std::int32_t>(0); }
  /// Raw bytes of sample_idx, i32 or i64 [samples + 1, 2], and shuffle_idx, u32 or i64 [samples].
  std::span<const std::byte> sample_idx_bytes() const { return image_.array<std::byte>(1); }
  std::span<const std::byte> shuffle_idx_bytes() const { return image_.array<std::byte>(2); }

 private:
  IndexMapSizes sizes_;
  std::string key_;
  ArrayImage image_;
};

}  // namespace neox
