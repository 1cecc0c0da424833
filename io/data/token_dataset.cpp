#include "io/data/token_dataset.h"

#include <algorithm>
#include <filesystem>

#include "core/base/error.h"
#include "core/base/format.h"

namespace neox {
namespace {

std::string cache_directory(const std::string& prefix, const TokenDatasetOptions& options) {
  if (!options.use_cache) return "";
  if (!options.cache_dir.empty()) return options.cache_dir;
  const auto parent = std::filesystem::path(prefix).parent_path().string();
  return parent.empty() ? "." : parent;
}

std::string base_name(const std::string& prefix) {
  return std::filesystem::path(prefix).filename().string();
}

// Of content_id().
std::string describe_order(const TokenDatasetOptions& options) {
  return fmt::format("{} chopped {} seq_length {} seed {}\n", name_of(options.packing),
                     options.packing == Packing::packed || options.allow_chopped,
                     options.seq_length, options.seed);
}

void check_tokens(const IndexedDataset& data, const TokenDatasetOptions& options) {
  if (options.warm_up) data.warm_up();
  if (options.vocab_size > 0) {
    data.check_tokens_below(options.vocab_size, cache_directory(data.prefix(), options));
  }
}

// Labels are cut at the same places as tokens.
std::shared_ptr<const IndexedDataset> open_labels(const std::string& path,
                                                  const IndexedDataset& data) {
  auto labels = std::make_shared<const IndexedDataset>(path);
  require(labels->size() == data.size(),
          "label file '{}' has {} sequences, but '{}' has {}: make both from the same text",
          labels->idx_path(), labels->size(), data.idx_path(), data.size());
  for (std::int64_t i = 0; i < data.size(); ++i) {
    require(labels->length(i) == data.length(i),
            "label file '{}': sequence {} has {} labels, but {} tokens in '{}': make both from the "
            "same text",
            labels->idx_path(), i, labels->length(i), data.length(i), data.idx_path());
  }
  return labels;
}

std::vector<double> blend_weights(DataPart part, const BlendSpec& blend,
                                  std::span<const std::shared_ptr<const IndexedDataset>> data) {
  if (blend.weight_by_num_documents) {
    std::vector<std::int64_t> documents;
    for (const auto& one : data) documents.push_back(one->size());
    return weights_by_num_documents(documents, blend.alpha);
  }
  if (blend.weights.empty()) return std::vector<double>(data.size(), 1.0);
  require(blend.weights.size() == data.size(),
          "{0}_data_weights has {1} entries, but {0}_data_paths has {2}: give one weight a path",
          name_of(part), blend.weights.size(), data.size());
  return blend.weights;
}

}  // namespace

void TokenDataset::add_source(std::shared_ptr<const IndexedDataset> data,
                              const std::string& label_path, std::array<std::int64_t, 2> documents,
                              std::int64_t num_samples, const TokenDatasetOptions& options) {
  require(options.seq_length >= 1, "seq_length is {}; it is at least 1", options.seq_length);
  Source source;
  source.data = std::move(data);
  if (!label_path.empty()) source.labels = open_labels(label_path, *source.data);
  content_ += fmt::format("{:016x} {} to {}{}\n", source.data->fingerprint(), documents[0],
                          documents[1], label_path.empty() ? "" : ", labels");
  TokenDatasetRow row;
  row.part = name_of(part_);
  row.path = source.data->prefix();
  rows_.push_back(row);
  if (options.packing == Packing::packed) {
    map_packed(source, documents, num_samples, options);
  } else {
    map_documents(source, documents, num_samples, options);
  }
  sources_.push_back(std::move(source));
}

void TokenDataset::map_packed(Source& source, std::array<std::int64_t, 2> documents,
                              std::int64_t num_samples, const TokenDatasetOptions& options) {
  const IndexedDataset& data = *source.data;
  const std::int64_t tokens = data.num_tokens(documents[0], documents[1]);
  require(
      tokens > options.seq_length,
      "the {} part of '{}' has {} tokens in {} documents, too few for one sample of {} + 1: use a "
      "smaller seq_length, more text, or another split",
      name_of(part_), data.prefix(), tokens, documents[1] - documents[0], options.seq_length);
  IndexMapSpec spec;
  spec.first_document = documents[0];
  spec.last_document = documents[1];
  spec.seq_length = options.seq_length;
  spec.num_samples = num_samples;
  spec.seed = options.seed;
  source.map = IndexMap::make(data, spec, cache_directory(data.prefix(), options),
                              fmt::format("{}_{}", base_name(data.prefix()), name_of(part_)));
  rows_.back().documents = documents[1] - documents[0];
  rows_.back().tokens = tokens;
}

void TokenDataset::map_documents(Source& source, std::array<std::int64_t, 2> documents,
                                 std::int64_t num_samples, const TokenDatasetOptions& options) {
  const IndexedDataset& data = *source.data;
  DocumentMapSpec spec;
  spec.packing = options.packing;
  spec.first_document = documents[0];
  spec.last_document = documents[1];
  spec.seq_length = options.seq_length;
  spec.num_samples = num_samples;
  spec.seed = options.seed;
  spec.allow_chopped = options.allow_chopped;
  source.documents = DocumentMap::make(
      data, source.labels.get(), spec, cache_directory(data.prefix(), options),
      fmt::format("{}_{}_{}", base_name(data.prefix()), name_of(part_), name_of(options.packing)));
  TokenDatasetRow& row = rows_.back();
  row.documents = source.documents->kept();
  row.tokens = source.documents->tokens();
  row.too_long = source.documents->too_long();
  row.without_labels = source.documents->without_labels();
}

double TokenDataset::epochs(std::size_t source, std::int64_t samples) const {
  const auto taken = static_cast<double>(samples);
  if (const auto& documents = sources_[source].documents) {
    return documents->epochs() * taken / static_cast<double>(documents->size());
  }
  return taken * static_cast<double>(seq_length_) / static_cast<double>(rows_[source].tokens);
}

TokenDataset::TokenDataset(std::shared_ptr<const IndexedDataset> data, DataPart part,
                           const std::string& split, std::int64_t num_samples,
                           const TokenDatasetOptions& options)
    : part_(part),
      seq_length_(options.seq_length),
      has_labels_(options.packing != Packing::packed),
      content_(describe_order(options)) {
  const auto boundaries = split_boundaries(split, data->size());
  const auto k = static_cast<std::size_t>(part);
  require(
      boundaries[k + 1] > boundaries[k],
      "split '{}' of the {} documents of '{}' leaves none to the {} part, of which {} samples are "
      "needed: give it a larger share, or more documents",
      split, data->size(), data->prefix(), name_of(part), num_samples);
  check_tokens(*data, options);
  add_source(std::move(data), "", {boundaries[k], boundaries[k + 1]}, num_samples, options);
  rows_[0].samples = num_samples;
  rows_[0].epochs = epochs(0, num_samples);
}

TokenDataset::TokenDataset(DataPart part, const BlendSpec& blend, std::int64_t num_samples,
                           const TokenDatasetOptions& options)
    : part_(part),
      seq_length_(options.seq_length),
      has_labels_(!blend.label_paths.empty() || options.packing != Packing::packed),
      content_(describe_order(options)) {
  require(!blend.paths.empty(), "{}_data_paths is empty: give at least one path", name_of(part));
  require(blend.label_paths.empty() || blend.label_paths.size() == blend.paths.size(),
          "{0}_label_data_paths has {1} entries, but {0}_data_paths has {2}: give one a path",
          name_of(part), blend.label_paths.size(), blend.paths.size());
  require(num_samples >= 1, "{} {} samples are asked for: at least one is needed", num_samples,
          name_of(part));
  std::vector<std::shared_ptr<const IndexedDataset>> data;
  for (const auto& path : blend.paths) {
    data.push_back(std::make_shared<const IndexedDataset>(path));
    require(data.back()->size() > 0, "'{}' has no documents: leave it out", path);
    check_tokens(*data.back(), options);
  }
  const auto asked = blend_weights(part, blend, data);
  const auto weights = normalize_weights(asked);
  for (std::size_t d = 0; d < data.size(); ++d) {
    add_source(data[d], blend.label_paths.empty() ? "" : blend.label_paths[d], {0, data[d]->size()},
               weighted_num_samples(num_samples, weights[d]), options);
    rows_[d].weight_asked = asked[d];
    content_ += fmt::format("weight {:a}\n", weights[d]);
  }
  // GPT-NeoX normalises once more here: the last bit decides ties.
  blend_ = BlendMap::make(normalize_weights(weights), num_samples,
                          cache_directory(data[0]->prefix(), options),
                          fmt::format("{}_blend", name_of(part)));
  for (std::size_t d = 0; d < data.size(); ++d) {
    TokenDatasetRow& row = rows_[d];
    row.samples = blend_->taken()[d];
    row.proportion = static_cast<double>(row.samples) / static_cast<double>(num_samples);
    row.epochs = epochs(d, row.samples);
    require(row.samples <= sources_[d].samples(), "'{}' gives {} samples, but the blend takes {}",
            row.path, sources_[d].samples(), row.samples);
  }
}

std::int64_t TokenDataset::size() const {
  return blend_ ? blend_->size() : sources_[0].samples();
}

SampleOrigin TokenDataset::read(std::int64_t i, bool labels, std::span<std::int32_t> out) const {
  require(0 <= i && i < size(), "{} sample {} is asked for, but there are {}", name_of(part_), i,
          size());
  require(static_cast<std::int64_t>(out.size()) == seq_length_ + 1,
          "a sample has {} tokens, not {}", seq_length_ + 1, out.size());
  const std::int32_t from = blend_ ? blend_->dataset(i) : 0;
  const Source& source = sources_[static_cast<std::size_t>(from)];
  const std::int64_t in_source = blend_ ? blend_->sample(i) : i;
  const IndexedDataset& data = labels && source.labels ? *source.labels : *source.data;
  SampleOrigin origin;
  if (!source.documents) {
    origin = read_packed(source, data, in_source, out);
  } else {
    const auto documents = source.documents->documents(in_source);
    origin.document = documents[0];
    auto left = out;
    for (const std::int32_t document : documents) {
      const auto count = std::min(static_cast<std::size_t>(data.length(document)), left.size());
      data.tokens(document, 0, left.first(count));
      left = left.subspan(count);
    }
    std::fill(left.begin(), left.end(), labels ? kNoLabel : kPaddingToken);
  }
  origin.dataset = from;
  return origin;
}

SampleOrigin TokenDataset::read_packed(const Source& source, const IndexedDataset& data,
                                       std::int64_t i, std::span<std::int32_t> out) {
  const IndexMap& map = source.map;
  const auto doc_idx = map.doc_idx();
  auto [position, offset] = map.start(map.shuffled(i));
  SampleOrigin origin;
  origin.document = -1;
  origin.offset = offset;
  for (auto left = out;; ++position, offset = 0) {
    require(position < static_cast<std::int64_t>(doc_idx.size()),
            "'{}': sample {} runs past the last document: the files changed while they were read",
            data.bin_path(), i);
    const std::int64_t document = doc_idx[static_cast<std::size_t>(position)];
    if (origin.document < 0) origin.document = document;
    const auto count =
        std::min(static_cast<std::size_t>(data.length(document) - offset), left.size());
    data.tokens(document, offset, left.first(count));
    left = left.subspan(count);
    if (left.empty()) return origin;
  }
}

std::uint64_t TokenDataset::order_id() const {
  std::string text = content_;
  for (const Source& source : sources_) text += source.key() + "\n";
  return checksum64(std::as_bytes(std::span(text)));
}

std::uint64_t TokenDataset::fingerprint() const {
  constexpr std::int64_t kSamples = 16;
  std::vector<std::uint64_t> parts = {static_cast<std::uint64_t>(size()),
                                      static_cast<std::uint64_t>(seq_length_)};
  for (const Source& source : sources_) {
    parts.push_back(source.data->fingerprint());
    if (source.labels) parts.push_back(source.labels->fingerprint());
  }
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(seq_length_) + 1);
  for (std::int64_t i = 0; i < std::min(kSamples, size()); ++i) {
    sample(i * size() / std::min(kSamples, size()), tokens);
    parts.push_back(checksum64(std::as_bytes(std::span(tokens))));
    if (!has_labels_) continue;
    sample_labels(i * size() / std::min(kSamples, size()), tokens);
    parts.push_back(checksum64(std::as_bytes(std::span(tokens))));
  }
  return checksum64(std::as_bytes(std::span(parts)));
}

SampleOrigin TokenDataset::sample(std::int64_t i, std::span<std::int32_t> tokens) const {
  return read(i, false, tokens);
}

void TokenDataset::sample_labels(std::int64_t i, std::span<std::int32_t> labels) const {
  require(has_labels_, "the labels of the {} dataset are its tokens", name_of(part_));
  read(i, true, labels);
}

std::array<std::optional<TokenDataset>, 3> open_split(
    const std::string& path, const std::string& split,
    const std::array<std::int64_t, 3>& num_samples, const TokenDatasetOptions& options) {
  const auto data = std::make_shared<const IndexedDataset>(path);
  std::array<std::optional<TokenDataset>, 3> parts;
  for (const DataPart part : {DataPart::train, DataPart::valid, DataPart::test}) {
    const auto k = static_cast<std::size_t>(part);
    if (num_samples[k] > 0) parts[k].emplace(data, part, split, num_samples[k], options);
  }
  return parts;
}

std::string format_table(std::span<const TokenDatasetRow> rows) {
  std::size_t width = 4;
  for (const auto& row : rows) width = std::max(width, row.path.size());
  std::string table =
      fmt::format("{:<6} {:<{}} {:>13} {:>17} {:>9} {:>14} {:>8} {:>9}\n", "part", "path", width,
                  "documents", "tokens", "weight", "samples", "share", "epochs");
  for (const auto& row : rows) {
    table += fmt::format("{:<6} {:<{}} {:>13} {:>17} {:>9.4g} {:>14} {:>7.2f}% {:>9.3f}\n",
                         row.part, row.path, width, format_grouped(row.documents),
                         format_grouped(row.tokens), row.weight_asked, format_grouped(row.samples),
                         100 * row.proportion, row.epochs);
  }
  for (const auto& row : rows) {
    if (row.too_long + row.without_labels == 0) continue;
    table += fmt::format(
        "{} {}: left out are {} documents longer than a sample and {} without a label that "
        "counts\n",
        row.part, row.path, format_grouped(row.too_long), format_grouped(row.without_labels));
  }
  return table;
}

}  // namespace neox
