#include "io/data/text_blocks.h"

#include <algorithm>
#include <filesystem>

#include <simdjson.h>

#include "core/base/error.h"
#include "io/tokenizer/utf8.h"

namespace neox {
namespace {

namespace fs = std::filesystem;
namespace dom = simdjson::dom;

// Documents' sizes and ids are 32-bit numbers in the token files.
constexpr std::size_t kMaxDocument = (std::size_t{1} << 31) - 1;

std::vector<std::string> expand(const std::string& input) {
  std::error_code error;
  const fs::file_status status = fs::status(input, error);
  require(status.type() != fs::file_type::not_found, "the input {} does not exist", input);
  require(!error, "the input {} cannot be read: {}", input, error.message());
  if (!fs::is_directory(status)) return {input};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(input)) {
    const std::string name = entry.path().filename();
    if (entry.is_regular_file() && name[0] != '.' && is_text_file_name(name)) {
      files.push_back(entry.path());
    }
  }
  require(!files.empty(), "the directory {} has no file that neox reads (.jsonl, .txt, …)", input);
  std::sort(files.begin(), files.end());
  return files;
}

std::int64_t count_lines(std::string_view text) {
  return std::count(text.begin(), text.end(), '\n');
}

}  // namespace

TextBlockReader::TextBlockReader(const std::vector<std::string>& inputs, std::string separator,
                                 std::size_t block_bytes)
    : separator_(std::move(separator)), block_bytes_(block_bytes) {
  for (const std::string& input : inputs) {
    for (std::string& file : expand(input)) {
      total_bytes_ += static_cast<std::int64_t>(fs::file_size(file));
      ArchiveStream{file};  // a late file must not fail after hours
      files_.push_back(std::move(file));
    }
  }
  require(!files_.empty(), "no input files were given");
}

std::int64_t TextBlockReader::consumed_bytes() const {
  return finished_bytes_ + (stream_ ? stream_->consumed_bytes() : 0);
}

bool TextBlockReader::open_next() {
  while (true) {
    if (stream_ && stream_->next_file()) break;
    if (stream_) {
      stream_.reset();
      finished_bytes_ += static_cast<std::int64_t>(fs::file_size(files_[next_file_ - 1]));
    }
    if (next_file_ == files_.size()) return false;
    stream_.emplace(files_[next_file_++]);
  }
  in_file_ = true;
  line_ = 1;
  offset_ = 0;
  return true;
}

// Reads until `size` bytes are pending; false at the end of the file.
bool TextBlockReader::fill(std::size_t size) {
  std::size_t have = pending_.size();
  if (have >= size) return true;
  pending_.resize(size);
  while (have < size) {
    const std::size_t got = stream_->read(pending_.data() + have, size - have);
    if (got == 0) break;
    have += got;
  }
  pending_.resize(have);
  return have == size;
}

// Where the last complete document of what is pending ends; npos: there is none. Separators count
// from the front, as without blocks: two may overlap.
std::size_t TextBlockReader::cut_position(std::string_view separator) const {
  if (separator.empty()) return std::string::npos;
  if (separator.size() == 1) {
    const std::size_t last = pending_.rfind(separator);
    return last == std::string::npos ? last : last + 1;
  }
  std::size_t cut = std::string::npos;
  for (std::size_t at = 0; (at = pending_.find(separator, at)) != std::string::npos;) {
    cut = at += separator.size();
  }
  return cut;
}

std::optional<TextBlock> TextBlockReader::next() {
  while (true) {
    if (!in_file_ && !open_next()) return std::nullopt;
    const std::string separator = stream_->format() == TextFormat::jsonl ? "\n" : separator_;
    std::size_t want = block_bytes_;
    while (fill(want)) {
      const std::size_t cut = cut_position(separator);
      if (cut != std::string::npos) return take(cut);
      require(want < kMaxDocument, "{}:{}: a document is longer than 2 GiB", stream_->name(),
              line_);
      want = std::min(2 * want, kMaxDocument);
    }
    in_file_ = false;
    if (!pending_.empty()) return take(pending_.size());
  }
}

TextBlock TextBlockReader::take(std::size_t size) {
  TextBlock block;
  block.file = stream_->name();
  block.format = stream_->format();
  block.first_line = line_;
  block.first_offset = offset_;
  block.separator = separator_;
  block.bytes.reserve(size + TextBlock::kPadding);
  block.bytes.assign(pending_, 0, size);
  pending_.erase(0, size);
  line_ += count_lines(block.bytes);
  offset_ += static_cast<std::int64_t>(size);
  return block;
}

// ---- documents ----

namespace {

// Walks through the objects of a block of jsonl.
class JsonLines {
 public:
  JsonLines(const TextBlock& block, const std::vector<std::string>& keys)
      : block_(block), keys_(keys), line_(block.first_line) {}

  template <class Visit>  // Visit(dom::object, JsonLines&)
  void run(Visit&& visit) {
    const std::string_view all = block_.bytes;
    std::size_t at = 0;
    if (block_.first_offset == 0 && all.starts_with("\xEF\xBB\xBF")) at = 3;  // byte order mark
    for (; at < all.size(); ++line_) {
      const std::size_t end = std::min(all.find('\n', at), all.size());
      const std::string_view line = all.substr(at, end - at);
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) visit(parse(line, at), *this);
      at = end + 1;
    }
  }

  std::string place() const { return fmt::format("{}:{}", block_.file, line_); }

  /// The value of a key; of equal keys the last counts, as in Python.
  dom::element value(dom::object object, const std::string& key) const {
    bool found = false;
    dom::element value;
    for (const dom::key_value_pair field : object) {
      if (field.key != key) continue;
      value = field.value;
      found = true;
    }
    if (!found) fail_missing_key(object, key);
    return value;
  }

 private:
  dom::object parse(std::string_view line, std::size_t at) {
    dom::element root;
    // The rest of the block and its padding follow the line.
    const simdjson::error_code error =
        parser_.parse(reinterpret_cast<const std::uint8_t*>(line.data()), line.size(), false)
            .get(root);
    if (error == simdjson::UTF8_ERROR) fail_utf8(line, at);
    require(error == simdjson::SUCCESS, "{}: not valid JSON: {}", place(),
            simdjson::error_message(error));
    dom::object object;
    require(root.get_object().get(object) == simdjson::SUCCESS,
            "{}: expected an object like {{\"{}\": \"…\"}}", place(), keys_.front());
    return object;
  }

  [[noreturn]] void fail_utf8(std::string_view line, std::size_t at) const {
    const std::size_t invalid = std::min(find_invalid_utf8(line), line.size() - 1);
    fail("{}: not valid UTF-8: byte 0x{:02X} at offset {} of the file ({} of the line)", place(),
         static_cast<unsigned char>(line[invalid]),
         block_.first_offset + static_cast<std::int64_t>(at + invalid), invalid);
  }

  [[noreturn]] void fail_missing_key(dom::object object, const std::string& key) const {
    std::string names;
    for (const dom::key_value_pair field : object) {
      names += fmt::format("{}'{}'", names.empty() ? "" : ", ", field.key);
    }
    fail("{}: no key '{}'; the object has {} (choose with --jsonl-keys)", place(), key,
         names.empty() ? "none" : names);
  }

  const TextBlock& block_;
  const std::vector<std::string>& keys_;
  std::int64_t line_;
  dom::parser parser_;
};

// A string, or a list of strings, which is joined.
void visit_text(dom::element value, const std::string& key, std::size_t index,
                const std::string& place, const DocumentVisitor& document) {
  std::string_view text;
  if (value.get_string().get(text) == simdjson::SUCCESS) return document(index, text, place);
  dom::array parts;
  require(value.get_array().get(parts) == simdjson::SUCCESS,
          "{}: the value of key '{}' is {}; expected a string", place, key,
          simdjson::minify(value));
  std::string joined;
  for (const dom::element part : parts) {
    require(part.get_string().get(text) == simdjson::SUCCESS,
            "{}: the list of key '{}' has {}; expected strings", place, key,
            simdjson::minify(part));
    if (!joined.empty()) joined += "\n\n";
    joined += text;
  }
  document(index, joined, place);
}

ChatMessage message_of(dom::element value, const std::string& place, std::size_t number) {
  ChatMessage message;
  dom::object object;
  require(value.get_object().get(object) == simdjson::SUCCESS,
          "{}: message {} is {}; expected {{\"role\": \"…\", \"content\": \"…\"}}", place, number,
          simdjson::minify(value));
  for (const auto& [name, target] :
       {std::pair{"role", &message.role}, {"content", &message.content}}) {
    require(object[name].get_string().get(*target) == simdjson::SUCCESS,
            "{}: message {} has no string \"{}\": {}", place, number, name,
            simdjson::minify(value));
  }
  return message;
}

void visit_plain(const TextBlock& block, const DocumentVisitor& document) {
  const std::string_view all = block.bytes;
  std::int64_t line = block.first_line;
  const std::size_t invalid = find_invalid_utf8(all);
  if (invalid != std::string_view::npos) {
    fail("{}:{}: not valid UTF-8: byte 0x{:02X} at offset {} of the file", block.file,
         line + count_lines(all.substr(0, invalid)), static_cast<unsigned char>(all[invalid]),
         block.first_offset + static_cast<std::int64_t>(invalid));
  }
  for (std::size_t at = 0; at < all.size();) {
    const std::size_t end =
        block.separator.empty() ? all.size() : std::min(all.find(block.separator, at), all.size());
    const std::string_view text = all.substr(at, end - at);
    document(0, text, fmt::format("{}:{}", block.file, line));
    at = std::min(end + block.separator.size(), all.size());
    line += count_lines(all.substr(static_cast<std::size_t>(text.data() - all.data()),
                                   at - static_cast<std::size_t>(text.data() - all.data())));
  }
}

}  // namespace

void visit_documents(const TextBlock& block, const std::vector<std::string>& keys,
                     const DocumentVisitor& document) {
  require(!keys.empty(), "no JSON key was given");
  if (block.format == TextFormat::jsonl) {
    JsonLines(block, keys).run([&](dom::object object, const JsonLines& lines) {
      for (std::size_t key = 0; key < keys.size(); ++key) {
        visit_text(lines.value(object, keys[key]), keys[key], key, lines.place(), document);
      }
    });
  } else {
    require(keys.size() == 1, "{}: plain text has one text per document, but {} keys were given",
            block.file, keys.size());
    visit_plain(block, document);
  }
}

void visit_conversations(const TextBlock& block, const std::string& key,
                         const ConversationVisitor& conversation) {
  require(block.format == TextFormat::jsonl,
          "{}: conversations are read from .jsonl files, with one {{\"{}\": […]}} per line",
          block.file, key);
  std::vector<ChatMessage> messages;
  const std::vector<std::string> keys = {key};
  JsonLines(block, keys).run([&](dom::object object, const JsonLines& lines) {
    const std::string place = lines.place();
    const dom::element value = lines.value(object, key);
    dom::array list;
    require(value.get_array().get(list) == simdjson::SUCCESS,
            "{}: the value of key '{}' is {}; expected a list of messages", place, key,
            simdjson::minify(value));
    messages.clear();
    for (const dom::element one : list) {
      messages.push_back(message_of(one, place, messages.size() + 1));
    }
    conversation(messages, place);
  });
}

}  // namespace neox
