#pragma once
// Collects what is wrong with a configuration, so that one run reports everything.

#include <string>
#include <vector>

#include "core/base/error.h"

namespace neox::detail {

class Problems {
 public:
  void add(std::string line) { lines_.push_back(std::move(line)); }
  void add_all(const Problems& more) {
    lines_.insert(lines_.end(), more.lines_.begin(), more.lines_.end());
  }
  bool empty() const { return lines_.empty(); }
  /// Throws Error with one line per problem.
  void throw_if_any() const {
    if (lines_.empty()) return;
    std::string text = lines_.front();
    for (std::size_t i = 1; i < lines_.size(); ++i) text += "\n" + lines_[i];
    throw Error(text);
  }

 private:
  std::vector<std::string> lines_;
};

}  // namespace neox::detail
