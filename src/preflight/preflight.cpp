#include "preflight/preflight.h"

#include "base/run_paths.h"
#include "base/text.h"
#include "checkpoint/manifest.h"
#include "checkpoint/step_folders.h"
#include "checkpoint/verification.h"
#include "data/tokenizer.h"
#include "moe/adaptive_control.h"
#include "moe/routing_file.h"
#include "train/resume.h"
#include "train/router_state.h"

#include <unistd.h>

#include <algorithm>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kTokensRead = int64_t{1} << 28;
constexpr double kMostUsefulEpochs = 4.0;
constexpr int64_t kBlockTokens = int64_t{1} << 20;

void look_at_corpus(const std::string& prefix, const TrainConfig& config, bool shuffle, Preflight& found) {
  found.attempt([&] {
    const TokenFile corpus(prefix);
    SampleBlend({{.prefix = prefix}}, config.model.sequence_length, 0, shuffle, config.data.samples());
    if (config.data.document_mask) {
      if (const std::string doubt = doubt_about_documents(corpus); !doubt.empty()) found.warnings.push_back(doubt);
    }
    const int64_t count = std::min(kTokensRead, corpus.token_count());
    std::vector<int64_t> ids;
    for (int64_t begin = 0; begin < count; begin += kBlockTokens) {
      ids.resize(static_cast<size_t>(std::min(kBlockTokens, count - begin)));
      corpus.read(begin, static_cast<int64_t>(ids.size()), ids.data());
      corpus.require_ids_below(config.model.vocabulary, begin, ids.data(), static_cast<int64_t>(ids.size()));
    }
    if (count < corpus.token_count()) {
      found.warnings.push_back(concat(prefix, " has ", grouped(corpus.token_count()), " tokens, of which the first ", grouped(count),
                                      " were looked at: `pimoe data verify` reads all"));
    }
  });
}

void look_at_blend(const TrainConfig& config, Preflight& found) {
  Preflight told;  // what is wrong with a corpus look_at_corpus has said
  told.attempt([&] {
    const SampleBlend samples(config.data.blend, config.model.sequence_length, static_cast<uint64_t>(config.run.seed), /*shuffle=*/true,
                              config.data.samples());
    const std::vector<double> epochs = samples.epochs_before(config.train.steps * config.train.global_batch);
    for (size_t i = 0; i < samples.size(); ++i) {
      const std::string& prefix = config.data.blend[i].prefix;
      found.blend.push_back({prefix, samples.order().share(i), samples.samples_per_epoch(i), epochs[i]});
      const std::string named = concat("data.train[", i, "] (", prefix, ")");
      if (epochs[i] > kMostUsefulEpochs) {
        found.warnings.push_back(concat(named, " is read ", fixed(epochs[i], 1), " times over: beyond about ", fixed(kMostUsefulEpochs, 0),
                                        " a text teaches little that is new (arXiv 2305.16264); give it a lower weight, or more text"));
      } else if (epochs[i] == 0 && config.train.steps > 0) {
        found.warnings.push_back(concat(named, " is not read: its weight gives it no sample in ", counted(config.train.steps, "step")));
      }
    }
  });
}

/// What CheckpointStore::newest_good would find and set aside, told by sizes and not by digests.
OwnCheckpoints own_checkpoints(const fs::path& folder, Preflight& found) {
  OwnCheckpoints own{std::nullopt, count_set_aside(folder)};
  std::vector<StepFolder> steps = list_steps(folder);
  for (auto step = steps.rbegin(); step != steps.rend() && !own.newest_good; ++step) {
    const std::string trouble = bytes_trouble(step->path, /*digests=*/false);
    if (trouble.empty()) {
      own.newest_good = step->path;
    } else {
      ++own.damaged;
      found.warnings.push_back(concat("checkpoint ", step->path.string(), " is damaged: ", trouble, ". The run would set it aside"));
    }
  }
  return own;
}

void look_at_resume(const TrainConfig& config, Preflight& found) {
  const OwnCheckpoints own = own_checkpoints(RunPaths(config.run.directory).checkpoints(), found);
  const std::optional<fs::path> checkpoint =
      choose_checkpoint(config, own, [](const fs::path& path) { return find_checkpoint(path, /*digests=*/false); }).checkpoint;
  if (!checkpoint) return;
  const Manifest manifest = read_manifest(*checkpoint);
  TrainConfig saved = parse_train_config(manifest.config, (*checkpoint / "manifest.json").string());
  const std::string temperature_change = settle_temperature(saved, config, AdaptiveControl::temperature_in(manifest.numbers));
  if (!temperature_change.empty()) found.warnings.push_back(temperature_change);
  require_same_model(saved, config, checkpoint->string());
  found.folder.resumes_at = manifest.step;
  DataFacts facts;
  Preflight unheard;  // what is wrong with the data look_at_data says
  unheard.attempt([&] { facts = data_facts(config.data); });
  for (const std::string& change : changes_of_data(saved, manifest.counters, config, facts)) found.warnings.push_back(change);
  if (manifest.step >= config.train.steps) {
    found.warnings.push_back(
        concat("the run is complete: it has done ", counted(manifest.step, "step"), ", and train.steps is ", config.train.steps));
  }
}

/// A folder that the run makes where it is missing. @param key  for troubles, what asks for it
/// @returns what is there of its path; nothing where that is no folder
std::optional<fs::path> usable_part(const fs::path& folder, const std::string& key, Preflight& found) {
  fs::path there = fs::absolute(folder);
  std::error_code ignored;
  while (!fs::exists(there, ignored) && there.has_parent_path() && there != there.parent_path()) there = there.parent_path();
  const auto trouble = [&](const char* what) {
    found.troubles.push_back({ExitCode::kInputOutput, concat(key, ": ", there.string(), what)});
  };
  if (!fs::is_directory(there, ignored)) {
    trouble(" is no folder");
    return std::nullopt;
  }
  if (access(there.c_str(), W_OK | X_OK) != 0) trouble(" cannot be written");
  return there;
}

}  // namespace

bool Preflight::attempt(const std::function<void()>& look) {
  try {
    look();
    return true;
  } catch (const Error& error) {  // the contract: everything that is wrong is told, not the first thing alone
    troubles.push_back({exit_code(error), error.what()});
  }
  return false;
}

void look_at_data(const TrainConfig& config, Preflight& found) {
  if (!config.data.tokenizer.empty()) {
    found.attempt([&] {
      const Tokenizer tokenizer(config.data.tokenizer);
      if (tokenizer.vocabulary() <= config.model.vocabulary) return;
      found.warnings.push_back(concat("data.tokenizer (", config.data.tokenizer, ") has ", tokenizer.vocabulary(),
                                      " tokens, model.vocabulary is ", config.model.vocabulary,
                                      ": a text with one of the last would end the run"));
    });
  }
  for (const BlendedCorpus& each : config.data.training()) look_at_corpus(each.prefix, config, /*shuffle=*/true, found);
  if (config.data.blend.size() > 1) look_at_blend(config, found);
  if (!config.data.validation.empty()) look_at_corpus(config.data.validation, config, /*shuffle=*/false, found);
}

void look_at_replay(const TrainConfig& config, Preflight& found) {
  if (config.model.moe.router.replay.empty()) return;
  found.attempt([&] {
    const RoutingReplay replay(config.model.moe.router.replay);
    replay.require_fits(config.model.router_names(), config.model.moe);
    const std::string doubt = doubt_about_replay(replay, config, std::max<int64_t>(0, found.folder.resumes_at));
    if (!doubt.empty()) found.warnings.push_back(doubt);
  });
}

void look_at_run_folder(const TrainConfig& config, bool model_known, Preflight& found) {
  std::error_code ignored;
  const std::string key = concat("run.directory (", config.run.directory.string(), ")");
  const std::optional<fs::path> there = usable_part(RunPaths(config.run.directory).checkpoints(), key, found);
  if (!there) return;
  if (config.log.routing.every_steps > 0 && config.model.moe_layers() > 0) {
    const fs::path routing = RunPaths(config.run.directory).routing();
    usable_part(routing, concat("log.routing.every_steps (", config.log.routing.every_steps, ")"), found);
    for (const RoutingLogFile& file : routing_log_files(routing)) {
      if (!file.regular) found.warnings.push_back(in_the_way(file));
    }
  }
  const fs::space_info space = fs::space(*there, ignored);
  if (!ignored) found.folder.free_bytes = static_cast<int64_t>(std::min<uintmax_t>(space.available, INT64_MAX));
  found.attempt([&] {
    found.folder.checkpoints = static_cast<int64_t>(list_steps(RunPaths(config.run.directory).checkpoints()).size());
    if (model_known) look_at_resume(config, found);
  });
}

}  // namespace pimoe
