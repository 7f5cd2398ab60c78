#include "train/train_config.h"

#include "base/errors.h"
#include "base/number_text.h"
#include "base/text.h"
#include "base/utf8.h"
#include "data/tokenizer.h"
#include "parallel/device.h"
#include "train/model_keys.h"
#include "train/presets.h"

#include <algorithm>
#include <map>

namespace pimoe {

void RunConfig::fields(FieldVisitor& visit) {
  visit.path("directory", directory, "run folder; empty: runs/<name of the configuration file>");
  visit.integer("seed", seed, {.at_least = 0}, "seed of initial weights and data order");
  visit.flag("deterministic", deterministic, "refuse operations whose bits differ from run to run");
  visit.text("walltime", walltime,
             "time that the job has, as 90m, 12h or 1-12:00:00: near its end the run saves and leaves with 75; empty: no end");
  visit.number("walltime_margin", walltime_margin, {.at_least = 0, .at_most = 86400},
               "seconds before that end at which it does; more where its saves take longer");
  visit.number(
      "hang_limit", hang_limit, {.at_least = 0, .at_most = 86400},
      "seconds without a sign of a rank, or of progress that others wait for, after which the watchdog names it and ends the run; 0: no "
      "watchdog");
}

double RunConfig::seconds_until_leaving() const {
  if (walltime.empty()) return 0.0;
  return std::max(1.0, parse_duration(walltime).value_or(0.0) - walltime_margin);
}

void LoopConfig::fields(FieldVisitor& visit) {
  visit.integer("steps", steps, {.at_least = 0, .at_most = kMostSteps}, "optimizer steps");
  visit.integer("global_batch", global_batch, {.at_least = 1, .at_most = 1 << 24}, "sequences of a step, over all ranks");
  visit.integer_or_auto("micro_batch", micro_batch, {.at_least = 1, .at_most = 1 << 24},
                        "sequences that a rank computes at a time, at most; auto: as many as fit into memory whatever the router does");
  visit.choice("precision", precision,
               {{"float64", Precision::kFloat64},
                {"float32", Precision::kFloat32},
                {"bfloat16", Precision::kBfloat16},
                {"float16", Precision::kFloat16},
                {"auto", Precision::kAuto}},
               "of weights and activations in the products; master weights, norms, router and losses are at least float32");
  visit.choice("recompute", recompute, {{"none", RecomputePolicy::kNone}, {"moe", RecomputePolicy::kMoe}, {"full", RecomputePolicy::kFull}},
               "what backward computes again instead of keeping");
  visit.integer("validate_every", validate_every, {.at_least = 0, .at_most = kMostSteps}, "steps between validations; 0: only at the end");
  visit.integer_or_auto("verify_every", verify_every, {.at_least = 1, .at_most = kMostSteps},
                        "steps between comparisons of the ranks' copies of weights, for memory that changed by itself; auto: 100");
  visit.integer("validation_batches", validation_batches, {.at_least = 1, .at_most = 1 << 24}, "global batches of a validation");
  visit.choice(
      "cuda_graphs", cuda_graphs, {{"off", CudaGraphs::kOff}, {"on", CudaGraphs::kOn}, {"auto", CudaGraphs::kAuto}},
      "on GPUs, start a step's forward and backward by one call of the host (docs/profiling.md); auto: where that is possible and pays");
  visit.integer_or_auto("threads", threads, {.at_least = 1, .at_most = 4096},
                        "CPU threads of a rank; auto: OMP_NUM_THREADS, else the cores it is bound to, else cores / ranks on the node");
  visit.nested("spikes", spikes);
  visit.integer(
      "rollbacks", rollbacks, {.at_least = 0, .at_most = 1000},
      "times in a row, without a new checkpoint, that a run whose last ten steps were skipped goes back to its newest one and on with "
      "other data; 0: it ends");
}

void LogConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 1, .at_most = kMostSteps}, "steps between log lines");
  visit.flag("tensorboard", tensorboard, "write RUN/tensorboard: the numbers of metrics.jsonl as curves, in every step");
  visit.nested("routing", routing);
}

void TrainConfig::fields(FieldVisitor& visit) {
  std::vector<std::string> names = preset_names();
  names.insert(names.begin(), "none");
  visit.word("preset", preset, names, "configs/presets; weaker than every key that is written out");
  visit.nested("run", run);
  visit.nested("mesh", mesh);
  visit.nested("data", data);
  visit.nested("model", model);
  visit.nested("train", train);
  visit.nested("optimizer", optimizer);
  visit.nested("checkpoint", checkpoint);
  visit.nested("log", log);
  visit.nested("monitor", monitor);
}

namespace {

constexpr double kMostTokens = 9e18;  // what a run can count in 64 bits

void validate(const TrainConfig& config, const ConfigOrigins& origins, bool needs_corpus, Violations violations = {}) {
  config.model.validate(violations);
  config.monitor.validate(violations);
  config.data.validate(violations);
  if (needs_corpus && config.data.training().empty()) {
    violations.add("data.train",
                   "must name a corpus, the PREFIX of `pimoe data build --output PREFIX`, or several, [{prefix: PREFIX, weight: 1}, ...]");
  }
  const double tokens = static_cast<double>(config.train.steps) * static_cast<double>(config.train.global_batch) *
                        static_cast<double>(config.model.sequence_length);
  if (tokens > kMostTokens) {
    violations.add("train.steps",
                   concat("(", config.train.steps, ") x train.global_batch (", config.train.global_batch, ") x model.sequence_length (",
                          config.model.sequence_length, ") must be at most ", scientific(kMostTokens, 0), " tokens"));
  }
  if (const std::string& walltime = config.run.walltime; !walltime.empty()) {
    const auto seconds = parse_duration(walltime);
    if (!seconds) {
      violations.add("run.walltime", concat("('", walltime, "') must be a time such as 90m, 12h, 2d, 12:00:00 or 1-12:00:00"));
    } else if (*seconds <= config.run.walltime_margin) {
      violations.add("run.walltime",
                     concat("(", walltime, ") must be longer than run.walltime_margin (", shortest(config.run.walltime_margin), " s)"));
    }
  }
  if (config.model.vocabulary == 0 && config.data.tokenizer.empty()) {
    violations.add("model.vocabulary", "(0) takes the tokenizer's, and data.tokenizer is empty: set one of them");
  }
  const int64_t shards = config.mesh.expert_parallel;
  if (shards > 0 && config.model.moe.experts % shards != 0) {
    violations.add("model.moe.experts", spread_trouble(config.model.moe.experts, shards));
  } else if (shards > 0) {
    for (size_t index = 0; index < config.model.moe.groups.size(); ++index) {
      const int64_t count = config.model.moe.groups[index].count;
      const std::string trouble = spread_trouble(count, shards);
      if (trouble.empty()) continue;
      violations.add(concat("model.moe.groups[", index, "].count"), trouble + ": a group is spread evenly");
    }
  }
  refuse(violations, origins);
}

std::function<void(FieldVisitor&)> fields_of(TrainConfig& config) {
  return [&config](FieldVisitor& visit) { config.fields(visit); };
}

/// Keys that are written out, and otherwise than the weights that the run begins with need them.
Violations mismatches(const ModelConfig& of_weights, const TrainConfig& config) {
  Violations violations;
  const ConfigValues theirs = model_identity(of_weights, config.model);
  const std::map<std::string, std::string> needed(theirs.begin(), theirs.end());
  for (const auto& [key, value] : model_identity(config.model, config.model)) {
    const auto found = needed.find(key);
    if (found != needed.end() && found->second == value) continue;
    violations.add(key, concat("(", value, ") must be ", found == needed.end() ? "left out" : found->second, ", as ",
                               config.model.initial_weights.string(), " has it, which model.initial_weights names: leave the key out"));
  }
  return violations;
}

}  // namespace

ConfigOrigins read_train_config(const ConfigSource& file, const std::vector<std::string>& overrides, const PretrainedDefaults& pretrained,
                                TrainConfig& config) {
  const std::vector<ConfigSource> sources = with_preset(file, overrides);
  config = TrainConfig();
  ConfigOrigins origins = load_fields(sources, overrides, fields_of(config));
  if (!pretrained || config.model.initial_weights.empty()) return origins;
  ModelConfig asked = config.model;
  if (origins.of("model.sequence_length").empty()) asked.sequence_length = 0;
  config = pretrained(asked);
  const int64_t vocabulary = config.model.vocabulary;
  origins = load_fields(sources, overrides, fields_of(config));
  if (config.model.vocabulary == 0) config.model.vocabulary = vocabulary;
  return origins;
}

TrainConfig load_train_config(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_corpus,
                              const PretrainedDefaults& pretrained) {
  return load_train_config(read_config_source(file), overrides, needs_corpus, pretrained);
}

TrainConfig load_train_config(const ConfigSource& file, const std::vector<std::string>& overrides, bool needs_corpus,
                              const PretrainedDefaults& pretrained) {
  TrainConfig config;
  ModelConfig of_weights;
  const PretrainedDefaults remembered = !pretrained ? pretrained : [&](const ModelConfig& asked) {
    TrainConfig defaults = pretrained(asked);
    of_weights = defaults.model;
    return defaults;
  };
  const ConfigOrigins origins = read_train_config(file, overrides, remembered, config);
  const bool begins_with_weights = pretrained && !config.model.initial_weights.empty();
  Violations violations = begins_with_weights ? mismatches(of_weights, config) : Violations();
  if (config.model.quantization.exists()) {
    violations.add("model.quantization.kind",
                   concat("(", config.model.quantization.word(),
                          ") must be none: int8 weights have no gradients; pimoe quantize makes such a model of one that was trained"));
  }
  validate(config, origins, needs_corpus, std::move(violations));
  if (config.run.directory.empty()) config.run.directory = std::filesystem::path("runs") / std::filesystem::path(file.name).stem();
  if (!is_text(config.run.directory.string())) {
    throw ConfigError(concat("the name of ", file.name, ", which names the run folder, is no UTF-8: set run.directory"));
  }
  if (config.model.vocabulary == 0) config.model.vocabulary = Tokenizer(config.data.tokenizer).vocabulary();
  return config;
}

TrainConfig parse_train_config(const std::string& yaml, const std::string& name_for_messages) {
  TrainConfig config;
  validate(config, read_train_config({yaml, name_for_messages}, {}, nullptr, config), /*needs_corpus=*/false);
  return config;
}

DataStreamOptions stream_options(const TrainConfig& config, const ProcessMesh& mesh) {
  return {.sequence_length = config.model.sequence_length,
          .vocabulary = config.model.vocabulary,
          .global_batch = config.train.global_batch,
          .micro_batch = config.train.micro_batch,
          .seed = static_cast<uint64_t>(config.run.seed),
          .rank = mesh.group(Group::kBatch).rank(),
          .ranks = mesh.group(Group::kBatch).size(),
          .shuffle = true,
          .samples = config.data.samples(),
          .prefetch = true,
          .pin = [device = mesh.device()](const at::Tensor& tensor) { return pinned(tensor, device); }};
}

std::string to_yaml(TrainConfig config) { return print_fields(fields_of(config)); }

std::vector<std::string> doubts_about(const TrainConfig& config, int64_t ranks) {
  std::vector<std::string> doubts;
  if (config.train.global_batch < ranks) {
    doubts.push_back(concat("train.global_batch (", config.train.global_batch, ") is below the ", ranks,
                            " ranks: ", ranks - config.train.global_batch, " of them have no sequence, and only wait"));
  }
  const ModelConfig& model = config.model;
  if (model.moe.experts > 0 && model.moe_layers() == 0) {
    doubts.push_back(concat("model.moe.first_dense_layers (", model.moe.first_dense_layers, ") leaves none of model.layers (", model.layers,
                            ") for model.moe.experts (", model.moe.experts, "): the model is dense"));
  }
  if (config.data.document_mask && model.moe_layers() > 0 && model.moe.router_traits().by_expert) {
    doubts.push_back(concat("data.document_mask (true) keeps attention inside documents, but experts of model.moe.router.kind (",
                            model.moe.router_kind(), ") choose among all tokens of a sequence: its documents still compete for them"));
  }
  if (config.train.steps > 0 && config.optimizer.warmup_steps >= config.train.steps) {
    doubts.push_back(concat("optimizer.warmup_steps (", config.optimizer.warmup_steps, ") is not below train.steps (", config.train.steps,
                            "): the learning rate rises to the run's end, and the schedule never begins"));
  }
  return doubts;
}

}  // namespace pimoe
