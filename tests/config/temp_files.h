#pragma once
// Configuration files of one test, and command lines made of words.

#include <filesystem>
#include <string>
#include <vector>

#include "core/config/parse.h"

namespace neox::testing {

/// A directory of its own, removed at the end.
class TempFiles {
 public:
  TempFiles();
  ~TempFiles();
  TempFiles(const TempFiles&) = delete;
  TempFiles& operator=(const TempFiles&) = delete;
  /// Writes a file and returns its path.
  std::string write(const std::string& name, const std::string& content) const;
  std::string path(const std::string& name = "") const { return (directory_ / name).string(); }

 private:
  std::filesystem::path directory_;
};

/// neox_train with all sections but [generate].
Program train_program();
ParsedCommand parse_words(const std::vector<std::string>& words,
                          const Program& program = train_program());
/// The message of the Error that parsing these words throws; "" when it throws none.
std::string parse_failure(const std::vector<std::string>& words);
/// The smallest configuration that resolves; later text may add to or repeat its sections.
std::string minimal_ini();

}  // namespace neox::testing
