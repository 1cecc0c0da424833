#pragma once
// Regular expressions of tokenizer.json: written for Oniguruma (Ruby syntax), matched by PCRE2.

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace neox {

/// The same pattern for PCRE2: \s, \w and \d spelled out as the Unicode properties that Oniguruma
/// means. Throws Error for what the two read differently and neox doesn't translate.
std::string pcre2_pattern(std::string_view oniguruma);

/// A compiled pattern; may be used by several threads, each with its own Matcher.
class Regex {
 public:
  /// Throws Error with the place in the pattern.
  explicit Regex(std::string_view oniguruma);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  class Matcher {
   public:
    Matcher();
    ~Matcher();
    Matcher(Matcher&&) noexcept;
    Matcher& operator=(Matcher&&) noexcept;

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };

  /// First match in valid UTF-8 at or after `from`; false when there is none.
  bool find(std::string_view text, std::size_t from, Matcher& matcher, std::size_t& begin,
            std::size_t& end) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace neox
