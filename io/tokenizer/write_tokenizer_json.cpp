#include <cstddef>
#include <span>

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "io/data/partial_file.h"
#include "io/tokenizer/bpe_trainer.h"

namespace neox {
namespace {

using Json = nlohmann::ordered_json;

Json byte_level(bool add_prefix_space, bool trim_offsets) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", add_prefix_space},
          {"trim_offsets", trim_offsets},
          {"use_regex", true}};
}

Json added_tokens(const TrainedBpe& bpe) {
  Json list = Json::array();
  for (std::size_t id = 0; id < bpe.special_tokens.size(); ++id) {
    list.push_back({{"id", id},
                    {"content", bpe.special_tokens[id]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", true}});
  }
  return list;
}

Json model(const TrainedBpe& bpe) {
  Json vocab = Json::object();
  for (std::size_t id = 0; id < bpe.tokens.size(); ++id) {
    // ordered_json searches the keys at every insertion: quadratic. These are known to differ.
    vocab.get_ref<Json::object_t&>().std::vector<std::pair<const std::string, Json>>::emplace_back(
        bpe.tokens[id], id);
  }
  Json merges = Json::array();
  for (const auto& [left, right] : bpe.merges) {
    merges.push_back(bpe.tokens[static_cast<std::size_t>(left)] + ' ' +
                     bpe.tokens[static_cast<std::size_t>(right)]);
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace

void write_tokenizer_json(const TrainedBpe& bpe, const std::string& path) {
  Json json = {{"version", "1.0"},
               {"truncation", nullptr},
               {"padding", nullptr},
               {"added_tokens", added_tokens(bpe)},
               {"normalizer", nullptr},
               {"pre_tokenizer", byte_level(false, true)},
               {"post_processor", byte_level(false, true)},
               {"decoder", byte_level(false, true)},
               {"model", model(bpe)}};
  const std::string text = json.dump(2) + "\n";
  auto file = PartialFile::try_create(path);
  require(file.has_value(), "another process is writing {}.partial", path);
  file->write(std::as_bytes(std::span(text)));
  file->publish();
}

}  // namespace neox
