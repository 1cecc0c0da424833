#pragma once
// What a conversion does with files other than weights.

#include <cstdint>
#include <string>

#include "core/config/config.h"
#include "core/model/hf_mapping.h"

namespace neox {

/// A folder that appears under its name when it is complete; without commit() nothing is left.
class NewFolder {
 public:
  /// `path` must be absent or an empty folder. Creates a hidden folder beside it. Throws Error.
  explicit NewFolder(const std::string& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  /// Where to write.
  const std::string& temporary() const { return temporary_; }
  /// Absolute; where the files will be.
  const std::string& final_path() const { return path_; }
  void commit();

 private:
  std::string path_, temporary_;
  bool committed_ = false;
};

/// Writes a file durably; throws Error naming it.
void write_text_file(const std::string& path, const std::string& text);
/// The whole file; throws Error naming it.
std::string read_text_file(const std::string& path);

/// Copies what there is of tokenizer and generation files from one folder to another. Returns their
/// names.
std::vector<std::string> copy_tokenizer_files(const std::string& from, const std::string& to);

/// Special tokens by generation_config.json or else config.json of the folder, as far as there.
HfTokenIds read_token_ids(const std::string& directory);
/// generation_config.json's text.
std::string generation_config_text(const HfTokenIds& ids);

/// The tokenizer that a converted folder has: HFTokenizer or GPT2BPETokenizer with files in
/// `directory`, which later is called `final_directory`; no vocab_file when it has none that this
/// program can use, with the reason in `note`.
TokenizerConfig tokenizer_of_folder(const std::string& directory,
                                    const std::string& final_directory, std::int64_t vocab_size,
                                    std::string& note);

/// Copies the tokenizer that a checkpoint's configuration names (beside `checkpoint_file` when it
/// is not where it was) into an HF folder, under HF's names, and completes what transformers needs.
/// Returns the special tokens; `note` says when there is no tokenizer.
HfTokenIds export_tokenizer(const TokenizerConfig& tokenizer, const ModelConfig& model,
                            const std::string& checkpoint_file, const std::string& to,
                            std::string& note);

/// `file`, or else the file of that name beside `checkpoint_file` when only that exists.
std::string beside_checkpoint(const std::string& file, const std::string& checkpoint_file);

}  // namespace neox
