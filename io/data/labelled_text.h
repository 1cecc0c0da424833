#pragma once
// Text to tokens and the labels that a loss is taken of: what fine-tuning data is made of.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "io/data/chat_template.h"
#include "io/data/token_dataset.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {

/// Which tokens have a loss.
enum class LabelSource : std::uint8_t {
  none,               ///< all; no label file is written
  prompt_completion,  ///< jsonl with two keys: the second text
  conversations,      ///< jsonl with lists of messages: the turns of one role
  delimiter           ///< what follows a delimiter
};

struct LabelOptions {
  LabelSource source = LabelSource::none;
  std::string chat_template;  ///< conversations: ChatTemplate's name
  ChatOptions chat;           ///< conversations
  std::vector<std::int32_t>
      delimiter;  ///< token ids; documents without them have a loss everywhere
};

/// Tokens back to back, and a label for each: the token itself, or kNoLabel. The labels are not
/// shifted (the loader does that). Without a LabelSource there are none.
struct LabelledTokens {
  std::vector<std::int32_t> ids, labels;
};

/// Appends documents to LabelledTokens. Thread-safe. Each member returns false, having appended
/// nothing, when there is nothing to learn: an empty text, completion or conversation. Throws Error
/// for text that is not UTF-8.
class LabelledEncoder {
 public:
  /// `append_eod`: ends each document with the tokenizer's end-of-document token; it has a loss
  /// where the token before it has one. Throws Error when the tokenizer has none, or the chat
  /// template is unknown.
  LabelledEncoder(const Tokenizer& tokenizer, const LabelOptions& options, bool append_eod);

  bool add_text(std::string_view text, LabelledTokens& out) const;
  /// Tokenized apart from each other, as a prompt is when the model generates.
  bool add_completion(std::string_view prompt, std::string_view completion,
                      LabelledTokens& out) const;
  /// What has a loss is tokenized apart from what has none.
  bool add_conversation(std::span<const ChatMessage> messages, LabelledTokens& out) const;

 private:
  bool labels() const { return options_.source != LabelSource::none; }
  void add_ids(std::span<const std::int32_t> ids, bool trained, LabelledTokens& out) const;
  void label_from(std::size_t begin, bool trained, LabelledTokens& out) const;
  void add_piece(std::string_view text, bool trained, bool continues, LabelledTokens& out) const;
  void finish(LabelledTokens& out) const;
  void mask_before_delimiter(std::size_t begin, LabelledTokens& out) const;

  const Tokenizer& tokenizer_;
  const LabelOptions& options_;
  std::vector<ChatTemplate> template_;  // one with conversations
  bool append_eod_;
};

}  // namespace neox
