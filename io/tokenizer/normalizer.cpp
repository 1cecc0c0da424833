#include "io/tokenizer/normalizer.h"

#include <algorithm>
#include <cstring>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include "core/base/error.h"
#include "io/tokenizer/char_class.h"

namespace neox {
namespace {

bool is_ascii(std::string_view text) {
  const char* p = text.data();
  std::size_t left = text.size();
  std::uint64_t seen = 0;
  for (; left >= 8; p += 8, left -= 8) {
    std::uint64_t word;
    std::memcpy(&word, p, 8);
    seen |= word;
  }
  for (; left > 0; ++p, --left) seen |= static_cast<unsigned char>(*p) & 0x80u;
  return (seen & 0x8080808080808080u) == 0;
}

const icu::Normalizer2& unicode_form(NormalizerStep step) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* form = nullptr;
  switch (step) {
    case NormalizerStep::nfc:
      form = icu::Normalizer2::getNFCInstance(status);
      break;
    case NormalizerStep::nfd:
      form = icu::Normalizer2::getNFDInstance(status);
      break;
    case NormalizerStep::nfkc:
      form = icu::Normalizer2::getNFKCInstance(status);
      break;
    default:
      form = icu::Normalizer2::getNFKDInstance(status);
      break;
  }
  require(U_SUCCESS(status) != 0, "ICU can't load its normalization data: {}", u_errorName(status));
  return *form;
}

icu::StringPiece piece_of(std::string_view text) {
  require(text.size() < 0x7FFFFFFF,
          "a text of {} bytes is too long to normalize; the limit is 2 GiB", text.size());
  return {text.data(), static_cast<std::int32_t>(text.size())};
}

// The result of one step is in `out`, unless it returns false: nothing to change.
bool apply_form(NormalizerStep step, std::string_view text, std::string& out) {
  if (is_ascii(text)) return false;  // all four forms leave ASCII alone
  const icu::Normalizer2& form = unicode_form(step);
  UErrorCode status = U_ZERO_ERROR;
  if (form.isNormalizedUTF8(piece_of(text), status) && U_SUCCESS(status)) return false;
  status = U_ZERO_ERROR;
  icu::StringByteSink<std::string> sink(&out, static_cast<std::int32_t>(text.size()));
  form.normalizeUTF8(0, piece_of(text), sink, nullptr, status);
  require(U_SUCCESS(status) != 0, "ICU can't normalize a text: {}", u_errorName(status));
  return true;
}

void append_utf8(std::string& out, UChar32 code) {
  char buffer[U8_MAX_LENGTH];
  std::int32_t length = 0;
  U8_APPEND_UNSAFE(buffer, length, code);
  out.append(buffer, static_cast<std::size_t>(length));
}

bool apply_lowercase(std::string_view text, std::string& out) {
  out.reserve(text.size());
  bool changed = false;
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Char c = decode_utf8(text.data() + i);
    i += c.length;
    const auto code = static_cast<UChar32>(c.code);
    if (code == 0x130) {  // the only character whose unconditional mapping has two
      out += "i\xCC\x87";
      changed = true;
      continue;
    }
    const UChar32 lower = u_tolower(code);
    changed |= lower != code;
    append_utf8(out, lower);
  }
  return changed;
}

std::string_view strip_left(std::string_view text) {
  const CharClassTable& table = CharClassTable::instance();
  while (!text.empty()) {
    const Utf8Char c = decode_utf8(text.data());
    if (table.of(c.code) != CharClass::space) break;
    text.remove_prefix(c.length);
  }
  return text;
}

std::string_view strip_right(std::string_view text) {
  const CharClassTable& table = CharClassTable::instance();
  while (!text.empty()) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
    if (table.of(decode_utf8(text.data() + at).code) != CharClass::space) break;
    text = text.substr(0, at);
  }
  return text;
}

}  // namespace

std::string_view Normalizer::apply(std::string_view text, std::string& storage) const {
  for (const NormalizerStep step : steps_) {
    if (step == NormalizerStep::strip_left) {
      text = strip_left(text);
      continue;
    }
    if (step == NormalizerStep::strip_right) {
      text = strip_right(text);
      continue;
    }
    std::string out;
    const bool changed = step == NormalizerStep::lowercase ? apply_lowercase(text, out)
                                                           : apply_form(step, text, out);
    if (changed) {
      storage = std::move(out);  // `text` may have been in the old one
      text = storage;
    }
  }
  return text;
}

}  // namespace neox
