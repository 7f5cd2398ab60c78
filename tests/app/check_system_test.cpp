#include "app/user.h"

#include <set>

namespace pimoe {
namespace {

using Json = nlohmann::json;

class CheckCommand : public User {
 protected:
  CheckCommand() { prepare(); }

  Outcome check(const std::string& arguments) const { return run("$PIMOE check tiny.yaml " + arguments); }

  Json facts(const std::string& arguments) const {
    const Outcome outcome = check(arguments + " --json");
    Json document = Json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(document.is_object()) << outcome.out << outcome.err;
    return document;
  }
};

TEST_F(CheckCommand, GoodConfigurationsPassForAnyRankCountAndLeaveNothingBehind) {
  for (const int ranks : {1, 2, 512, 4096}) {
    const Outcome outcome = check(concat("--ranks ", ranks));
    EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    EXPECT_NE(outcome.out.find("memory of the fullest rank"), std::string::npos) << outcome.out;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
}

TEST_F(CheckCommand, EverythingWrongIsToldAtOnceWithTheExitCodeThatTrainHas) {
  const Outcome layout = check("--ranks 4 mesh.expert_parallel=3 data.train=nowhere");
  EXPECT_EQ(layout.code, 78) << layout.out;
  EXPECT_NE((layout.out + layout.err).find("mesh.expert_parallel"), std::string::npos) << layout.out << layout.err;

  const Outcome ranks = check("--ranks 6 mesh.expert_parallel=4 data.train=nowhere data.validation=nowhere_too");
  EXPECT_EQ(ranks.code, 78) << ranks.out;
  EXPECT_NE(ranks.out.find("must divide the 6 ranks"), std::string::npos) << ranks.out;
  EXPECT_NE(ranks.out.find("nowhere.idx"), std::string::npos) << ranks.out;
  EXPECT_NE(ranks.out.find("nowhere_too.idx"), std::string::npos) << ranks.out;

  const Outcome vocabulary = check("model.vocabulary=20");
  EXPECT_EQ(vocabulary.code, 65) << vocabulary.out;
  EXPECT_NE(vocabulary.out.find("model.vocabulary"), std::string::npos) << vocabulary.out;
  const Outcome tokenizer = check("data.tokenizer=lost.model data.train=nowhere");
  EXPECT_EQ(tokenizer.code, 65) << tokenizer.out;
  EXPECT_NE(tokenizer.out.find("lost.model"), std::string::npos) << tokenizer.out;
  EXPECT_NE(tokenizer.out.find("nowhere.idx"), std::string::npos) << tokenizer.out;
  EXPECT_EQ(check("model.sequence_length=10000000").code, 65);
  EXPECT_EQ(check("mesh.device=cuda --device cpu").code, 78);
  EXPECT_EQ(check("model.layer=3").code, 78);
  write("file", "");
  EXPECT_EQ(check("run.directory=file").code, 74);
}

TEST_F(CheckCommand, ARunThatCannotGoOnIsRefusedAsTrainRefusesIt) {
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=5").code, 0);
  EXPECT_EQ(facts("").at("exit_code"), 0);
  for (const char* change : {"model.layers=3", "checkpoint.resume=none", "checkpoint.resume=nowhere run.directory=runs/other"}) {
    const Outcome said = check(change);
    const Outcome trained = run(concat("$PIMOE train tiny.yaml ", change));
    EXPECT_EQ(said.code, trained.code) << change << "\n" << said.out << trained.err;
    EXPECT_NE(said.code, 0) << change;
  }
}

// 5 and 10 are kept. Whoever asks for an older one of the run's own goes back to it; another run's is where this one began, and is over.
TEST_F(CheckCommand, TheStepThatARunGoesOnFromIsTheOneThatTrainTakes) {
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=10").code, 0);
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=5 run.directory=runs/other").code, 0);
  const std::string own = "checkpoint.resume=runs/tiny/checkpoints/step-00000005";
  const std::string other = "checkpoint.resume=runs/other";
  for (const auto& [wish, step] : {std::pair(std::string(), 10), {own, 5}, {other, 10}, {other + " run.directory=runs/third", 5}}) {
    const Outcome said = check(wish);
    EXPECT_NE(said.out.find(concat("goes on from step ", step, "\n")), std::string::npos) << wish << "\n" << said.out;
    const Outcome trained = run(concat("$PIMOE train tiny.yaml train.steps=12 checkpoint.every_steps=0 checkpoint.at_end=false ", wish));
    EXPECT_EQ(trained.code, 0) << trained.err;
    EXPECT_NE((trained.out + trained.err).find("resumed from "), std::string::npos) << trained.err;
    EXPECT_NE((trained.out + trained.err).find(concat(": step ", step, ", ")), std::string::npos) << wish << trained.out << trained.err;
  }
}

// The run would set both aside, and then not begin again over its record.
TEST_F(CheckCommand, ARunWhoseCheckpointsAreAllDamagedIsRefusedBeforeTheyAreSetAside) {
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=10").code, 0);
  for (const char* step : {"step-00000005", "step-00000010"}) write(concat("runs/tiny/checkpoints/", step, "/manifest.json"), "{}");
  const Outcome said = check("");
  EXPECT_EQ(said.code, run("$PIMOE train tiny.yaml").code) << said.out;
  EXPECT_NE(said.code, 0) << said.out;
  EXPECT_NE(said.out.find("none of this run's checkpoints is good: 2 set aside"), std::string::npos) << said.out;
}

TEST_F(CheckCommand, WhatDoesNotFitNamesWhatHelpsAndEachHelpSavesWhatItSays) {
  const std::string size = "model.layers=8 model.sequence_length=512 train.micro_batch=8 train.global_batch=64 --ranks 4 ";
  const Json plain = facts(size);
  const int64_t worst = plain.at("memory").at("skews").at("at worst skew").at("peak");
  const int64_t balanced = plain.at("memory").at("skews").at("at balance").at("peak");
  EXPECT_LT(balanced, worst);
  EXPECT_TRUE(plain.at("memory").at("limit").is_null());

  EXPECT_EQ(check(concat(size, "--memory ", worst)).code, 0);
  EXPECT_EQ(check(concat(size, "--memory ", worst - 1)).code, 1);
  EXPECT_EQ(check(concat(size, "--memory ", balanced, " --skew balanced")).code, 0);
  const Json refused = facts(concat(size, "--memory ", worst / 2));
  EXPECT_EQ(refused.at("exit_code"), 1);
  std::set<std::string> keys;
  for (const Json& help : refused.at("helps")) {
    const std::string change = help.at("change");
    keys.insert(change.substr(0, change.find('=')));
    if (change.find("--ranks") == 0) continue;
    const Json memory = facts(size + change).at("memory");
    const int64_t then = memory.at("skews").at(memory.at("judged").get<std::string>()).at("peak");
    EXPECT_EQ(worst - then, help.at("bytes").get<int64_t>()) << change;
  }
  for (const char* key : {"train.recompute", "model.moe.memory", "train.micro_batch", "model.moe.rank_budget"}) {
    EXPECT_TRUE(keys.contains(key)) << key << "\n" << refused.at("helps");
  }
}

// Rows above a budget go in rounds, which keep nothing for backward: one full round needs more memory than all tokens on one rank.
TEST_F(CheckCommand, ABudgetInRoundsIsJudgedByTheSkewThatNeedsMost) {
  const std::string job =
      "--ranks 4 train.recompute=none model.layers=12 model.moe.expert_width=512 train.global_batch=64 train.micro_batch=16";
  for (const std::string budget : {"1", "1.5"}) {
    const Json memory = facts(concat(job, " model.moe.rank_budget=", budget)).at("memory");
    const std::string judged = memory.at("judged");
    EXPECT_EQ(judged, budget == "1" ? "at balance" : "in a full round");
    const int64_t most = memory.at("skews").at(judged).at("peak");
    EXPECT_GT(most, memory.at("skews").at("at worst skew").at("peak").get<int64_t>());
    EXPECT_EQ(check(concat(job, " model.moe.rank_budget=", budget, " --memory ", most - 1)).code, 1);
    const Outcome fits = check(concat(job, " model.moe.rank_budget=", budget, " --memory ", most));
    EXPECT_EQ(fits.code, 0) << fits.out;
    EXPECT_NE(fits.out.find(concat("fits at any skew; most is needed ", judged)), std::string::npos) << fits.out;
  }
  EXPECT_EQ(facts(job).at("memory").at("judged"), "at worst skew");
}

TEST_F(CheckCommand, ACheckpointHasTheSizeThatWasForetold) {
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=5").code, 0);
  const int64_t foretold = facts("").at("checkpoint").at("bytes");
  int64_t written = 0;
  for (const auto& file : std::filesystem::directory_iterator(folder_ / "runs/tiny/checkpoints/step-00000005")) {
    if (file.path().extension() == ".h5") written += static_cast<int64_t>(file.file_size());
  }
  EXPECT_GE(written, foretold);
  EXPECT_LE(written, foretold + (1 << 20)) << "HDF5's own";
}

TEST_F(CheckCommand, WordsThatAreNotKnownAreUsageErrors) {
  const Outcome device = check("--device h10");
  EXPECT_EQ(device.code, 64);
  EXPECT_NE(device.err.find("did you mean h100?"), std::string::npos) << device.err;
  EXPECT_EQ(check("--memory much").code, 64);
  EXPECT_EQ(check("--skew 0.5").code, 64);
  EXPECT_EQ(check("--ranks 0").code, 64);
}

}  // namespace
}  // namespace pimoe
