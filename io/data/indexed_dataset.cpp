#include "io/data/indexed_dataset.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <sys/stat.h>
#include <thread>

#include "core/base/error.h"
#include "core/base/format.h"
#include "io/data/index_cache.h"

namespace neox {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr std::size_t kHeaderBytes = 34;
constexpr char kMagic[9] = {'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr const char* kRemake = "make the files again with neox_preprocess, or copy them again";

DType dtype_of_code(std::uint8_t code, const std::string& path) {
  switch (code) {
    case 1:
      return DType::u8;
    case 2:
      return DType::i8;
    case 3:
      return DType::i16;
    case 4:
      return DType::i32;
    case 5:
      return DType::i64;
    case 8:
      return DType::u16;
    case 6:
    case 7:
      fail(
          "'{}' holds floating-point numbers (element code {}), not token ids: give the path of a "
          "token file",
          path, code);
    default:
      fail(
          "'{}' has element code {}; known are 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16. The file is "
          "damaged: {}",
          path, code, kRemake);
  }
}

// Calls f with a value of the element type of a token file.
template <class F>
decltype(auto) visit_token_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::u8:
      return f(std::uint8_t{});
    case DType::i8:
      return f(std::int8_t{});
    case DType::i16:
      return f(std::int16_t{});
    case DType::i32:
      return f(std::int32_t{});
    case DType::i64:
      return f(std::int64_t{});
    case DType::u16:
      return f(std::uint16_t{});
    default:
      fail("token files hold integers of 1 to 8 bytes, not {}", name_of(dtype));
  }
}

void check_prefix(const std::string& prefix) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  require(!prefix.empty(), "the path of the token files is empty: set data_path");
  if (fs::exists(prefix + ".idx", ignored)) {
    require(fs::is_directory(prefix + ".idx", ignored) || fs::exists(prefix + ".bin", ignored),
            "'{0}.idx' has no '{0}.bin' beside it: copy that too, or make both with "
            "neox_preprocess",
            prefix);
    return;
  }
  for (const char* suffix : {".idx", ".bin"}) {
    if (prefix.ends_with(suffix) && fs::exists(prefix, ignored)) {
      fail("no file '{}.idx': data paths are given without the ending, here '{}'", prefix,
           prefix.substr(0, prefix.size() - 4));
    }
  }
  require(
      !fs::exists(prefix + ".bin", ignored),
      "'{0}.bin' has no '{0}.idx' beside it: its making was interrupted, or only one of the two "
      "files was copied",
      prefix);
  fail(
      "no token files '{0}.bin' and '{0}.idx': correct the path, or make them with neox_preprocess",
      prefix);
}

template <class T>
TokenRange range_of(std::span<const std::byte> bytes) {
  // The element type itself keeps the loop vectorised.
  T low = std::numeric_limits<T>::max(), high = std::numeric_limits<T>::lowest();
  const std::size_t count = bytes.size() / sizeof(T);
  const auto* at = reinterpret_cast<const T*>(bytes.data());  // page-aligned start, whole elements
  for (std::size_t i = 0; i < count; ++i) {
    low = std::min(low, at[i]);
    high = std::max(high, at[i]);
  }
  return {static_cast<std::int64_t>(low), static_cast<std::int64_t>(high)};
}

}  // namespace

IndexedDataset::IndexedDataset(const std::string& prefix)
    : prefix_(prefix), bin_path_(prefix + ".bin"), idx_path_(prefix + ".idx") {
  check_prefix(prefix);
  idx_ = MappedFile(idx_path_);
  read_header();
  bin_ = MappedFile(bin_path_);
  check_sequences();
  check_documents();
}

void IndexedDataset::read_header() {
  const std::string& path = idx_path_;
  const std::size_t bytes = idx_.size();
  require(bytes >= 8, "'{}' holds {} bytes, too few for an index: it is truncated; {}", path, bytes,
          kRemake);
  require(
      std::memcmp(idx_.data(), "TNTIDX\0\0", 8) != 0,
      "'{}' is in the old 'cached' format of fairseq: make the files again with neox_preprocess",
      path);
  require(std::memcmp(idx_.data(), kMagic, std::min(bytes, sizeof kMagic)) == 0,
          "'{}' does not start with MMIDIDX: it is no index of token files, or it is damaged; {}",
          path, kRemake);
  require(bytes >= kHeaderBytes,
          "'{}' holds {} bytes, an index has at least {}: it is truncated; {}", path, bytes,
          kHeaderBytes, kRemake);
  const auto version = load_unaligned<std::uint64_t>(idx_.data() + 9);
  require(version == 1, "'{}' has format version {}, known is 1; {}", path, version, kRemake);
  dtype_ = dtype_of_code(load_unaligned<std::uint8_t>(idx_.data() + 17), path);
  const auto sequences = load_unaligned<std::uint64_t>(idx_.data() + 18);
  const auto boundaries = load_unaligned<std::uint64_t>(idx_.data() + 26);
  // Bounding each count by the file first keeps the product below from overflowing.
  const bool plausible = sequences <= bytes / 12 && boundaries <= bytes / 8;
  const std::size_t expected = plausible ? kHeaderBytes + 12 * sequences + 8 * boundaries : 0;
  require(plausible && bytes == expected,
          "'{}' holds {} bytes, but {} sequences and {} document boundaries, as its header says, "
          "take {}: it is truncated or damaged; {}",
          path, bytes, sequences, boundaries, plausible ? std::to_string(expected) : "more",
          kRemake);
  require(boundaries >= 1, "'{}' has no document boundaries, not even the first: {}", path,
          kRemake);
  require(sequences <= std::numeric_limits<std::int32_t>::max(),
          "'{}' has {} sequences; at most 2147483647 can be numbered: split it into several files",
          path, sequences);
  size_ = static_cast<std::int64_t>(sequences);
  num_boundaries_ = static_cast<std::int64_t>(boundaries);
  lengths_ = idx_.data() + kHeaderBytes;
  offsets_ = lengths_ + 4 * sequences;
  boundaries_ = offsets_ + 8 * sequences;
}

void IndexedDataset::check_sequences() {
  const auto item = static_cast<std::int64_t>(size_of(dtype_));
  std::int64_t end = 0;  // cannot overflow: 2^31 lengths below 2^31, times 8
  for (std::int64_t i = 0; i < size_; ++i) {
    const std::int64_t tokens = length(i);
    const auto offset = load<std::int64_t>(offsets_, i);
    if (tokens < 0) [[unlikely]] {
      fail("'{}': sequence {} has {} tokens: the index is damaged; {}", idx_path_, i, tokens,
           kRemake);
    }
    if (offset != end) [[unlikely]] {
      fail(
          "'{}': sequence {} starts at byte {}, but the ones before it end at {}: the index is "
          "damaged; {}",
          idx_path_, i, offset, end, kRemake);
    }
    end += tokens * item;
  }
  const auto held = static_cast<std::int64_t>(bin_.size());
  require(held == end,
          "'{}' holds {} bytes, but '{}' describes {} ({} sequences, {} a token): {}; {}",
          bin_path_, held, idx_path_, end, size_, name_of(dtype_),
          held < end ? "it is truncated" : "the two files don't belong together", kRemake);
  num_tokens_ = end / item;
}

void IndexedDataset::check_documents() const {
  std::int64_t before = 0;
  for (std::int64_t d = 0; d < num_boundaries_; ++d) {
    const std::int64_t at = document_begin(d);
    if (at < before || at > size_ || (d == 0 && at != 0)) [[unlikely]] {
      fail(
          "'{}': document boundary {} is {}; boundaries rise from 0 to the {} sequences, and the "
          "one before is {}: the index is damaged; {}",
          idx_path_, d, at, size_, before, kRemake);
    }
    before = at;
  }
  require(before == size_, "'{}': the last document ends at sequence {}, but there are {}: {}",
          idx_path_, before, size_, kRemake);
}

std::int64_t IndexedDataset::num_tokens(std::int64_t begin, std::int64_t end) const {
  require(0 <= begin && begin <= end && end <= size_, "'{}' has sequences [0, {}), not [{}, {})",
          idx_path_, size_, begin, end);
  const auto item = static_cast<std::int64_t>(size_of(dtype_));
  const auto start_of = [&](std::int64_t i) {  // offsets are contiguous: checked at opening
    return i == size_ ? num_tokens_ : load<std::int64_t>(offsets_, i) / item;
  };
  return start_of(end) - start_of(begin);
}

void IndexedDataset::tokens(std::int64_t i, std::int64_t offset,
                            std::span<std::int32_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  require(0 <= i && i < size_, "'{}' has sequences [0, {}), not {}", idx_path_, size_, i);
  const std::int64_t have = length(i);
  require(0 <= offset && offset <= have && count <= have - offset,
          "'{}': sequence {} has {} tokens; asked for [{}, {})", idx_path_, i, have, offset,
          offset + count);
  visit_token_type(dtype_, [&](auto zero) {
    using T = decltype(zero);
    const std::byte* from = bin_.data() + load<std::int64_t>(offsets_, i);
    for (std::int64_t k = 0; k < count; ++k) {
      const T token = load<T>(from, offset + k);
      if constexpr (sizeof(T) > sizeof(std::int32_t)) {
        require(std::in_range<std::int32_t>(token),
                "'{}': sequence {}, position {}: token {} does not fit 32 bits; {}", bin_path_, i,
                offset + k, token, kRemake);
      }
      out[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(token);
    }
  });
}

TokenRange IndexedDataset::token_range() const {
  if (num_tokens_ == 0) return {};
  bin_.expect_sequential();
  constexpr std::int64_t kTokensPerThread = 1 << 22;
  const auto cores = static_cast<std::int64_t>(std::thread::hardware_concurrency());
  const std::int64_t threads =
      std::clamp<std::int64_t>(std::min(num_tokens_ / kTokensPerThread, cores), 1, 8);
  std::vector<TokenRange> found(static_cast<std::size_t>(threads));
  visit_token_type(dtype_, [&](auto zero) {
    using T = decltype(zero);
    const auto scan = [&](std::int64_t t) {
      const auto begin = static_cast<std::size_t>(num_tokens_ / threads * t);
      const auto end = static_cast<std::size_t>(t == threads - 1 ? num_tokens_
                                                                 : num_tokens_ / threads * (t + 1));
      found[static_cast<std::size_t>(t)] =
          range_of<T>(bin_.bytes().subspan(begin * sizeof(T), (end - begin) * sizeof(T)));
    };
    std::vector<std::jthread> others;
    for (std::int64_t t = 1; t < threads; ++t) others.emplace_back(scan, t);
    scan(0);
  });
  TokenRange all = found[0];
  for (const auto& part : found) {
    all = {std::min(all.min, part.min), std::max(all.max, part.max)};
  }
  return all;
}

std::string IndexedDataset::file_identity() const {
  struct stat info {};
  require(::stat(bin_path_.c_str(), &info) == 0, "cannot read the size of '{}'", bin_path_);
  return fmt::format("{} {} bytes, inode {}, modified {}.{:09}, changed {}.{:09}", name_of(dtype_),
                     bin_.size(), info.st_ino, info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                     info.st_ctim.tv_sec, info.st_ctim.tv_nsec);
}

void IndexedDataset::check_tokens_below(std::int64_t vocab_size,
                                        const std::string& cache_dir) const {
  require(vocab_size > 0, "a vocabulary has at least one token, not {}", vocab_size);
  const bool cannot_exceed =
      (dtype_ == DType::u8 && vocab_size > 0xff) || (dtype_ == DType::u16 && vocab_size > 0xffff);
  if (cannot_exceed || num_tokens_ == 0) return;
  CacheRequest request;
  request.directory = cache_dir;
  request.name = std::filesystem::path(prefix_).filename().string() + "_tokens";
  request.key = "token range 1: " + file_identity();
  request.arrays = {{sizeof(std::int64_t), 2}};
  const ArrayImage image = load_or_build(request, [&](auto arrays) {
    const TokenRange range = token_range();
    std::memcpy(arrays[0].data(), &range, sizeof range);
  });
  const auto range = image.array<std::int64_t>(0);
  if (range[0] < 0 || range[1] >= vocab_size) fail_first_token_outside(vocab_size);
}

void IndexedDataset::fail_first_token_outside(std::int64_t vocab_size) const {
  visit_token_type(dtype_, [&](auto zero) {
    using T = decltype(zero);
    std::int64_t at = 0;
    for (std::int64_t i = 0; i < size_; ++i) {
      for (std::int64_t k = 0; k < length(i); ++k, ++at) {
        const auto token = static_cast<std::int64_t>(load<T>(bin_.data(), at));
        require(token >= 0 && token < vocab_size,
                "'{}': sequence {}, position {}: token {}, but the vocabulary has {} (0 … {}). The "
                "file was made with another tokenizer: set the tokenizer or vocabulary size it was "
                "made with, or preprocess the text again",
                bin_path_, i, k, token, vocab_size, vocab_size - 1);
      }
    }
  });
  fail("'{}' is changing while it is read", bin_path_);
}

std::uint64_t IndexedDataset::fingerprint() const {
  return checksum64({lengths_, static_cast<std::size_t>(size_) * sizeof(std::int32_t)});
}

void IndexedDataset::warm_up() const {
  bin_.expect_sequential();
  constexpr std::size_t kPage = 4096;
  std::uint8_t sum = 0;
  for (std::size_t at = 0; at < bin_.size(); at += kPage) {
    sum = static_cast<std::uint8_t>(sum + static_cast<std::uint8_t>(bin_.data()[at]));
  }
  volatile std::uint8_t keep = sum;  // the reads are the point
  (void)keep;
}

}  // namespace neox
