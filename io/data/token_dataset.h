#pragma once
// Training samples: sample i is seq_length + 1 tokens, from one corpus cut by a split or from
// several blended by weight, in GPT-NeoX's order for the same seed. They are consecutive tokens of
// the documents laid end to end, or whole documents with padding behind them (Packing).

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "io/data/blend.h"
#include "io/data/document_map.h"
#include "io/data/index_map.h"
#include "io/data/indexed_dataset.h"

namespace neox {

struct TokenDatasetOptions {
  std::int64_t seq_length = 0;
  std::int64_t seed = 1234;     // [0, 2^32), as NumPy's
  std::int64_t vocab_size = 0;  // > 0: every token of every file is checked to be below it
  std::string cache_dir;        // "": beside each token file
  bool use_cache = true;
  bool warm_up = false;  // read the files once so that they are in memory
  Packing packing = Packing::packed;
  bool allow_chopped =
      true;  // not packed: longer documents lose their end instead of being left out
};

/// Token files that are mixed; the lists of the configuration.
struct BlendSpec {
  std::vector<std::string> paths;        // prefixes: files without .bin and .idx
  std::vector<double> weights;           // empty: equal
  std::vector<std::string> label_paths;  // empty: the labels are the next tokens
  bool weight_by_num_documents = false;  // replaces the weights
  double alpha = 1.0;
};

/// A label without loss.
constexpr std::int32_t kNoLabel = -100;
/// What fills a sample behind its documents; nothing is learnt from it.
constexpr std::int32_t kPaddingToken = 0;

/// Where a sample begins; its tokens run on into the documents that follow in the shuffled order.
struct SampleOrigin {
  std::int32_t dataset = 0;   // index in the list of paths
  std::int64_t document = 0;  // of that token file
  std::int64_t offset = 0;    // tokens into the document
  friend bool operator==(const SampleOrigin&, const SampleOrigin&) = default;
};

/// One line of the table printed at start.
struct TokenDatasetRow {
  std::string part;  // "train", …
  std::string path;
  std::int64_t documents = 0;  // in this part
  std::int64_t tokens = 0;     // in this part
  double weight_asked = 1.0;   // as given
  double proportion = 1.0;     // of this part's samples
  std::int64_t samples = 0;    // that the run takes
  double epochs = 0.0;         // samples x seq_length / tokens; not packed: documents / documents
  std::int64_t too_long = 0;   // documents left out; not in `documents`
  std::int64_t without_labels = 0;  // the same
};
/// Columns with a heading line; lines end in '\n'.
std::string format_table(std::span<const TokenDatasetRow> rows);

/// Thread-safe for reading. The order of the samples depends on the number asked for (through the
/// number of epochs that are shuffled together, as in GPT-NeoX): a run asks for the samples of all
/// its steps, also when it resumes.
class TokenDataset {
 public:
  /// Samples of part `part` of one corpus.
  TokenDataset(std::shared_ptr<const IndexedDataset> data, DataPart part, const std::string& split,
               std::int64_t num_samples, const TokenDatasetOptions& options);
  /// Samples of whole corpora mixed by weight.
  TokenDataset(DataPart part, const BlendSpec& blend, std::int64_t num_samples,
               const TokenDatasetOptions& options);

  /// Samples that exist: at least the number asked for.
  std::int64_t size() const;
  std::int64_t seq_length() const { return seq_length_; }
  DataPart part() const { return part_; }
  /// Copies sample i, tokens [seq_length + 1]. Throws Error when i is not in [0, size()) (nothing
  /// wraps around) or the files do not hold what the index says. Allocates nothing.
  SampleOrigin sample(std::int64_t i, std::span<std::int32_t> tokens) const;
  /// True when the labels are not simply the tokens: there are label files, or padding.
  bool has_labels() const { return has_labels_; }
  /// The label of each token of sample i, [seq_length + 1], unshifted; negative means no loss
  /// (kNoLabel in padding).
  void sample_labels(std::int64_t i, std::span<std::int32_t> labels) const;

  /// 64-bit hash of what ranks must have in common: the lengths of all sequences, the number of
  /// samples, and the tokens and labels of a few samples all over the dataset.
  std::uint64_t fingerprint() const;
  /// 64-bit hash of what was asked for: the lengths of all sequences, the ranges of documents,
  /// weights, packing, seq_length and seed, but not how many samples. Paths don't matter.
  std::uint64_t content_id() const { return checksum64(std::as_bytes(std::span(content_))); }
  /// 64-bit hash of all that sample numbers mean: content_id() and the epochs shuffled together.
  std::uint64_t order_id() const;

  const std::vector<TokenDatasetRow>& rows() const { return rows_; }

 private:
  struct Source {
    std::shared_ptr<const IndexedDataset> data;
    std::shared_ptr<const IndexedDataset> labels;  // null: the tokens
    IndexMap map;                                  // packed
    std::optional<DocumentMap> documents;          // not packed

    std::int64_t samples() const { return documents ? documents->size() : map.size(); }
    const std::string& key() const { return documents ? documents->key() : map.key(); }
  };
  void add_source(std::shared_ptr<const IndexedDataset> data, const std::string& label_path,
                  std::array<std::int64_t, 2> documents, std::int64_t num_samples,
                  const TokenDatasetOptions& options);
  void map_packed(Source& source, std::array<std::int64_t, 2> documents, std::int64_t num_samples,
                  const TokenDatasetOptions& options);
  void map_documents(Source& source, std::array<std::int64_t, 2> documents,
                     std::int64_t num_samples, const TokenDatasetOptions& options);
  double epochs(std::size_t source, std::int64_t samples) const;
  SampleOrigin read(std::int64_t i, bool labels, std::span<std::int32_t> out) const;
  static SampleOrigin read_packed(const Source& source, const IndexedDataset& data, std::int64_t i,
                                  std::span<std::int32_t> out);

  DataPart part_ = DataPart::train;
  std::int64_t seq_length_ = 0;
  bool has_labels_ = false;
  std::string content_;  // what content_id() is of
  std::vector<Source> sources_;
  std::optional<BlendMap> blend_;  // none: one source, taken in order
  std::vector<TokenDatasetRow> rows_;
};

/// train, valid and test of one corpus; a part of which no samples are asked for is absent. Throws
/// Error when the split leaves a part without documents that samples are asked for.
std::array<std::optional<TokenDataset>, 3> open_split(
    const std::string& path, const std::string& split,
    const std::array<std::int64_t, 3>& num_samples, const TokenDatasetOptions& options);

}  // namespace neox
