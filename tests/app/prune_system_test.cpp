#include "app/trained_user.h"

#include <cmath>

namespace pimoe {
namespace {

class PruneCommand : public TrainedUser {
 protected:
  nlohmann::json prune(const std::string& options, const std::string& launcher = "pimoe", const std::string& path = "runs/tiny") const {
    return report_of(concat(launcher, " prune ", path, " --json --samples 40 ", options));
  }
};

TEST_F(PruneCommand, EveryKindIsSmallerAndLoadsAtAnyRankCount) {
  train();
  const double before = loss_of("runs/tiny");
  for (const std::string kind : {"experts", "channels", "merge"}) {
    const std::string output = "runs/" + kind;
    const auto json = prune(concat("--output ", output, " --kind ", kind));
    EXPECT_NEAR(json.at("before").at("loss").get<double>(), before, 1e-6) << kind;
    EXPECT_EQ(json.at("before").at("experts"), 8);
    EXPECT_EQ(json.at("after").at("experts"), kind == "channels" ? 8 : 6) << "of two layers";
    const double expert_bytes = json.at("after").at("expert_bytes").get<double>() / json.at("before").at("expert_bytes").get<double>();
    EXPECT_NEAR(expert_bytes, kind == "channels" ? 22.0 / 32 : 3.0 / 4, 1e-9);
    EXPECT_GT(json.at("routing_agreement").get<double>(), 0.2) << kind;
    for (const auto& layer : json.at("layers")) {
      EXPECT_GT(layer.at("output_error").get<double>(), 0.0) << kind;
      EXPECT_LT(layer.at("output_error").get<double>(), 1.0) << kind;
    }
    EXPECT_EQ(json.at("plan").size(), 2U);
    for (const auto& layer : json.at("plan")) {
      EXPECT_GT(layer.at("importance_lost").get<double>(), 0.0);
      EXPECT_LT(layer.at("importance_lost").get<double>(), kind == "merge" ? 0.5 : 0.32) << "the least important quarter or third";
    }
    const double after = json.at("after").at("loss");
    EXPECT_NEAR(loss_of(output), after, 1e-6) << kind;
    for (const int ranks : {2, 3}) EXPECT_NEAR(loss_of(output, concat("$MPIRUN -n ", ranks, " $PIMOE")), after, 1e-5) << ranks << " ranks";
    EXPECT_EQ(run(concat("pimoe checkpoint verify ", output)).code, 0);
    const Outcome generated = run(concat("pimoe generate --checkpoint ", output, " --prompt 'the ' --tokens 5 --json"));
    EXPECT_EQ(generated.code, 0) << generated.err;
    EXPECT_FALSE(is_there(output + ".unfinished"));
  }
}

// validate: full computes each expert's rows once more, to look at the results: they must not count twice.
TEST_F(PruneCommand, WhatIsImportantDoesNotDependOnChecksOrMemory) {
  prepare();
  nlohmann::json plan;
  for (const std::string keys :
       {"run.directory=runs/a", "run.directory=runs/b model.moe.validate=full", "run.directory=runs/c model.moe.memory=lean"}) {
    ASSERT_EQ(run(concat("pimoe train tiny.yaml train.steps=1 optimizer.learning_rate=1e-30 data.validation=corpus ", keys)).code, 0);
    const std::string name = keys.substr(14, 6);
    const auto json = prune(concat("--batches 1 --output ", name, "-pruned"), "pimoe", name);
    if (plan.is_null()) plan = json.at("plan");
    EXPECT_EQ(json.at("plan"), plan) << keys;
    for (const std::string key : {"memory", "validate"}) {
      const std::string own = run(concat("grep ' ", key, ":' ", name, "/config.yaml")).out;
      EXPECT_EQ(run(concat("grep ' ", key, ":' ", name, "-pruned/config.yaml")).out, own) << "the run's own";
      EXPECT_NE(own, "");
    }
  }
}

TEST_F(PruneCommand, OnSeveralRanksWritesTheSameTensors) {
  train();
  for (const std::string kind : {"experts", "channels", "merge"}) {
    prune(concat("--output runs/one-", kind, " --kind ", kind));
    for (const int ranks : {2, 3}) {
      const std::string output = concat("runs/", ranks, "-", kind);
      EXPECT_EQ(prune(concat("--output ", output, " --kind ", kind), concat("$MPIRUN -n ", ranks, " $PIMOE")).at("ranks"), ranks);
      const Outcome same = run(concat("pimoe checkpoint diff runs/one-", kind, " ", output));
      EXPECT_EQ(same.out.find("master/"), std::string::npos) << same.out;
    }
  }
}

TEST_F(PruneCommand, WhatComesOutIsTrainedOnUnderMpirunAndRecovers) {
  train("train.steps=60");
  const auto json = prune("--output runs/pruned --kind channels --ratio 0.7");
  const double pruned = json.at("after").at("loss");
  EXPECT_GT(pruned, json.at("before").at("loss").get<double>() + 0.01) << "something to recover";
  Outcome outcome =
      run("$MPIRUN -n 2 $PIMOE train runs/pruned/config.yaml train.steps=30 run.directory=runs/other checkpoint.resume=runs/pruned");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(is_there("runs/pruned/metrics.jsonl")) << "it is as it was";
  outcome = run("$MPIRUN -n 2 $PIMOE train runs/pruned/config.yaml train.steps=30");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("resumed from"), std::string::npos) << outcome.err;
  EXPECT_EQ(steps("runs/pruned").front(), 1);
  EXPECT_EQ(steps("runs/pruned").size(), 30U);
  EXPECT_LT(loss_of("runs/pruned"), pruned - 0.01);
  EXPECT_EQ(run("pimoe quantize runs/pruned --output runs/int8").code, 0);
  prune("--output runs/twice --kind experts", "pimoe", "runs/pruned");
}

TEST_F(PruneCommand, WhatLosesTooMuchIsNotWritten) {
  train();
  const Outcome refused = run("pimoe prune runs/tiny --output runs/x --kind channels --ratio 0.9 --max-loss-increase 0.0001 --json");
  EXPECT_EQ(refused.code, 1) << refused.err;
  EXPECT_EQ(nlohmann::json::parse(refused.out).at("written"), false);
  EXPECT_NE(refused.err.find("--max-loss-increase"), std::string::npos) << refused.err;
  EXPECT_FALSE(is_there("runs/x"));
  EXPECT_FALSE(is_there("runs/x.unfinished"));
  EXPECT_EQ(run("pimoe prune runs/tiny --output runs/x --kind channels --ratio 0.9 --max-loss-increase 100").code, 0);
  EXPECT_TRUE(is_there("runs/x"));
}

TEST_F(PruneCommand, GroupsOfExpertsArePrunedEvenly) {
  prepare();
  const Outcome trained = run(
      "pimoe train tiny.yaml run.directory=runs/typed train.steps=5 data.validation=corpus train.validation_batches=2 model.moe.experts=8 "
      "model.moe.balance.bias_rate=0.01 model.moe.router.linear_bias=true "
      "'model.moe.groups=[{name: a, count: 4}, {name: b, count: 4, activation: gelu, layers: 3, width: 24}]'");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const auto fewer = prune("--output runs/fewer --ratio 0.5", "$MPIRUN -n 2 $PIMOE", "runs/typed");
  for (const auto& layer : fewer.at("plan")) {
    EXPECT_EQ(layer.at("experts").size(), 4U);
    EXPECT_LT(layer.at("experts")[1][0], 4) << "two of each group";
    EXPECT_GE(layer.at("experts")[2][0], 4);
  }
  const auto narrower = prune("--output runs/narrower --kind channels", "pimoe", "runs/typed");
  EXPECT_EQ(narrower.at("channels_removed_in_each_expert"), nlohmann::json::array({10, 7})) << "of 32 and 24";
  EXPECT_EQ(run("$MPIRUN -n 2 $PIMOE train runs/fewer/config.yaml train.steps=2").code, 0);
  const Outcome merged = run("pimoe prune runs/typed --output runs/merged --kind merge");
  EXPECT_EQ(merged.code, 78) << merged.err;
  EXPECT_NE(merged.err.find("group b"), std::string::npos) << merged.err;
}

TEST_F(PruneCommand, AnImportedModelIsPrunedTrainedOnAndExported) {
  import_chat_model();
  const auto config = nlohmann::json::parse(read_file(folder_ / "hf/config.json"));
  for (const std::string kind : {"experts", "channels", "merge"}) {
    const std::string output = "runs/" + kind;
    const auto json = prune(concat("--calibration corpus --data corpus --batches 2 --ratio 0.3 --output ", output, " --kind ", kind),
                            "pimoe", "runs/qwen");
    const std::string back = "hf-" + kind;
    Outcome outcome = run(concat("pimoe export ", output, " --output ", back, " --dtype float32"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto written = nlohmann::json::parse(read_file(folder_ / back / "config.json"));
    EXPECT_EQ(written.at("model_type"), "qwen3_moe");
    if (kind == "channels") {
      EXPECT_LT(written.at("moe_intermediate_size"), config.at("moe_intermediate_size"));
    } else {
      EXPECT_LT(written.at("num_experts"), config.at("num_experts"));
    }
    for (const char* file : {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}) {
      EXPECT_EQ(run(concat("cmp hf/", file, " ", back, "/", file)).code, 0) << file;
    }
    if (PIMOE_UNICODE) expect_it_chats(output);
    ASSERT_EQ(run(concat("pimoe import ", back, " --output again-", kind)).code, 0);
    const Outcome same = run(concat("pimoe checkpoint diff ", output, " again-", kind));
    EXPECT_EQ(same.out.find("master/"), std::string::npos) << same.out;
    outcome = run(
        concat("$MPIRUN -n 2 $PIMOE train ", output, "/config.yaml data.train=corpus train.steps=2 mesh.device=cpu train.global_batch=2"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
  }
  if (!PIMOE_UNICODE) GTEST_SKIP() << "built without PCRE2 or utf8proc: chats were not tried";
}

TEST_F(PruneCommand, WhatDoesNotFitIsRefusedBeforeAnythingIsWritten) {
  train();
  write("taken/file", "mine");
  for (const auto& [options, code] : std::vector<std::pair<std::string, int>>{{"--output taken", 64},
                                                                              {"--output runs/tiny", 64},
                                                                              {"--output runs/x --ratio 0", 64},
                                                                              {"--output runs/x --ratio 1", 64},
                                                                              {"--output runs/x --ratio -0.5", 64},
                                                                              {"--output runs/x --ratio nan", 64},
                                                                              {"--output runs/x --kind heads", 64},
                                                                              {"--output runs/x --samples 0", 64},
                                                                              {"--output runs/x --multiple 0", 64},
                                                                              {"--output runs/x --ratio 0.8", 78},
                                                                              {"--output runs/x --multiple 4", 78},
                                                                              {"--output runs/x --calibration missing", 65},
                                                                              {"--output runs/x --data missing", 65}}) {
    const Outcome outcome = run("pimoe prune runs/tiny " + options);
    EXPECT_EQ(outcome.code, code) << options << "\n" << outcome.err;
    EXPECT_FALSE(is_there("runs/x")) << options;
    EXPECT_FALSE(is_there("runs/x.unfinished")) << options;
  }
  EXPECT_NE(run("pimoe prune runs/tiny --output runs/x --ratio 0.8").err.find("model.moe.choices (2)"), std::string::npos);
  ASSERT_EQ(run("pimoe train tiny.yaml run.directory=runs/dense model.moe.experts=0 train.steps=2").code, 0);
  ASSERT_EQ(run("pimoe quantize runs/tiny --output runs/int8").code, 0);
  for (const std::string path : {"runs/dense", "runs/int8"}) {
    const Outcome outcome = run(concat("pimoe prune ", path, " --output runs/x --data held"));
    EXPECT_EQ(outcome.code, 78) << path << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find(path == "runs/dense" ? "no experts" : "int8"), std::string::npos) << outcome.err;
    EXPECT_FALSE(is_there("runs/x.unfinished"));
  }
}

}  // namespace
}  // namespace pimoe
