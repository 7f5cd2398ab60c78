/// The forecast against what training measures of itself: StepRecord::activation_bytes, and the buckets as they are.

#include "train/forecast.h"

#include "base/text.h"
#include "ops/routed_mlp.h"
#include "parallel/device.h"
#include "support/ranks.h"
#include "train/gradient_step.h"
#include "train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

namespace pimoe {
namespace {

/// oneDNN keeps a kernel for each shape of a product; what it throws out, and compiles again, would move the heap that is measured.
const bool kKeepsAllKernels = setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096", /*overwrite=*/1) == 0;

/// A few MB of activations, so that the heap's own noise is small beside them.
TrainConfig small_config() {
  TrainConfig config;
  config.mesh.device = DeviceChoice::kCpu;
  config.model.layers = 3;
  config.model.width = 64;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.sequence_length = 128;
  config.model.vocabulary = 320;
  config.model.feed_forward_width = 96;
  config.model.moe.first_dense_layers = 1;
  config.model.moe.experts = 12;  // divisible by 1, 2, 3 and 4
  config.model.moe.choices = 2;
  config.model.moe.expert_width = 80;
  config.train.global_batch = 13;  // uneven over 2, 3 and 4 ranks
  config.train.micro_batch = 4;
  config.train.precision = Precision::kFloat32;
  return config;
}

at::ScalarType dtype_of_config(const TrainConfig& config) { return compute_dtype(config.train.precision, c10::DeviceType::CPU); }

/// The slots that fill the fullest rank: as many of rank 0's experts as a token may take, the dearest first.
/// Under a capacity all of rank 0's, none of which can take every token.
std::vector<int64_t> experts_of_worst(const MoeConfig& moe, int ranks) {
  const ExpertPlacement placement(moe.expert_groups(), ranks, 0);
  std::vector<std::pair<int64_t, int64_t>> dearest;  // minus kept bytes, expert
  for (size_t bank = 0; bank < placement.banks().size(); ++bank) {
    const ExpertPlacement::Bank& at = placement.banks()[bank];
    const int64_t cost = kept_bytes_of_expert_row(moe.expert_groups()[bank], {}, false, true);
    for (int64_t expert = 0; expert < at.local; ++expert) dearest.emplace_back(-cost, at.first + expert);
  }
  std::sort(dearest.begin(), dearest.end());
  if (moe.capacity_factor == 0) dearest.resize(std::min<size_t>(dearest.size(), static_cast<size_t>(moe.choices)));
  std::vector<int64_t> experts;
  for (const auto& [cost, expert] : dearest) experts.push_back(expert);
  return experts;
}

struct Measured {
  int64_t kept = 0;   ///< least of several steps: the heap also fills caches of its own
  double rows = 0.0;  ///< a MoE layer's and micro-step's, on rank 0 of the fullest micro-step
  int64_t weights = 0;
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t state_on_heap = 0;
};

int64_t heap() { return memory_use(c10::DeviceType::CPU).now_bytes; }

Measured measure(const TrainConfig& config, const ProcessMesh& mesh, bool worst) {
  EXPECT_TRUE(kKeepsAllKernels);
  Measured measured;
  Transformer model(config.model, dtype_of_config(config), mesh);
  const int64_t before = heap();
  ParameterBuckets buckets(model.parameters(), mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  Optimizer optimizer(buckets, config.optimizer, mesh);
  measured.state_on_heap = heap() - before;
  optimizer.initialize(1234);
  GradientReducer reducer(buckets, mesh);
  measured.weights = buckets.weight_bytes();
  measured.gradients = buckets.gradient_bytes();
  measured.optimizer = optimizer.state_bytes();
  if (worst) {
    for (MoELayer* layer : model.moe_layers()) {
      for (const int64_t expert : experts_of_worst(config.model.moe, mesh.expert_parallel())) layer->router().bias()[expert].fill_(1e3);
    }
  }

  const int64_t length = config.model.sequence_length;
  const StepPlan plan(config.train.global_batch, mesh.size(), config.train.micro_batch);
  at::manual_seed(17 + mesh.rank());
  // The first micro-step alone: the fullest, as the forecast has it. The same sequences in every step, so that the shapes of products repeat
  // and oneDNN compiles nothing new while the heap is read.
  const auto [first, count] = plan.share(0, mesh.rank());
  MicroBatch batch;
  batch.tokens = at::randint(config.model.vocabulary, {count, length}, at::kLong);
  batch.targets = at::randint(config.model.vocabulary, {count, length}, at::kLong);
  batch.first_sequence = first;
  batch.global_sequences = plan.micro_step_sequences(0);
  batch.is_last = true;
  for (int64_t step = 0; step < 4; ++step) {
    const StepTerms terms{.seed = 1234,
                          .step = 0,  // the jitter repeats
                          .step_tokens = static_cast<double>(config.train.global_batch * length),
                          .step_targets = static_cast<double>(config.train.global_batch * length),
                          .loss_scale = 1.0,
                          .recompute = config.train.recompute,
                          .balance = config.model.moe.balance};
    double rows = 0.0;
    const auto count_rows = [&](const MicroBatch&, const Prediction& prediction) {
      for (const RoutingRecord& record : prediction.routing) {
        rows += static_cast<double>(record.rows.item<int64_t>()) / static_cast<double>(prediction.routing.size());
      }
    };
    const StepSums sums = accumulate_gradients(model, reducer, mesh, {batch}, terms, count_rows);
    StepRecord record;
    std::vector<at::Tensor> biases;
    for (MoELayer* layer : model.moe_layers()) biases.push_back(layer->router().bias());
    sums.finish(record, biases);
    if (step == 0) continue;
    if (step == 1 || *record.activation_bytes < measured.kept) {
      measured.kept = *record.activation_bytes;
      measured.rows = rows;
    }
  }
  return measured;
}

/// Prints a line for docs/check.md where PIMOE_SHOW_FORECAST is set.
void show(const std::string& what, int ranks, int64_t foretold, int64_t measured) {
  if (std::getenv("PIMOE_SHOW_FORECAST") == nullptr) return;
  std::cout << "| " << what << " | " << ranks << " | " << grouped(foretold) << " | " << grouped(measured) << " | "
            << fixed(100.0 * (static_cast<double>(foretold) / static_cast<double>(measured) - 1.0), 1) << " % |\n";
}

/// Under two ranks every case; one, three and four ranks have each case once between them, each its own third. PIMOE_ALL_CASES=1: every case under
/// every number.
bool has_its_turn(int ranks) {
  static int64_t cases = 0;
  const int64_t third = ranks == 1 ? 0 : ranks - 2;
  return std::getenv("PIMOE_ALL_CASES") != nullptr || ranks == 2 || ranks > 4 || cases++ % 3 == third;
}

/// Compares on rank 0 of the world, in a layout over all ranks.
void expect_foretold(const std::string& what, const TrainConfig& config, bool worst) {
  if (!has_its_turn(test_session().world()->size())) return;
  const auto mesh = world_mesh(config.mesh, config.model.moe.common_divisor());
  const Measured measured = measure(config, *mesh, worst);
  const Forecast forecast(config, {.ranks = mesh->size(),
                                   .node_ranks = mesh->size(),
                                   .fuses_mlp = has_routed_mlp_kernels(mesh->device()),
                                   .dtype = dtype_of_config(config)});
  if (mesh->rank() != 0) return;
  SCOPED_TRACE(concat(what, worst ? ", all tokens on one rank" : ""));

  // A router as it begins is not even: the rows that came stand in for its skew.
  const auto balanced = static_cast<double>(std::max<int64_t>(1, forecast.rows(1.0).all_rows()));
  const bool capped = config.model.moe.capacity_factor > 0;  // the worst is a bound: it would take experts that are even among themselves
  const double skew = worst && !capped ? kWorstSkew : config.model.moe_layers() > 0 ? measured.rows / balanced : 1.0;
  const MemoryForecast foretold = forecast.memory(skew);
  if (worst && capped) {
    EXPECT_GE(static_cast<double>(forecast.rows(kWorstSkew).all_rows()), measured.rows) << "rows at worst";
    EXPECT_GE(forecast.memory(kWorstSkew).activations.kept(), foretold.activations.kept());
  } else if (worst) {
    EXPECT_NEAR(static_cast<double>(forecast.rows(kWorstSkew).all_rows()), measured.rows, 1.0 + mesh->size()) << "rows at worst";
  }

  EXPECT_EQ(foretold.weights, measured.weights);
  EXPECT_EQ(foretold.gradients, measured.gradients);
  EXPECT_EQ(foretold.optimizer, measured.optimizer);
  EXPECT_NEAR(static_cast<double>(foretold.state()), static_cast<double>(measured.state_on_heap), 1 << 16)
      << "the three of them, on the heap";

  const auto kept = static_cast<double>(foretold.activations.kept());
  show(what + (worst ? ", worst" : ""), mesh->size(), foretold.activations.kept(), measured.kept);
  // Autograd's nodes, sums over layers, and pages that are not full; latent attention has twice as many of its own.
  const double constant = 50e3 + (config.model.is_latent() ? 75e3 : 40e3) * static_cast<double>(config.model.layers);
  EXPECT_NEAR(kept, static_cast<double>(measured.kept), 0.02 * static_cast<double>(measured.kept) + constant);
}

TrainConfig with(const std::function<void(TrainConfig&)>& change) {
  TrainConfig config = small_config();
  change(config);
  return config;
}

/// What a number's size, or an expert's kind, changes does not depend on how many ranks there are: all of these up to two ranks, beyond a part.
bool on_more_than_two_ranks() { return test_session().world()->size() > 2; }

TEST(Forecast, KeptForBackwardIsWhatTrainingKeepsUnderEveryMemorySetting) {
  for (const auto& [precision, precision_name] :
       {std::pair{Precision::kFloat32, "float32"}, {Precision::kBfloat16, "bfloat16"}, {Precision::kFloat64, "float64"}}) {
    if (precision == Precision::kFloat64 && on_more_than_two_ranks()) continue;
    for (const auto& [recompute, recompute_name] :
         {std::pair{RecomputePolicy::kNone, "none"}, {RecomputePolicy::kMoe, "moe"}, {RecomputePolicy::kFull, "full"}}) {
      for (const auto& [memory, memory_name] :
           {std::pair{MoeMemory::kFast, "fast"}, {MoeMemory::kBalanced, "balanced"}, {MoeMemory::kLean, "lean"}}) {
        TrainConfig config = small_config();
        config.train.precision = precision;
        config.train.recompute = recompute;
        config.model.moe.memory = memory;
        const std::string what = concat(precision_name, ", recompute ", recompute_name, ", memory ", memory_name);
        expect_foretold(what, config, /*worst=*/false);
        expect_foretold(what, config, /*worst=*/true);
      }
    }
  }
}

TEST(Forecast, KeptForBackwardIsWhatEachRouterKeeps) {
  const std::vector<std::pair<const char*, std::function<void(TrainConfig&)>>> routers = {
      {"top-k, then softmax", [](auto& c) { c.model.moe.router.pre_softmax = false; }},
      {"top-k, then softmax, tempered and scaled",
       [](auto& c) {
         c.model.moe.router.pre_softmax = false;
         c.model.moe.router.temperature = 1.3;
         c.model.moe.router.route_scale = 2.0;
       }},
      {"softmax as it is", [](auto& c) { c.model.moe.router.renormalize = false; }},
      {"sigmoid in groups, scaled",
       [](auto& c) {
         c.model.moe.router.kind = RouterKind::kSigmoid;
         c.model.moe.router.groups = 3;
         c.model.moe.router.group_choices = 2;
         c.model.moe.router.route_scale = 2.5;
       }},
      {"jitter, projection, bias, sequence loss",
       [](auto& c) {
         c.model.moe.router.jitter = 0.1;
         c.model.moe.router.projection = 48;
         c.model.moe.router.linear_bias = true;
         c.model.moe.balance.sequence_loss = 0.1;
       }},
      {"expert choice", [](auto& c) { c.model.moe.router.kind = RouterKind::kExpertChoice; }},
      {"hash", [](auto& c) { c.model.moe.router.kind = RouterKind::kHash; }},
      {"uniform", [](auto& c) { c.model.moe.router.kind = RouterKind::kUniform; }},
      {"five choices", [](auto& c) { c.model.moe.choices = 5; }},
  };
  for (const auto& [name, change] : routers) {
    for (const auto& [precision, precision_name] : {std::pair{Precision::kFloat32, "float32"}, {Precision::kBfloat16, "bfloat16"}}) {
      for (const auto& [memory, memory_name] : {std::pair{MoeMemory::kFast, "fast"}, {MoeMemory::kBalanced, "balanced"}}) {
        TrainConfig config = with(change);
        config.train.precision = precision;
        config.model.moe.memory = memory;
        expect_foretold(concat(precision_name, ", ", name, ", memory ", memory_name), config, /*worst=*/false);
      }
    }
    expect_foretold(concat(name, ", recompute moe"), with([&, change = change](auto& c) {
                      change(c);
                      c.train.recompute = RecomputePolicy::kMoe;
                    }),
                    /*worst=*/false);
  }
}

TEST(Forecast, KeptForBackwardIsWhatTypedExpertsKeep) {
  for (const auto& [precision, precision_name] : {std::pair{Precision::kFloat32, "float32"}, {Precision::kBfloat16, "bfloat16"}}) {
    for (const auto& [memory, memory_name] :
         {std::pair{MoeMemory::kFast, "fast"}, {MoeMemory::kBalanced, "balanced"}, {MoeMemory::kLean, "lean"}}) {
      for (const auto& [activation, activation_name] : {std::pair{Activation::kSwiglu, "swiglu"},
                                                        {Activation::kGeglu, "geglu"},
                                                        {Activation::kGelu, "gelu"},
                                                        {Activation::kRelu, "relu"},
                                                        {Activation::kRelu2, "relu2"},
                                                        {Activation::kSilu, "silu"},
                                                        {Activation::kTanh, "tanh"}}) {
        if (on_more_than_two_ranks() && activation != Activation::kSwiglu && activation != Activation::kGelu) continue;
        for (const int64_t layers : {2, 4}) {
          TrainConfig config = small_config();
          config.train.precision = precision;
          config.model.moe.memory = memory;
          config.model.moe.groups = {{.name = "one", .count = 12, .activation = activation, .layers = layers}};
          expect_foretold(concat(precision_name, ", ", activation_name, " of ", layers, ", memory ", memory_name), config, false);
        }
      }
      TrainConfig config = small_config();
      config.train.precision = precision;
      config.model.moe.memory = memory;
      config.model.moe.experts = 24;
      config.model.moe.groups = {{.name = "deep", .count = 12, .activation = Activation::kGelu, .layers = 3, .width = 96},
                                 {.name = "gated", .count = 12, .activation = Activation::kSwiglu}};
      expect_foretold(concat(precision_name, ", two groups, memory ", memory_name), config, /*worst=*/true);
      config.model.moe.router.kind = RouterKind::kUniform;
      expect_foretold(concat(precision_name, ", two groups, uniform, memory ", memory_name), config, /*worst=*/false);
    }
  }
}

TEST(Forecast, KeptForBackwardIsWhatLimitsLeave) {
  const std::vector<std::pair<const char*, std::function<void(TrainConfig&)>>> limits = {
      {"rows travel", [](auto& c) { c.model.moe.exchange = MoeExchange::kRows; }},
      {"rows travel, gates early, rank budget 1.25",
       [](auto& c) {
         c.model.moe.exchange = MoeExchange::kRows;
         c.model.moe.memory = MoeMemory::kBalanced;
         c.model.moe.rank_budget = 1.25;
       }},
      {"tokens are written directly", [](auto& c) { c.model.moe.exchange = MoeExchange::kDirect; }},
      {"capacity 1.25", [](auto& c) { c.model.moe.capacity_factor = 1.25; }},
      {"capacity 1.25, padded",
       [](auto& c) {
         c.model.moe.capacity_factor = 1.25;
         c.model.moe.capacity_pad = true;
       }},
      {"rank budget 1.25 in rounds", [](auto& c) { c.model.moe.rank_budget = 1.25; }},
      {"rank budget 1.25, the rest dropped",
       [](auto& c) {
         c.model.moe.rank_budget = 1.25;
         c.model.moe.rank_overflow = RankOverflow::kDrop;
       }},
      {"validate full", [](auto& c) { c.model.moe.checks = MoeValidate::kFull; }},
      {"shared and fallback",
       [](auto& c) {
         c.model.moe.shared_width = 40;
         c.model.moe.fallback_width = 24;
       }},
  };
  for (const auto& [name, change] : limits) {
    for (const RecomputePolicy recompute : {RecomputePolicy::kNone, RecomputePolicy::kMoe}) {
      TrainConfig config = with(change);
      config.train.recompute = recompute;
      const std::string what = concat(name, recompute == RecomputePolicy::kNone ? "" : ", recompute moe");
      expect_foretold(what, config, /*worst=*/false);
      expect_foretold(what, config, /*worst=*/true);
      config.train.precision = Precision::kBfloat16;
      expect_foretold(what + ", bfloat16", config, /*worst=*/true);
    }
  }
}

TEST(Forecast, KeptForBackwardIsWhatTheRestOfTheModelKeeps) {
  const auto expect = [](const char* what, const std::function<void(TrainConfig&)>& change) {
    for (const RecomputePolicy recompute : {RecomputePolicy::kNone, RecomputePolicy::kFull}) {
      TrainConfig config = with(change);
      config.train.recompute = recompute;
      expect_foretold(concat(what, recompute == RecomputePolicy::kNone ? "" : ", recompute full"), config, /*worst=*/false);
      config.train.precision = Precision::kBfloat16;
      expect_foretold(concat(what, recompute == RecomputePolicy::kNone ? "" : ", recompute full", ", bfloat16"), config, /*worst=*/false);
    }
  };
  expect("a dense model", [](auto& c) { c.model.moe.experts = 0; });
  expect("QK-norm", [](auto& c) { c.model.qk_norm = true; });
  expect("QK-norm over the projection", [](auto& c) {
    c.model.qk_norm = true;
    c.model.qk_norm_over = QkNormOver::kProjection;
  });
  expect("biases, a gated shared expert", [](auto& c) {
    c.model.qkv_bias = true;
    c.model.moe.shared_width = 48;
    c.model.moe.shared_gate = true;
  });
  expect("latent attention, values narrower than keys",
         [](auto& c) { c.model.latent = {.kv_rank = 32, .query_rank = 40, .plain_width = 16, .rotary_width = 8, .value_width = 16}; });
  expect("latent attention, values as wide as keys",
         [](auto& c) { c.model.latent = {.kv_rank = 32, .query_rank = 0, .plain_width = 16, .rotary_width = 8, .value_width = 24}; });
  expect("as many key heads", [](auto& c) { c.model.kv_heads = 4; });
  expect("wide heads, tied", [](auto& c) {
    c.model.head_width = 32;
    c.model.tie_embeddings = true;
  });
  expect("a large vocabulary", [](auto& c) { c.model.vocabulary = 5000; });
  expect("experts on every rank", [](auto& c) { c.mesh.expert_parallel = 1; });
}

}  // namespace
}  // namespace pimoe
