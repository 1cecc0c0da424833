#include "io/tokenizer/regex.h"

#include <algorithm>
#include <cctype>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/error.h"

namespace neox {
namespace {

// Walks over the pattern once, copying what both engines read alike.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : in_(pattern) {}

  std::string run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        escape();
      } else if (c == '[') {
        require(!in_class_, "{}: a '[' inside a character class", where());
        open_class();
      } else if (c == ']' && in_class_) {
        in_class_ = false;
        copy(1);
      } else if (in_class_ && in_.substr(at_, 2) == "&&") {
        fail("{}: '&&' (intersection of classes)", where());
      } else if (c == '}' && !in_class_ && in_.substr(at_, 2) == "}+" && closes_interval()) {
        fail("{}: '+' after an interval, which Oniguruma reads as a second repetition", where());
      } else if (c == '(' && !in_class_ && in_.substr(at_, 2) == "(?") {
        group();
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  std::string where() const {
    return fmt::format("the pattern '{}' has, at byte {}, what neox does not support", in_, at_);
  }
  void copy(std::size_t count) {
    out_ += in_.substr(at_, count);
    at_ += count;
  }

  void open_class() {
    in_class_ = true;
    copy(1);
    if (at_ < in_.size() && in_[at_] == '^') copy(1);
    if (at_ < in_.size() && in_[at_] == ']') copy(1);  // a literal there, for both
  }

  bool closes_interval() const {
    const std::size_t open = in_.rfind('{', at_);
    return open != std::string_view::npos && open + 1 < at_ &&
           std::all_of(in_.begin() + static_cast<std::ptrdiff_t>(open) + 1,
                       in_.begin() + static_cast<std::ptrdiff_t>(at_),
                       [](unsigned char c) { return std::isdigit(c) != 0 || c == ','; });
  }

  // (?: (?= (?! (?<= (?<! (?> and (?i: mean the same; (?m: is the dot matching newlines in Ruby.
  void group() {
    for (const std::string_view same :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?i)"}) {
      if (in_.substr(at_, same.size()) == same) {
        copy(same.size());
        return;
      }
    }
    fail("{}: the group '{}'", where(), in_.substr(at_, 4));
  }

  void replace(std::string_view outside, std::string_view inside) {
    require(!in_class_ || !inside.empty(), "{}: '{}' inside a character class", where(),
            in_.substr(at_, 2));
    out_ += in_class_ ? inside : outside;
    at_ += 2;
  }

  void escape() {
    require(at_ + 1 < in_.size(), "{}: a backslash at the end", where());
    const char c = in_[at_ + 1];
    switch (c) {
      case 's':
        return replace("\\p{White_Space}", "\\p{White_Space}");
      case 'S':
        return replace("\\P{White_Space}", "\\P{White_Space}");
      case 'd':
        return replace("\\p{Nd}", "\\p{Nd}");
      case 'D':
        return replace("\\P{Nd}", "\\P{Nd}");
      case 'w':
        return replace("[\\p{L}\\p{M}\\p{Nd}\\p{Pc}]", "\\p{L}\\p{M}\\p{Nd}\\p{Pc}");
      case 'W':
        return replace("[^\\p{L}\\p{M}\\p{Nd}\\p{Pc}]", "");
      case 'v':
        return replace("\\x0B", "\\x0B");
      case 'u':
        return code_unit();
      case 'A':
      case 'z':
      case 'p':
      case 'P':
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'a':
      case 'e':
      case 'x':
        return copy(2);
      default:
        break;
    }
    require(std::isalnum(static_cast<unsigned char>(c)) == 0, "{}: '\\{}'", where(), c);
    copy(2);
  }

  void code_unit() {  // \uHHHH
    const std::string_view digits = in_.substr(at_ + 2, 4);
    require(
        digits.size() == 4 && std::all_of(digits.begin(), digits.end(),
                                          [](unsigned char d) { return std::isxdigit(d) != 0; }),
        "{}: '\\u' without four hexadecimal digits", where());
    out_ += fmt::format("\\x{{{}}}", digits);
    at_ += 6;
  }

  std::string_view in_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string message_of(int code) {
  char text[256];
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
  return text;
}

constexpr std::size_t kJitStackStart = std::size_t{32} << 10;
constexpr std::size_t kJitStackMax = std::size_t{16} << 20;

}  // namespace

std::string pcre2_pattern(std::string_view oniguruma) {
  return Translator(oniguruma).run();
}

struct Regex::Impl {
  std::string source;
  std::unique_ptr<pcre2_code, decltype(&pcre2_code_free)> code{nullptr, pcre2_code_free};
};

struct Regex::Matcher::Impl {
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{
      pcre2_match_context_create(nullptr), pcre2_match_context_free};
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack{
      pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr), pcre2_jit_stack_free};
};

Regex::Matcher::Matcher() : impl_(std::make_unique<Impl>()) {
  pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}
Regex::Matcher::~Matcher() = default;
Regex::Matcher::Matcher(Matcher&&) noexcept = default;
Regex::Matcher& Regex::Matcher::operator=(Matcher&&) noexcept = default;

Regex::Regex(std::string_view oniguruma) : impl_(std::make_unique<Impl>()) {
  impl_->source = oniguruma;
  const std::string pattern = pcre2_pattern(oniguruma);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
                                  &error, &offset, nullptr));
  require(impl_->code != nullptr, "the pattern '{}' can't be compiled: {} (at byte {} of '{}')",
          oniguruma, message_of(error), offset, pattern);
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);  // without it matching is only slower
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, std::size_t from, Matcher& matcher, std::size_t& begin,
                 std::size_t& end) const {
  const int found =
      pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                  PCRE2_NO_UTF_CHECK, matcher.impl_->data.get(), matcher.impl_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return false;
  require(found >= 0, "matching the pattern '{}' failed: {}", impl_->source, message_of(found));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(matcher.impl_->data.get());
  begin = range[0];
  end = range[1];
  return true;
}

}  // namespace neox
