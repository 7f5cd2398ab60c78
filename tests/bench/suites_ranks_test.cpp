/// Every suite at sizes that take milliseconds: that it ends, on every rank, with the rows and keys that it promises. Times are not judged.

#include "bench/suites.h"

#include "base/errors.h"
#include "base/text.h"
#include "bench/machine.h"
#include "bench/report.h"
#include "model/flops.h"
#include "support/ranks.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

TrainConfig tiny_config() {
  TrainConfig config;
  config.run.directory = std::filesystem::temp_directory_path() / ("pimoe-bench-test-" + std::to_string(test_session().world()->size()));
  config.mesh.device = DeviceChoice::kCpu;
  config.model.layers = 2;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.kv_heads = 1;
  config.model.sequence_length = 8;
  config.model.vocabulary = 23;
  config.model.moe.experts = 12;
  config.model.moe.choices = 2;
  config.model.moe.expert_width = 8;
  config.train.global_batch = 5;
  config.train.micro_batch = 2;
  config.train.precision = Precision::kFloat32;
  return config;
}

BenchOptions tiny() {
  return {.effort = {.seconds = 0.0, .warm_ups = 1, .least = 2, .most = 2},
          .sizes = {.gemm = 16, .copy_bytes = 4096, .link_bytes = {4096}, .disk_bytes = 4096, .corpus_tokens = 64, .data_steps = 2}};
}

class BenchSuites : public testing::Test {
 protected:
  /// @returns the rows of a suite's document, and those of the ceilings that it needed
  Json run(const std::string& name, const TrainConfig& config = tiny_config(), const BenchOptions& options = tiny()) {
    const auto mesh = world_mesh(config.mesh, config.model.moe.common_divisor());
    ranks_ = mesh->size();
    Logger log(mesh->rank());
    Bench bench(config, at::kFloat, *mesh, log, options);
    run_suites(suites_named(name), bench);
    const BenchFacts facts = {built_version(), built_commit(), "pimoe bench " + name, machine_facts(*mesh, at::kFloat), to_yaml(config)};
    for (const std::string& line : split(to_text(facts, bench.rows()), '\n')) EXPECT_LE(line.size(), 100u) << line;
    document_ = to_json(facts, bench.rows());
    for (const std::string& each : mesh->control().all_gather_text(document_.at("rows").dump())) {
      const Json rows = Json::parse(each);
      EXPECT_EQ(rows.size(), document_.at("rows").size()) << "every rank has the same rows";
    }
    return document_.at("rows");
  }

  static Json named(const Json& rows, const std::string& suite, const std::string& name) {
    for (const Json& row : rows) {
      if (row.at("suite") == suite && row.at("name") == name) return row;
    }
    ADD_FAILURE() << "no row " << suite << " " << name << " in " << rows.dump();
    return Json::object();
  }

  static void expect_keys(const Json& row, const std::vector<std::string>& keys) {
    for (const std::string& key : keys) EXPECT_TRUE(row.contains(key)) << key << " in " << row.dump();
  }

  int ranks_ = 1;
  Json document_;
};

const std::vector<std::string> kTimed = {"median_seconds", "low_seconds", "high_seconds", "repetitions"};

TEST_F(BenchSuites, CeilingsAreMeasuredAtTheStartAndAtTheEnd) {
  const Json rows = run("ceilings");
  std::set<std::string> names;
  for (const Json& row : rows) {
    names.insert(row.at("name"));
    expect_keys(row, kTimed);
    EXPECT_EQ(row.at("when") == "end", row.contains("ratio_to_start")) << row.dump();
    const std::string name = row.at("name");
    EXPECT_EQ(row.contains("group"), name.starts_with("all_") || name.starts_with("direct ")) << row.dump();
    const char* const rate = row.contains("flop") ? "tflops" : "gigabytes_per_second";
    expect_keys(row, {rate, concat("best_", rate)});
  }
  std::set<std::string> wanted = {"gemm float32", "copy", "projections", "attention", "experts", "head", "disk write", "disk read"};
  if (ranks_ > 1) wanted.insert({"all_to_all 0 MiB", "direct stores 0 MiB", "all_reduce 0 MiB"});
  EXPECT_EQ(names, wanted);
  EXPECT_EQ(rows.size(), 2 * wanted.size());
}

TEST_F(BenchSuites, AProductThatWouldTakeLongIsASmallerOne) {
  for (const auto& [seconds, side] : std::vector<std::pair<double, double>>{{1e9, 256}, {1e-9, 128}}) {
    BenchOptions options = tiny();
    options.sizes.gemm = 256;
    options.sizes.gemm_seconds = seconds;
    const Json rows = run("ceilings", tiny_config(), options);
    int found = 0;
    for (const Json& row : rows) {
      if (row.at("name") != "gemm float32") continue;
      EXPECT_EQ(row.at("flop"), 2 * side * side * side) << row.at("when");
      ++found;
    }
    EXPECT_EQ(found, 2) << "at the start and at the end";
  }
}

TEST_F(BenchSuites, TheDocumentSaysWhatRanWhere) {
  run("optimizer");
  expect_keys(document_, {"version", "commit", "command", "machine", "config", "rows"});
  expect_keys(document_.at("machine"),
              {"cpu", "cores", "threads", "device", "gpu", "ranks", "hosts", "expert_parallel", "transport", "precision", "libraries"});
  expect_keys(document_.at("machine").at("libraries"), {"libtorch", "mpi", "hdf5"});
  EXPECT_EQ(document_.at("machine").at("ranks"), ranks_);
  EXPECT_EQ(document_.at("machine").at("hosts"), 1);
  EXPECT_FALSE(document_.at("commit").get<std::string>().empty());
}

TEST_F(BenchSuites, LayerIsMeasuredUnderEachRouting) {
  const Json rows = run("layer");
  for (const char* name : {"natural", "balanced", "zipf"}) {
    const Json row = named(rows, "layer", name);
    expect_keys(row, kTimed);
    expect_keys(row, {"tokens_of_a_rank", "tflops", "share_of_gemm", "kept_bytes", "peak_bytes", "maxvio", "forward_median_seconds",
                      "backward_median_seconds", "route_median_seconds", "dispatch_median_seconds", "experts_median_seconds",
                      "combine_median_seconds"});
    EXPECT_EQ(row.at("tokens_of_a_rank"), 2 * 8);
    EXPECT_GT(row.at("kept_bytes").get<int64_t>(), 0);
    // 18 T K D F, and the clock's time is the document's own.
    EXPECT_DOUBLE_EQ(row.at("tflops").get<double>() * 1e12 * row.at("median_seconds").get<double>(), 18.0 * 16 * 2 * 16 * 8);
  }
}

TEST_F(BenchSuites, ARouterThatNothingSteersIsMeasuredAsItIs) {
  for (const RouterKind kind : {RouterKind::kUniform, RouterKind::kHash, RouterKind::kExpertChoice}) {
    TrainConfig config = tiny_config();
    config.model.moe.router.kind = kind;
    std::set<std::string> names;
    for (const Json& row : run("layer", config)) {
      if (row.at("suite") == "layer") names.insert(row.at("name"));
    }
    EXPECT_EQ(names, std::set<std::string>{"natural"});
  }
}

TEST_F(BenchSuites, ModelSaysBothConventionsAndMemory) {
  const Json row = named(run("model"), "model", "training step");
  expect_keys(row, kTimed);
  expect_keys(
      row, {"tokens", "tokens_per_second", "tflops_megatron", "mfu_megatron", "share_of_gemm_megatron", "tflops_torchtitan",
            "mfu_torchtitan", "share_of_gemm_torchtitan", "forward_median_seconds", "backward_median_seconds", "gradients_median_seconds",
            "update_median_seconds", "kept_bytes", "peak_bytes", "state_bytes", "maxvio", "parameters", "first_loss", "skipped_steps"});
  EXPECT_EQ(row.at("tokens"), 5 * 8);
  EXPECT_EQ(row.at("parameters"), parameter_count(tiny_config().model).total);
  const double guess = std::log(static_cast<double>(tiny_config().model.vocabulary));
  EXPECT_NEAR(row.at("first_loss").get<double>(), guess, 0.05 * guess);
  EXPECT_TRUE(row.at("mfu_megatron").is_null()) << "a CPU's peak is not known";
  EXPECT_GT(row.at("tflops_torchtitan").get<double>(), row.at("tflops_megatron").get<double>());
}

TEST_F(BenchSuites, DispatchCountsTheBytesThatCross) {
  const Json rows = run("dispatch");
  const auto once = named(rows, "dispatch", "forward").at("sent_bytes_of_a_rank").get<int64_t>();
  const auto twice = named(rows, "dispatch", "forward and backward").at("sent_bytes_of_a_rank").get<int64_t>();
  if (ranks_ == 1) {
    EXPECT_EQ(once, 0);
    EXPECT_EQ(twice, 0);
  } else {
    // 16 tokens of 16 float32 to at most two ranks each, there and back: at most all of them cross, beside counts, choices and gates.
    EXPECT_GT(once, 0);
    EXPECT_LE(once, ranks_ * 2 * 16 * 2 * 16 * 4 + ranks_ * 12 * 8);
    EXPECT_GT(twice, once);
  }
  // In forward counts, choices, tokens, their gates, and what comes back: each a message to every other rank.
  const Json& forward = named(rows, "dispatch", "forward");
  EXPECT_EQ(forward.at("sent_messages_of_a_rank").get<int64_t>(), forward.at("collectives_of_a_rank").get<int64_t>() * (ranks_ - 1));
  EXPECT_EQ(forward.at("collectives_of_a_rank").get<int64_t>(), ranks_ == 1 ? 0 : 5);
}

TEST_F(BenchSuites, OptimizerSaysBytesAndShareOfCopy) {
  const Json rows = run("optimizer");
  for (const char* name : {"gradient norm", "step"}) {
    expect_keys(named(rows, "optimizer", name), kTimed);
    expect_keys(named(rows, "optimizer", name), {"bytes", "gigabytes_per_second", "share_of_copy"});
  }
  // Float32: a step reads the gradient, and reads and writes master and two moments, where the norm reads the gradient.
  EXPECT_EQ(named(rows, "optimizer", "step").at("bytes").get<int64_t>(),
            7 * named(rows, "optimizer", "gradient norm").at("bytes").get<int64_t>());
}

TEST_F(BenchSuites, CheckpointSavesLoadsAndLeavesNothing) {
  const TrainConfig config = tiny_config();
  const Json rows = run("checkpoint", config);
  for (const char* name : {"save", "save beside training", "load"}) {
    expect_keys(named(rows, "checkpoint", name), kTimed);
    EXPECT_GT(named(rows, "checkpoint", name).at("bytes").get<int64_t>(), 0);
  }
  expect_keys(named(rows, "checkpoint", "save beside training"), {"stall_median_seconds"});
  expect_keys(named(rows, "checkpoint", "load"), {"verify_median_seconds", "restore_median_seconds"});
  test_session().world()->patient_barrier();
  EXPECT_FALSE(std::filesystem::exists(config.run.directory)) << "the run folder was not there before";
}

TEST_F(BenchSuites, DataIsHeldAgainstTheStep) {
  const Json row = named(run("data"), "data", "random corpus");
  expect_keys(row, kTimed);
  expect_keys(row, {"tokens_per_second", "step_tokens_per_second", "ratio_to_step"});
  EXPECT_EQ(row.at("tokens"), 2 * 5 * 8);
}

TEST_F(BenchSuites, ScalingHasEachRanksTimeAndEachGroupsBytes) {
  run("scaling");
  const Json row = named(document_.at("rows"), "scaling", counted(ranks_, "rank"));
  expect_keys(row, kTimed);
  for (const char* part : {"forward", "backward", "gradients", "update"}) {
    EXPECT_EQ(row.at(concat(part, "_seconds_by_rank")).size(), static_cast<size_t>(ranks_)) << part;
  }
  expect_keys(row, {"ranks", "expert_parallel", "tokens", "tokens_per_second", "sent_bytes_by_group", "foretold_sent_bytes_of_a_rank"});
  const Json& sent = row.at("sent_bytes_by_group");
  EXPECT_EQ(sent.empty(), ranks_ == 1) << sent.dump();
  for (const auto& [group, bytes] : sent.items()) {
    EXPECT_GT(bytes.get<int64_t>(), 0) << group;
    const auto collectives = row.at("collectives_by_group").at(group).get<int64_t>();
    const auto messages = row.at("sent_messages_by_group").at(group).get<int64_t>();
    EXPECT_GT(collectives, 0) << group;
    EXPECT_GE(messages, ranks_ * collectives) << group << ": each rank sends to at least one other in each of them";
  }
}

TEST_F(BenchSuites, AllIsEverySuiteOnce) {
  std::set<std::string> suites;
  for (const Json& row : run("all")) suites.insert(row.at("suite"));
  EXPECT_EQ(suites.size(), all_suites().size());
}

TEST_F(BenchSuites, ADenseModelHasNoLayerAndNoDispatch) {
  TrainConfig config = tiny_config();
  config.model.moe.experts = 0;
  std::set<std::string> suites;
  for (const Json& row : run("all", config)) suites.insert(row.at("suite"));
  EXPECT_EQ(suites, (std::set<std::string>{"ceilings", "model", "optimizer", "checkpoint", "data", "scaling"}));
  EXPECT_THROW(run("layer", config), ConfigError);
}

TEST(Measure, TakesTheSlowestRanksTimeAndKeepsEachRanksOwn) {
  const auto mesh = world_mesh();
  const Measurement measured = measure(*mesh, Clock::kHost, tiny().effort, [&](Parts& parts) {
    const TimeMark begin = TimeMark::now(mesh->device());
    double sum = 0.0;
    for (int64_t term = 0; term < 1000 * (mesh->rank() + 1); ++term) sum += static_cast<double>(term);
    EXPECT_GT(sum, 0);
    parts.add("loop", begin, TimeMark::now(mesh->device()));
  });
  const TimedPart& loop = measured.part("loop");
  ASSERT_EQ(loop.rank_medians.size(), static_cast<size_t>(mesh->size()));
  for (const double own : loop.rank_medians) EXPECT_LE(own, loop.seconds.median);
  EXPECT_LE(loop.seconds.median, measured.seconds.median);
  EXPECT_EQ(measured.seconds.repetitions, 2);
  EXPECT_THROW(measured.part("nothing"), Error);
}

}  // namespace
}  // namespace pimoe
