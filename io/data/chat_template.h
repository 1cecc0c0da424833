#pragma once
// Conversations as text, in the formats that models of some families were trained on.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

struct ChatMessage {
  std::string_view role;  // "system", "user", "assistant", ...
  std::string_view content;
};

/// A piece of a conversation's text.
struct ChatSegment {
  std::string text;
  bool trained = false;  ///< has a loss
  friend bool operator==(const ChatSegment&, const ChatSegment&) = default;
};

struct ChatOptions {
  std::string generation_role = "assistant";  ///< whose turns have a loss
  bool only_last = false;                     ///< only the last turn has one, if it is of that role
  bool all = false;                           ///< everything has one
};

/// How each turn of a conversation is written: what comes before its content and after it.
class ChatTemplate {
 public:
  /// Formats by name:
  ///   chatml  <|im_start|>ROLE\nCONTENT<|im_end|>\n
  ///   llama3  <|begin_of_text|>, then
  ///   <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>
  ///           with white space around CONTENT removed
  ///   zephyr  <|ROLE|>\nCONTENT</s>\n; roles system, user and assistant
  ///   plain   ROLE: CONTENT\n\n, the role with a capital letter
  /// Throws Error for another name, and for a Jinja template or a file with one: neox has none.
  explicit ChatTemplate(const std::string& name);

  /// The text in pieces that alternate between without and with a loss; none is empty. A turn's
  /// loss begins behind its header, where generation would begin, and includes what ends the turn.
  /// Throws Error for an empty conversation or a role that the format has no place for.
  std::vector<ChatSegment> render(std::span<const ChatMessage> messages,
                                  const ChatOptions& options) const;
  /// The special tokens that the format writes; a tokenizer should have them.
  std::span<const std::string_view> markers() const;

  static std::string names();  ///< for messages

 private:
  struct Format;
  static const Format kFormats[];
  const Format* format_;
};

}  // namespace neox
