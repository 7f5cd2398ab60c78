#include "app/pretrained.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/local_save.h"
#include "checkpoint/training_state.h"
#include "data/tokenizer.h"
#include "interop/hf_companions.h"
#include "parallel/agreement.h"

#include <algorithm>
#include <chrono>
#include <optional>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

constexpr double kFineTuningRate = 1e-5;
constexpr size_t kMostRanksNamed = 16;

/// Whether a tokenizer's file is one that PiMoE reads, and the model's; says why where it is not.
bool is_our_tokenizer(const fs::path& file, const ModelConfig& model, Logger& log) try {
  const Tokenizer tokenizer(file);
  if (tokenizer.vocabulary() <= model.vocabulary) return true;
  log.warning(concat(file.filename().string(), " has more tokens than the model, and is carried along alone"));
  return false;
} catch (const DataError& error) {  // the contract: some families' files are of other formats
  log.warning(concat(file.filename().string(), " is carried along, and PiMoE does not read it: ", error.what()));
  return false;
}

std::optional<Upcycling> upcycling_of(const ModelConfig& model) try {
  if (model.upcycle.empty()) return std::nullopt;
  return parse_upcycling(model.upcycle, "model.upcycle");
} catch (const UsageError& error) {  // the contract: here it is a key of the configuration
  throw ConfigError(error.what());
}

}  // namespace

TrainConfig config_for_weights(const ModelConfig& model) {
  TrainConfig config;
  config.model = model;
  config.train.micro_batch = 0;
  config.optimizer.learning_rate = kFineTuningRate;
  return config;
}

std::string readable_tokenizer_in(const fs::path& folder, const ModelConfig& model, Logger& log) {
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (is_there(folder / name) && is_our_tokenizer(folder / name, model, log)) return name;
  }
  return "";
}

PretrainedDefaults hugging_face_defaults(Logger& log) {
  return [&log](const ModelConfig& asked) {
    const fs::path& folder = asked.initial_weights;
    const std::optional<Upcycling> how = upcycling_of(asked);
    const HfModel hf = read_hf_model(folder, asked.sequence_length);
    TrainConfig config = config_for_weights(how ? upcycled(hf.model, *how) : hf.model);
    const std::string tokenizer = readable_tokenizer_in(folder, config.model, log);
    if (!tokenizer.empty()) config.data.tokenizer = folder / tokenizer;
    return config;
  };
}

TrainConfig load_config_to_draw(const ConfigSource& file, const std::vector<std::string>& overrides, Logger& log) {
  TrainConfig config = load_train_config(file, overrides, /*needs_corpus=*/false, hugging_face_defaults(log));
  config.model.initial_weights.clear();
  config.model.upcycle.clear();
  return config;
}

InitialWeights initial_weights_of(const TrainConfig& config, const ProcessMesh& mesh, Logger& log) {
  if (config.model.initial_weights.empty()) return nullptr;
  return [&](const std::vector<StatePiece>& pieces) {
    const ModelConfig& model = config.model;
    const auto begun = std::chrono::steady_clock::now();
    const HfImport imported(model.initial_weights, model.sequence_length, upcycling_of(model), {mesh.rank(), mesh.size()});
    for (const std::string& remark : imported.remarks()) log.info(remark);
    std::vector<StatePiece> weights;  // moments begin as zeros, which they are
    int64_t bytes = 0;
    for (const StatePiece& state : pieces) {
      if (state.kind != state_kind::kMaster && state.kind != state_kind::kState) continue;
      weights.push_back(state);
      bytes += static_cast<int64_t>(state.values.nbytes());
    }
    {
      const WorkProgress progress(concat("loading ", model.initial_weights.string()), WorkUnit::kBytes, log, bytes);
      imported.fill(weights, {static_cast<uint64_t>(config.run.seed), model.initial_deviation});
    }
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    log.info(concat("rank ", mesh.rank(), " read ", human_bytes(static_cast<double>(imported.weights().bytes_read())), " of the weights' ",
                    human_bytes(static_cast<double>(imported.weights().bytes())), ", in ", fixed(seconds, 2), " s"));
  };
}

void keep_companions(const TrainConfig& config, const HostCommunicator& ranks) {
  const fs::path& from = config.model.initial_weights;
  if (from.empty()) return;
  do_together(ranks, [&] {
    const fs::path to = config.run.directory / kCompanionFolder;
    if (ranks.rank() != 0 || is_there(to)) return;
    const fs::path temporary = fs::path(to) += ".unfinished";
    make_empty_folder(temporary);
    copy_companions(from, temporary, !config.model.upcycle.empty());
    rename_durably(temporary, to);
  });
}

fs::path companions_of(const fs::path& checkpoint, const TrainConfig& config) {
  const fs::path own = fs::weakly_canonical(checkpoint);
  std::vector<fs::path> runs = {own.parent_path().parent_path()};
  if (const std::string& resumed = config.checkpoint.resume; resumed != "auto" && resumed != "none") {
    runs.emplace_back(resumed);
    runs.push_back(fs::weakly_canonical(resumed).parent_path().parent_path());
  }
  for (const fs::path& run : runs) {
    std::error_code ignored;
    if (fs::is_directory(run / kCompanionFolder, ignored)) return run / kCompanionFolder;
  }
  return {};
}

std::string bytes_by_rank(int64_t bytes, const HostCommunicator& ranks) {
  std::vector<std::string> each;
  int64_t least = bytes, most = bytes;
  for (const std::string& text : ranks.all_gather_text(concat(bytes))) {
    const int64_t count = std::stoll(text);
    least = std::min(least, count);
    most = std::max(most, count);
    each.push_back(concat("rank ", each.size(), " ", human_bytes(static_cast<double>(count))));
  }
  if (each.size() <= kMostRanksNamed) return join(each, ", ");
  return concat(human_bytes(static_cast<double>(least)), " to ", human_bytes(static_cast<double>(most)), " a rank");
}

}  // namespace pimoe
