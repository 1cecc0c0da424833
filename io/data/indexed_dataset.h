#pragma once
// Token files of Megatron and GPT-NeoX: <prefix>.bin holds the token ids back to back, <prefix>.idx
// says where each sequence starts. Layout of the .idx (little-endian, no padding):
//   0 "MMIDIDX\0\0" | 9 u64 version = 1 | 17 u8 element code | 18 u64 S = sequences | 26 u64 K |
//   34 i32 lengths[S] | i64 byte offsets in .bin[S] | i64 document boundaries[K] (0 … S)

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "io/data/mapped_file.h"
#include "io/data/partial_file.h"

namespace neox {

/// Smallest and largest token id of a file; {0, -1} for a file without tokens.
struct TokenRange {
  std::int64_t min = 0;
  std::int64_t max = -1;
};

/// Element type that GPT-NeoX's preprocessing picks: u16 below 65500 tokens, else i32.
constexpr DType token_dtype(std::int64_t vocab_size) {
  return vocab_size < 65500 ? DType::u16 : DType::i32;
}

/// A memory-mapped pair of token files. Sequences are what samples are cut from, and GPT-NeoX's
/// "documents": its preprocessing writes one sequence per document. Reading is thread-safe.
class IndexedDataset {
 public:
  /// Opens <prefix>.bin and <prefix>.idx and checks all of the .idx (magic, version, element code,
  /// counts against both files' lengths, offsets contiguous, boundaries rising from 0 to S).
  /// Throws Error naming the file, what is wrong and what to do.
  explicit IndexedDataset(const std::string& prefix);

  const std::string& prefix() const { return prefix_; }
  const std::string& bin_path() const { return bin_path_; }
  const std::string& idx_path() const { return idx_path_; }
  DType dtype() const { return dtype_; }

  /// Number of sequences S.
  std::int64_t size() const { return size_; }
  /// Tokens in sequence i; i in [0, size()), unchecked.
  std::int64_t length(std::int64_t i) const { return load<std::int32_t>(lengths_, i); }
  /// Starts loading length(i) into the cache.
  void prefetch_length(std::int64_t i) const {
    __builtin_prefetch(lengths_ + static_cast<std::size_t>(i) * sizeof(std::int32_t));
  }
  /// Tokens in all sequences.
  std::int64_t num_tokens() const { return num_tokens_; }
  /// Tokens in sequences [begin, end). Throws Error when the range is not inside [0, size()].
  std::int64_t num_tokens(std::int64_t begin, std::int64_t end) const;

  /// Number of documents in the document index (K - 1).
  std::int64_t num_documents() const { return num_boundaries_ - 1; }
  /// First sequence of document d; d in [0, num_documents()], the last is size().
  std::int64_t document_begin(std::int64_t d) const { return load<std::int64_t>(boundaries_, d); }

  /// Copies tokens [offset, offset + out.size()) of sequence i into `out`. Throws Error when the
  /// range is outside the sequence or an i64 token does not fit i32.
  void tokens(std::int64_t i, std::int64_t offset, std::span<std::int32_t> out) const;

  /// Reads the whole .bin, with several threads.
  TokenRange token_range() const;
  /// Throws Error naming the first sequence, position and token outside [0, vocab_size). Reads the
  /// whole .bin once: the range found is kept in `cache_dir` ("" keeps nothing) under the .bin's
  /// size, inode and times, and the next call with the same file reads only that.
  void check_tokens_below(std::int64_t vocab_size, const std::string& cache_dir = "") const;

  /// Text that is another one when the .bin was written anew: size, inode and times.
  std::string file_identity() const;
  /// 64-bit hash of all sequence lengths: what index maps depend on.
  std::uint64_t fingerprint() const;
  /// Reads the .bin once so that it is in the page cache.
  void warm_up() const;

 private:
  template <class T>
  T load(const std::byte* base, std::int64_t i) const {  // the arrays are unaligned
    return load_unaligned<T>(base + static_cast<std::size_t>(i) * sizeof(T));
  }
  void read_header();
  void check_sequences();
  void check_documents() const;
  [[noreturn]] void fail_first_token_outside(std::int64_t vocab_size) const;

  std::string prefix_, bin_path_, idx_path_;
  MappedFile idx_;
  MappedFile bin_;
  DType dtype_ = DType::u16;
  std::int64_t size_ = 0;
  std::int64_t num_boundaries_ = 0;
  std::int64_t num_tokens_ = 0;
  const std::byte* lengths_ = nullptr;
  const std::byte* offsets_ = nullptr;
  const std::byte* boundaries_ = nullptr;
};

/// Writes a pair of token files, byte for byte as GPT-NeoX does. The files appear under their names
/// only in finish(); before, and after an error, whatever was there is untouched.
class IndexedDatasetWriter {
 public:
  /// Creates <prefix>.bin.partial. Throws Error when it can't, or when another process is writing
  /// it.
  IndexedDatasetWriter(std::string prefix, DType dtype);
  /// Removes the unfinished file.
  ~IndexedDatasetWriter() = default;
  IndexedDatasetWriter(const IndexedDatasetWriter&) = delete;
  IndexedDatasetWriter& operator=(const IndexedDatasetWriter&) = delete;

  /// Appends one sequence (it may be empty). Throws Error naming a token that does not fit the
  /// element type.
  void add_sequence(std::span<const std::int32_t> tokens);
  /// Ends the document begun after the last end_document().
  void end_document();
  /// Writes the .idx, makes both files durable and renames them. The last document must have ended.
  void finish();

  std::int64_t num_sequences() const { return static_cast<std::int64_t>(lengths_.size()); }
  std::int64_t num_tokens() const { return num_tokens_; }
  std::int64_t num_documents() const { return num_documents_; }

 private:
  template <class T>
  void append_as(std::span<const std::int32_t> tokens);
  void flush();
  void write_index();

  std::string prefix_;
  DType dtype_;
  std::optional<PartialFile> bin_;  // none once finished
  std::vector<std::byte> pending_;  // bytes not yet in the file
  std::vector<std::int32_t> lengths_;
  std::vector<std::int64_t> boundaries_;  // empty while every document is one sequence
  std::int64_t num_documents_ = 0;
  bool one_sequence_each_ = true;
  std::int64_t num_tokens_ = 0;
};

}  // namespace neox
