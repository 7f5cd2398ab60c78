#include "data/chat_template.h"

#include <jinja/budget.h>
#include <jinja/lexer.h>
#include <jinja/parser.h>
#include <jinja/runtime.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <exception>
#include <functional>
#include <optional>

#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "base/utf8.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// The largest of 70 templates of known models has 17 KB and takes some 300 steps a message.
constexpr size_t kMostSourceBytes = 256 << 10;
constexpr size_t kMostWords = 1 << 15;
constexpr size_t kSteps = 1'000'000;
constexpr size_t kStepsPerMessage = 20'000;
constexpr size_t kBytes = size_t{256} << 20;
constexpr size_t kBytesPerByte = 256;
constexpr size_t kDepth = 400;
constexpr size_t kStackBytes = size_t{256} << 20;
constexpr size_t kMostComplaintBytes = 600;
constexpr uint64_t kMostFileBytes = 64 << 20;
constexpr std::array kSpecialTokens = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};

// Two characters that Unicode keeps for private use, so that no text has both beside each other by chance.
constexpr std::string_view kBegins = "\U000F1A00\U000F1A01";
constexpr std::string_view kEnds = "\U000F1A02\U000F1A03";

/// Runs on a thread whose stack is large enough for every value that a template can nest within its budget: the engine takes values apart
/// recursively, and no budget is asked then.
void on_deep_stack(const std::function<void()>& work) {
  struct Call {
    const std::function<void()>& work;
    std::exception_ptr failed;
  } call{work, nullptr};
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, kStackBytes);
  pthread_t thread{};
  const int refused = pthread_create(
      &thread, &attributes,
      [](void* given) -> void* {
        auto* const here = static_cast<Call*>(given);
        try {
          here->work();
        } catch (...) {
          here->failed = std::current_exception();
        }
        return nullptr;
      },
      &call);
  pthread_attr_destroy(&attributes);
  if (refused != 0) throw IoError("cannot start a thread for a chat template", refused);
  pthread_join(thread, nullptr);
  if (call.failed) std::rethrow_exception(call.failed);
}

/// The engine's complaint with the template's lines; as it is untrusted text, printable and not endless.
std::string complaint_of(const std::exception& error) {
  std::string text = error.what();
  while (text.starts_with('\n')) text.erase(0, 1);
  if (text.size() > kMostComplaintBytes) text.resize(character_boundary(text, kMostComplaintBytes));
  return printable(text, /*keep_lines=*/true);
}

/// A tag {% name %} of a template, with its signs for white space.
struct Tag {
  size_t begin = 0;
  size_t end = 0;
  bool trims_left = false;
  bool trims_right = false;
};

std::optional<Tag> find_tag(const std::string& source, std::string_view name, size_t from) {
  for (size_t begin = source.find("{%", from); begin != std::string::npos; begin = source.find("{%", begin + 2)) {
    size_t at = begin + 2;
    const auto takes = [&](char sign) { return at < source.size() && source[at] == sign && ++at > 0; };
    const auto skip_blanks = [&] {
      while (at < source.size() && std::isspace(static_cast<unsigned char>(source[at])) != 0) ++at;
    };
    Tag tag{.begin = begin};
    tag.trims_left = takes('-');
    skip_blanks();
    if (source.compare(at, name.size(), name) != 0) continue;
    at += name.size();
    skip_blanks();
    tag.trims_right = takes('-');
    if (source.compare(at, 2, "%}") != 0) continue;
    tag.end = at + 2;
    return tag;
  }
  return std::nullopt;
}

/// Replaces every {% name %} by blocks that write `mark`, and trim white space around them as the tag did.
/// @returns how many there were
size_t write_marks(std::string& source, std::string_view name, std::string_view mark) {
  size_t count = 0;
  for (auto tag = find_tag(source, name, 0); tag; tag = find_tag(source, name, tag->begin + 1), ++count) {
    const std::string blocks =
        concat(tag->trims_left ? "{%-" : "{%", " if true %}{{ '", mark, "' }}{% endif ", tag->trims_right ? "-%}" : "%}");
    source.replace(tag->begin, tag->end - tag->begin, blocks);
  }
  return count;
}

void require_prefix(const std::string& beginning, const std::string& whole, const std::string& name, size_t message, const char* what) {
  if (whole.starts_with(beginning)) return;
  const auto differs = std::mismatch(beginning.begin(), beginning.end(), whole.begin(), whole.end()).first - beginning.begin();
  const std::string_view there = std::string_view(beginning).substr(static_cast<size_t>(differs), 40);
  throw DataError(
      concat("the chat template ", name, " ", what, " (message ", message, ", from '",
             printable(there.substr(0, character_boundary(there, there.size()))),
             "' on), so that what the assistant writes cannot be told from what it reads: take a template with {% generation %} around it "
             "(--chat-template FILE)"));
}

bool is_answer(const Json& message) { return message.value("role", "") == "assistant"; }

}  // namespace

struct ChatTemplate::Program {
  Program(const std::string& given, const std::string& name) : source(given) {
    const jinja::budget limits(kSteps, kBytes, kDepth);
    try {
      const jinja::lexer_result tokens = jinja::lexer().tokenize(source);
      if (tokens.tokens.size() > kMostWords) throw jinja::over_budget(concat("it has more than ", kMostWords, " words"));
      program = jinja::parse_from_tokens(tokens);
    } catch (const std::exception& error) {  // of the engine's kinds, and of std::stoll: all are about the template
      throw DataError(concat(name, " is no chat template: ", complaint_of(error)));
    }
  }

  std::string source;
  jinja::program program;
};

ChatTemplate::ChatTemplate(const std::string& source, std::string name, Json special_tokens)
    : name_(std::move(name)), special_tokens_(std::move(special_tokens)) {
  if (source.size() > kMostSourceBytes || !is_text(source)) {
    throw DataError(concat(name_, " is no chat template: it must be UTF-8 text of at most ", kMostSourceBytes >> 10, " KiB"));
  }
  plain_ = std::make_unique<const Program>(source, name_);
  std::string marked = source;
  const size_t begins = write_marks(marked, "generation", kBegins);
  const size_t ends = write_marks(marked, "endgeneration", kEnds);
  if (begins != ends) throw DataError(concat(name_, " has ", begins, " {% generation %} and ", ends, " {% endgeneration %}"));
  has_generation_blocks_ = begins > 0;
  if (has_generation_blocks_) marked_ = std::make_unique<const Program>(marked, name_);
}

ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::run(const Program& program, const Messages& messages, bool add_generation_prompt, const Messages& tools) const {
  Json given = special_tokens_;
  given["messages"] = messages;
  given["tools"] = tools;
  given["documents"] = nullptr;
  given["add_generation_prompt"] = add_generation_prompt;
  const size_t bytes = messages.dump(-1, ' ', false, Json::error_handler_t::replace).size();
  std::string text;
  const auto render = [&] {
    const jinja::budget limits(kSteps + kStepsPerMessage * messages.size(), kBytes + kBytesPerByte * bytes, kDepth);
    jinja::context context(program.source);
    jinja::global_from_json(context, given, /*mark_input=*/false);
    jinja::runtime runtime(context);
    const jinja::value_array parts = runtime.execute(program.program);
    text = jinja::runtime::gather_string_parts(parts)->as_string().str();
  };
  try {
    on_deep_stack(render);
  } catch (const IoError&) {
    throw;
  } catch (const jinja::over_budget& error) {
    throw DataError(concat("the chat template ", name_, " was stopped: ", error.what()));
  } catch (
      const std::exception& error) {  // the engine has exceptions of several kinds, and none that is not about template and conversation
    throw DataError(concat("the chat template ", name_, " refuses the conversation: ", complaint_of(error)));
  }
  return text;
}

std::string ChatTemplate::render(const Messages& messages, bool add_generation_prompt, const Messages& tools) const {
  return run(*plain_, messages, add_generation_prompt, tools);
}

ChatText ChatTemplate::render_with_answers(const Messages& messages, size_t first, const Messages& tools) const {
  return marked_ ? marked_answers(messages, first, tools) : answers_by_prefixes(messages, first, tools);
}

ChatText ChatTemplate::marked_answers(const Messages& messages, size_t first, const Messages& tools) const {
  const std::string marked = run(*marked_, messages, false, tools);
  ChatText result;
  bool is_open = false;
  size_t at = 0;
  while (at < marked.size()) {
    const size_t mark = std::min(marked.find(is_open ? kEnds : kBegins, at), marked.size());
    result.text.append(marked, at, mark - at);
    if (mark == marked.size()) break;
    if (is_open) {
      result.answers.back().second = result.text.size();
    } else {
      result.answers.emplace_back(result.text.size(), 0);
    }
    at = mark + (is_open ? kEnds.size() : kBegins.size());
    is_open = !is_open;
  }
  if (is_open || result.text != render(messages, false, tools)) {
    throw DataError(
        concat("the chat template ", name_, " has {% generation %} blocks that nest, do not end, or change with what is around them"));
  }
  if (first > 0) {
    // A block belongs to the message after whose predecessors it is written.
    const std::string before = render(Messages(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(first)), false, tools);
    require_prefix(before, result.text, name_, first, "writes the prompt otherwise when the answer follows");
    std::erase_if(result.answers, [&](const ByteSpan& span) { return span.first < before.size(); });
  }
  return result;
}

ChatText ChatTemplate::answers_by_prefixes(const Messages& messages, size_t first, const Messages& tools) const {
  ChatText result{.text = render(messages, false, tools), .answers = {}};
  const auto first_messages = [&](size_t count) {
    return Messages(messages.begin(), messages.begin() + static_cast<std::ptrdiff_t>(count));
  };
  for (size_t i = first; i < messages.size(); ++i) {
    if (!is_answer(messages[i])) continue;
    const std::string asked = render(first_messages(i), true, tools);
    const std::string answered = i + 1 == messages.size() ? result.text : render(first_messages(i + 1), false, tools);
    require_prefix(asked, answered, name_, i + 1, "asks for an answer with other words than stand before it");
    require_prefix(answered, result.text, name_, i + 1, "writes an answer otherwise when the conversation goes on");
    result.answers.emplace_back(asked.size(), answered.size());
  }
  return result;
}

namespace {

/// The template in a value of "chat_template": a string, or a list of named ones.
std::optional<std::string> template_in(const Json& json, const fs::path& file) {
  const auto found = json.find("chat_template");
  if (found == json.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const Json& each : *found) {
      if (each.is_object() && each.value("name", Json()) == "default" && each.contains("template") && each["template"].is_string()) {
        return each["template"].get<std::string>();
      }
    }
  }
  throw DataError(concat(file.string(), ": chat_template must be a string, or a list of {name, template} with one called default"));
}

void add_special_tokens(const fs::path& file, Json& tokens) {
  if (!is_there(file)) return;
  const Json json = read_strict_json(file, kMostFileBytes);
  for (const char* name : kSpecialTokens) {
    const auto found = json.find(name);
    if (found == json.end() || tokens.contains(name)) continue;
    if (found->is_string()) tokens[name] = *found;
    if (found->is_object() && found->contains("content") && (*found)["content"].is_string()) tokens[name] = (*found)["content"];
  }
}

}  // namespace

ChatTemplate find_chat_template(const fs::path& tokenizer, const fs::path& given, const std::string& end_token) {
  const fs::path folder = tokenizer.has_parent_path() ? tokenizer.parent_path() : fs::path(".");
  Json tokens = Json::object();
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) add_special_tokens(folder / name, tokens);
  if (!tokens.contains("eos_token")) tokens["eos_token"] = end_token;
  if (std::error_code ignored; !given.empty() && (!is_there(given) || fs::is_directory(given, ignored))) {
    throw DataError(
        concat("chat template ", given.string(), " is no file: give a Jinja template, or none, and the tokenizer's own is taken"));
  }
  const fs::path source = given.empty() ? folder / "chat_template.jinja" : given;
  if (!given.empty() || is_there(source)) return ChatTemplate(read_file(source, kMostSourceBytes), source.string(), std::move(tokens));
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const fs::path file = folder / name;
    if (!is_there(file)) continue;
    if (const auto found = template_in(read_strict_json(file, kMostFileBytes), file))
      return ChatTemplate(*found, file.string(), std::move(tokens));
  }
  throw DataError(
      concat("there is no chat template beside ", tokenizer.string(),
             " (chat_template.jinja, chat_template.json, or chat_template in tokenizer_config.json): name one with --chat-template FILE"));
}

}  // namespace pimoe
