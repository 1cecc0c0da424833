#include "io/data/document_map.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "core/base/error.h"
#include "io/data/numpy_rng.h"

namespace neox {
namespace {

constexpr std::int64_t kMaxI32 = std::numeric_limits<std::int32_t>::max();
constexpr std::int64_t kMaxU32 = std::numeric_limits<std::uint32_t>::max();
constexpr std::int64_t kLimit = std::int64_t{1} << 61;

template <class T>
std::span<T> typed(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

// What becomes of a document.
enum class Use : std::uint8_t { kept, too_long, without_labels };

// Finds out the use of documents one after the other.
class Judge {
 public:
  Judge(const IndexedDataset& data, const IndexedDataset* labels, const DocumentMapSpec& spec)
      : data_(data), labels_(labels), spec_(spec) {}

  Use operator()(std::int64_t document) {
    const std::int64_t length = data_.length(document), room = spec_.seq_length + 1;
    if (length > room && !spec_.allow_chopped) return Use::too_long;
    // Alone in its sample, a document's first token is predicted by nothing.
    const std::int64_t first = spec_.packing == Packing::unpacked ? 1 : 0;
    const std::int64_t count = std::min(length, room) - first;
    if (count <= 0) return Use::without_labels;
    if (labels_ == nullptr) return Use::kept;
    row_.resize(static_cast<std::size_t>(count));
    labels_->tokens(document, first, row_);
    const bool learns =
        std::any_of(row_.begin(), row_.end(), [](std::int32_t label) { return label >= 0; });
    return learns ? Use::kept : Use::without_labels;
  }

 private:
  const IndexedDataset& data_;
  const IndexedDataset* labels_;
  const DocumentMapSpec& spec_;
  std::vector<std::int32_t> row_;
};

// The use of each document of the range.
ArrayImage judge_documents(const IndexedDataset& data, const IndexedDataset* labels,
                           const DocumentMapSpec& spec, const std::string& cache_dir,
                           const std::string& name) {
  CacheRequest request;
  if (labels != nullptr) request.directory = cache_dir;  // lengths alone are judged in no time
  request.name = name + "_used";
  request.key = fmt::format(
      "used documents 1: {} {} to {}; seq_length {}; chopped {}; lengths {:016x}; labels {}",
      name_of(spec.packing), spec.first_document, spec.last_document, spec.seq_length,
      spec.allow_chopped, data.fingerprint(), labels == nullptr ? "none" : labels->file_identity());
  request.arrays = {{1, spec.last_document - spec.first_document}};
  return load_or_build(request, [&](auto arrays) {
    Judge judge(data, labels, spec);
    for (std::int64_t d = spec.first_document; d < spec.last_document; ++d) {
      arrays[0][static_cast<std::size_t>(d - spec.first_document)] = std::byte(judge(d));
    }
  });
}

// Passes over `tokens` that hold at least `samples` of at most `room` tokens each.
std::int64_t passes_needed(std::int64_t samples, std::int64_t room, std::int64_t tokens) {
  return (samples - 1) * room / tokens + 1;
}

template <class T>
void fill_shuffle(NumpyRandomState& rng, std::span<T> shuffle) {
  std::iota(shuffle.begin(), shuffle.end(), T{0});
  rng.shuffle(shuffle);
}

// starts[k] is where sample k begins in `documents`; N + 1 entries for N samples.
void fill_until_overflow(const IndexedDataset& data, const DocumentMapSpec& spec,
                         std::span<const std::uint8_t> uses, NumpyRandomState& rng,
                         std::span<std::int32_t> documents, std::span<std::int64_t> starts) {
  std::vector<std::int32_t> order(uses.size());
  std::iota(order.begin(), order.end(), 0);
  const std::int64_t room = spec.seq_length + 1;
  std::int64_t used = room;  // tokens of the sample begun; the first document begins one
  std::size_t filled = 0, samples = 0;
  while (filled < documents.size()) {
    rng.shuffle(std::span(order));
    for (const std::int32_t at : order) {
      if (Use{uses[static_cast<std::size_t>(at)]} != Use::kept) continue;
      const std::int64_t document = spec.first_document + at;
      const std::int64_t length = data.length(document);
      if (used + length > room) {
        starts[samples++] = static_cast<std::int64_t>(filled);
        if (samples == starts.size()) return;
        used = 0;
      }
      used += length;
      documents[filled++] = static_cast<std::int32_t>(document);
    }
  }
  fail("'{}' changes while it is read", data.idx_path());
}

void check(const DocumentMapSpec& spec) {
  require(spec.packing != Packing::packed, "packed samples have an IndexMap");
  require(0 <= spec.first_document && spec.first_document < spec.last_document &&
              spec.last_document <= kMaxI32,
          "no documents in the range [{}, {})", spec.first_document, spec.last_document);
  require(spec.seq_length >= 1 && spec.seq_length < kMaxI32, "seq_length is {}; it is 1 to {}",
          spec.seq_length, kMaxI32 - 1);
  require(spec.seed >= 0 && spec.seed <= kMaxU32, "the data seed is {}; it is 0 to {}", spec.seed,
          kMaxU32);
  require(spec.num_samples >= 1 && spec.num_samples <= kLimit / (spec.seq_length + 1),
          "{} samples of {} tokens are asked for: at least one is needed, and no more than can be "
          "counted",
          spec.num_samples, spec.seq_length + 1);
}

}  // namespace

Packing packing_from_name(const std::string& name) {
  for (const Packing packing : {Packing::packed, Packing::pack_until_overflow, Packing::unpacked}) {
    if (name == name_of(packing)) return packing;
  }
  fail("unknown pack_impl '{}': there are packed, pack_until_overflow and unpacked", name);
}

std::string_view name_of(Packing packing) {
  switch (packing) {
    case Packing::packed:
      return "packed";
    case Packing::pack_until_overflow:
      return "pack_until_overflow";
    case Packing::unpacked:
      return "unpacked";
  }
  fail("unknown packing");
}

void DocumentMap::count(const IndexedDataset& data, std::span<const std::uint8_t> uses) {
  for (std::size_t i = 0; i < uses.size(); ++i) {
    const Use use{uses[i]};
    const std::int64_t length = data.length(spec_.first_document + static_cast<std::int64_t>(i));
    if (use == Use::kept) tokens_ += std::min(length, spec_.seq_length + 1);
    kept_ += use == Use::kept ? 1 : 0;
    too_long_ += use == Use::too_long ? 1 : 0;
    without_labels_ += use == Use::without_labels ? 1 : 0;
  }
  require(kept_ > 0,
          "'{}': none of the documents {} to {} can be used: {} are longer than seq_length + 1 = "
          "{} tokens (data.allow_chopped = true would cut them), {} have no label that counts",
          data.prefix(), spec_.first_document, spec_.last_document - 1, too_long_,
          spec_.seq_length + 1, without_labels_);
}

DocumentMap DocumentMap::make(const IndexedDataset& data, const IndexedDataset* labels,
                              const DocumentMapSpec& spec, const std::string& cache_dir,
                              const std::string& name) {
  check(spec);
  DocumentMap map;
  map.spec_ = spec;
  const ArrayImage judged = judge_documents(data, labels, spec, cache_dir, name);
  const auto uses = judged.array<std::uint8_t>(0);
  map.count(data, uses);
  const bool unpacked = spec.packing == Packing::unpacked;
  const std::int64_t passes =
      // One sample more: where it begins the last one ends.
      unpacked ? 1 : passes_needed(spec.num_samples + 1, spec.seq_length + 1, map.tokens_);
  require(passes <= kLimit / map.kept_, "{} passes over {} documents are more than can be counted",
          passes, map.kept_);
  CacheRequest request;
  request.directory = cache_dir;
  request.name = name;
  request.key = fmt::format(
      "{} map 1: {} sequences, lengths {:016x}; documents {} to {}, used {:016x}; seq_length {}; "
      "{} samples; seed {}",
      name_of(spec.packing), data.size(), data.fingerprint(), spec.first_document,
      spec.last_document, checksum64(std::as_bytes(uses)), spec.seq_length, spec.num_samples,
      spec.seed);
  const bool wide = spec.num_samples >= kMaxU32 - 1;
  request.arrays = {{sizeof(std::int32_t), passes * map.kept_},
                    {sizeof(std::int64_t), unpacked ? 0 : spec.num_samples + 1},
                    {wide ? std::size_t{8} : std::size_t{4}, spec.num_samples}};
  map.key_ = request.key;
  map.image_ = load_or_build(request, [&](auto arrays) {
    NumpyRandomState rng(static_cast<std::uint32_t>(spec.seed));
    if (wide) {
      fill_shuffle(rng, typed<std::int64_t>(arrays[2]));
    } else {
      fill_shuffle(rng, typed<std::uint32_t>(arrays[2]));
    }
    const auto documents = typed<std::int32_t>(arrays[0]);
    if (!unpacked) {
      return fill_until_overflow(data, spec, uses, rng, documents, typed<std::int64_t>(arrays[1]));
    }
    std::size_t filled = 0;
    for (std::size_t i = 0; i < uses.size(); ++i) {
      if (Use{uses[i]} != Use::kept) continue;
      documents[filled++] = static_cast<std::int32_t>(spec.first_document) + static_cast<int>(i);
    }
  });
  return map;
}

std::span<const std::int32_t> DocumentMap::documents(std::int64_t i) const {
  const auto at = static_cast<std::size_t>(i);
  const std::int64_t k = image_.element_size(2) == 8
                             ? image_.array<std::int64_t>(2)[at]
                             : std::int64_t{image_.array<std::uint32_t>(2)[at]};
  const auto documents = image_.array<std::int32_t>(0);
  if (spec_.packing == Packing::unpacked) {
    return documents.subspan(static_cast<std::size_t>(k % kept_), 1);
  }
  const auto starts = image_.array<std::int64_t>(1).subspan(static_cast<std::size_t>(k), 2);
  return documents.subspan(static_cast<std::size_t>(starts[0]),
                           static_cast<std::size_t>(starts[1] - starts[0]));
}

double DocumentMap::epochs() const {
  const std::int64_t taken =
      spec_.packing == Packing::unpacked ? spec_.num_samples : image_.array<std::int64_t>(1).back();
  return static_cast<double>(taken) / static_cast<double>(kept_);
}

}  // namespace neox
