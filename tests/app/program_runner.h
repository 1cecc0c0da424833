#pragma once
// Runs the built programs as a user would, in a folder of their own.

#include <filesystem>
#include <string>
#include <vector>

namespace neox::testing {

struct CommandResult {
  int exit_code = -1;  ///< 128 + signal when killed
  std::string out, err;
};

/// An empty folder that is removed at the end (kept, and named, when the test failed).
class Workspace {
 public:
  Workspace();
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::string file(const std::string& name) const { return (path_ / name).string(); }
  void write(const std::string& name, const std::string& text) const;
  std::string read(const std::string& name) const;

  /// Runs a shell command in `folder` (relative to the workspace) with the programs on PATH.
  CommandResult run(const std::string& command, const std::string& folder = ".") const;
  /// The same; fails the test unless it exits with 0.
  CommandResult run_ok(const std::string& command, const std::string& folder = ".") const;

 private:
  std::filesystem::path path_;
};

/// "mpirun -np N … program"
std::string mpirun(int ranks, const std::string& command);

/// Makes <workspace>/corpus_text_document.{bin,idx}: the repository's LICENSE, cut at blank lines,
/// as characters (CharLevelTokenizer, 512 ids, end of document 0). Some 11,000 tokens.
void make_corpus(const Workspace& workspace);

/// A small model over that corpus, trained in well under a second; paths relative to the folder of
/// the run.
std::string tiny_config(const std::string& data_prefix);

}  // namespace neox::testing
