#include "io/tokenizer/sentencepiece_tokenizer.h"

#include <charconv>
#include <sentencepiece_processor.h>

#include "core/base/error.h"
#include "io/tokenizer/tokenizer_files.h"
#include "io/tokenizer/utf8.h"

namespace neox {
namespace {

using sentencepiece::SentencePieceProcessor;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581 stands for a space

// A second normalizer_spec (field 3 of ModelProto) with add_dummy_prefix (field 3) = false. Of a
// message that appears twice, protobuf merges the fields, and the last value counts.
constexpr std::string_view kNoDummyPrefix{"\x1A\x02\x18\x00", 4};

void load(SentencePieceProcessor& processor, const std::string& model, const std::string& path) {
  const auto status = processor.LoadFromSerializedProto(model);
  require(status.ok(), "{}: not a SentencePiece model: {}", path, status.error_message());
}

// "<0x0A>" -> "\n"
std::string byte_of(const std::string& piece) {
  unsigned value = 256;
  std::from_chars(piece.data() + 3, piece.data() + piece.size() - 1, value, 16);
  return std::string(1, static_cast<char>(value));
}

std::string text_of(const std::string& piece) {
  std::string text;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t next = std::min(piece.find(kSpaceSymbol, at), piece.size());
    text.append(piece, at, next - at);
    if (next < piece.size()) text += ' ';
    at = next + kSpaceSymbol.size();
  }
  return text;
}

}  // namespace

struct SentencePieceTokenizer::Models {
  SentencePieceProcessor first;      // of a text
  SentencePieceProcessor following;  // without a space of its own
};

SentencePieceTokenizer::SentencePieceTokenizer(const std::string& path) : source_(path) {
  const std::string model = read_tokenizer_file(path);
  auto models = std::make_unique<Models>();
  load(models->first, model, path);
  load(models->following, model + std::string(kNoDummyPrefix), path);
  const SentencePieceProcessor& processor = models->first;
  const int size = processor.GetPieceSize();
  require(size > 0, "{}: the SentencePiece model has no pieces", path);
  for (std::int32_t id = 0; id < size; ++id) {
    const std::string& piece = processor.IdToPiece(id);
    if (processor.IsControl(id)) {
      AddedToken token;
      token.content = piece;
      token.id = id;
      token.special = true;
      if (!piece.empty()) control_.add(token, piece);
      bytes_.push_back(piece);
    } else if (processor.IsByte(id)) {
      bytes_.push_back(byte_of(piece));
    } else if (processor.IsUnknown(id)) {
      bytes_.push_back(processor.DecodeIds(std::vector<int>{id}));
    } else {
      bytes_.push_back(text_of(piece));
    }
  }
  control_.build();
  // The two settings that make the library drop a space at the beginning when it decodes.
  std::vector<std::string> pieces, spaced;
  const auto status = processor.Encode("a", &pieces);
  require(status.ok(), "{}: {}", path, status.error_message());
  require(processor.Encode(" a", &spaced).ok(), "{}: encoding failed", path);
  drops_space_ = pieces == spaced || (!pieces.empty() && pieces[0].starts_with(kSpaceSymbol));
  if (const auto named =
          [&] {
            const int id = processor.PieceToId("<|endoftext|>");
            return processor.IdToPiece(id) == "<|endoftext|>" ? id : processor.eos_id();
          }();
      named >= 0) {
    eod_id_ = named;
  }
  models_ = std::move(models);
}

SentencePieceTokenizer::~SentencePieceTokenizer() = default;

void SentencePieceTokenizer::encode_text(std::string_view utf8, bool continues,
                                         std::vector<std::int32_t>& ids) const {
  const std::size_t invalid = find_invalid_utf8(utf8);
  require(invalid == std::string_view::npos,
          "the text is not valid UTF-8: byte 0x{:02X} at offset {}",
          static_cast<unsigned char>(utf8[invalid < utf8.size() ? invalid : 0]), invalid);
  const auto piece = [&](std::string_view text) {
    std::vector<int> part;
    const bool inside = continues && text.data() == utf8.data();
    const auto& processor = inside ? models_->following : models_->first;
    const auto status = processor.Encode(text, &part);
    require(status.ok(), "{}: {}", source_, status.error_message());
    ids.insert(ids.end(), part.begin(), part.end());
  };
  control_.split(utf8, piece, [&](std::int32_t id) { ids.push_back(id); });
}

void SentencePieceTokenizer::encode(std::string_view utf8, std::vector<std::int32_t>& ids) const {
  encode_text(utf8, false, ids);
}

void SentencePieceTokenizer::encode_continuation(std::string_view utf8,
                                                 std::vector<std::int32_t>& ids) const {
  encode_text(utf8, true, ids);
}

std::string_view SentencePieceTokenizer::id_to_bytes(std::int32_t id) const {
  require(id >= 0 && id < vocab_size(), "token id {} is not in the vocabulary of {} ({} tokens)",
          id, source_, vocab_size());
  return bytes_[static_cast<std::size_t>(id)];
}

std::string SentencePieceTokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text = Tokenizer::decode(ids);
  // Not that of the sign for what is unknown, " ⁇ ".
  if (drops_space_ && text.starts_with(' ') && !models_->first.IsUnknown(ids[0])) text.erase(0, 1);
  return text;
}

std::optional<std::int32_t> SentencePieceTokenizer::token_to_id(std::string_view token) const {
  const int id = models_->first.PieceToId(token);
  if (models_->first.IdToPiece(id) != token) return std::nullopt;
  return id;
}

}  // namespace neox
