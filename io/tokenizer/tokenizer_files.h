#pragma once
// Reading the files that tokenizers are made of.

#include <string>

#include "io/tokenizer/bpe_tokenizer.h"

namespace neox {

/// All bytes of a file. Throws Error when it is missing, a directory or empty.
std::string read_tokenizer_file(const std::string& path);

/// Reads a .tiktoken file: per token a line with its bytes in base64 and its rank, which is also
/// its id. A pair of tokens merges when their bytes together are a token, the lowest rank first.
/// The file does not say how texts are cut into words, nor which special tokens there are: both
/// follow from the encoding (r50k, cl100k, o200k or llama3), known by the beginning of the file's
/// name or by the number of tokens of the published file. Throws Error naming the line.
BpeDescription read_tiktoken_file(const std::string& path);
/// True for what begins like a .tiktoken file.
bool is_tiktoken(std::string_view bytes);

}  // namespace neox
