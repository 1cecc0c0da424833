#include "io/data/chat_template.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "core/base/error.h"

namespace neox {

struct ChatTemplate::Format {
  std::string_view name{};
  std::string_view begin{};                      // of a conversation
  std::string_view before_role{}, after_role{};  // of a turn's header
  std::string_view content_prefix{};             // belongs to what is generated
  std::string_view after_content{};
  bool trim = false;                        // white space around the content
  bool capital = false;                     // of the role
  std::array<std::string_view, 4> roles{};  // allowed; none: all
  std::array<std::string_view, 4> markers{};
};

const ChatTemplate::Format ChatTemplate::kFormats[] = {
    {.name = "chatml",
     .before_role = "<|im_start|>",
     .after_role = "\n",
     .after_content = "<|im_end|>\n",
     .markers = {"<|im_start|>", "<|im_end|>"}},
    {.name = "llama3",
     .begin = "<|begin_of_text|>",
     .before_role = "<|start_header_id|>",
     .after_role = "<|end_header_id|>\n\n",
     .after_content = "<|eot_id|>",
     .trim = true,
     .markers = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
    {.name = "zephyr",
     .before_role = "<|",
     .after_role = "|>\n",
     .after_content = "</s>\n",
     .roles = {"system", "user", "assistant"},
     .markers = {"</s>"}},
    {.name = "plain",
     .after_role = ":",
     .content_prefix = " ",
     .after_content = "\n\n",
     .capital = true},
};

namespace {

// The strings in front of the empty ones.
std::span<const std::string_view> given(const std::array<std::string_view, 4>& all) {
  const auto end = std::find(all.begin(), all.end(), std::string_view());
  return {all.data(), static_cast<std::size_t>(end - all.begin())};
}

// What Python's str.strip, and so Jinja's trim, removes.
constexpr std::string_view kWhiteSpace[] = {
    "\t",     "\n",     "\v",       "\f",     "\r",     "\x1c",   "\x1d",   "\x1e",
    "\x1f",   " ",      "\xc2\x85", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002",
    "\u2003", "\u2004", "\u2005",   "\u2006", "\u2007", "\u2008", "\u2009", "\u200a",
    "\u2028", "\u2029", "\u202f",   "\u205f", "\u3000"};

std::string_view trimmed(std::string_view text) {
  const auto remove = [&](auto matches, auto cut) {
    while (true) {
      const auto* space = std::find_if(std::begin(kWhiteSpace), std::end(kWhiteSpace), matches);
      if (space == std::end(kWhiteSpace)) return;
      cut(space->size());
    }
  };
  remove([&](std::string_view space) { return text.starts_with(space); },
         [&](std::size_t n) { text.remove_prefix(n); });
  remove([&](std::string_view space) { return text.ends_with(space); },
         [&](std::size_t n) { text.remove_suffix(n); });
  return text;
}

class Segments {
 public:
  void add(std::string_view text, bool trained) {
    if (text.empty()) return;
    if (segments_.empty() || segments_.back().trained != trained)
      segments_.push_back({"", trained});
    segments_.back().text += text;
  }
  std::vector<ChatSegment> take() { return std::move(segments_); }

 private:
  std::vector<ChatSegment> segments_;
};

}  // namespace

ChatTemplate::ChatTemplate(const std::string& name) : format_(nullptr) {
  for (const Format& format : kFormats) {
    if (format.name == name) format_ = &format;
  }
  if (format_ != nullptr) return;
  std::error_code ignored;
  const bool jinja = name.find("{%") != std::string::npos || name.find("{{") != std::string::npos ||
                     name.ends_with(".json") || name.ends_with(".jinja") ||
                     std::filesystem::exists(name, ignored);
  require(!jinja,
          "chat template '{}': templates in Jinja are not supported; choose the format that it "
          "writes by name ({}), or render the conversations elsewhere and give prompt and "
          "completion",
          name.substr(0, 80), names());
  fail("unknown chat template '{}': there are {}", name, names());
}

std::string ChatTemplate::names() {
  std::string text;
  for (const Format& format : kFormats)
    text += (text.empty() ? "" : ", ") + std::string(format.name);
  return text;
}

std::span<const std::string_view> ChatTemplate::markers() const {
  return given(format_->markers);
}

std::vector<ChatSegment> ChatTemplate::render(std::span<const ChatMessage> messages,
                                              const ChatOptions& options) const {
  require(!messages.empty(), "the conversation has no messages");
  const auto roles = given(format_->roles);
  Segments segments;
  segments.add(format_->begin, options.all);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    require(!message.role.empty(), "message {} has an empty role", i + 1);
    require(roles.empty() || std::find(roles.begin(), roles.end(), message.role) != roles.end(),
            "message {} has the role '{}', for which the chat template {} has no place", i + 1,
            message.role, format_->name);
    std::string role(message.role);
    if (format_->capital && role[0] >= 'a' && role[0] <= 'z')
      role[0] = static_cast<char>(role[0] - 32);
    const bool last = i + 1 == messages.size();
    const bool trained =
        options.all || (message.role == options.generation_role && (last || !options.only_last));
    segments.add(format_->before_role, options.all);
    segments.add(role, options.all);
    segments.add(format_->after_role, options.all);
    segments.add(format_->content_prefix, trained);
    segments.add(format_->trim ? trimmed(message.content) : message.content, trained);
    segments.add(format_->after_content, trained);
  }
  return segments.take();
}

}  // namespace neox
