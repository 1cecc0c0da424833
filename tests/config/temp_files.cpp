#include "tests/config/temp_files.h"

#include <fstream>
#include <unistd.h>

#include <fmt/format.h>

#include "core/base/error.h"

namespace neox::testing {

namespace fs = std::filesystem;

TempFiles::TempFiles() {
  static int count = 0;
  directory_ = fs::temp_directory_path() / fmt::format("neox_config_{}_{}", ::getpid(), count++);
  fs::create_directories(directory_);
}

TempFiles::~TempFiles() {
  std::error_code ignored;
  fs::remove_all(directory_, ignored);
}

std::string TempFiles::write(const std::string& name, const std::string& content) const {
  std::ofstream(path(name), std::ios::binary) << content;
  return path(name);
}

Program train_program() {
  Program program;
  program.name = "neox_train";
  program.summary = "Trains a transformer language model.";
  program.sections = {"model", "parallel", "precision", "batch",      "optimizer", "schedule",
                      "train", "data",     "tokenizer", "checkpoint", "guards",    "logging"};
  return program;
}

ParsedCommand parse_words(const std::vector<std::string>& words, const Program& program) {
  std::vector<const char*> argv = {program.name.c_str()};
  for (const std::string& word : words) argv.push_back(word.c_str());
  return parse_command_line(static_cast<int>(argv.size()), argv.data(), program);
}

std::string parse_failure(const std::vector<std::string>& words) {
  try {
    parse_words(words);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

std::string minimal_ini() {
  return "[model]\nnum_layers = 2\nhidden_size = 64\nnum_attention_heads = 4\nseq_length = 32\n"
         "[batch]\ntrain_micro_batch_size_per_gpu = 2\n[train]\ntrain_iters = 100\n";
}

}  // namespace neox::testing
