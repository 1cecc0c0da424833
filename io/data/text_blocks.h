#pragma once
// Text inputs cut into blocks of whole documents, so that threads can work on them side by side.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/data/archive_stream.h"
#include "io/data/chat_template.h"

namespace neox {

struct TextBlock {
  std::string file;  ///< for messages
  TextFormat format = TextFormat::plain;
  std::int64_t first_line = 1;    ///< line number of the first byte
  std::int64_t first_offset = 0;  ///< byte offset of the first byte in the (uncompressed) file
  std::string separator;          ///< between documents of plain text; empty: all is one document
  std::string bytes;              ///< kPadding readable bytes follow
  static constexpr std::size_t kPadding = 64;  // what simdjson wants
};

/// Reads inputs in order, one thread at a time, holding no more than a block or the longest
/// document.
class TextBlockReader {
 public:
  /// `inputs` are files, or directories, which stand for all files in them with a known name
  /// (sorted). Plain text is cut at `separator`; empty: each file is one document. Throws Error for
  /// an input that is missing or of an unknown kind.
  TextBlockReader(const std::vector<std::string>& inputs, std::string separator,
                  std::size_t block_bytes = std::size_t{1} << 20);

  /// The next block; nothing at the end of the last input.
  std::optional<TextBlock> next();

  /// Size of all inputs on disk, and how much of it was read.
  std::int64_t total_bytes() const { return total_bytes_; }
  std::int64_t consumed_bytes() const;
  const std::vector<std::string>& files() const { return files_; }

 private:
  bool open_next();
  TextBlock take(std::size_t size);
  bool fill(std::size_t size);
  std::size_t cut_position(std::string_view separator) const;

  std::vector<std::string> files_;
  std::string separator_;
  std::size_t block_bytes_;
  std::size_t next_file_ = 0;
  std::optional<ArchiveStream> stream_;
  bool in_file_ = false;
  std::string pending_;  // read, not yet given out
  std::int64_t line_ = 1, offset_ = 0;
  std::int64_t total_bytes_ = 0, finished_bytes_ = 0;
};

/// Calls document(key index, text, place) for every document of a block, in order; `text` is valid
/// UTF-8 and may be empty, `place` is "file:line". In jsonl, each line's value of each key; a list
/// of strings counts as its members joined by empty lines (GPT-NeoX's reader). Plain text has one
/// key. Throws Error naming file, line and byte offset.
using DocumentVisitor =
    std::function<void(std::size_t key, std::string_view text, const std::string& place)>;
void visit_documents(const TextBlock& block, const std::vector<std::string>& keys,
                     const DocumentVisitor& document);

/// Calls conversation(messages, place) for each line of a jsonl block, whose value of `key` is a
/// list of objects with the strings "role" and "content". Throws Error like visit_documents.
using ConversationVisitor =
    std::function<void(std::span<const ChatMessage> messages, const std::string& place)>;
void visit_conversations(const TextBlock& block, const std::string& key,
                         const ConversationVisitor& conversation);

}  // namespace neox
