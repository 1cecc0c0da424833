#pragma once
// Errors for the user: one exception type, one way to raise it.

#include <source_location>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <fmt/core.h>

namespace neox {

/// Any failure the user can act on. The message is a full sentence for the user: what was found,
/// what was expected, what to do. `where()` is the place in the code, printed with --verbose.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message,
                 std::source_location where = std::source_location::current())
      : std::runtime_error(message), where_(where) {}
  const std::source_location& where() const { return where_; }

 private:
  std::source_location where_;
};

namespace detail {
// Carries the caller's location next to a compile-time checked format string.
template <class... Args>
struct FormatAt {
  fmt::format_string<Args...> format;
  std::source_location where;
  template <class S>
  consteval FormatAt(const S& text, std::source_location at = std::source_location::current())
      : format(text), where(at) {}
};
}  // namespace detail

/// Throws Error with a formatted message.
template <class... Args>
[[noreturn]] void fail(detail::FormatAt<std::type_identity_t<Args>...> message, Args&&... args) {
  throw Error(fmt::format(message.format, std::forward<Args>(args)...), message.where);
}

/// Throws Error unless `ok`. The message says what was found, what was expected, and what to do.
template <class... Args>
void require(bool ok, detail::FormatAt<std::type_identity_t<Args>...> message, Args&&... args) {
  if (!ok) [[unlikely]] {
    throw Error(fmt::format(message.format, std::forward<Args>(args)...), message.where);
  }
}

}  // namespace neox
