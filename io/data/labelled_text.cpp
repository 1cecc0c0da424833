#include "io/data/labelled_text.h"

#include <algorithm>

#include "core/base/error.h"

namespace neox {

LabelledEncoder::LabelledEncoder(const Tokenizer& tokenizer, const LabelOptions& options,
                                 bool append_eod)
    : tokenizer_(tokenizer), options_(options), append_eod_(append_eod) {
  require(!append_eod || tokenizer.eod_id().has_value(),
          "--append-eod: the tokenizer has no end-of-document token (<|endoftext|>)");
  if (options.source == LabelSource::conversations) template_.emplace_back(options.chat_template);
  require(options.source != LabelSource::delimiter || !options.delimiter.empty(),
          "the delimiter before which there is no loss has no tokens");
  for (const std::int32_t id : options.delimiter) {
    require(id >= 0 && id < tokenizer.vocab_size(),
            "the delimiter's token {} is not in the vocabulary (0 … {})", id,
            tokenizer.vocab_size() - 1);
  }
}

// Labels of the tokens from `begin` on, which are new.
void LabelledEncoder::label_from(std::size_t begin, bool trained, LabelledTokens& out) const {
  if (!labels()) return;
  if (trained) {
    out.labels.insert(out.labels.end(), out.ids.begin() + static_cast<std::ptrdiff_t>(begin),
                      out.ids.end());
  } else {
    out.labels.resize(out.ids.size(), kNoLabel);
  }
}

void LabelledEncoder::add_ids(std::span<const std::int32_t> ids, bool trained,
                              LabelledTokens& out) const {
  const std::size_t begin = out.ids.size();
  out.ids.insert(out.ids.end(), ids.begin(), ids.end());
  label_from(begin, trained, out);
}

void LabelledEncoder::add_piece(std::string_view text, bool trained, bool continues,
                                LabelledTokens& out) const {
  const std::size_t begin = out.ids.size();
  continues ? tokenizer_.encode_continuation(text, out.ids) : tokenizer_.encode(text, out.ids);
  label_from(begin, trained, out);
}

void LabelledEncoder::finish(LabelledTokens& out) const {
  if (!append_eod_) return;
  const std::int32_t eod = *tokenizer_.eod_id();
  add_ids({&eod, 1}, !labels() || out.labels.back() >= 0, out);
}

void LabelledEncoder::mask_before_delimiter(std::size_t begin, LabelledTokens& out) const {
  const auto first = out.ids.begin() + static_cast<std::ptrdiff_t>(begin);
  const auto found =
      std::search(first, out.ids.end(), options_.delimiter.begin(), options_.delimiter.end());
  if (found == out.ids.end()) return;
  const auto masked = (found - first) + static_cast<std::ptrdiff_t>(options_.delimiter.size());
  std::fill_n(out.labels.begin() + static_cast<std::ptrdiff_t>(begin), masked, kNoLabel);
}

bool LabelledEncoder::add_text(std::string_view text, LabelledTokens& out) const {
  if (text.empty()) return false;
  const std::size_t before = out.ids.size();
  add_ids(tokenizer_.prefix_ids(), true, out);
  const std::size_t begin = out.ids.size();
  add_piece(text, true, false, out);
  if (out.ids.size() == begin) {  // the normalizer left nothing
    out.ids.resize(before);
    if (labels()) out.labels.resize(before);
    return false;
  }
  add_ids(tokenizer_.suffix_ids(), true, out);
  if (options_.source == LabelSource::delimiter) mask_before_delimiter(before, out);
  finish(out);
  return true;
}

bool LabelledEncoder::add_completion(std::string_view prompt, std::string_view completion,
                                     LabelledTokens& out) const {
  const std::size_t before = out.ids.size();
  add_ids(tokenizer_.prefix_ids(), false, out);
  add_piece(prompt, false, false, out);
  const std::size_t begin = out.ids.size();
  add_piece(completion, true, !prompt.empty(), out);
  if (out.ids.size() == begin) {
    out.ids.resize(before);
    if (labels()) out.labels.resize(before);
    return false;
  }
  add_ids(tokenizer_.suffix_ids(), true, out);
  finish(out);
  return true;
}

bool LabelledEncoder::add_conversation(std::span<const ChatMessage> messages,
                                       LabelledTokens& out) const {
  if (messages.empty()) return false;
  bool continues = false;
  for (const ChatSegment& segment : template_.front().render(messages, options_.chat)) {
    add_piece(segment.text, segment.trained, continues, out);
    continues = true;
  }
  finish(out);
  return true;
}

}  // namespace neox
