// Reads .tiktoken files.
#include <algorithm>
#include <charconv>
#include <filesystem>

#include <boost/archive/iterators/binary_from_base64.hpp>
#include <boost/archive/iterators/transform_width.hpp>

#include "core/base/error.h"
#include "io/tokenizer/byte_alphabet.h"
#include "io/tokenizer/tokenizer_files.h"

namespace neox {
namespace {

struct SpecialToken {
  std::string name;
  std::int32_t offset;  // from the number of tokens in the file
};

struct Encoding {
  std::string_view name;
  std::int32_t tokens;       // of the published file
  std::string_view pattern;  // of words; empty: GPT-2's
  std::vector<SpecialToken> specials;
  std::string_view begin;  // of a text; empty: none
};

constexpr std::string_view kCl100k =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

// The names that Llama 3 gives; those reserved fill up 256.
std::vector<SpecialToken> llama3_specials() {
  std::vector<SpecialToken> tokens = {{"<|begin_of_text|>", 0},
                                      {"<|end_of_text|>", 1},
                                      {"<|start_header_id|>", 6},
                                      {"<|end_header_id|>", 7},
                                      {"<|eot_id|>", 9}};
  std::int32_t reserved = 0;
  for (std::int32_t offset = 0; offset < 256; ++offset) {
    const bool named = std::any_of(tokens.begin(), tokens.begin() + 5,
                                   [&](const SpecialToken& t) { return t.offset == offset; });
    if (!named)
      tokens.push_back({fmt::format("<|reserved_special_token_{}|>", reserved++), offset});
  }
  return tokens;
}

const std::vector<Encoding>& encodings() {
  static const std::vector<Encoding> all = {
      {"r50k", 50256, "", {{"<|endoftext|>", 0}}, ""},
      {"cl100k",
       100256,
       kCl100k,
       {{"<|endoftext|>", 1},
        {"<|fim_prefix|>", 2},
        {"<|fim_middle|>", 3},
        {"<|fim_suffix|>", 4},
        {"<|endofprompt|>", 20}},
       ""},
      {"o200k", 199998, kO200k, {{"<|endoftext|>", 1}, {"<|endofprompt|>", 20}}, ""},
      {"llama3", 128000, kCl100k, llama3_specials(), "<|begin_of_text|>"}};
  return all;
}

const Encoding& encoding_of(const std::string& path, std::int32_t tokens) {
  const std::string name = std::filesystem::path(path).filename();
  std::string known;
  for (const Encoding& encoding : encodings()) {
    if (name.starts_with(encoding.name)) return encoding;
    known +=
        fmt::format("{}{} ({} tokens)", known.empty() ? "" : ", ", encoding.name, encoding.tokens);
  }
  for (const Encoding& encoding : encodings()) {
    if (tokens == encoding.tokens) return encoding;
  }
  fail(
      "{}: a .tiktoken file does not say how it cuts words, and {} tokens are none of {}: begin "
      "the file's name with that of the encoding",
      path, tokens, known);
}

// Nothing when it isn't base64.
std::optional<std::string> from_base64(std::string_view text) {
  using namespace boost::archive::iterators;
  using Decoder = transform_width<binary_from_base64<const char*>, 8, 6>;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const std::size_t bytes = text.size() / 4 * 3 - padding;
  std::string out;
  try {
    Decoder decoder(text.data());
    // The padding is not read: as many bytes as there are begin before it.
    for (std::size_t i = 0; i < bytes; ++i, ++decoder) out += static_cast<char>(*decoder);
  } catch (const dataflow_exception&) {
    return std::nullopt;
  }
  return out;
}

// "aGVsbG8= 15339"
bool read_line(std::string_view line, std::string& bytes, std::int32_t& rank) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos) return false;
  const auto decoded = from_base64(line.substr(0, space));
  const char *first = line.data() + space + 1, *last = line.data() + line.size();
  const auto [rest, error] = std::from_chars(first, last, rank);
  if (!decoded || error != std::errc() || rest != last || rank < 0) return false;
  bytes = *decoded;
  return true;
}

// Every way to put a token together from two.
void add_merges(BpeDescription& out,
                const std::unordered_map<std::string_view, std::int32_t>& tokens) {
  for (const auto& [bytes, id] : tokens) {
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      const auto left = tokens.find(bytes.substr(0, cut));
      if (left == tokens.end()) continue;
      const auto right = tokens.find(bytes.substr(cut));
      if (right == tokens.end()) continue;
      out.merges.push_back({left->second, right->second, id, id});
    }
  }
}

void add_specials(const Encoding& encoding, std::int32_t tokens, BpeDescription& out) {
  for (const SpecialToken& special : encoding.specials) {
    AddedToken token;
    token.content = special.name;
    token.id = tokens + special.offset;
    token.special = true;
    require(out.vocab.emplace(special.name, token.id).second,
            "{}: the special token {} is among the ordinary ones", out.source, special.name);
    if (special.name == encoding.begin) out.prefix_ids = {token.id};
    out.added_tokens.push_back(std::move(token));
  }
}

std::string_view next_line(std::string_view& rest) {
  const std::size_t end = std::min(rest.find('\n'), rest.size());
  std::string_view line = rest.substr(0, end);
  rest.remove_prefix(std::min(end + 1, rest.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

bool is_tiktoken(std::string_view bytes) {
  std::string token;
  std::int32_t rank = 0;
  return read_line(next_line(bytes), token, rank);
}

BpeDescription read_tiktoken_file(const std::string& path) {
  const std::string file = read_tokenizer_file(path);
  BpeDescription out;
  out.source = path;
  std::vector<std::string> by_id;
  std::unordered_map<std::string_view, std::int32_t> tokens;
  std::string_view rest = file;
  std::string bytes;
  for (std::int64_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = next_line(rest);
    std::int32_t rank = -1;
    if (line.empty()) continue;
    require(read_line(line, bytes, rank),
            "{}:{}: expected the base64 of a token and its rank, as in \"aGVsbG8= 15339\"", path,
            number);
    // Ids size the embedding: a stray huge one would be an accident.
    require(rank < (1 << 24), "{}:{}: rank {} is beyond any vocabulary", path, number, rank);
    const auto at = static_cast<std::size_t>(rank);
    if (by_id.size() <= at) by_id.resize(at + 1);
    require(by_id[at].empty(), "{}:{}: the rank {} is given twice", path, number, rank);
    by_id[at] = bytes;
  }
  for (std::size_t id = 0; id < by_id.size(); ++id) {
    require(!by_id[id].empty(), "{}: no token has rank {}", path, id);
    const auto [entry, added] = tokens.emplace(by_id[id], static_cast<std::int32_t>(id));
    require(added, "{}: the ranks {} and {} have the same token", path, entry->second, id);
    out.vocab.emplace(bytes_to_token(by_id[id]), static_cast<std::int32_t>(id));
  }
  for (int byte = 0; byte < 256; ++byte) {
    require(tokens.contains(std::string(1, static_cast<char>(byte))),
            "{}: byte 0x{:02X} is no token: not all texts could be encoded", path, byte);
  }
  add_merges(out, tokens);
  out.ignore_merges = true;  // a word that is a token is that token
  const auto count = static_cast<std::int32_t>(by_id.size());
  const Encoding& encoding = encoding_of(path, count);
  if (encoding.pattern.empty()) {
    out.pre_tokenizer.gpt2_pattern = true;
  } else {
    out.pre_tokenizer.steps.emplace_back(Regex(encoding.pattern), SplitBehavior::isolated, false);
  }
  add_specials(encoding, count, out);
  return out;
}

}  // namespace neox
