// Mistakes of users: every program must answer with one clear line and exit code 1, and leave every
// file as it was. The table is in bad_input_*.cpp.

#include "tests/app/bad_input.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/app/program_runner.h"

namespace neox::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFolder = "case";
// Without mpirun a program then starts no MPI daemon and looks for no network, which take most of a
// second.
constexpr const char* kQuickStart =
    "export OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_pml=ob1 OMPI_MCA_btl=self\n";

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Contents by path; a directory's is "/".
std::map<std::string, std::string> files_below(const fs::path& root) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(root)) {
    files[fs::relative(entry.path(), root)] = entry.is_directory() ? "/" : text_of(entry.path());
  }
  return files;
}

// The order of samples, kept beside the data for the next run: made whole or not at all, and of no
// use to anything but the data it was made of.
bool is_index_cache(const std::string& path) {
  return path.starts_with("data/") && path.ends_with(".index");
}

void expect_nothing_lost(const std::map<std::string, std::string>& before,
                         const std::map<std::string, std::string>& after) {
  for (const auto& [path, text] : before) {
    const auto found = after.find(path);
    if (found == after.end()) {
      ADD_FAILURE() << path << " is gone";
    } else {
      EXPECT_TRUE(found->second == text) << path << " was changed";
    }
  }
  for (const auto& [path, text] : after) {
    const bool harmless = is_index_cache(path) || text == "/";  // an empty folder
    EXPECT_TRUE(before.contains(path) || harmless) << path << " was left behind";
  }
}

// "[12:34:56] message", or a line that mpirun adds.
bool is_log_line(const std::string& line) {
  return line.size() > 10 && line[0] == '[' && line[3] == ':' && line[9] == ']';
}

/// Lines of `program`; when it ran alone, no others but log lines may stand beside them.
std::vector<std::string> error_lines(const std::string& err, const std::string& program,
                                     bool alone) {
  std::vector<std::string> lines;
  std::istringstream in(err);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(program + ": ")) {
      lines.push_back(line);
    } else {
      EXPECT_TRUE(!alone || is_log_line(line)) << "an error of several lines: " << line;
    }
  }
  return lines;
}

class Mistake : public ::testing::TestWithParam<BadInput> {
 protected:
  // The files that all cases start from are made once.
  static void SetUpTestSuite() {
    base_ = std::make_unique<Workspace>();
    make_corpus(*base_);
    fs::create_directories(base_->path() / "case/data");
    for (const char* ending : {".bin", ".idx"}) {
      fs::rename(base_->file(std::string("corpus_text_document") + ending),
                 base_->file(std::string("case/data/text_document") + ending));
    }
    fs::rename(base_->file("corpus.jsonl"), base_->file("case/text.jsonl"));
    base_->write("case/notes.txt", "A first line.\nA second line.\n");
    base_->write("case/tiny.ini", tiny_config("data/text_document"));
    base_->run_ok(
        "neox_train --config tiny.ini --train.train_iters 4 --checkpoint.checkpoint_factor 2 && "
        "neox_preprocess --input text.jsonl --train-tokenizer tokenizer.json --vocab-size 300",
        kFolder);
  }
  static void TearDownTestSuite() { base_.reset(); }

  static std::unique_ptr<Workspace> base_;
};

std::unique_ptr<Workspace> Mistake::base_;

TEST_P(Mistake, IsAnsweredClearlyAndNothingIsLost) {
  const BadInput& row = GetParam();
  const Workspace workspace;
  const fs::path folder = workspace.path() / kFolder;
  fs::copy(base_->path() / kFolder, folder, fs::copy_options::recursive);
  if (!row.damage.empty()) workspace.run_ok("set -e\n" + row.damage, kFolder);
  const auto before = files_below(folder);
  const auto start = std::chrono::steady_clock::now();
  const bool alone = !row.command.starts_with("mpirun");
  const CommandResult result = workspace.run((alone ? kQuickStart : "") + row.command, kFolder);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  SCOPED_TRACE(fmt::format("$ {}\n{}{}", row.command, result.out, result.err));

  EXPECT_EQ(result.exit_code, 1);
  EXPECT_LT(seconds.count(),
            30.0);  // two seconds of waiting, ten at most for leaving; slow machine
  EXPECT_EQ(result.out, "");
  const std::size_t name = row.command.find("neox_");
  const std::string program = row.command.substr(name, row.command.find(' ', name) - name);
  const auto lines = error_lines(result.err, program, alone);
  EXPECT_EQ(static_cast<int>(lines.size()), row.problems);
  std::string text;
  for (const std::string& line : lines) {
    std::printf("    %s\n", line.c_str());
    EXPECT_LT(line.size(), 600u) << "nobody reads this";
    text += line + "\n";
  }
  for (const std::string& fragment : row.expected) {
    EXPECT_NE(text.find(fragment), std::string::npos) << "not said: " << fragment;
  }
  for (const char* internal :
       {"internal error", "std::", "boost", ".cpp:", "terminate", "basic_"}) {
    EXPECT_EQ((alone ? result.err : text).find(internal), std::string::npos)
        << "meant for programmers: " << internal;
  }
  expect_nothing_lost(before, files_below(folder));
}

std::string name_of_row(const ::testing::TestParamInfo<BadInput>& info) {
  return info.param.name;
}

INSTANTIATE_TEST_SUITE_P(Configuration, Mistake, ::testing::ValuesIn(bad_configurations()),
                         name_of_row);
INSTANTIATE_TEST_SUITE_P(Data, Mistake, ::testing::ValuesIn(bad_data()), name_of_row);
INSTANTIATE_TEST_SUITE_P(Tokenizer, Mistake, ::testing::ValuesIn(bad_tokenizers()), name_of_row);
INSTANTIATE_TEST_SUITE_P(Checkpoint, Mistake, ::testing::ValuesIn(bad_checkpoints()), name_of_row);
INSTANTIATE_TEST_SUITE_P(Preprocess, Mistake, ::testing::ValuesIn(bad_preprocessing()),
                         name_of_row);
INSTANTIATE_TEST_SUITE_P(Generate, Mistake, ::testing::ValuesIn(bad_generation()), name_of_row);
INSTANTIATE_TEST_SUITE_P(Job, Mistake, ::testing::ValuesIn(bad_jobs()), name_of_row);

}  // namespace
}  // namespace neox::testing
