#pragma once
// Samples made of whole documents, for fine-tuning: GPT-NeoX's pack_impl = pack_until_overflow and
// unpacked, in its order where it reads what it means to.

#include <cstdint>
#include <span>
#include <string>

#include "io/data/index_cache.h"
#include "io/data/indexed_dataset.h"

namespace neox {

/// How documents become samples of seq_length + 1 tokens (data.pack_impl).
enum class Packing : std::uint8_t {
  packed,               ///< laid end to end and cut: IndexMap
  pack_until_overflow,  ///< whole documents until the next does not fit, then padding
  unpacked              ///< one document, then padding
};
/// Throws Error for another name.
Packing packing_from_name(const std::string& name);
std::string_view name_of(Packing packing);

struct DocumentMapSpec {
  Packing packing = Packing::unpacked;  // not packed
  std::int64_t first_document = 0;      // range of sequences [first, last)
  std::int64_t last_document = 0;
  std::int64_t seq_length = 0;   // a sample has seq_length + 1 tokens
  std::int64_t num_samples = 0;  // exactly so many
  std::int64_t seed = 1234;      // [0, 2^32)
  bool allow_chopped = true;     // longer documents lose their end; otherwise they are left out
};

/// Which documents make up each sample. Left out are documents longer than a sample, unless
/// allow_chopped, and those from which nothing can be learnt: where no label among the first
/// seq_length + 1 counts (of unpacked ones without the first, which nothing predicts).
///   unpacked: sample k of the unshuffled order is the k-th document of those kept, over and over.
///   pack_until_overflow: the documents in a random order, shuffled anew for each pass; a document
///   that does not fit begins the next sample.
/// Then the samples are shuffled. From numpy.random.RandomState(seed) are taken: the shuffle of the
/// samples, then that of all documents of the range for each pass.
class DocumentMap {
 public:
  /// `labels` (null: the tokens) has the lengths of `data`; negative labels don't count. Throws
  /// Error when no document is left. Reads all labels, unless `cache_dir` has the outcome.
  static DocumentMap make(const IndexedDataset& data, const IndexedDataset* labels,
                          const DocumentMapSpec& spec, const std::string& cache_dir = "",
                          const std::string& name = "samples");

  std::int64_t size() const { return spec_.num_samples; }
  /// Documents of sample i in [0, size()), in their order; at least one.
  std::span<const std::int32_t> documents(std::int64_t i) const;

  /// Documents of the range that samples are made of, and those left out.
  std::int64_t kept() const { return kept_; }
  std::int64_t too_long() const { return too_long_; }
  std::int64_t without_labels() const { return without_labels_; }
  /// Tokens of the documents kept, as far as samples have room for them.
  std::int64_t tokens() const { return tokens_; }
  /// Documents in all samples / kept().
  double epochs() const;
  /// Text that names all the order depends on.
  const std::string& key() const { return key_; }

 private:
  // Of the use of each document of the range; throws when none is kept.
  void count(const IndexedDataset& data, std::span<const std::uint8_t> uses);

  DocumentMapSpec spec_;
  std::int64_t kept_ = 0, too_long_ = 0, without_labels_ = 0, tokens_ = 0;
  std::string key_;
  ArrayImage image_;  // documents i32, starts i64 (none when unpacked), shuffle u32 or i64
};

}  // namespace neox
