#pragma once
// The table behind bad_input_test.cpp: what a user gets wrong, and what the programs must answer.

#include <ostream>
#include <string>
#include <vector>

namespace neox::testing {

/// Commands run in a folder that holds
///   tiny.ini                       trains over data/text_document into run/
///   data/text_document.{bin,idx}   12,000 tokens of CharLevelTokenizer (u16)
///   run/                           its checkpoints of steps 2 and 4, logs and metrics
///   tokenizer.json                 byte-level BPE of 300 tokens
///   text.jsonl, notes.txt          text
struct BadInput {
  std::string name;
  std::string damage;                 ///< shell commands that spoil the folder; may be empty
  std::string command;                ///< must fail with exit code 1
  std::vector<std::string> expected;  ///< fragments of the error lines
  int problems = 1;                   ///< error lines
};

inline void PrintTo(const BadInput& row, std::ostream* out) {
  *out << row.command;
}

std::vector<BadInput> bad_configurations();
std::vector<BadInput> bad_data();
std::vector<BadInput> bad_tokenizers();
std::vector<BadInput> bad_checkpoints();
std::vector<BadInput> bad_preprocessing();
std::vector<BadInput> bad_generation();
/// The same kinds of mistakes under mpirun with two ranks.
std::vector<BadInput> bad_jobs();

}  // namespace neox::testing
