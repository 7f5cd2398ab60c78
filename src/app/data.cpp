#include "app/data.h"

#include "app/number_checks.h"
#include "app/print_json.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "data/corpus_builder.h"
#include "data/corpus_facts.h"
#include "data/loss_mask.h"
#include "data/token_file.h"
#include "data/tokenizer.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShownTokens = 400;
constexpr size_t kShownCharacters = 200;

struct BuildOptions {
  CorpusOptions corpus;
  ChatOptions chat;
  bool is_chat = false;
  std::string chat_template;
  std::string bad_lines = "refuse";
  bool json = false;
};

struct CorpusChoice {
  fs::path prefix;
  fs::path tokenizer;
  bool json = false;
};

void print_line(const std::string& name, const std::string& value) {
  std::cout << name << std::string(20 - name.size(), ' ') << printable(value) << "\n";
}

/// @returns the tokenizer that was named, or the one beside the corpus, or none.
std::optional<Tokenizer> find_tokenizer(const CorpusChoice& choice) {
  const fs::path model = choice.tokenizer.empty() ? tokenizer_beside(choice.prefix) : choice.tokenizer;
  if (model.empty()) return std::nullopt;
  return Tokenizer(tokenizer_in(model));
}

std::string first_characters(const TokenFile& corpus, const Tokenizer& tokenizer) {
  std::vector<int64_t> ids(static_cast<size_t>(std::min(kShownTokens, corpus.token_count())));
  corpus.read(0, static_cast<int64_t>(ids.size()), ids.data());
  corpus.require_ids_below(tokenizer.vocabulary(), 0, ids.data(), static_cast<int64_t>(ids.size()));
  std::string text = tokenizer.decode({ids.begin(), ids.end()});
  size_t end = 0;
  for (size_t characters = 0; characters < kShownCharacters && end < text.size(); ++characters) {
    end += 1 + leading_continuations(std::string_view(text).substr(end + 1));
  }
  text.resize(end);
  return text;
}

/// PREFIX gets endings of its own, so that it must end in a file's name.
void require_file_name(const fs::path& prefix) {
  const std::string name = prefix.filename().string();
  if (!name.empty() && name != "." && name != "..") return;
  throw UsageError(concat("--output '", prefix.string(),
                          "' must be a PREFIX that ends in a name, as data/my does: it becomes data/my.bin and data/my.idx"));
}

constexpr const char* kNoTemplate = "none";

/// Options of conversations mean nothing without --chat.
void settle_chat(BuildOptions& options) {
  ChatOptions& chat = options.chat;
  if (!options.is_chat) {
    if (options.chat_template.empty() && chat.sequence_length == 0 && options.bad_lines == "refuse") return;
    throw UsageError("--chat-template, --sequence-length and --bad-lines are of conversations: give --chat too");
  }
  chat.no_template = options.chat_template == kNoTemplate;
  if (!chat.no_template) chat.template_file = options.chat_template;
  chat.skips_bad_lines = options.bad_lines == "skip";
  options.corpus.chat = chat;
}

std::string tokens_text(int64_t documents, int64_t tokens, int64_t learned, bool is_chat) {
  if (!is_chat) return concat(counted(documents, "document"), ", ", counted(tokens, "token"));
  return concat(counted(documents, "conversation"), ", ", counted(tokens, "token"), ", of which ", grouped(learned), " are learned");
}

ExitCode build(BuildOptions options, Logger& log) {
  require_file_name(options.corpus.output);
  settle_chat(options);
  options.corpus.tokenizer = tokenizer_in(options.corpus.tokenizer);
  const CorpusFacts facts = build_corpus(options.corpus, log);
  const std::string model =
      options.corpus.tokenizer.empty() ? options.corpus.output.string() + ".model" : options.corpus.tokenizer.string();
  if (options.json) {
    print_json({{"output", options.corpus.output.string()},
                {"tokenizer", model},
                {"vocabulary", facts.vocabulary},
                {"documents", facts.documents},
                {"tokens", facts.tokens},
                {"validation_documents", facts.validation_documents},
                {"validation_tokens", facts.validation_tokens},
                {"unigram_entropy", facts.unigram_entropy},
                {"largest_id", facts.largest_id},
                {"input_bytes", facts.input_bytes},
                {"skipped_files", facts.skipped_files},
                {"learned_tokens", facts.learned},
                {"validation_learned_tokens", facts.validation_learned},
                {"skipped_lines", facts.skipped_lines},
                {"empty_documents", facts.empty_documents}});
    return ExitCode::kDone;
  }
  print_line("corpus", options.corpus.output.string());
  print_line("tokenizer", model + " (" + grouped(facts.vocabulary) + " pieces)");
  print_line("training", tokens_text(facts.documents, facts.tokens, facts.learned, options.is_chat));
  print_line("validation", tokens_text(facts.validation_documents, facts.validation_tokens, facts.validation_learned, options.is_chat));
  print_line("unigram entropy", fixed(facts.unigram_entropy, 3) + " nats a token");
  print_line("input", concat(human_bytes(static_cast<double>(facts.input_bytes)), ", ", counted(facts.skipped_files, "file"),
                             " skipped (binary or empty)"));
  const std::string empty = concat(counted(facts.empty_documents, options.is_chat ? "empty line" : "empty document"));
  print_line("left out", options.is_chat ? concat(counted(facts.skipped_lines, "bad line"), ", ", empty) : empty);
  return ExitCode::kDone;
}

double share_of(int64_t part, int64_t whole) { return static_cast<double>(part) / static_cast<double>(std::max<int64_t>(1, whole)); }

ExitCode inspect(const CorpusChoice& choice, Logger& log) {
  std::optional<WorkProgress> progress(std::in_place, concat("reading ", choice.prefix.string()), WorkUnit::kCount, log,
                                       TokenFile(choice.prefix).token_count());
  const CorpusFacts facts = inspect_corpus(choice.prefix);
  progress.reset();
  const TokenFile corpus(choice.prefix);
  const std::optional<Tokenizer> tokenizer = find_tokenizer(choice);
  const std::string text = tokenizer ? first_characters(corpus, *tokenizer) : "";
  if (choice.json) {
    nlohmann::ordered_json document = {{"prefix", choice.prefix.string()},
                                       {"documents", facts.documents},
                                       {"sequences", corpus.sequence_count()},
                                       {"tokens", facts.tokens},
                                       {"learned_tokens", facts.learned},
                                       {"dtype", facts.dtype},
                                       {"largest_id", facts.largest_id},
                                       {"unigram_entropy", facts.unigram_entropy},
                                       {"vocabulary", nullptr},
                                       {"text", nullptr}};
    if (tokenizer) {
      document["vocabulary"] = tokenizer->vocabulary();
      document["text"] = text;
    }
    print_json(document);
    return ExitCode::kDone;
  }
  print_line("corpus", choice.prefix.string());
  print_line("documents", grouped(facts.documents));
  print_line("tokens", concat(grouped(facts.tokens), " (", facts.dtype, ")"));
  if (LossMask::is_beside(choice.prefix)) {
    print_line("learned",
               concat(grouped(facts.learned), " tokens, ", percent_text(share_of(facts.learned, facts.tokens)), ", by the loss mask"));
  }
  print_line("vocabulary",
             tokenizer ? grouped(tokenizer->vocabulary()) : "unknown: no tokenizer beside the corpus; name one with --tokenizer");
  print_line("largest id", grouped(facts.largest_id));
  print_line("unigram entropy", fixed(facts.unigram_entropy, 3) + " nats a token");
  if (tokenizer) std::cout << "\n" << printable(text, /*keep_lines=*/true) << "\n";
  return ExitCode::kDone;
}

/// @returns why the corpus is not good; empty if it is.
std::string complaint_about(const CorpusChoice& choice, int64_t vocabulary, Logger& log) {
  try {
    const WorkProgress progress(concat("verifying ", choice.prefix.string()), WorkUnit::kCount, log,
                                TokenFile(choice.prefix).token_count());
    verify_corpus(choice.prefix, vocabulary);
  } catch (const DataError& error) {
    return error.what();
  }
  return "";
}

/// Exit code 1 is what `verify` promises for a damaged corpus; one that is not there at all is a DataError as everywhere.
ExitCode verify(const CorpusChoice& choice, Logger& log) {
  if (!fs::exists(choice.prefix.string() + ".idx") && !fs::exists(choice.prefix.string() + ".bin")) inspect_corpus(choice.prefix);
  const std::optional<Tokenizer> tokenizer = find_tokenizer(choice);
  const std::string complaint = complaint_about(choice, tokenizer ? tokenizer->vocabulary() : std::numeric_limits<int64_t>::max(), log);
  if (choice.json) {
    nlohmann::ordered_json document = {
        {"prefix", choice.prefix.string()}, {"good", complaint.empty()}, {"vocabulary", nullptr}, {"reason", complaint}};
    if (tokenizer) document["vocabulary"] = tokenizer->vocabulary();
    print_json(document);
  }
  if (!complaint.empty()) {
    log.error(complaint);
    return ExitCode::kCheckSaysNo;
  }
  if (!choice.json) {
    std::cout << printable(choice.prefix.string()) << " is good"
              << (tokenizer
                      ? concat("; every id is below ", grouped(tokenizer->vocabulary()), ", the tokenizer's vocabulary")
                      : std::string("; ids were not compared with a tokenizer's, for there is none beside it (--tokenizer names one)"))
              << (LossMask::is_beside(choice.prefix) ? "; its loss mask is its own" : "") << "\n";
  }
  return ExitCode::kDone;
}

void add_build(CLI::App& data, AppContext& context) {
  auto options = std::make_shared<BuildOptions>();
  CorpusOptions& corpus = options->corpus;
  CLI::App* command =
      data.add_subcommand("build", "Turn text files, folders and .jsonl into a corpus of token ids, and train its tokenizer");
  command->add_option("--output", corpus.output, "PREFIX: writes PREFIX.bin, PREFIX.idx and, where it trains one, PREFIX.model")
      ->required()
      ->type_name("PREFIX");
  CLI::Option* tokenizer = command
                               ->add_option("--tokenizer", corpus.tokenizer,
                                            "SentencePiece model or tokenizer.json to encode with, or a model's folder that has one")
                               ->type_name("FILE");
  command->add_option("--vocabulary", corpus.vocabulary, "pieces of the tokenizer that is trained")
      ->check(whole_number_in(260, 1 << 24))
      ->excludes(tokenizer)
      ->capture_default_str();
  command->add_option("--validation", corpus.validation, "share of the documents that go to PREFIX-validation")
      ->check(number_in(0, 0.5))
      ->capture_default_str();
  command
      ->add_option("--include", corpus.include,
                   "pattern of file names in folders, \"*.py\"; may be repeated (default: every UTF-8 text file)")
      ->type_name("GLOB")
      ->allow_extra_args(false);
  command->add_option("--text-key", corpus.text_key, "member of a .jsonl line that is the text")->capture_default_str();
  command->add_option("--seed", corpus.seed, "seed that chooses the tokenizer's sample and the validation documents")
      ->check(whole_number_in(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command->add_option("--sample-bytes", corpus.sample_bytes, "text that the tokenizer is trained on: 8388608, 8MB, 1GiB")
      ->transform(size_in(1, int64_t{1} << 40))
      ->type_name("SIZE")
      ->capture_default_str();
  command->add_option("--threads", corpus.threads, "threads that encode the text; 0: one for each core")
      ->check(whole_number_in(0, 4096))
      ->capture_default_str();
  command->add_flag(
      "--chat", options->is_chat,
      "lines of .jsonl are conversations, {\"messages\": [...]} or {\"prompt\": ..., \"answer\": ...}: what the assistant says is learned");
  command
      ->add_option("--chat-template", options->chat_template,
                   "Jinja template of conversations (default: the tokenizer's own); none: a prompt and its answer, one behind the other")
      ->type_name("FILE");
  command
      ->add_option("--sequence-length", options->chat.sequence_length,
                   "model.sequence_length of the training: longer conversations are bad lines")
      ->check(whole_number_in(1, 1 << 30));
  command->add_option("--bad-lines", options->bad_lines, "lines that are no conversations: refuse the first, or skip and report them")
      ->check(CLI::IsMember({"refuse", "skip"}))
      ->capture_default_str();
  command
      ->add_option("--save-every", corpus.save_seconds,
                   "seconds between places that a build which was killed goes on from, by the same command; one with --chat begins again")
      ->check(number_in(0, 86400))
      ->capture_default_str();
  command->add_flag("--restart", corpus.restart, "throw away what a build of this PREFIX left unfinished");
  command->add_flag("--json", options->json, "print the facts as JSON");
  command->add_option("input", corpus.inputs, "text files, folders, .jsonl; .txt.gz, .txt.zst, .jsonl.gz and .jsonl.zst too")
      ->required()
      ->type_name("INPUT...");
  command->footer(
      "Example:\n  pimoe data build --output data/my --vocabulary 8192 --validation 0.01 texts/ more.jsonl\n"
      "  pimoe data build --output data/chat --chat --tokenizer runs/mixtral/hf --sequence-length 4096 conversations.jsonl");
  command->callback([&context, options] { context.action = [&context, options] { return build(*options, context.log); }; });
}

/// What `inspect` and `verify` have in common.
std::shared_ptr<CorpusChoice> add_corpus_choice(CLI::App& command) {
  auto choice = std::make_shared<CorpusChoice>();
  command.add_option("prefix", choice->prefix, "corpus PREFIX.bin and PREFIX.idx")->required()->type_name("PREFIX");
  command
      .add_option("--tokenizer", choice->tokenizer,
                  "SentencePiece model or tokenizer.json, or its folder (default: the one that was built with the corpus)")
      ->type_name("FILE");
  command.add_flag("--json", choice->json, "print JSON");
  return choice;
}

}  // namespace

void add_data_command(CLI::App& app, AppContext& context) {
  CLI::App* data = app.add_subcommand("data", "Build, show and check corpora of token ids");
  data->require_subcommand(1);
  data->footer("Example:\n  pimoe data build --output data/my --vocabulary 8192 texts/\n  pimoe data inspect data/my");
  add_build(*data, context);

  CLI::App* inspect_command = data->add_subcommand("inspect", "Show what is in a corpus: documents, tokens, entropy, first words");
  const auto inspected = add_corpus_choice(*inspect_command);
  inspect_command->footer("Example:\n  pimoe data inspect data/my --json");
  inspect_command->callback([&context, inspected] { context.action = [&context, inspected] { return inspect(*inspected, context.log); }; });

  CLI::App* verify_command =
      data->add_subcommand("verify", "Check a corpus' structure and that the tokenizer knows every id: exit code 0, or 1 with the reason");
  const auto verified = add_corpus_choice(*verify_command);
  verify_command->footer("Example:\n  pimoe data verify data/my --tokenizer data/my.model");
  verify_command->callback([&context, verified] { context.action = [&context, verified] { return verify(*verified, context.log); }; });
}

}  // namespace pimoe
