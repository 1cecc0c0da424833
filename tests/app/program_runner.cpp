#include "tests/app/program_runner.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <sys/wait.h>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace neox::testing {
namespace fs = std::filesystem;

Workspace::Workspace() {
  std::string pattern = (fs::temp_directory_path() / "neox-test-XXXXXX").string();
  path_ = mkdtemp(pattern.data());
}

Workspace::~Workspace() {
  if (::testing::Test::HasFailure()) {
    std::printf("    kept for inspection: %s\n", path_.c_str());
  } else {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
}

void Workspace::write(const std::string& name, const std::string& text) const {
  fs::create_directories((path_ / name).parent_path());
  std::ofstream(path_ / name, std::ios::binary) << text;
}

std::string Workspace::read(const std::string& name) const {
  std::ifstream in(path_ / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

CommandResult Workspace::run(const std::string& command, const std::string& folder) const {
  fs::create_directories(path_ / folder);
  // mpirun refuses root unless told twice; more ranks than cores must not spin.
  write(".command", "export PATH=" NEOX_BINARY_DIR
                    "/bin:$PATH\n"
                    "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1\n"
                    "export OMPI_MCA_mpi_yield_when_idle=1 OMP_NUM_THREADS=1\n" +
                        command + "\n");
  const std::string shell =
      fmt::format("cd '{}' && timeout 300 bash '{}' > '{}' 2> '{}' < /dev/null",
                  (path_ / folder).string(), file(".command"), file(".out"), file(".err"));
  const int status = std::system(shell.c_str());
  CommandResult result;
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  result.out = read(".out");
  result.err = read(".err");
  return result;
}

CommandResult Workspace::run_ok(const std::string& command, const std::string& folder) const {
  CommandResult result = run(command, folder);
  EXPECT_EQ(result.exit_code, 0) << command << "\n" << result.out << result.err;
  return result;
}

std::string mpirun(int ranks, const std::string& command) {
  return fmt::format("mpirun -np {} --oversubscribe {}", ranks, command);
}

void make_corpus(const Workspace& workspace) {
  // Programs may run on a machine without the sources' folder; that is then said here.
  const char* sources = std::getenv("NEOX_TEST_SOURCES");
  std::ifstream in(std::string(sources != nullptr ? sources : NEOX_SOURCE_DIR) + "/LICENSE");
  EXPECT_TRUE(in.good()) << "no LICENSE in " NEOX_SOURCE_DIR
                         << "; set NEOX_TEST_SOURCES to the folder that holds it";
  std::string jsonl, paragraph;
  const auto flush = [&] {
    if (!paragraph.empty()) jsonl += nlohmann::json{{"text", paragraph}}.dump() + "\n";
    paragraph.clear();
  };
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) {
      flush();
    } else {
      paragraph += line + "\n";
    }
  }
  flush();
  workspace.write("corpus.jsonl", jsonl);
  workspace.run_ok(
      "neox_preprocess --input corpus.jsonl --output-prefix corpus --tokenizer-type "
      "CharLevelTokenizer --append-eod");
}

std::string tiny_config(const std::string& data_prefix) {
  return fmt::format(R"([model]
num_layers = 2
hidden_size = 32
num_attention_heads = 4
seq_length = 32
rotary_pct = 0.25
gpt_j_residual = true
no_weight_tying = true
hidden_dropout = 0.1
attention_dropout = 0.1

[batch]
train_batch_size = 8
train_micro_batch_size_per_gpu = 2

[optimizer]
lr = 0.01
betas = 0.9, 0.95

[train]
train_iters = 20
eval_interval = 10
eval_iters = 2

[data]
data_path = {}
split = 90,10,0

[tokenizer]
tokenizer_type = CharLevelTokenizer

[checkpoint]
save = run
checkpoint_factor = 10
)",
                     data_prefix);
}

}  // namespace neox::testing
