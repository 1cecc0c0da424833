#include "io/tokenizer/bpe_tokenizer.h"

#include <algorithm>

#include "core/base/error.h"
#include "io/tokenizer/bpe_model.h"
#include "io/tokenizer/byte_alphabet.h"
#include "io/tokenizer/gpt2_scanner.h"
#include "io/tokenizer/utf8.h"

namespace neox {

struct BpeTokenizer::Scratch {
  BpeModel::Scratch model;
  Regex::Matcher matcher;
  std::string normal, prefixed;
  std::vector<std::string_view> parts, next_parts;
};

// A scratch for the time of one call: kept between calls, so that its caches stay warm.
class BpeTokenizer::Lease {
 public:
  explicit Lease(const BpeTokenizer& owner) : owner_(owner) {
    {
      const std::lock_guard lock(owner_.mutex_);
      if (!owner_.idle_.empty()) {
        scratch_ = std::move(owner_.idle_.back());
        owner_.idle_.pop_back();
      }
    }
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
  }
  ~Lease() {
    const std::lock_guard lock(owner_.mutex_);
    owner_.idle_.push_back(std::move(scratch_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Scratch& operator*() const { return *scratch_; }

 private:
  const BpeTokenizer& owner_;
  std::unique_ptr<Scratch> scratch_;
};

BpeTokenizer::BpeTokenizer(BpeDescription description) : about_(std::move(description)) {
  std::int32_t last = -1;
  for (const auto& [token, id] : about_.vocab) last = std::max(last, id);
  require(last <= ShortWordCache::kMaxId, "{}: token id {} is beyond the largest supported, {}",
          about_.source, last, ShortWordCache::kMaxId);
  token_bytes_.resize(static_cast<std::size_t>(last + 1));
  for (const auto& [token, id] : about_.vocab) {
    token_bytes_[static_cast<std::size_t>(id)] = token_to_bytes(token).value_or(token);
  }
  for (const AddedToken& token : about_.added_tokens) {
    token_bytes_[static_cast<std::size_t>(token.id)] = token.content;
    if (!token.normalized) {
      raw_added_.add(token, token.content);
      continue;
    }
    std::string storage;
    const std::string_view pattern = about_.normalizer.apply(token.content, storage);
    if (!pattern.empty()) normalized_added_.add(token, pattern);
  }
  raw_added_.build();
  normalized_added_.build();

  std::unordered_map<std::string, std::int32_t> whole_words;
  if (about_.ignore_merges) {
    for (const auto& [token, id] : about_.vocab) {
      if (auto bytes = token_to_bytes(token)) whole_words.emplace(std::move(*bytes), id);
    }
  }
  model_ = std::make_unique<const BpeModel>(byte_ids(), about_.merges, std::move(whole_words));
  about_.merges.clear();
  about_.merges.shrink_to_fit();
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "<|eos|>", "</s>", "<eos>"}) {
    if (!eod_id_) eod_id_ = token_to_id(name);
  }
}

BpeTokenizer::~BpeTokenizer() = default;

std::array<std::int32_t, 256> BpeTokenizer::byte_ids() const {
  std::array<std::int32_t, 256> ids{};
  for (std::size_t byte = 0; byte < ids.size(); ++byte) {
    const auto entry = about_.vocab.find(byte_characters()[byte]);
    ids[byte] = entry != about_.vocab.end() ? entry->second : about_.unknown.value_or(-1);
  }
  return ids;
}

void BpeTokenizer::encode(std::string_view utf8, std::vector<std::int32_t>& ids) const {
  const std::size_t invalid = find_invalid_utf8(utf8);
  require(invalid == std::string_view::npos,
          "the text is not valid UTF-8: byte 0x{:02X} at offset {}",
          static_cast<unsigned char>(utf8[invalid < utf8.size() ? invalid : 0]), invalid);
  require(utf8.size() < (std::size_t{1} << 31),
          "a text of {} bytes is too long; the limit is 2 GiB", utf8.size());
  const Lease lease(*this);
  Scratch& scratch = *lease;
  const std::size_t before = ids.size();
  scratch.model.ids.open(ids);
  try {
    raw_added_.split(
        utf8, [&](std::string_view piece) { encode_piece(piece, scratch); },
        [&](std::int32_t id) { scratch.model.ids.push(id); });
    scratch.model.ids.close();
  } catch (...) {
    ids.resize(before);
    throw;
  }
}

void BpeTokenizer::encode_piece(std::string_view piece, Scratch& scratch) const {
  const std::string_view normal = about_.normalizer.apply(piece, scratch.normal);
  const char* limit = normal.data() + normal.size();
  normalized_added_.split(
      normal, [&](std::string_view part) { split_words(part, limit, scratch); },
      [&](std::int32_t id) { scratch.model.ids.push(id); });
}

void BpeTokenizer::split_words(std::string_view piece, const char* limit, Scratch& scratch) const {
  if (about_.pre_tokenizer.steps.empty()) {
    encode_words(piece, limit, scratch);
    return;
  }
  scratch.parts.assign(1, piece);
  for (const SplitStep& step : about_.pre_tokenizer.steps) {
    scratch.next_parts.clear();
    for (const std::string_view part : scratch.parts) {
      step.split(part, scratch.matcher, scratch.next_parts);
    }
    scratch.parts.swap(scratch.next_parts);
  }
  for (const std::string_view part : scratch.parts) encode_words(part, limit, scratch);
}

void BpeTokenizer::encode_words(std::string_view piece, const char* limit, Scratch& scratch) const {
  if (about_.pre_tokenizer.add_prefix_space && piece.front() != ' ') {
    scratch.prefixed.assign(1, ' ').append(piece);
    piece = scratch.prefixed;
    limit = piece.data() + piece.size();
  }
  const char* begin = piece.data();
  const char* end = begin + piece.size();
  const auto word = [&](const char* from, const char* to) {
    model_->encode_word(from, to, limit, scratch.model);
  };
  if (about_.pre_tokenizer.gpt2_pattern) {
    scan_gpt2(begin, end, word);
  } else {
    word(begin, end);
  }
}

std::string_view BpeTokenizer::id_to_bytes(std::int32_t id) const {
  require(id >= 0 && id < vocab_size(), "token id {} is not in the vocabulary of {} ({} tokens)",
          id, about_.source, vocab_size());
  return token_bytes_[static_cast<std::size_t>(id)];
}

std::optional<std::int32_t> BpeTokenizer::token_to_id(std::string_view token) const {
  const auto entry = about_.vocab.find(std::string(token));
  if (entry == about_.vocab.end()) return std::nullopt;
  return entry->second;
}

}  // namespace neox
