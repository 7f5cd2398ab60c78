#include "app/serve_suite.h"

#include "app/preset_suite.h"
#include "base/number_text.h"
#include "base/random.h"
#include "base/text.h"
#include "bench/bench.h"
#include "bench/report.h"
#include "model/generation.h"
#include "parallel/parameter_buckets.h"
#include "serve/engine.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

namespace pimoe {
namespace {

constexpr int64_t kBatches[] = {1, 8, 64};
constexpr int64_t kPrompt = 16;  ///< tokens
constexpr int64_t kAdded = 48;

/// The configured model with its initial values.
struct RandomModel {
  RandomModel(const ModelConfig& config, const Bench& bench)
      : model(config, bench.dtype(), bench.mesh()),
        buckets(model.parameters(), bench.mesh(), ParameterBuckets::kBucketBytes, /*trained=*/false) {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : model.parameters()) {
      const at::Tensor values = at::empty(parameter->box.shape, at::kDouble);
      initial_values(*parameter, {parameter->name, parameter->box, 0, parameter->box.numel()},
                     static_cast<uint64_t>(bench.config().run.seed), values.mutable_data_ptr<double>());
      parameter->value.copy_(values);
    }
  }

  Transformer model;
  ParameterBuckets buckets;
};

/// Sends so many requests at once, and waits for the last.
void serve(Engine& engine, int64_t requests, int64_t prompt, int64_t added, int64_t vocabulary) {
  std::mutex mutex;
  std::condition_variable changed;
  int64_t left = requests;
  for (int64_t request = 0; request < requests; ++request) {
    GenerationRequest asked;
    for (int64_t at = 0; at < prompt; ++at) {
      asked.prompt.push_back(static_cast<int64_t>(random_bits(static_cast<uint64_t>(request), static_cast<uint64_t>(at)) >> 1) %
                             vocabulary);
    }
    asked.max_tokens = added;
    asked.sampling.temperature = 0;
    engine.submit(std::move(asked), [&](const GenerationUpdate& update) {
      if (!update.ending) return;
      const std::lock_guard lock(mutex);
      --left;
      changed.notify_all();
    });
  }
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return left == 0; });
}

}  // namespace

const std::vector<Suite>& suites_of_pimoe() {
  static const std::vector<Suite> suites = [] {
    std::vector<Suite> all = all_suites();
    all.push_back({"serve", "the engine of `pimoe serve`: new tokens/s of 1, 8 and 64 greedy requests at a time", run_serve_suite});
    all.push_back({"presets",
                   "basic, enhanced, advanced, production: a layer, a short training and serving with each, at shapes of their own",
                   run_preset_suite, false, /*only_by_name=*/true});
    return all;
  }();
  return suites;
}

ServingSpeed measure_serving(const Bench& bench, const ModelConfig& config, int64_t requests) {
  const RandomModel random(config, bench);
  ServedModel served;
  served.model = &random.model;
  served.mesh = &bench.mesh();
  ServingSpeed speed;
  speed.prompt_tokens = std::min(kPrompt, std::max<int64_t>(1, config.sequence_length / 2));
  speed.new_tokens = std::min(kAdded, config.sequence_length - speed.prompt_tokens);
  EngineLimits limits;
  limits.max_batch = requests;
  limits.prefix_cache = false;  // the same prompts again and again would not be computed
  Engine engine(served, {}, limits);
  // Other ranks do not know how often rank 0 asks: they follow, and have no time of their own.
  if (bench.mesh().rank() == 0) {
    bench.log().info(concat("measuring ", requests, requests == 1 ? " request" : " requests", " at a time"));
    std::vector<double> samples;
    serve(engine, requests, speed.prompt_tokens, speed.new_tokens, config.vocabulary);
    double sum = 0.0;
    const size_t least = bench.effort().seconds > 0 ? 3 : 1;
    while (samples.size() < least || (sum < bench.effort().seconds && samples.size() < 200)) {
      const auto begin = std::chrono::steady_clock::now();
      serve(engine, requests, speed.prompt_tokens, speed.new_tokens, config.vocabulary);
      samples.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      sum += samples.back();
    }
    speed.seconds = spread_of(samples);
  } else {
    engine.follow();
    speed.seconds = {.median = 1.0, .low = 1.0, .high = 1.0, .repetitions = 1};  // no row of it is read
  }
  speed.new_tokens_per_second = static_cast<double>(requests * speed.new_tokens) / speed.seconds.median;
  return speed;
}

void run_serve_suite(Bench& bench) {
  ModelConfig config = bench.config().model;
  for (const std::string& note : leave_out_what_batches_change(config)) bench.log().info(note);
  if (config.moe_layers() > 0 && routes_by_batch(config.moe)) {
    bench.log().info("such a model is not served: left out");
    return;
  }
  double alone = 0.0;
  for (const int64_t batch : kBatches) {
    const ServingSpeed speed = measure_serving(bench, config, batch);
    if (batch == 1) alone = speed.new_tokens_per_second;
    BenchRow row{.suite = "serve", .name = concat(batch, batch == 1 ? " request" : " requests"), .seconds = speed.seconds};
    row.values["requests"] = batch;
    row.values["prompt_tokens"] = speed.prompt_tokens;
    row.values["new_tokens"] = speed.new_tokens;
    row.values["new_tokens_per_second"] = speed.new_tokens_per_second;
    row.values["times_alone"] = speed.new_tokens_per_second / alone;
    row.summary = concat(grouped(static_cast<int64_t>(speed.new_tokens_per_second)), " new tokens/s");
    if (batch > 1) {
      row.details.push_back(concat(fixed(speed.new_tokens_per_second / alone, 2), " times as many as one request at a time"));
    }
    bench.add(std::move(row));
  }
}

}  // namespace pimoe
