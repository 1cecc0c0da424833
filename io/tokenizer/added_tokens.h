#pragma once
// Added tokens are cut out of a text before anything else sees it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace neox {

struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = false;
  bool normalized = false;   ///< matched in the normalized text, else in the text as given
  bool single_word = false;  ///< not directly before or after a word character
  bool lstrip = false;       ///< takes the white space before it along
  bool rstrip = false;       ///< … after it
};

/// Finds added tokens: the longest match at the leftmost position, again and again.
class AddedTokenMatcher {
 public:
  /// Looks for `pattern` (not empty); of equal patterns the first counts.
  void add(const AddedToken& token, std::string_view pattern);
  /// Call after the last add().
  void build();
  bool empty() const { return tokens_.empty(); }

  /// Cuts valid UTF-8 `text` up. Calls piece(begin, end) for each non-empty part that is text and
  /// token(id) for each match, in order.
  template <class Piece, class Token>
  void split(std::string_view text, Piece&& piece, Token&& token) const {
    std::size_t done = 0;
    for (std::size_t at = 0; (at = find_candidate(text, at)) < text.size();) {
      const Match match = longest_at(text, at);
      if (match.token < 0) {
        ++at;
        continue;
      }
      const AddedToken& found = tokens_[static_cast<std::size_t>(match.token)];
      std::size_t begin = at, end = match.end;
      at = match.end;
      if (has_rules_ && !apply_rules(found, text, done, begin, end)) continue;
      if (done < begin) piece(text.substr(done, begin - done));
      token(found.id);
      done = end;
    }
    if (done < text.size()) piece(text.substr(done));
  }

 private:
  struct Match {
    std::int32_t token;  // -1: none
    std::size_t end;
  };
  struct Node {
    std::vector<std::pair<char, std::int32_t>> children;
    std::int32_t token = -1;
  };

  // First position from `at` where a token may begin; text.size() when there is none.
  std::size_t find_candidate(std::string_view text, std::size_t at) const;
  Match longest_at(std::string_view text, std::size_t at) const;
  // Widens [begin, end) over stripped white space; false when the match doesn't count.
  static bool apply_rules(const AddedToken& token, std::string_view text, std::size_t done,
                          std::size_t& begin, std::size_t& end);

  std::vector<AddedToken> tokens_;
  std::vector<Node> trie_{1};
  std::vector<std::uint8_t> starts_;  // by two bytes (first << 8 | second): a token may begin so
  std::vector<std::pair<char, char>> pairs_;  // the same as a short list; empty when it is long
  bool has_rules_ = false;
};

}  // namespace neox
