// The hand-written scanner against the same pattern in PCRE2, on all of Unicode.
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "io/tokenizer/gpt2_scanner.h"
#include "io/tokenizer/regex.h"
#include "io/tokenizer/utf8.h"
#include "tests/io/random_text.h"

namespace neox {
namespace {

using Words = std::vector<std::string>;

Words scan(const std::string& text) {
  Words words;
  scan_gpt2(text.data(), text.data() + text.size(),
            [&](const char* begin, const char* end) { words.emplace_back(begin, end); });
  return words;
}

Words split(const std::string& text, const Regex& regex, Regex::Matcher& matcher) {
  Words words;
  std::size_t begin = 0, end = 0;
  for (std::size_t at = 0; at < text.size(); at = end) {
    EXPECT_TRUE(regex.find(text, at, matcher, begin, end));
    EXPECT_EQ(begin, at);
    words.push_back(text.substr(begin, end - begin));
  }
  return words;
}

TEST(Gpt2Scanner, KnownTexts) {
  EXPECT_EQ(scan("I'll don't  go\n\n x"),
            (Words{"I", "'ll", " don", "'t", " ", " go", "\n\n", " x"}));
  EXPECT_EQ(scan("a1_é 42!\t"), (Words{"a", "1", "_", "é", " 42", "!", "\t"}));
  EXPECT_EQ(scan("'LL 's "), (Words{"'", "LL", " '", "s", " "}));
  EXPECT_EQ(scan("\xC2\xA0\xE3\x80\x80x"), (Words{"\xC2\xA0", "\xE3\x80\x80", "x"}));
  EXPECT_EQ(scan(""), Words{});
}

TEST(Gpt2Scanner, EqualsPcre2OnRandomUnicode) {
  const Regex regex(kGpt2Pattern);
  Regex::Matcher matcher;
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = random_text(random, 40);
    ASSERT_EQ(scan(text), split(text, regex, matcher)) << "text " << i;
  }
}

TEST(Gpt2Scanner, EqualsPcre2OnEveryCharacter) {
  const Regex regex(kGpt2Pattern);
  Regex::Matcher matcher;
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (!same_in_all_versions(code)) continue;
    std::string text = "a ";
    append_utf8(text, code);
    text += "1 a";
    append_utf8(text, code);
    ASSERT_EQ(scan(text), split(text, regex, matcher)) << static_cast<unsigned>(code);
  }
}

TEST(Regex, RewritesWhatTheEnginesReadDifferently) {
  EXPECT_EQ(pcre2_pattern(R"(\s+(?!\S))"), R"(\p{White_Space}+(?!\P{White_Space}))");
  EXPECT_EQ(pcre2_pattern(R"([^\s\w]\u00e9)"),
            R"([^\p{White_Space}\p{L}\p{M}\p{Nd}\p{Pc}]\x{00e9})");
  for (const char* refused : {R"(\bx)", "[a&&b]", "[a[b]]", R"(\p{N}{1,3}+)", R"([\W])", "(?m:a)",
                              "(?<name>a)", "(", "[", "a\\", R"(\uD)", R"(\h)"}) {
    EXPECT_THROW(Regex{refused}, Error) << refused;
  }
}

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(find_invalid_utf8("añ日🙂"), std::string_view::npos);
  EXPECT_EQ(find_invalid_utf8("ab\xFFz"), 2u);
  EXPECT_EQ(find_invalid_utf8("a\xC0\x80"), 1u);         // overlong
  EXPECT_EQ(find_invalid_utf8("\xED\xA0\x80"), 0u);      // surrogate
  EXPECT_EQ(find_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(find_invalid_utf8("abc\xE6\x97"), 3u);       // cut
}

TEST(Utf8, StreamsAndRepairs) {
  EXPECT_EQ(complete_utf8_prefix("ab\xE6\x97"), 2u);
  EXPECT_EQ(complete_utf8_prefix("ab\xE6\x97\xA5"), 5u);
  EXPECT_EQ(complete_utf8_prefix("ab\xFF"), 3u);
  EXPECT_EQ(complete_utf8_prefix("\xF0\x9F\x99"), 0u);
  EXPECT_EQ(complete_utf8_prefix(""), 0u);
  EXPECT_EQ(to_valid_utf8("a\xE6\x97z\xFF"), "a\xEF\xBF\xBDz\xEF\xBF\xBD");
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x99\x82"), "🙂");
}

}  // namespace
}  // namespace neox
