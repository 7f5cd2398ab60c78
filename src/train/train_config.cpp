#include "train/train_config.h"

#include "base/text.h"
#include "data/tokenizer.h"
#include "parallel/device.h"

namespace pimoe {

void RunConfig::fields(FieldVisitor& visit) {
  visit.path("directory", directory, "run folder; empty: runs/<name of the configuration file>");
  visit.integer("seed", seed, {.at_least = 0}, "seed of initial weights and data order");
  visit.flag("deterministic", deterministic, "refuse operations whose bits differ from run to run");
}

void LoopConfig::fields(FieldVisitor& visit) {
  visit.integer("steps", steps, {.at_least = 0}, "optimizer steps");
  visit.integer("global_batch", global_batch, {.at_least = 1}, "sequences of a step, over all ranks");
  visit.integer("micro_batch", micro_batch, {.at_least = 1}, "sequences that a rank computes at a time, at most");
  visit.choice("precision", precision,
               {{"float64", Precision::kFloat64},
                {"float32", Precision::kFloat32},
                {"bfloat16", Precision::kBfloat16},
                {"float16", Precision::kFloat16},
                {"auto", Precision::kAuto}},
               "of weights and activations in the products; master weights, norms, router and losses are at least float32");
  visit.choice("recompute", recompute, {{"none", RecomputePolicy::kNone}, {"moe", RecomputePolicy::kMoe}, {"full", RecomputePolicy::kFull}},
               "what backward computes again instead of keeping");
  visit.integer("validate_every", validate_every, {.at_least = 0}, "steps between validations; 0: only at the end");
  visit.integer("validation_batches", validation_batches, {.at_least = 1}, "global batches of a validation");
  visit.integer_or_auto("threads", threads, {.at_least = 1},
                        "CPU threads of a rank; auto: OMP_NUM_THREADS, else the cores it is bound to, else cores / ranks on the node");
}

void LogConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 1}, "steps between log lines");
  visit.nested("routing", routing);
}

void TrainConfig::fields(FieldVisitor& visit) {
  visit.nested("run", run);
  visit.nested("mesh", mesh);
  visit.nested("data", data);
  visit.nested("model", model);
  visit.nested("train", train);
  visit.nested("optimizer", optimizer);
  visit.nested("checkpoint", checkpoint);
  visit.nested("log", log);
}

namespace {

void validate(const TrainConfig& config, const ConfigOrigins& origins) {
  Violations violations;
  config.model.validate(violations);
  if (config.data.train.empty()) violations.add("data.train", "must name a corpus: the PREFIX of `pimoe data build --output PREFIX`");
  if (config.model.vocabulary == 0 && config.data.tokenizer.empty()) {
    violations.add("model.vocabulary", "(0) takes the tokenizer's, and data.tokenizer is empty: set one of them");
  }
  const int64_t shards = config.mesh.expert_parallel;
  if (shards > 0 && config.model.moe.experts % shards != 0) {
    violations.add("model.moe.experts",
                   concat("(", config.model.moe.experts, ") must be divisible by mesh.expert_parallel (", shards, ")"));
  } else if (shards > 0) {
    for (size_t index = 0; index < config.model.moe.groups.size(); ++index) {
      const int64_t count = config.model.moe.groups[index].count;
      if (count % shards == 0) continue;
      violations.add(concat("model.moe.groups[", index, "].count"),
                     concat("(", count, ") must be divisible by mesh.expert_parallel (", shards, "): a group is spread evenly"));
    }
  }
  refuse(violations, origins);
}

std::function<void(FieldVisitor&)> fields_of(TrainConfig& config) {
  return [&config](FieldVisitor& visit) { config.fields(visit); };
}

}  // namespace

TrainConfig load_train_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  TrainConfig config;
  const ConfigOrigins origins = load_fields(file, overrides, fields_of(config));
  validate(config, origins);
  if (config.run.directory.empty()) config.run.directory = std::filesystem::path("runs") / file.stem();
  if (config.model.vocabulary == 0) config.model.vocabulary = Tokenizer(config.data.tokenizer).vocabulary();
  return config;
}

TrainConfig parse_train_config(const std::string& yaml, const std::string& name_for_messages) {
  TrainConfig config;
  validate(config, load_fields(yaml, name_for_messages, {}, fields_of(config)));
  return config;
}

std::string to_yaml(TrainConfig config) { return print_fields(fields_of(config)); }

at::ScalarType compute_dtype(Precision precision, c10::Device device) {
  switch (precision) {
    case Precision::kFloat64: return at::kDouble;
    case Precision::kFloat32: return at::kFloat;
    case Precision::kBfloat16: return at::kBFloat16;
    case Precision::kFloat16: return at::kHalf;
    case Precision::kAuto: break;
  }
  return has_fast_bfloat16(device) ? at::kBFloat16 : at::kFloat;
}

}  // namespace pimoe
