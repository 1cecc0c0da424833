#pragma once
// Text files to token files, and text files to a BPE vocabulary, with several threads.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "io/data/labelled_text.h"
#include "io/tokenizer/tokenizer.h"
#include "io/tokenizer/word_counts.h"

namespace neox {

/// How far a run has come.
struct PreprocessProgress {
  std::int64_t documents = 0;  ///< over all keys
  std::int64_t empty_documents = 0;
  std::int64_t tokens = 0;
  std::int64_t labels = 0;          ///< tokens that have a loss; with label files
  std::int64_t without_labels = 0;  ///< documents of which no token has
  std::int64_t text_bytes = 0;      ///< UTF-8 of the documents
  std::int64_t input_bytes = 0;     ///< of the files on disk
  std::int64_t total_input_bytes = 0;
};
using PreprocessReport = std::function<void(const PreprocessProgress&)>;

struct TextInputs {
  std::vector<std::string> files;            ///< or directories
  std::vector<std::string> keys = {"text"};  ///< of jsonl objects
  std::string separator;                     ///< of documents in plain text; empty: a file is one
  int workers = 1;                           ///< threads; nothing depends on how many
};

struct PreprocessOptions {
  TextInputs inputs;
  std::string output_prefix;
  bool append_eod = false;
  LabelOptions labels;
};

/// Writes <prefix>_<key>_document.{bin,idx} for each key, one sequence per document, in the order
/// of the inputs. Empty documents are left out, as GPT-NeoX does. Unless all tokens have a loss,
/// <prefix>_<key>_label_document.{bin,idx} is written too (i32). For prompts and completions, the
/// two keys, <key> is "text". The files appear when all is done. Throws Error naming the input's
/// file and line.
PreprocessProgress preprocess(const PreprocessOptions& options, const Tokenizer& tokenizer,
                              const PreprocessReport& report);

/// Counts the words of GPT-2's pattern. jsonl documents are cut as a whole, plain text line by line
/// (each with its line end), as Hugging Face's trainers do with an iterator and with files.
WordCounts count_words(const TextInputs& inputs, const PreprocessReport& report);

}  // namespace neox
