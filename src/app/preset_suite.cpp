#include "app/preset_suite.h"

#include "app/serve_suite.h"
#include "base/errors.h"
#include "base/random.h"
#include "base/text.h"
#include "bench/layer_under_test.h"
#include "bench/report.h"
#include "model/generation.h"
#include "train/precision.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace pimoe {
namespace {

/// What the guide says of each; where it was measured, and of what, nobody knows.
struct Claim {
  const char* preset;
  const char* name;  ///< in the guide
  double latency_ms, tokens_per_second, megabytes, utilization;
};
constexpr std::array kClaims = {
    Claim{"basic", "basic", 15.2, 2847, 45.3, 0.75},
    Claim{"enhanced", "enhanced", 12.8, 3156, 38.7, 0.82},
    Claim{"advanced", "optimized", 10.1, 3987, 32.1, 0.89},
    Claim{"production", "production", 8.5, 4705, 28.4, 0.92},
};

constexpr int64_t kExperts = 8;
constexpr const char* kLayer =
    "model: {layers: 1, width: 512, heads: 8, kv_heads: 8, sequence_length: 128, vocabulary: 256,\n"
    "        moe: {experts: 8, choices: 2, expert_width: 1024}}\n"
    "train: {micro_batch: 2, global_batch: 2, validate_every: 0}\n";
constexpr const char* kTrained =  // the quickstart's model, with sequences half as long
    "model: {layers: 4, width: 256, heads: 4, kv_heads: 4, sequence_length: 128, vocabulary: 256,\n"
    "        moe: {experts: 8, choices: 2, expert_width: 256}}\n"
    "train: {micro_batch: 8, global_batch: 8, validate_every: 0}\n"
    "optimizer: {learning_rate: 2e-3, warmup_steps: 10}\n";
constexpr int64_t kSteps = 60;
constexpr int64_t kUntimedSteps = 24;  ///< where no time is to be spent: enough to see that it learns
constexpr int64_t kLastSteps = 10;     ///< whose mean loss is the quality; no text comes twice, so that it is one of text that was not seen
constexpr int64_t kRequests = 8;

/// Text in which each of 256 tokens has four successors, with chances of 1/2, 1/4, 1/8 and 1/8: whoever knows them has a loss of 1.213 nats.
constexpr double kLeastLoss = 1.75 * 0.69314718055994531;

/// @returns [count, length + 1] rows of the step, the same in every layout and for every preset
at::Tensor rows_of_text(int64_t step, int64_t first, int64_t count, const TrainConfig& config) {
  const int64_t length = config.model.sequence_length + 1;
  at::Tensor rows = at::empty({count, length}, at::kLong);
  int64_t* token = rows.mutable_data_ptr<int64_t>();
  for (int64_t row = 0; row < count; ++row) {
    const auto key = static_cast<uint64_t>(step * config.train.global_batch + first + row);
    auto now = static_cast<int64_t>(random_bits(key, 0) % 256);
    for (int64_t at = 0; at < length; ++at) {
      *token++ = now;
      const uint64_t drawn = random_bits(key, static_cast<uint64_t>(at + 1)) % 8;
      const uint64_t successor = drawn < 4 ? 0 : drawn < 6 ? 1 : drawn - 4;
      constexpr uint64_t kLanguage = 0x6c616e6775616765;
      now = static_cast<int64_t>(random_bits(kLanguage, static_cast<uint64_t>(now) * 4 + successor) % 256);
    }
  }
  return rows;
}

/// What is measured of a preset.
struct Figures {
  Measurement layer;
  double tokens_per_second = 0.0;  ///< of the layer's forward pass, over all ranks
  LayerUnderTest::Memory layer_memory;
  double lost_share = 0.0;  ///< of tokens, to one broken expert
  double first_loss = 0.0, loss = 0.0;
  double used = 0.0;            ///< e^entropy of the experts' loads in the last steps, over the experts: mean over layers
  int64_t step_kept_bytes = 0;  ///< for backward of a training step's micro-batch
  double step_seconds = 0.0;    ///< median
  ServingSpeed serving;
  const char* dtype = "";
};

int64_t steps_of(const Bench& bench) { return bench.effort().seconds > 0 ? kSteps : kUntimedSteps; }

/// The configuration that a user would have who writes `preset: NAME` over these shapes, on this bench's mesh.
TrainConfig config_of(const Claim& claim, const char* shapes, const char* what, const Bench& bench) {
  TrainConfig config = load_train_config(ConfigSource{concat("preset: ", claim.preset, "\n", shapes), what},
                                         {concat("train.steps=", steps_of(bench))}, /*needs_corpus=*/false);
  config.run = bench.config().run;
  config.mesh = bench.config().mesh;
  return config;
}

void measure_layer(const Claim& claim, Bench& bench, Figures& figures) {
  const TrainConfig config = config_of(claim, kLayer, "the suite's layer", bench);
  const Bench own(config, agreed_dtype(config.train.precision, bench.mesh()), bench.mesh(), bench.log(),
                  {.effort = bench.effort(), .sizes = bench.sizes()});
  LayerUnderTest layer(own);
  figures.dtype = dtype_name(own.dtype());
  figures.layer = own.measure(Clock::kDevice, [&](Parts& parts) { layer.run(parts); });
  figures.tokens_per_second = static_cast<double>(layer.all_tokens()) / figures.layer.part("forward").seconds.median;
  const LayerUnderTest::Memory memory = layer.memory();
  figures.layer_memory = {.kept_bytes = own.most(memory.kept_bytes), .peak_bytes = own.most(memory.peak_bytes)};
  figures.lost_share = static_cast<double>(own.total(layer.tokens_lost_to_a_broken_expert())) / static_cast<double>(layer.all_tokens());
}

void train_briefly(const TrainConfig& config, const Bench& own, Figures& figures) {
  Learner learner(config, own.dtype(), LossScaler::for_float16(), own.mesh());
  learner.optimizer().initialize(static_cast<uint64_t>(config.run.seed));
  std::vector<double> seconds;
  const int64_t steps = steps_of(own);
  for (int64_t step = 0; step < steps; ++step) {
    const std::vector<MicroBatch> batches =
        micro_batches_of(config, own.mesh(), [&](int64_t first, int64_t count) { return rows_of_text(step, first, count, config); });
    const TimeMark begin = TimeMark::now(c10::Device(c10::DeviceType::CPU));
    const StepTerms terms = learner.begin_step(config.train.global_batch * config.model.sequence_length);
    const bool is_last = step + 1 == steps;  // looked at, so that it runs as ever: a replayed one (StepGraph) counts no memory
    const StepSums sums =
        learner.accumulate_gradients(batches, terms, is_last ? [](const MicroBatch&, const Prediction&) {} : PredictionObserver());
    const StepRecord record = learner.update(sums);
    synchronize(own.mesh().device());
    seconds.push_back(TimeMark::now(c10::Device(c10::DeviceType::CPU)).milliseconds_since(begin) / 1000);
    if (step == 0) figures.first_loss = record.loss;
    if (is_last) figures.step_kept_bytes = own.most(record.activation_bytes.value_or(0));
    if (step < steps - kLastSteps) continue;
    figures.loss += record.loss / kLastSteps;
    for (const double entropy : record.routing->entropy) {
      const double used = std::exp(entropy * std::log(static_cast<double>(kExperts))) / kExperts;
      figures.used += used / static_cast<double>(record.routing->entropy.size()) / kLastSteps;
    }
  }
  figures.step_seconds = spread_of(seconds).median;
}

Figures figures_of(const Claim& claim, Bench& bench) {
  Figures figures;
  bench.log().info(concat("measuring the preset ", claim.preset, ": a layer"));
  measure_layer(claim, bench, figures);
  const TrainConfig config = config_of(claim, kTrained, "the suite's model", bench);
  const Bench own(config, agreed_dtype(config.train.precision, bench.mesh()), bench.mesh(), bench.log(),
                  {.effort = bench.effort(), .sizes = bench.sizes()});
  bench.log().info(concat("measuring the preset ", claim.preset, ": ", steps_of(own), " steps of training"));
  train_briefly(config, own, figures);
  ModelConfig served = config.model;
  leave_out_what_batches_change(served);
  figures.serving = measure_serving(own, served, kRequests);
  return figures;
}

BenchRow row_of(const Claim& claim, const Figures& figures, int64_t steps) {
  const Spread& forward = figures.layer.part("forward").seconds;
  BenchRow row{.suite = "presets", .name = claim.preset, .seconds = forward};
  row.values["precision"] = figures.dtype;
  put_seconds(row.values, figures.layer.seconds, "forward_and_backward_");
  row.values["tokens_per_second"] = figures.tokens_per_second;
  row.values["kept_bytes"] = figures.layer_memory.kept_bytes;
  row.values["peak_bytes"] = figures.layer_memory.peak_bytes;
  row.values["tokens_lost_to_a_broken_expert"] = figures.lost_share;
  row.values["training_steps"] = steps;
  row.values["training_step_seconds"] = figures.step_seconds;
  row.values["training_step_kept_bytes"] = figures.step_kept_bytes;
  row.values["first_loss"] = figures.first_loss;
  row.values["loss"] = figures.loss;
  row.values["least_loss"] = kLeastLoss;
  row.values["experts_used"] = figures.used;
  row.values["served_requests"] = kRequests;
  row.values["served_new_tokens_per_second"] = figures.serving.new_tokens_per_second;
  row.values["claimed"] = {{"name", claim.name},
                           {"latency_ms", claim.latency_ms},
                           {"tokens_per_second", claim.tokens_per_second},
                           {"megabytes", claim.megabytes},
                           {"expert_utilization", claim.utilization}};
  row.summary = concat(grouped(static_cast<int64_t>(figures.tokens_per_second)), " tokens/s, ", figures.dtype);
  row.details = {
      concat("forward and backward ", time_text(figures.layer.seconds.median), ", at most ", bytes_text(figures.layer_memory.peak_bytes),
             "; lost to a broken expert: ", percent_text(figures.lost_share), " of tokens"),
      concat("a training step ", time_text(figures.step_seconds), ", kept for backward ", bytes_text(figures.step_kept_bytes), "; loss ",
             fixed(figures.first_loss, 3), " -> ", fixed(figures.loss, 3), " (at least ", fixed(kLeastLoss, 3), ")"),
      concat("served: ", kRequests, " requests at a time, ", grouped(static_cast<int64_t>(figures.serving.new_tokens_per_second)),
             " new tokens/s")};
  return row;
}

std::string cell(const std::string& text, size_t width) { return std::string(width - std::min(width, text.size()), ' ') + text; }

/// The guide's table, each of its figures behind ours.
std::vector<std::string> table_of(const std::vector<Figures>& all) {
  std::vector<std::string> lines = {
      concat("            ", cell("latency", 18), cell("tokens/s", 18), cell("kept, MB", 14), cell("experts used", 15), cell("loss", 8)),
      concat("            ", cell("here (guide)", 18), cell("here (guide)", 18), cell("here (guide)", 14), cell("here (guide)", 15),
             cell("here", 8))};
  for (size_t index = 0; index < all.size(); ++index) {
    const Claim& claim = kClaims[index];
    const Figures& ours = all[index];
    std::string name = claim.preset;
    name.resize(12, ' ');
    lines.push_back(
        concat(name, cell(concat(time_text(ours.layer.part("forward").seconds.median), " (", fixed(claim.latency_ms, 1), ")"), 18),
               cell(concat(grouped(static_cast<int64_t>(ours.tokens_per_second)), " (",
                           grouped(static_cast<int64_t>(claim.tokens_per_second)), ")"),
                    18),
               cell(concat(fixed(static_cast<double>(ours.step_kept_bytes) / 1e6, 1), " (", fixed(claim.megabytes, 1), ")"), 14),
               cell(concat(fixed(ours.used, 2), " (", fixed(claim.utilization, 2), ")"), 15), cell(fixed(ours.loss, 3), 8)));
  }
  return lines;
}

/// Whether a preset beats the one before it in what it is for; smaller is better in all of these.
BenchRow verdict_of(const std::string& name, const std::string& before, const std::string& what, double ours, double theirs,
                    const std::string& ours_text, const std::string& theirs_text) {
  BenchRow row{.suite = "presets", .name = concat(name, " / ", before)};
  row.values["is_for"] = what;
  row.values["value"] = ours;
  row.values["value_before"] = theirs;
  row.values["beats_the_one_before"] = ours < theirs;
  row.summary = ours < theirs ? "better" : "NOT better";
  row.details = {concat(what, ": ", ours_text, " after ", theirs_text)};
  return row;
}

}  // namespace

void run_preset_suite(Bench& bench) {
  if (kExperts % bench.mesh().expert_parallel() != 0) {
    throw ConfigError(concat("the layer of suite presets has ", kExperts,
                             " experts, which cannot be shared out over mesh.expert_parallel = ", bench.mesh().expert_parallel()));
  }
  std::vector<Figures> all;
  for (const Claim& claim : kClaims) {
    all.push_back(figures_of(claim, bench));
    bench.add(row_of(claim, all.back(), steps_of(bench)));
  }
  BenchRow table{.suite = "presets", .name = "beside the guide's"};
  table.details = table_of(all);
  bench.add(std::move(table));
  const auto seconds = [&](size_t index) { return all[index].layer.seconds.median; };
  const auto kept = [&](size_t index) { return all[index].step_kept_bytes; };
  const auto lost = [&](size_t index) { return all[index].lost_share; };
  bench.add(verdict_of("enhanced", "basic", "speed: the layer forward and backward", seconds(1), seconds(0), time_text(seconds(1)),
                       time_text(seconds(0))));
  bench.add(verdict_of("advanced", "enhanced", "memory: kept for backward of a training step", static_cast<double>(kept(2)),
                       static_cast<double>(kept(1)), bytes_text(kept(2)), bytes_text(kept(1))));
  bench.add(verdict_of("production", "advanced", "safety: tokens lost to a broken expert", lost(3), lost(2), percent_text(lost(3)),
                       percent_text(lost(2))));
}

}  // namespace pimoe
