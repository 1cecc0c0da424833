#pragma once
// Numbers for people, and words of texts.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

/// 1536 -> "1.50 KiB"; powers of 1024.
std::string format_bytes(std::uint64_t bytes);
/// 1234567 -> "1.23 M"; powers of 1000, for counts and rates.
std::string format_count(double count);
/// 3725.4 s -> "1:02:05", 65 -> "1:05", 0.0123 -> "12.3 ms".
std::string format_duration(double seconds);
/// 1234567 -> "1,234,567".
std::string format_grouped(std::int64_t value);

/// "a  b c" -> "a", "b", "c".
std::vector<std::string> split_words(std::string_view text);

}  // namespace neox
