// Block patterns against DeepSpeed's (tests/fixtures/block_patterns), and what random ones keep.

#include "core/model/block_patterns.h"

#include <fstream>
#include <numeric>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/format.h"
#include "core/config/attention_kinds.h"
#include "core/config/option.h"

namespace neox {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig model_of(std::int64_t blocks, const std::string& kind) {
  ModelConfig m;
  m.num_layers = 2;
  m.hidden_size = 16;
  m.num_attention_heads = 4;
  m.max_position_embeddings = 16 * blocks;
  m.attention_config = {kind};
  return m;
}

TEST(BlockPatterns, AreDeepSpeeds) {
  std::ifstream file(NEOX_SOURCE_DIR "/tests/fixtures/block_patterns/patterns.txt");
  int patterns = 0;
  for (std::string line; std::getline(file, line); ++patterns) {
    const std::vector<std::string> words = split_words(line);
    const std::int64_t heads = std::stoll(words.at(1)), blocks = std::stoll(words.at(2));
    Config config;
    config.model = model_of(blocks, words[0]);
    for (std::size_t i = 3; i < words.size(); ++i) {
      const std::size_t equal = words[i].find('=');
      const Option* option = find_option("model.sparse_" + words[i].substr(0, equal));
      ASSERT_NE(option, nullptr) << words[i];
      ASSERT_EQ(set_value(*option, config, words[i].substr(equal + 1)), "") << words[i];
    }
    EXPECT_THAT(attention_problems(config.model), ElementsAre()) << line;
    const AttentionKind kind = attention_kinds(config.model).at(0);
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto kept = kept_blocks(config.model, kind, head);
      for (std::int64_t i = 0; i < blocks; ++i) {
        std::string want;
        std::getline(file, want);
        want.resize(static_cast<std::size_t>(blocks), '0');
        std::string got;
        for (std::int64_t j = 0; j < blocks; ++j) {
          got += kept[static_cast<std::size_t>(i * blocks + j)] == 0 ? '0' : '1';
        }
        ASSERT_EQ(got, want) << line << ", head " << head << ", row " << i;
      }
    }
  }
  EXPECT_GT(patterns, 20);
}

TEST(BlockPatterns, RandomBlocksAreEarlierOnes) {
  ModelConfig m = model_of(40, "bigbird");
  m.sparse_num_sliding_window_blocks = 1;
  m.sparse_num_global_blocks = 0;
  m.sparse_num_random_blocks = 3;
  const auto kept = kept_blocks(m, AttentionKind::bigbird, 0);
  double mean = 0;
  for (std::int64_t i = 0; i < 40; ++i) {
    std::int64_t count = 0;
    for (std::int64_t j = 0; j < 40; ++j) {
      if (kept[static_cast<std::size_t>(i * 40 + j)] == 0) continue;
      EXPECT_LE(j, i);
      if (i == 39) mean += static_cast<double>(j);
      ++count;
    }
    EXPECT_GE(count, std::min<std::int64_t>(i + 1, 3));  // one of them may be its own
    EXPECT_LE(count, 4);
  }
  EXPECT_EQ(kept_blocks(m, AttentionKind::bigbird, 3), kept);
  m.sparse_different_layout_per_head = true;
  EXPECT_NE(kept_blocks(m, AttentionKind::bigbird, 3), kept);
  EXPECT_EQ(kept_blocks(m, AttentionKind::bigbird, 3), kept_blocks(m, AttentionKind::bigbird, 3));
}

TEST(AttentionKinds, RepeatOverTheLayers) {
  ModelConfig m = model_of(4, "global");
  m.num_layers = 4;
  using K = AttentionKind;
  EXPECT_THAT(attention_kinds(m), ElementsAre(K::global, K::global, K::global, K::global));
  m.sliding_window_width = 8;
  EXPECT_THAT(attention_kinds(m), ElementsAre(K::window, K::window, K::window, K::window));
  m.attention_config = {"flash", "window"};
  EXPECT_THAT(attention_kinds(m), ElementsAre(K::global, K::window, K::global, K::window));
  m.attention_config = {"global", "local", "bigbird", "local"};
  EXPECT_THAT(attention_kinds(m), ElementsAre(K::window, K::local, K::bigbird, K::local));
}

TEST(AttentionKinds, SayWhatIsWrong) {
  const auto problems = [](const auto& change) {
    ModelConfig m = model_of(4, "global");
    change(m);
    return fmt::format("{}", fmt::join(attention_problems(m), "\n"));
  };
  EXPECT_THAT(problems([](ModelConfig& m) { m.attention_config = {"window"}; }),
              HasSubstr("set model.sliding_window_width"));
  EXPECT_THAT(problems([](ModelConfig& m) {
                m.attention_config = {"local"};
                m.sliding_window_width = 3;
              }),
              HasSubstr("no layer is of kind window or global"));
  EXPECT_THAT(problems([](ModelConfig& m) {
                m.attention_config = {"global", "local", "local"};
              }),
              HasSubstr("do not divide model.num_layers = 2"));
  EXPECT_THAT(problems([](ModelConfig& m) { m.sparse_block = 24; }), HasSubstr("multiple of 16"));
  EXPECT_THAT(problems([](ModelConfig& m) {
                m.attention_config = {"sparse_fixed"};
                m.sparse_num_global_blocks = 3;
              }),
              HasSubstr("does not divide model.sparse_num_local_blocks = 4"));
  EXPECT_THAT(problems([](ModelConfig& m) {
                m.attention_config = {"sparse_fixed"};
                m.sparse_num_different_global_patterns = 2;
              }),
              HasSubstr("needs model.sparse_different_layout_per_head = true"));
  EXPECT_THAT(problems([](ModelConfig& m) { m.sparse_global_block_end_indices = {0}; }),
              HasSubstr("must have a greater number"));
  EXPECT_EQ(check_attention_kinds({"global", "flash"}), "");
  EXPECT_THAT(check_attention_kinds({"rwkv"}), HasSubstr("window, local, sparse_fixed"));
}

}  // namespace
}  // namespace neox
