#include "core/train/hf_files.h"

#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/base/log.h"
#include "io/checkpoint/posix_file.h"
#include "io/tokenizer/tokenizer.h"

namespace neox {
namespace {

namespace fs = std::filesystem;

constexpr const char* kGenerationConfig = "generation_config.json";
constexpr const char* kTokenizerFiles[] = {"tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "added_tokens.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "tokenizer.model",
                                           "chat_template.jinja",
                                           "chat_template.json",
                                           kGenerationConfig};

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

void copy_to(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
  require(!error, "cannot copy {} to {}: {}", from.string(), to.string(), error.message());
}

// An id, or the first of several.
std::int64_t token_id(const nlohmann::json& config, const char* key) {
  if (!config.is_object() || !config.contains(key)) return -1;
  nlohmann::json value = config.at(key);
  if (value.is_array() && !value.empty()) value = value.front();
  return value.is_number_integer() ? value.get<std::int64_t>() : -1;
}

}  // namespace

// ---- folders and files --------------------------------------------------------------------------

NewFolder::NewFolder(const std::string& path) {
  std::error_code error;
  fs::path final_path = fs::absolute(path, error).lexically_normal();
  if (!final_path.has_filename()) final_path = final_path.parent_path();  // "out/"
  path_ = final_path.string();
  if (is_there(final_path)) {
    require(fs::is_directory(final_path, error), "{} exists and is not a folder", path_);
    require(fs::is_empty(final_path, error) && !error,
            "the folder {} is not empty; give one that is, or a new name", path_);
  }
  fs::create_directories(final_path.parent_path(), error);
  require(!error, "cannot create the folder {}: {}", final_path.parent_path().string(),
          error.message());
  temporary_ = (final_path.parent_path() /
                fmt::format(".{}.{}.tmp", final_path.filename().string(), getpid()))
                   .string();
  require(fs::create_directory(temporary_, error) && !error, "cannot create the folder {}: {}",
          temporary_, error ? error.message() : "it exists already");
}

NewFolder::~NewFolder() {
  if (committed_) return;
  std::error_code error;
  fs::remove_all(temporary_, error);
  if (error) log_warning("cannot remove {}: {}", temporary_, error.message());
}

void NewFolder::commit() {
  sync_directory(temporary_);
  require(::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}",
          temporary_, path_, std::generic_category().message(errno));
  committed_ = true;
  sync_directory(fs::path(path_).parent_path().string());
}

void write_text_file(const std::string& path, const std::string& text) {
  PosixFile file(path, O_WRONLY | O_CREAT | O_TRUNC);
  file.write(text.data(), static_cast<std::int64_t>(text.size()), 0);
  file.sync();
  file.close();
}

std::string read_text_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  require(in.good(), "cannot read {}", path);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::vector<std::string> copy_tokenizer_files(const std::string& from, const std::string& to) {
  std::vector<std::string> copied;
  for (const char* name : kTokenizerFiles) {
    if (!is_there(fs::path(from) / name)) continue;
    copy_to(fs::path(from) / name, fs::path(to) / name);
    copied.emplace_back(name);
  }
  return copied;
}

std::string beside_checkpoint(const std::string& file, const std::string& checkpoint_file) {
  if (file.empty() || is_there(file)) return file;
  const fs::path beside = fs::path(checkpoint_file).parent_path() / fs::path(file).filename();
  return is_there(beside) ? beside.string() : file;
}

// ---- tokenizers ---------------------------------------------------------------------------------

HfTokenIds read_token_ids(const std::string& directory) {
  HfTokenIds ids;
  for (const char* name : {kGenerationConfig, "config.json"}) {
    const fs::path path = fs::path(directory) / name;
    if (!is_there(path)) continue;
    const auto json = nlohmann::json::parse(read_text_file(path.string()), nullptr, false);
    const auto fill = [&](std::int64_t& id, const char* key) {
      if (id < 0) id = token_id(json, key);
    };
    fill(ids.bos, "bos_token_id");
    fill(ids.eos, "eos_token_id");
    fill(ids.pad, "pad_token_id");
  }
  return ids;
}

std::string generation_config_text(const HfTokenIds& ids) {
  nlohmann::ordered_json config = {{"_from_model_config", true}};
  if (ids.bos >= 0) config["bos_token_id"] = ids.bos;
  if (ids.eos >= 0) config["eos_token_id"] = ids.eos;
  if (ids.pad >= 0) config["pad_token_id"] = ids.pad;
  return config.dump(2) + "\n";
}

TokenizerConfig tokenizer_of_folder(const std::string& directory,
                                    const std::string& final_directory, std::int64_t vocab_size,
                                    std::string& note) {
  const auto here = [&](const char* name) { return (fs::path(directory) / name).string(); };
  const auto later = [&](const char* name) { return (fs::path(final_directory) / name).string(); };
  TokenizerConfig config;
  std::string vocab, merges;
  if (is_there(here("tokenizer.json"))) {
    vocab = "tokenizer.json";
  } else if (is_there(here("vocab.json")) && is_there(here("merges.txt"))) {
    config.tokenizer_type = "GPT2BPETokenizer";
    vocab = "vocab.json";
    merges = "merges.txt";
  } else {
    note = "there is no tokenizer.json, nor vocab.json with merges.txt";
    return config;
  }
  try {
    const auto tokenizer = load_tokenizer(config.tokenizer_type, here(vocab.c_str()),
                                          merges.empty() ? "" : here(merges.c_str()));
    require(tokenizer->vocab_size() <= vocab_size,
            "it has {} tokens, but the model's vocabulary is {}", tokenizer->vocab_size(),
            vocab_size);
  } catch (const Error& error) {
    note = fmt::format("{} cannot be used by this program: {}", vocab, error.what());
    return config;
  }
  config.vocab_file = later(vocab.c_str());
  if (!merges.empty()) config.merge_file = later(merges.c_str());
  return config;
}

namespace {

// What transformers needs to make a tokenizer of a lone tokenizer.json.
std::string tokenizer_config_text(const Tokenizer& tokenizer, const ModelConfig& model) {
  nlohmann::ordered_json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                   {"model_max_length", model.max_position_embeddings},
                                   {"clean_up_tokenization_spaces", false}};
  if (const auto eod = tokenizer.eod_id()) {
    const std::string text(tokenizer.id_to_bytes(*eod));
    config["eos_token"] = text;
    if (tokenizer.prefix_ids().empty()) config["bos_token"] = text;
  }
  if (!tokenizer.prefix_ids().empty()) {
    config["bos_token"] = std::string(tokenizer.id_to_bytes(tokenizer.prefix_ids().front()));
  }
  return config.dump(2) + "\n";
}

// From what the tokenizer knows; files that the checkpoint has say more.
HfTokenIds token_ids_of(const Tokenizer& tokenizer) {
  HfTokenIds ids;
  ids.eos = tokenizer.eod_id().value_or(-1);
  ids.bos = tokenizer.prefix_ids().empty() ? ids.eos : tokenizer.prefix_ids().front();
  return ids;
}

}  // namespace

HfTokenIds export_tokenizer(const TokenizerConfig& tokenizer, const ModelConfig& model,
                            const std::string& checkpoint_file, const std::string& to,
                            std::string& note) {
  const std::string vocab = beside_checkpoint(tokenizer.vocab_file, checkpoint_file);
  const std::string merges = beside_checkpoint(tokenizer.merge_file, checkpoint_file);
  const std::string folder = fs::path(vocab.empty() ? checkpoint_file : vocab).parent_path();
  copy_tokenizer_files(folder.empty() ? "." : folder, to);
  HfTokenIds ids = read_token_ids(to);
  if (vocab.empty() || !is_there(vocab)) {
    note = vocab.empty() ? "the checkpoint's run had no tokenizer file"
                         : fmt::format("the tokenizer {} is not there any more", vocab);
    return ids;
  }
  const bool two_files = !merges.empty(), json = two_files || vocab.ends_with(".json");
  copy_to(vocab, fs::path(to) / (two_files ? "vocab.json"
                                 : json    ? "tokenizer.json"
                                           : "tokenizer.model"));
  if (two_files) copy_to(merges, fs::path(to) / "merges.txt");
  try {
    const auto loaded = load_tokenizer(tokenizer.tokenizer_type, vocab, merges);
    const HfTokenIds known = token_ids_of(*loaded);
    if (ids.eos < 0) ids.eos = known.eos;
    if (ids.bos < 0) ids.bos = known.bos;
    const fs::path config = fs::path(to) / "tokenizer_config.json";
    if (!is_there(config) && json && !two_files) {
      write_text_file(config.string(), tokenizer_config_text(*loaded, model));
    }
  } catch (const Error& error) {
    note = error.what();
  }
  return ids;
}

}  // namespace neox
