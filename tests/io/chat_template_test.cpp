// Conversations as text, held against transformers (tests/fixtures/chat/make_fixtures.py).
#include "io/data/chat_template.h"

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/io/data_support.h"

namespace neox {
namespace {

using data_testing::error_of;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string joined(const std::vector<ChatSegment>& segments) {
  std::string text;
  for (const ChatSegment& segment : segments) text += segment.text;
  return text;
}

std::vector<std::string> trained(const std::vector<ChatSegment>& segments) {
  std::vector<std::string> texts;
  for (const ChatSegment& segment : segments) {
    if (segment.trained) texts.push_back(segment.text);
  }
  return texts;
}

struct Case {
  std::string name, text;
  nlohmann::json messages;  // owns the strings
  std::vector<std::string> written;

  std::vector<ChatMessage> views() const {
    std::vector<ChatMessage> result;
    for (const auto& message : messages) {
      result.push_back({message.at("role").get_ref<const std::string&>(),
                        message.at("content").get_ref<const std::string&>()});
    }
    return result;
  }
};

std::vector<Case> cases() {
  std::ifstream in(NEOX_SOURCE_DIR "/tests/fixtures/chat/conversations.json");
  const auto all = nlohmann::json::parse(in);
  std::vector<Case> result;
  for (const auto& one : all) {
    result.push_back({one.at("template"), one.at("text"), one.at("messages"), one.at("written")});
  }
  return result;
}

TEST(ChatTemplate, WritesWhatTransformersWrites) {
  const auto all = cases();
  ASSERT_EQ(all.size(), 28u);
  for (const Case& one : all) {
    SCOPED_TRACE(one.name + " " + one.messages.dump());
    const ChatTemplate chat(one.name);
    const auto segments = chat.render(one.views(), {});
    EXPECT_EQ(joined(segments), one.text);
    // Two turns of the model in a row have the second one's header between them.
    EXPECT_EQ(trained(segments), one.written);
    for (std::size_t i = 0; i < segments.size(); ++i) {
      EXPECT_FALSE(segments[i].text.empty());
      EXPECT_TRUE(i == 0 || segments[i].trained != segments[i - 1].trained);
    }
  }
}

TEST(ChatTemplate, OnlyTheLastTurn) {
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name + " " + one.messages.dump());
    const auto segments = ChatTemplate(one.name).render(one.views(), {.only_last = true});
    EXPECT_EQ(joined(segments), one.text);
    const bool ends_so = one.messages.back().at("role") == "assistant";
    EXPECT_EQ(trained(segments),
              ends_so ? std::vector{one.written.back()} : std::vector<std::string>{});
  }
}

TEST(ChatTemplate, OtherRolesAndNoMask) {
  for (const Case& one : cases()) {
    SCOPED_TRACE(one.name + " " + one.messages.dump());
    const ChatTemplate chat(one.name);
    EXPECT_THAT(chat.render(one.views(), {.all = true}), ElementsAre(ChatSegment{one.text, true}));
    EXPECT_THAT(chat.render(one.views(), {.generation_role = "nobody"}),
                ElementsAre(ChatSegment{one.text, false}));
  }
  const ChatMessage messages[] = {{"user", "a"}, {"assistant", "b"}};
  EXPECT_THAT(
      ChatTemplate("chatml").render(messages, {.generation_role = "user"}),
      ElementsAre(ChatSegment{"<|im_start|>user\n", false}, ChatSegment{"a<|im_end|>\n", true},
                  ChatSegment{"<|im_start|>assistant\nb<|im_end|>\n", false}));
}

TEST(ChatTemplate, RefusesWhatItCannotWrite) {
  EXPECT_THAT(
      error_of([] { ChatTemplate("mistral"); }),
      HasSubstr("unknown chat template 'mistral': there are chatml, llama3, zephyr, plain"));
  for (const char* jinja : {"{% for m in messages %}", "{{ messages }}", "x/tokenizer_config.json",
                            "chat_template.jinja", "/dev/null"}) {
    EXPECT_THAT(error_of([&] { ChatTemplate{jinja}; }),
                AllOf(HasSubstr("Jinja are not supported"), HasSubstr("chatml")))
        << jinja;
  }
  const ChatTemplate zephyr("zephyr");
  const ChatMessage tool[] = {{"user", "a"}, {"tool", "b"}};
  EXPECT_THAT(error_of([&] { zephyr.render(tool, {}); }),
              HasSubstr("message 2 has the role 'tool', for which the chat template zephyr"));
  const ChatMessage nobody[] = {{"", "a"}};
  EXPECT_THAT(error_of([&] { zephyr.render(nobody, {}); }), HasSubstr("message 1 has an empty"));
  EXPECT_THAT(error_of([&] { zephyr.render({}, {}); }), HasSubstr("has no messages"));
}

}  // namespace
}  // namespace neox
