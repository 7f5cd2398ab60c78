#include "app/generate.h"

#include "app/number_checks.h"
#include "app/print_json.h"
#include "app/run_setup.h"
#include "base/text.h"
#include "model/sampling.h"
#include "parallel/device.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <iostream>
#include <limits>

namespace pimoe {
namespace {

constexpr int64_t kMostTokens = 1'000'000'000;

struct GenerateOptions {
  std::filesystem::path checkpoint;
  std::filesystem::path tokenizer;
  std::string prompt;
  SamplingOptions sampling;
  bool json = false;
};

ExitCode generate(GenerateOptions options, AppContext& context) {
  const LoadedModel loaded = load_model(options.checkpoint, context, ModelSpread::kWhole);
  if (options.tokenizer.empty()) options.tokenizer = loaded.config.data.tokenizer;
  if (options.tokenizer.empty()) throw UsageError("the checkpoint's configuration names no tokenizer: give --tokenizer FILE");
  if (std::error_code ignored; !std::filesystem::is_regular_file(options.tokenizer, ignored)) {
    throw DataError(concat("tokenizer ", options.tokenizer.string(), " is no file: give --tokenizer FILE, the model's own"));
  }
  const Tokenizer tokenizer(options.tokenizer);
  if (tokenizer.vocabulary() > loaded.config.model.vocabulary) {
    throw DataError(options.tokenizer.string() + " has more tokens than the model: it is another model's tokenizer");
  }
  std::vector<int32_t> prompt = tokenizer.encode(options.prompt);
  if (prompt.empty()) prompt.push_back(tokenizer.end_of_document());  // what stands before a document's first token in training
  options.sampling.stop_token = tokenizer.end_of_document();
  const std::vector<int32_t> added = sample_tokens(*loaded.model, prompt, loaded.mesh->device(), options.sampling, nullptr);
  const std::string text = tokenizer.decode(added);
  if (options.json) {
    print_json({{"text", text}, {"tokens", added}}, /*indent=*/-1);
  } else {
    std::cout << options.prompt << text << "\n";
  }
  return ExitCode::kDone;
}

}  // namespace

void add_generate_command(CLI::App& app, AppContext& context) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text with a trained model");
  command->add_option("--checkpoint", options->checkpoint, "a step-* folder, or a run folder (its newest good checkpoint)")->required();
  command->add_option("--prompt", options->prompt, "text to continue")->required();
  command->add_option("--tokens", options->sampling.tokens, "most tokens to add")
      ->check(whole_number_in(0, kMostTokens))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: always the likeliest token")
      ->check(number_in(0, 1000))
      ->capture_default_str();
  command->add_option("--top-p", options->sampling.top_p, "draw from the likeliest tokens that hold this probability")
      ->check(number_in(0, 1))
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "seed of the random draws: the same seed gives the same text")
      ->check(whole_number_in(0, std::numeric_limits<int64_t>::max()))
      ->capture_default_str();
  command->add_option("--tokenizer", options->tokenizer, "SentencePiece model, if not the one that the checkpoint names");
  command->add_flag("--json", options->json, "print {\"text\", \"tokens\"}, the text without the prompt");
  command->footer("Example:\n  pimoe generate --checkpoint runs/quickstart --prompt 'def forward(self' --tokens 100");
  command->callback([options, &context] { context.action = [options, &context] { return generate(*options, context); }; });
}

}  // namespace pimoe
