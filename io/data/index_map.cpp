#include "io/data/index_map.h"

#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "io/data/numpy_rng.h"

namespace neox {
namespace {

constexpr std::int64_t kMaxI32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();

double parse_proportion(std::string_view field, const std::string& text) {
  const auto first = field.find_first_not_of(" \t");
  const auto last = field.find_last_not_of(" \t");
  field = first == std::string_view::npos ? "" : field.substr(first, last - first + 1);
  double value = 0;
  const auto [end, code] = std::from_chars(field.data(), field.data() + field.size(), value);
  require(
      code == std::errc{} && end == field.data() + field.size() && std::isfinite(value) &&
          value >= 0,
      "split '{}': '{}' is not a number >= 0; write the proportions of training, validation and "
      "test like 969,30,1",
      text, field);
  return value;
}

// The sequences repeated for every epoch, then shuffled as one array: documents of different epochs
// mix freely.
void fill_doc_idx(const IndexMapSpec& spec, std::int64_t epochs, NumpyRandomState& rng,
                  std::span<std::int32_t> doc_idx) {
  const auto documents = static_cast<std::size_t>(spec.last_document - spec.first_document);
  for (std::int64_t e = 0; e < epochs; ++e) {
    const auto epoch = doc_idx.subspan(static_cast<std::size_t>(e) * documents, documents);
    std::iota(epoch.begin(), epoch.end(), static_cast<std::int32_t>(spec.first_document));
  }
  rng.shuffle(doc_idx);
}

// Cut k is where token k * seq_length of the documents laid end to end lies. (Cut 0 is (0, 0) even
// when the first document is empty.)
template <class T>
void fill_sample_idx(const IndexedDataset& data, std::span<const std::int32_t> doc_idx,
                     std::int64_t seq_length, std::span<T> sample_idx) {
  const auto rows = static_cast<std::int64_t>(sample_idx.size()) / 2;
  T* out = sample_idx.data();
  *out++ = 0;
  *out++ = 0;
  std::int64_t row = 1;
  std::int64_t to_cut = seq_length;   // tokens from the start of the document to the next cut
  constexpr std::size_t kAhead = 32;  // the lengths are read in random order: hide the misses
  for (std::size_t position = 0; row < rows; ++position) {
    require(position < doc_idx.size(), "'{}' has fewer tokens than its index says",
            data.bin_path());
    if (position + kAhead < doc_idx.size()) data.prefetch_length(doc_idx[position + kAhead]);
    const std::int64_t length = data.length(doc_idx[position]);
    for (; to_cut < length && row < rows; to_cut += seq_length, ++row) {
      *out++ = static_cast<T>(position);
      *out++ = static_cast<T>(to_cut);
    }
    to_cut -= length;
  }
}

template <class T>
void fill_shuffle_idx(NumpyRandomState& rng, std::span<T> shuffle_idx) {
  std::iota(shuffle_idx.begin(), shuffle_idx.end(), T{0});
  rng.shuffle(shuffle_idx);
}

template <class T>
std::span<T> typed(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

void build(const IndexedDataset& data, const IndexMapSpec& spec, const IndexMapSizes& sizes,
           std::span<const std::span<std::byte>> arrays) {
  NumpyRandomState rng(static_cast<std::uint32_t>(spec.seed));
  const auto doc_idx = typed<std::int32_t>(arrays[0]);
  fill_doc_idx(spec, sizes.epochs, rng, doc_idx);
  if (sizes.wide_samples) {
    fill_sample_idx(data, doc_idx, spec.seq_length, typed<std::int64_t>(arrays[1]));
  } else {
    fill_sample_idx(data, doc_idx, spec.seq_length, typed<std::int32_t>(arrays[1]));
  }
  if (sizes.wide_shuffle) {
    fill_shuffle_idx(rng, typed<std::int64_t>(arrays[2]));
  } else {
    fill_shuffle_idx(rng, typed<std::uint32_t>(arrays[2]));
  }
}

}  // namespace

std::string_view name_of(DataPart part) {
  switch (part) {
    case DataPart::train:
      return "train";
    case DataPart::valid:
      return "valid";
    case DataPart::test:
      return "test";
  }
  fail("unknown part of a dataset");
}

std::array<std::int64_t, 4> split_boundaries(const std::string& text, std::int64_t documents) {
  const char separator = text.find(',') != std::string::npos ? ',' : '/';
  std::array<double, 3> proportions{};
  std::size_t count = 0;
  for (std::size_t begin = 0; begin <= text.size(); ++count) {
    require(count < 3, "split '{}' has more than three parts: training, validation and test", text);
    const std::size_t end = std::min(text.find(separator, begin), text.size());
    proportions[count] = parse_proportion(std::string_view(text).substr(begin, end - begin), text);
    begin = end + 1;
  }
  const double sum = proportions[0] + proportions[1] + proportions[2];
  require(sum > 0 && std::isfinite(sum), "split '{}': the proportions add up to {}", text, sum);

  std::array<std::int64_t, 4> boundaries{};
  for (std::size_t k = 0; k < 3; ++k) {
    // nearbyint rounds half to even, as Python's round.
    const double share = proportions[k] / sum * static_cast<double>(documents);
    boundaries[k + 1] = boundaries[k] + static_cast<std::int64_t>(std::nearbyint(share));
  }
  const std::int64_t surplus = boundaries[3] - documents;
  for (std::size_t k = 1; k < 4; ++k) boundaries[k] -= surplus;
  // With tiny corpora the surplus can push a boundary out of order; GPT-NeoX would read documents
  // that don't exist.
  for (std::size_t k = 1; k < 4; ++k) {
    boundaries[k] = std::clamp(boundaries[k], boundaries[k - 1], documents);
  }
  return boundaries;
}

IndexMapSizes index_map_sizes(const IndexMapSpec& spec, std::int64_t tokens) {
  const std::int64_t documents = spec.last_document - spec.first_document;
  require(0 <= spec.first_document && documents > 0 && spec.last_document <= kMaxI32,
          "no documents in the range [{}, {})", spec.first_document, spec.last_document);
  require(tokens > 0, "the documents [{}, {}) have no tokens", spec.first_document,
          spec.last_document);
  require(spec.seq_length >= 1 && spec.seq_length < kMaxI32, "seq_length is {}; it is 1 to {}",
          spec.seq_length, kMaxI32 - 1);
  require(spec.seed >= 0 && spec.seed <= kMaxU32, "the data seed is {}; it is 0 to {}", spec.seed,
          kMaxU32);
  require(spec.num_epochs >= 0 && (spec.num_epochs > 0 || spec.num_samples > 0),
          "{} samples in {} epochs asked for: at least one is needed", spec.num_samples,
          spec.num_epochs);
  // All sums below stay under 2^62.
  constexpr std::int64_t kLimit = std::int64_t{1} << 61;
  require(spec.num_epochs > 0 || spec.num_samples <= kLimit / spec.seq_length,
          "{} samples of {} tokens are more than this program can count", spec.num_samples,
          spec.seq_length);
  IndexMapSizes sizes;
  // The fewest epochs with (epochs x tokens - 1) / seq_length >= num_samples.
  sizes.epochs = spec.num_epochs > 0
                     ? spec.num_epochs
                     : (spec.num_samples * spec.seq_length + 1 + tokens - 1) / tokens;
  require(sizes.epochs <= kLimit / std::max(tokens, documents),
          "{} epochs of {} tokens are more than this program can count", sizes.epochs, tokens);
  sizes.positions = sizes.epochs * documents;
  sizes.samples = (sizes.epochs * tokens - 1) / spec.seq_length;
  require(sizes.samples > 0, "{} tokens are too few for one sample of {} + 1", tokens,
          spec.seq_length);
  sizes.wide_samples = 2 * (sizes.samples + 1) >= kMaxI32 || sizes.positions > kMaxI32;
  sizes.wide_shuffle = sizes.samples >= kMaxU32 - 1;
  return sizes;
}

IndexMap IndexMap::make(const IndexedDataset& data, const IndexMapSpec& spec,
                        const std::string& cache_dir, const std::string& name) {
  const std::int64_t tokens = data.num_tokens(spec.first_document, spec.last_document);
  IndexMap map;
  map.sizes_ = index_map_sizes(spec, tokens);
  const IndexMapSizes& sizes = map.sizes_;
  CacheRequest request;
  request.directory = cache_dir;
  request.name = name;
  request.key = fmt::format(
      "packed index map 1: {} sequences with {} tokens, lengths {:016x}; documents {} to {}; "
      "seq_length {}; {} epochs; {} samples; seed {}",
      data.size(), data.num_tokens(), data.fingerprint(), spec.first_document, spec.last_document,
      spec.seq_length, sizes.epochs, sizes.samples, spec.seed);
  request.arrays = {{sizeof(std::int32_t), sizes.positions},
                    {sizes.wide_samples ? std::size_t{8} : std::size_t{4}, 2 * (sizes.samples + 1)},
                    {sizes.wide_shuffle ? std::size_t{8} : std::size_t{4}, sizes.samples}};
  map.key_ = request.key;
  map.image_ = load_or_build(request, [&](auto arrays) { build(data, spec, sizes, arrays); });
  return map;
}

IndexMap::Start IndexMap::start(std::int64_t k) const {
  const auto at = static_cast<std::size_t>(2 * k);
  if (sizes_.wide_samples) {
    const auto rows = image_.array<std::int64_t>(1);
    return {rows[at], rows[at + 1]};
  }
  const auto rows = image_.array<std::int32_t>(1);
  return {rows[at], rows[at + 1]};
}

std::int64_t IndexMap::shuffled(std::int64_t i) const {
  const auto at = static_cast<std::size_t>(i);
  return sizes_.wide_shuffle ? image_.array<std::int64_t>(2)[at]
                             : std::int64_t{image_.array<std::uint32_t>(2)[at]};
}

}  // namespace neox
