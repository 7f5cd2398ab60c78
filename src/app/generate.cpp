#include "app/generate.h"

#include "app/checkpoint_option.h"
#include "app/model_tokenizer.h"
#include "app/number_checks.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/file_io.h"
#include "base/number_text.h"
#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "data/chat_encoder.h"
#include "model/generation.h"
#include "train/seen_by_rank_0.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <limits>

namespace pimoe {
namespace {

constexpr int64_t kMostTokens = 1'000'000'000;
constexpr int64_t kMostBatch = 1 << 16;
constexpr uint64_t kPromptBytesLimit = uint64_t{1} << 30;

struct GenerateOptions {
  std::filesystem::path checkpoint;
  std::filesystem::path tokenizer;
  std::vector<std::string> prompts;
  std::filesystem::path prompts_file;
  std::vector<std::string> stops;
  GenerationOptions generation;
  std::filesystem::path chat_template;
  bool is_chat = false;
  bool no_cache = false;
  bool json = false;
};

/// The lines of the file that --prompts names. What stands behind the last newline is a line if it is not empty.
std::vector<std::string> lines_of(const std::filesystem::path& file, const HostCommunicator& ranks) {
  const std::string text = seen_by_rank_0(ranks, [&] { return read_file(file, kPromptBytesLimit); });
  std::vector<std::string> lines = split(text, '\n');
  if (lines.back().empty()) lines.pop_back();
  for (std::string& line : lines) {
    if (line.ends_with('\r')) line.pop_back();
  }
  if (lines.empty()) throw DataError(concat("--prompts ", file.string(), " has no line"));
  return lines;
}

/// @returns the text of a continuation. A model may have more tokens than its tokenizer, to a round number: they give no text.
std::string text_of(const Tokenizer& tokenizer, std::vector<int32_t> tokens) {
  std::erase_if(tokens, [&](int32_t id) { return id >= tokenizer.vocabulary(); });
  return tokenizer.decode(tokens);
}

/// Where the first of `stops` begins in a text, from a place on; npos if none is there.
size_t first_stop(const std::string& text, const std::vector<std::string>& stops, size_t from = 0) {
  size_t first = std::string::npos;
  for (const std::string& stop : stops) first = std::min(first, text.find(stop, from));
  return first;
}

/// Looks for stop texts in continuations, each of which grows by a token at a time: reads what is new, and as much before it as a stop text may begin in.
class StopSearch {
 public:
  /// @param stops  none empty
  StopSearch(const Tokenizer& tokenizer, const std::vector<std::string>& stops, size_t prompts)
      : tokenizer_(tokenizer), stops_(stops), texts_(prompts) {
    for (const std::string& stop : stops_) longest_ = std::max(longest_, stop.size());
  }

  bool finds_one(size_t prompt, const std::vector<int32_t>& added) {
    std::string& text = texts_[prompt];
    const size_t before = text.size();
    if (text.empty()) {
      text = text_of(tokenizer_, added);  // which leaves out the space that some models put in front
    } else if (added.back() < tokenizer_.vocabulary()) {
      text += tokenizer_.text(added.back());
    }
    return first_stop(text, stops_, before < longest_ ? 0 : before - longest_ + 1) != std::string::npos;
  }

 private:
  const Tokenizer& tokenizer_;
  const std::vector<std::string>& stops_;
  size_t longest_ = 0;
  std::vector<std::string> texts_;
};

const char* ending_name(Ending ending) {
  switch (ending) {
    case Ending::kStopToken: return "end_of_document";
    case Ending::kStopped: return "stop";
    case Ending::kTokens: break;
  }
  return "tokens";
}

/// Prompts or texts that are longer than what the model sees.
void warn_of_window(const std::vector<Continuation>& results, const ModelConfig& model, Logger& log) {
  const auto longer = std::count_if(results.begin(), results.end(), [](const Continuation& each) { return each.forgotten > 0; });
  if (longer == 0) return;
  const int64_t most = std::max_element(results.begin(), results.end(), [](const Continuation& one, const Continuation& other) {
                         return one.forgotten < other.forgotten;
                       })->forgotten;
  log.warning(concat(longer == 1 ? "a text" : concat(longer, " texts"), " went past the ", model.sequence_length,
                     " tokens that the model sees at a time (model.sequence_length): it saw the last ", model.sequence_length,
                     " of them, without up to ", most, " at the beginning, and computed all of them for each token"));
}

/// What is asked: a user's words, or a line {"messages": [...]} with all that was said before.
Messages messages_of(const std::string& prompt) {
  if (!prompt.starts_with('{')) return user_says(prompt);
  const auto json = Messages::parse(prompt, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("messages")) return user_says(prompt);
  require_messages(json["messages"], "messages");
  return json["messages"];
}

/// Makes the prompts the questions of the model's chat template, whose end of turn ends an answer.
std::vector<std::vector<int32_t>> questions(GenerateOptions& options, const Tokenizer& tokenizer, const TrainConfig& config) {
  if (options.chat_template.empty()) options.chat_template = config.data.chat_template;
  const ChatTemplate chat = find_chat_template(options.tokenizer, options.chat_template, tokenizer.piece(tokenizer.end_of_document()));
  const ChatEncoder encoder(tokenizer, &chat);
  if (const auto end = encoder.end_of_turn()) options.generation.sampling.stop_token = *end;
  std::vector<std::vector<int32_t>> asked;
  for (const std::string& prompt : options.prompts) asked.push_back(encoder.encode_question(messages_of(prompt)));
  return asked;
}

ExitCode generate(GenerateOptions options, AppContext& context) {
  std::vector<std::string> notes;
  const LoadedModel loaded = load_model(options.checkpoint, context, ModelSpread::kShared,
                                        [&](TrainConfig& config) { notes = leave_out_what_batches_change(config.model); });
  const bool speaks = loaded.mesh->rank() == 0;
  if (speaks) {
    for (const std::string& note : notes) context.log.warning(note);
  }
  const bool several = options.prompts.size() > 1 || !options.prompts_file.empty();
  if (!options.prompts_file.empty()) {
    for (std::string& line : lines_of(options.prompts_file, loaded.mesh->control())) options.prompts.push_back(std::move(line));
  }
  const Tokenizer tokenizer = model_tokenizer(options.tokenizer, loaded.config);
  options.generation.sampling.stop_token = tokenizer.end_of_document();
  std::vector<std::vector<int32_t>> prompts;
  if (options.is_chat) prompts = questions(options, tokenizer, loaded.config);
  for (size_t index = prompts.size(); index < options.prompts.size(); ++index) {
    prompts.push_back(tokenizer.encode(options.prompts[index]));
    if (prompts.back().empty()) prompts.back().push_back(tokenizer.end_of_document());  // what stands before a document in training
  }
  options.generation.cached = !options.no_cache;
  StopSearch stops(tokenizer, options.stops, prompts.size());
  const ContinuationEnds ends = [&stops](size_t prompt, const std::vector<int32_t>& added) { return stops.finds_one(prompt, added); };
  const auto begun = std::chrono::steady_clock::now();
  const int64_t share = (static_cast<int64_t>(prompts.size()) + loaded.mesh->size() - 1) / loaded.mesh->size();
  std::optional<WorkProgress> progress(std::in_place, "new tokens", WorkUnit::kCount, context.log,
                                       share * options.generation.sampling.tokens);
  const std::vector<Continuation> results =
      continue_prompts(*loaded.model, prompts, *loaded.mesh, options.generation, options.stops.empty() ? nullptr : ends);
  progress.reset();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  if (!speaks) return ExitCode::kDone;

  int64_t tokens = 0;
  for (const Continuation& each : results) tokens += static_cast<int64_t>(each.tokens.size());
  warn_of_window(results, loaded.config.model, context.log);
  context.log.info(concat(counted(static_cast<int64_t>(results.size()), "prompt"), ", ", counted(tokens, "new token"), " in ",
                          human_duration(seconds), ", ", fixed(static_cast<double>(tokens) / seconds, 1), " tok/s"));
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (size_t index = 0; index < results.size(); ++index) {
    const Continuation& result = results[index];
    std::string text = text_of(tokenizer, result.tokens);
    text.resize(std::min(text.size(), first_stop(text, options.stops)));
    if (options.json) {
      all.push_back({{"text", text}, {"tokens", result.tokens}, {"ending", ending_name(result.ending)}, {"forgotten", result.forgotten}});
      if (several) all.back()["prompt"] = options.prompts[index];
    } else {
      std::string shown = (options.is_chat ? "" : options.prompts[index]) + text;
      if (::isatty(STDOUT_FILENO) != 0) shown = printable(shown, /*keep_lines=*/true);  // a pipe gets it as it is
      if (several) std::cout << "==> prompt " << index + 1 << " of " << results.size() << " <==\n";
      std::cout << shown << "\n";
    }
  }
  if (options.json) print_json(several ? all : all.front(), /*indent=*/-1);
  return ExitCode::kDone;
}

}  // namespace

void add_generate_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continue texts with a trained model");
  add_checkpoint_option(*command, "checkpoint,--checkpoint", options->checkpoint);
  auto* prompt =
      command->add_option("--prompt", options->prompts, "text to continue, several times for several texts")->allow_extra_args(false);
  auto* file =
      command->add_option("--prompts", options->prompts_file, "a file of prompts, one a line")->type_name("FILE")->excludes(prompt);
  prompt->excludes(file);
  SamplingOptions& sampling = options->generation.sampling;
  command->add_option("--tokens", sampling.tokens, "most tokens to add")->check(whole_number_in(0, kMostTokens))->capture_default_str();
  command->add_option("--temperature", sampling.temperature, "0: always the likeliest token")
      ->check(number_in(0, 1000))
      ->capture_default_str();
  command->add_option("--top-k", sampling.top_k, "draw from so many likeliest tokens; 0: all")
      ->check(whole_number_in(0, kMostTokens))
      ->capture_default_str();
  command->add_option("--top-p", sampling.top_p, "draw from the likeliest tokens that hold this probability")
      ->check(number_in(0, 1))
      ->capture_default_str();
  command
      ->add_option("--repetition-penalty", sampling.repetition_penalty,
                   "scores of tokens that are in the text are divided by it, negative ones multiplied; 1: not")
      ->check(number_in(0.01, 100))
      ->capture_default_str();
  command->add_option("--stop", options->stops, "text that ends a continuation and is cut off with what follows; may be repeated")
      ->allow_extra_args(false);
  command->add_option("--seed", sampling.seed, "seed of the random draws: the same seed gives the same text")
      ->check(whole_number_in(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command->add_option("--batch", options->generation.batch, "texts that a rank continues at a time")
      ->check(whole_number_in(1, kMostBatch))
      ->capture_default_str();
  command->add_flag("--no-cache", options->no_cache, "compute all tokens again for each new one: slow, to compare with");
  auto* chat = command->add_flag(
      "--chat", options->is_chat,
      "a prompt is a user's question, or {\"messages\": [...]}: it is put into the model's chat template, and the answer is printed");
  command->add_option("--chat-template", options->chat_template, "Jinja template, if not data.chat_template or the tokenizer's own")
      ->type_name("FILE")
      ->needs(chat);
  command->add_option("--tokenizer", options->tokenizer, "SentencePiece model or tokenizer.json, if not the one that the checkpoint names")
      ->type_name("FILE");
  command->add_flag(
      "--json", options->json,
      "print {\"text\", \"tokens\", \"ending\", \"forgotten\"}, the text without the prompt; a list of them, with \"prompt\", for several");
  command->footer(
      "The model sees model.sequence_length tokens at a time, prompt included. Up to there each token is computed once; a text that goes "
      "on\n"
      "behind them loses its beginning from the model's sight, and each token costs as much as sequence_length: the log says so.\n"
      "Tokens that batches change in training are not dropped here: capacity_factor and rank_overflow: drop are left out, with a warning.\n"
      "Under mpirun prompts and experts are shared out over the ranks, whatever layout trained the model; texts do not depend on it.\n"
      "Example:\n  pimoe generate --checkpoint runs/quickstart --prompt 'def forward(self' --tokens 100\n"
      "  mpirun -n 2 pimoe generate --checkpoint runs/quickstart --prompts questions.txt --temperature 0 --stop $'\\n\\n' --json\n"
      "  pimoe generate --checkpoint runs/tuned --chat --prompt 'What is 12 + 30?' --temperature 0");
  command->callback([options, &context] {
    context.action = [options, &context] {
      if (options->prompts.empty() && options->prompts_file.empty()) throw UsageError("generate needs --prompt TEXT or --prompts FILE");
      if (std::find(options->stops.begin(), options->stops.end(), "") != options->stops.end()) throw UsageError("--stop must not be empty");
      return generate(*options, context);
    };
  });
}

}  // namespace pimoe
