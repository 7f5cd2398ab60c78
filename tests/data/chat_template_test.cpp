#include "data/chat_template.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "data/conversation.h"

#include "support/temporary_folder.h"

namespace pimoe {
namespace {

constexpr const char* kChatMl =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

ChatTemplate chat(const std::string& source) { return ChatTemplate(source, "test.jinja", {{"eos_token", "</s>"}}); }

Messages two_turns() {
  return Messages::parse(R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                             {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}])");
}

std::vector<std::string> answers(const ChatText& text) {
  std::vector<std::string> parts;
  for (const auto& [begin, end] : text.answers) parts.push_back(text.text.substr(begin, end - begin));
  return parts;
}

std::string said(const std::function<void()>& action) {
  try {
    action();
  } catch (const DataError& error) {
    return error.what();
  }
  return "nothing";
}

TEST(ChatTemplate, WritesWhatTheTemplateSays) {
  EXPECT_EQ(chat(kChatMl).render(user_says("hi"), true), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat("  {% if true %}\nx\n  {% endif %}\n{{- eos_token }}\n").render(user_says("hi"), false), "x\n</s>")
      << "blocks take the line break behind and the blanks before them, as transformers has it";
}

TEST(ChatTemplate, AnAnswerIsWhatStandsBehindTheQuestion) {
  const ChatText text = chat(kChatMl).render_with_answers(two_turns());
  EXPECT_EQ(answers(text), (std::vector<std::string>{"b<|im_end|>\n", "d<|im_end|>\n"}));
  EXPECT_EQ(answers(chat(kChatMl).render_with_answers(two_turns(), 2)), (std::vector<std::string>{"d<|im_end|>\n"}));
}

TEST(ChatTemplate, GenerationBlocksSayThemselvesWhatIsLearned) {
  const ChatTemplate marked = chat(
      "{% for message in messages %}\n  {%- if message.role == 'assistant' %}\nA:\n    {%- generation -%}\n{{ message.content }}!\n"
      "    {% endgeneration %}\n.\n{%- else %}\nU: {{ message.content }}\n{% endif %}\n{% endfor %}");
  EXPECT_TRUE(marked.has_generation_blocks());
  const ChatText text = marked.render_with_answers(two_turns());
  EXPECT_EQ(text.text, marked.render(two_turns(), false));
  EXPECT_EQ(answers(text), (std::vector<std::string>{"b!\n", "d!\n"}));
  EXPECT_EQ(answers(marked.render_with_answers(two_turns(), 2)), (std::vector<std::string>{"d!\n"}));
}

TEST(ChatTemplate, AnAnswerThatIsWrittenOtherwiseLaterIsRefused) {
  const ChatTemplate forgets = chat("{% for m in messages %}{{ m.role }}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}");
  EXPECT_NE(
      said([&] { forgets.render_with_answers(two_turns()); }).find("writes an answer otherwise when the conversation goes on (message 2"),
      std::string::npos);
  const ChatTemplate asks = chat("{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}A: {% endif %}");
  EXPECT_NE(said([&] { asks.render_with_answers(two_turns()); }).find("asks for an answer with other words"), std::string::npos);
}

TEST(ChatTemplate, ComplaintsOfTheTemplateArePassedOn) {
  const std::string complaint = said([] { chat("{{ raise_exception('roles must alternate') }}").render(two_turns(), false); });
  EXPECT_NE(complaint.find("test.jinja refuses the conversation"), std::string::npos);
  EXPECT_NE(complaint.find("roles must alternate"), std::string::npos);
  EXPECT_NE(said([] { chat("{% for x in %}"); }).find("test.jinja is no chat template"), std::string::npos);
  EXPECT_NE(said([] { chat("{% generation %}x"); }).find("has 1 {% generation %} and 0 {% endgeneration %}"), std::string::npos);
}

/// Each asks for more than there is: time, memory or stack.
TEST(ChatTemplate, WorkWithoutEndIsAnErrorAndNoHang) {
  const auto many = [](const std::string& part, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += part;
    return text;
  };
  const std::pair<const char*, std::string> hostile[] = {
      {"a long loop", "{% for i in range(1000000000) %}{% endfor %}"},
      {"loops in loops", many("{% for i in range(1000) %}", 6) + "x" + many("{% endfor %}", 6)},
      {"a macro that calls itself", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"},
      {"text that doubles",
       "{% set ns = namespace(x='0123456789') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"},
      {"text that is repeated", "{{ 'ab' * 100000000000 }}"},
      {"a list that doubles", "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"},
      {"text between all letters", "{% set x = 'a' * 100000 %}{{ x.replace('', x) }}"},
      {"a wide indent", "{{ 'a' | indent(1000000000000, true) }}"},
      {"JSON with a wide indent", "{{ messages | tojson(indent=2000000000) }}"},
      {"a list in itself", "{% set x = [1] %}{% set y = x.append(x) %}{{ x }}"},
      {"an object in itself", "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns | tojson }}"},
      {"brackets", "{{ " + many("(", 20000) + "1" + many(")", 20000) + " }}"},
      {"lists", "{{ " + many("[", 20000) + "1" + many("]", 20000) + " }}"},
      {"nots", "{{ " + many("not ", 20000) + "1 }}"},
      {"signs", "{{ " + many("- ", 20000) + "1 }}"},
      {"calls", "{{ a" + many("()", 20000) + " }}"},
      {"ifs", many("{% if 1 %}", 9000)},
      {"elifs", "{% if 0 %}" + many("{% elif 0 %}", 7000) + "{% endif %}"},
      {"a long sum", "{{ 1" + many("+1", 15000) + " }}"},
      {"very many words", "{{ 1" + many("+1", 60000) + " }}"},
      {"a large file", std::string(300 << 10, 'x')},
  };
  for (const auto& [what, source] : hostile) {
    SCOPED_TRACE(what);
    const std::string complaint = said([&source = source] { chat(source).render(two_turns(), false); });
    EXPECT_TRUE(complaint.find("was stopped") != std::string::npos || complaint.find("is no chat template") != std::string::npos)
        << complaint;
  }
}

/// Lists that hang in each other may go as deep as the steps allow; taking them apart must not need more stack than there is.
TEST(ChatTemplate, ValuesMayNestAsDeepAsTheirBudget) {
  const ChatTemplate deep = chat(
      "{% set top = [] %}{% set ns = namespace(at=top) %}{% for i in range(60000) %}{% set next = [] %}{% set u = ns.at.append(next) %}"
      "{% set ns.at = next %}{% endfor %}done");
  const std::string result = said([&] { EXPECT_EQ(deep.render(two_turns(), false), "done"); });
  EXPECT_TRUE(result == "nothing" || result.find("was stopped") != std::string::npos) << result;
}

TEST(FindChatTemplate, TakesTheFirstOfItsPlaces) {
  const TemporaryFolder folder;
  const auto found = [&](const std::filesystem::path& given = {}) {
    return find_chat_template(folder / "tokenizer.json", given, "<end>").render(user_says("hi"), false);
  };
  EXPECT_NE(said([&] { found(); }).find("there is no chat template beside"), std::string::npos);
  folder.write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<b>"}, "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "C{{ bos_token }}{{ eos_token }}"}]})");
  EXPECT_EQ(found(), "C<b><end>");
  folder.write("special_tokens_map.json", R"({"bos_token": "<other>", "eos_token": "<e>"})");
  EXPECT_EQ(found(), "C<b><e>");
  folder.write("chat_template.json", R"({"chat_template": "J"})");
  EXPECT_EQ(found(), "J");
  folder.write("chat_template.jinja", "F{{ eos_token }}");
  EXPECT_EQ(found(), "F<e>");
  folder.write("given.jinja", "G");
  EXPECT_EQ(found(folder / "given.jinja"), "G");
  folder.write("tokenizer_config.json", R"({"chat_template": 3})");
  std::filesystem::remove(folder / "chat_template.jinja");
  std::filesystem::remove(folder / "chat_template.json");
  EXPECT_NE(said([&] { found(); }).find("chat_template must be a string"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
