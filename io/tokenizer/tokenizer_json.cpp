// Reads Hugging Face's tokenizer.json and GPT-2's vocab.json + merges.txt.
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/tokenizer/bpe_tokenizer.h"
#include "io/tokenizer/byte_alphabet.h"
#include "io/tokenizer/gpt2_scanner.h"
#include "io/tokenizer/tokenizer_files.h"

namespace neox {
namespace {

using Json = nlohmann::json;

// A value with the path that led to it, so that every message can name the place.
struct Node {
  const Json& value;
  std::string path;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> why, Args&&... args) const {
    fail("{}: {}", path, fmt::format(why, std::forward<Args>(args)...));
  }
  bool is_null() const { return value.is_null(); }
  // The member, or null when there is none.
  Node get(const std::string& key) const {
    static const Json kNull;
    if (!value.is_object()) refuse("expected an object, found {}", value.type_name());
    const auto found = value.find(key);
    return {found == value.end() ? kNull : *found, path + "." + key};
  }
  std::vector<Node> items() const {
    if (!value.is_array()) refuse("expected a list, found {}", value.type_name());
    std::vector<Node> all;
    for (std::size_t i = 0; i < value.size(); ++i) {
      all.push_back({value[i], fmt::format("{}[{}]", path, i)});
    }
    return all;
  }
  std::string text() const {
    if (!value.is_string()) refuse("expected a string, found {}", value.type_name());
    return value.get<std::string>();
  }
  std::string text_or(const std::string& other) const { return is_null() ? other : text(); }
  bool flag(bool otherwise) const {
    if (is_null()) return otherwise;
    if (!value.is_boolean()) refuse("expected true or false, found {}", value.type_name());
    return value.get<bool>();
  }
  std::int32_t id() const {
    if (!value.is_number_integer()) refuse("expected a token id, found {}", value.dump());
    const auto number = value.get<std::int64_t>();
    if (number < 0 || number > std::numeric_limits<std::int32_t>::max()) {
      refuse("{} is not a token id", value.dump());
    }
    return static_cast<std::int32_t>(number);
  }
};

Json parse_json(const std::string& path) {
  try {
    return Json::parse(read_tokenizer_file(path));
  } catch (const Json::parse_error& error) {
    const std::string_view what = error.what();  // "[json.exception.parse_error.101] …"
    fail("{}: not valid JSON: {}", path, what.substr(std::min(what.find("] ") + 2, what.size())));
  }
}

// ---- normalizer ----

void read_normalizer(const Node& node, Normalizer& out) {
  if (node.is_null()) return;
  const std::string type = node.get("type").text();
  if (type == "Sequence") {
    for (const Node& step : node.get("normalizers").items()) read_normalizer(step, out);
  } else if (type == "NFC") {
    out.add(NormalizerStep::nfc);
  } else if (type == "NFD") {
    out.add(NormalizerStep::nfd);
  } else if (type == "NFKC") {
    out.add(NormalizerStep::nfkc);
  } else if (type == "NFKD") {
    out.add(NormalizerStep::nfkd);
  } else if (type == "Lowercase") {
    out.add(NormalizerStep::lowercase);
  } else if (type == "Strip") {
    if (node.get("strip_left").flag(true)) out.add(NormalizerStep::strip_left);
    if (node.get("strip_right").flag(true)) out.add(NormalizerStep::strip_right);
  } else {
    node.refuse(
        "the normalizer '{}' is not supported; NFC, NFD, NFKC, NFKD, Lowercase, Strip and "
        "Sequence are",
        type);
  }
}

// ---- pre-tokenizer ----

std::string escape_pattern(const std::string& literal) {
  std::string out;
  for (const char c : literal) {
    if (std::string_view("\\^$.|?*+()[]{}-").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

SplitBehavior read_behavior(const Node& node) {
  const std::string name = node.text();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  node.refuse("unknown behavior '{}'", name);
}

void add_step(const Node& node, const std::string& pattern, SplitBehavior behavior, bool invert,
              PreTokenizer& out) {
  try {
    out.steps.emplace_back(Regex(pattern), behavior, invert);
  } catch (const Error& error) {
    node.refuse("{}", error.what());
  }
}

void read_split(const Node& node, PreTokenizer& out) {
  const Node pattern = node.get("pattern");
  const Node regex = pattern.get("Regex");
  const std::string source =
      regex.is_null() ? escape_pattern(pattern.get("String").text()) : regex.text();
  if (source.empty()) pattern.refuse("the pattern is empty");
  add_step(node, source, read_behavior(node.get("behavior")), node.get("invert").flag(false), out);
}

// The steps in order; the byte-level one ends them.
void read_pre_tokenizer(const Node& node, PreTokenizer& out, bool& byte_level) {
  const std::string type = node.get("type").text();
  if (byte_level) node.refuse("'{}' after ByteLevel is not supported", type);
  if (type == "Sequence") {
    for (const Node& step : node.get("pretokenizers").items()) {
      read_pre_tokenizer(step, out, byte_level);
    }
  } else if (type == "ByteLevel") {
    out.gpt2_pattern = node.get("use_regex").flag(true);
    out.add_prefix_space = node.get("add_prefix_space").flag(true);
    byte_level = true;
  } else if (type == "Split") {
    read_split(node, out);
  } else if (type == "Digits") {
    const bool individual = node.get("individual_digits").flag(false);
    add_step(node, "\\p{N}", individual ? SplitBehavior::isolated : SplitBehavior::contiguous,
             false, out);
  } else {
    node.refuse(
        "the pre-tokenizer '{}' is not supported; ByteLevel, Split, Digits and Sequence are", type);
  }
}

// A single Split by GPT-2's own pattern is what the scanner does.
bool is_gpt2_split(const Node& node) {
  const Node steps = node.get("pretokenizers");
  if (steps.is_null() || !steps.value.is_array() || steps.value.size() != 2) return false;
  const Node split = steps.items()[0], bytes = steps.items()[1];
  return split.get("type").text_or("") == "Split" && bytes.get("type").text_or("") == "ByteLevel" &&
         split.get("pattern").get("Regex").text_or("") == kGpt2Pattern &&
         split.get("behavior").text_or("") == "Isolated" && !split.get("invert").flag(false) &&
         !bytes.get("use_regex").flag(true) && !bytes.get("add_prefix_space").flag(true);
}

void read_pre_tokenizer(const Node& node, PreTokenizer& out) {
  if (node.is_null()) node.refuse("missing: only byte-level tokenizers are supported");
  if (is_gpt2_split(node)) {
    out.gpt2_pattern = true;
    return;
  }
  bool byte_level = false;
  read_pre_tokenizer(node, out, byte_level);
  if (!byte_level) {
    node.refuse("no ByteLevel step (found '{}'): only byte-level tokenizers are supported",
                node.get("type").text());
  }
}

// ---- post-processor and decoder ----

void read_template(const Node& node, BpeDescription& out) {
  bool after_text = false;
  for (const Node& part : node.get("single").items()) {
    const Node special = part.get("SpecialToken");
    if (special.is_null()) {
      if (part.get("Sequence").is_null() || after_text) part.refuse("expected one Sequence");
      after_text = true;
      continue;
    }
    const std::string name = special.get("id").text();
    for (const Node& id : node.get("special_tokens").get(name).get("ids").items()) {
      (after_text ? out.suffix_ids : out.prefix_ids).push_back(id.id());
    }
  }
  if (!after_text) node.refuse("the template for one text has no Sequence");
}

void read_post_processor(const Node& node, BpeDescription& out) {
  if (node.is_null()) return;
  const std::string type = node.get("type").text();
  if (type == "Sequence") {
    for (const Node& step : node.get("processors").items()) read_post_processor(step, out);
  } else if (type == "TemplateProcessing") {
    read_template(node, out);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    const std::vector<Node> first = node.get("cls").items(), last = node.get("sep").items();
    if (first.size() != 2 || last.size() != 2) node.refuse("cls and sep must be [token, id]");
    out.prefix_ids.push_back(first[1].id());
    out.suffix_ids.push_back(last[1].id());
  } else if (type != "ByteLevel") {  // ByteLevel moves offsets only
    node.refuse("the post-processor '{}' is not supported", type);
  }
}

void check_decoder(const Node& node) {
  if (node.is_null()) return;
  const std::string type = node.get("type").text();
  if (type == "Sequence") {
    for (const Node& step : node.get("decoders").items()) check_decoder(step);
  } else if (type != "ByteLevel" && type != "Fuse") {
    node.refuse("the decoder '{}' is not supported; ByteLevel is", type);
  }
}

// ---- model ----

void read_vocab(const Node& node, BpeDescription& out) {
  if (!node.value.is_object()) node.refuse("expected an object, found {}", node.value.type_name());
  std::unordered_map<std::int32_t, std::string> owner;
  out.vocab.reserve(node.value.size());
  for (const auto& [token, id] : node.value.items()) {
    const std::int32_t number = Node{id, node.path + "[" + token + "]"}.id();
    const auto [entry, added] = owner.emplace(number, token);
    if (!added) {
      node.refuse("the tokens '{}' and '{}' have the same id {}", entry->second, token, number);
    }
    out.vocab.emplace(token, number);
  }
  if (out.vocab.empty()) node.refuse("the vocabulary is empty");
  // Ids size the embedding: a stray huge one would be an accident.
  for (const auto& [token, id] : out.vocab) {
    if (static_cast<std::size_t>(id) >= 4 * out.vocab.size() + 65536) {
      node.refuse("the token '{}' has id {} in a vocabulary of {} tokens", token, id,
                  out.vocab.size());
    }
  }
}

void add_merge(const std::string& where, const std::string& left, const std::string& right,
               BpeDescription& out) {
  const auto id = [&](const std::string& token) {
    const auto entry = out.vocab.find(token);
    require(entry != out.vocab.end(),
            "{}: the token '{}' of the merge '{} {}' is not in the vocabulary", where, token, left,
            right);
    return entry->second;
  };
  const std::int32_t left_id = id(left), right_id = id(right);  // named before their sum is
  out.merges.push_back({left_id, right_id, id(left + right)});
}

// "left right"; returns false for what is not exactly two words.
bool split_merge(std::string_view line, std::string& left, std::string& right) {
  const std::size_t space = line.find(' ');
  if (space == std::string_view::npos || space == 0 || space + 1 == line.size() ||
      line.find(' ', space + 1) != std::string_view::npos) {
    return false;
  }
  left = line.substr(0, space);
  right = line.substr(space + 1);
  return true;
}

void read_merges(const Node& node, BpeDescription& out) {
  if (!node.value.is_array()) node.refuse("expected a list, found {}", node.value.type_name());
  std::string left, right;
  for (std::size_t i = 0; i < node.value.size(); ++i) {
    const Json& merge = node.value[i];
    const std::string where = fmt::format("{}[{}]", node.path, i);
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
      add_merge(where, merge[0].get<std::string>(), merge[1].get<std::string>(), out);
    } else if (merge.is_string() && split_merge(merge.get_ref<const std::string&>(), left, right)) {
      add_merge(where, left, right, out);
    } else if (!merge.is_string() || !merge.get_ref<const std::string&>().starts_with("#version")) {
      fail("{}: a merge must be two tokens, found {}", where, merge.dump());
    }
  }
}

// With a token for every byte, as byte-level vocabularies have, none of this matters.
void read_unknown(const Node& node, BpeDescription& out) {
  const auto& bytes = byte_characters();
  if (std::all_of(bytes.begin(), bytes.end(),
                  [&](const std::string& byte) { return out.vocab.contains(byte); })) {
    return;
  }
  for (const char* key : {"byte_fallback", "fuse_unk"}) {
    const Node flag = node.get(key);
    if (flag.flag(false)) flag.refuse("not supported for a vocabulary that lacks some bytes");
  }
  const Node unknown = node.get("unk_token");
  if (unknown.text_or("").empty()) return;
  const auto entry = out.vocab.find(unknown.text());
  if (entry == out.vocab.end()) unknown.refuse("'{}' is not in the vocabulary", unknown.text());
  out.unknown = entry->second;
}

void read_model(const Node& node, BpeDescription& out) {
  const std::string type = node.get("type").text_or("BPE");
  if (type != "BPE") node.refuse("the model is '{}'; only byte-level BPE is supported", type);
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const Node affix = node.get(key);
    if (!affix.text_or("").empty()) affix.refuse("'{}' is not supported", affix.text());
  }
  const Node dropout = node.get("dropout");
  if (!dropout.is_null() && dropout.value != 0) {
    dropout.refuse("{} would make the ids random; set it to null", dropout.value.dump());
  }
  out.ignore_merges = node.get("ignore_merges").flag(false);
  read_vocab(node.get("vocab"), out);
  read_merges(node.get("merges"), out);
  read_unknown(node, out);
}

void read_added_tokens(const Node& node, BpeDescription& out) {
  if (node.is_null()) return;
  std::unordered_map<std::int32_t, std::string> owner;
  for (const auto& [token, id] : out.vocab) owner.emplace(id, token);
  for (const Node& item : node.items()) {
    AddedToken token;
    token.content = item.get("content").text();
    if (token.content.empty()) continue;
    token.id = item.get("id").id();
    token.special = item.get("special").flag(false);
    token.normalized = item.get("normalized").flag(!token.special);
    token.single_word = item.get("single_word").flag(false);
    token.lstrip = item.get("lstrip").flag(false);
    token.rstrip = item.get("rstrip").flag(false);
    const auto known = out.vocab.find(token.content);
    if (known != out.vocab.end() && known->second != token.id) {
      item.refuse("the token '{}' has id {} here and {} in the vocabulary", token.content, token.id,
                  known->second);
    }
    const auto [entry, added] = owner.emplace(token.id, token.content);
    if (!added && entry->second != token.content) {
      item.refuse("the token '{}' has id {}, which is '{}'", token.content, token.id,
                  entry->second);
    }
    if (static_cast<std::size_t>(token.id) >= 4 * out.vocab.size() + 65536) {
      item.refuse("id {} in a vocabulary of {} tokens", token.id, out.vocab.size());
    }
    out.vocab.emplace(token.content, token.id);
    out.added_tokens.push_back(std::move(token));
  }
}

}  // namespace

std::string read_tokenizer_file(const std::string& path) {
  std::error_code ignored;
  require(!std::filesystem::is_directory(path, ignored),
          "{} is a directory; the tokenizer must be a file (tokenizer.json)", path);
  errno = 0;
  std::ifstream in(path, std::ios::binary | std::ios::ate);
  require(in.good(), "can't open the tokenizer file {}: {}", path, std::strerror(errno));
  std::string text(static_cast<std::size_t>(in.tellg()), '\0');
  in.seekg(0);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  require(in.good(), "can't read the tokenizer file {}: {}", path, std::strerror(errno));
  require(!text.empty(), "the tokenizer file {} is empty", path);
  return text;
}

BpeDescription read_tokenizer_json(const std::string& path) {
  const Json json = parse_json(path);
  const Node root{json, path};
  if (!json.is_object() || !json.contains("model") || !json["model"].is_object()) {
    root.refuse("no 'model': not a Hugging Face tokenizer.json{}",
                json.is_object() && json.contains("<|endoftext|>")
                    ? "; it looks like GPT-2's vocab.json, which needs a merges.txt (merge_file)"
                    : "");
  }
  BpeDescription out;
  out.source = path;
  if (!root.get("truncation").is_null()) {
    root.get("truncation").refuse("texts would be cut; set it to null");
  }
  const Node padding = root.get("padding");
  if (!padding.is_null() && padding.get("strategy").value != "BatchLongest") {
    padding.refuse("texts would be padded; set it to null");
  }
  read_normalizer(root.get("normalizer"), out.normalizer);
  read_pre_tokenizer(root.get("pre_tokenizer"), out.pre_tokenizer);
  read_post_processor(root.get("post_processor"), out);
  check_decoder(root.get("decoder"));
  read_model(root.get("model"), out);
  read_added_tokens(root.get("added_tokens"), out);
  return out;
}

BpeDescription read_gpt2_files(const std::string& vocab_file, const std::string& merge_file) {
  const Json json = parse_json(vocab_file);
  const Node root{json, vocab_file};
  if (json.is_object() && json.contains("model") && json["model"].is_object()) {
    root.refuse("this is a tokenizer.json: use HFTokenizer without a merge_file");
  }
  BpeDescription out;
  out.source = vocab_file;
  out.pre_tokenizer.gpt2_pattern = true;
  read_vocab(root, out);
  std::istringstream lines(read_tokenizer_file(merge_file));
  std::string line, left, right;
  for (std::int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    const std::string where = fmt::format("{}:{}", merge_file, number);
    require(split_merge(line, left, right), "{}: a merge must be two tokens, found '{}'", where,
            line);
    add_merge(where, left, right, out);
  }
  const auto eod = out.vocab.find("<|endoftext|>");
  if (eod != out.vocab.end()) {
    AddedToken token;
    token.content = eod->first;
    token.id = eod->second;
    token.special = true;
    out.added_tokens.push_back(std::move(token));
  }
  return out;
}

}  // namespace neox
