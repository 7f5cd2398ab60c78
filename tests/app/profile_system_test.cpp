#include "app/user.h"

#include <fstream>
#include <set>

namespace pimoe {
namespace {

using ProfileCommand = User;

double number(const nlohmann::json& rank, const std::string& phase, const std::string& part, const char* key) {
  for (const auto& time : rank.at("phases")) {
    if (time.at("phase") == phase && time.at("part") == part) return time.at(key);
  }
  return -1;
}

TEST_F(ProfileCommand, WritesATraceOfEachRankAndATableOfTheStepsAskedFor) {
  prepare();
  const Outcome trained = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=8 mesh.expert_parallel=2 --profile steps=3:4");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const std::string said = trained.out + trained.err;
  for (const char* row : {"ms a step", "\n  experts", "\nbackward", "\noptimizer", "\nall"}) {
    EXPECT_NE(said.find(row), std::string::npos) << row << "\n" << said;
  }
  const std::filesystem::path folder = folder_ / "runs/tiny/profile/steps-3-4";
  const nlohmann::json phases = nlohmann::json::parse(read_file(folder / "phases.json"));
  ASSERT_EQ(phases.at("ranks").size(), 2U);
  for (const auto& rank : phases.at("ranks")) {
    for (const char* part : {"attention", "router", "dispatch", "experts", "combine", "head and loss"}) {
      EXPECT_GT(number(rank, "forward", part, "host_ms"), 0) << part;
      EXPECT_GT(number(rank, "backward", part, "host_ms"), 0) << part;
    }
    EXPECT_GT(number(rank, "optimizer", "", "host_ms"), 0);
  }
  for (const char* file : {"rank-0000.json", "rank-0001.json"}) {
    const nlohmann::json trace = nlohmann::json::parse(read_file(folder / file));
    std::set<std::string> names;
    for (const auto& event : trace.at("traceEvents")) {
      if (event.contains("name") && event["name"].is_string()) names.insert(event["name"]);
    }
    for (const char* name : {"ProfilerStep#3", "ProfilerStep#4", "forward", "experts", "backward"})
      EXPECT_EQ(names.count(name), 1U) << name;
    EXPECT_EQ(names.count("ProfilerStep#2") + names.count("ProfilerStep#5"), 0U);
  }
}

// What is profiled computes what it would have computed.
TEST_F(ProfileCommand, ChangesNoBit) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=6 run.directory=runs/a train.threads=1").code, 0);
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=6 run.directory=runs/b train.threads=1 --profile steps=1:6").code, 0);
  EXPECT_EQ(digests("runs/a/checkpoints/step-00000006"), digests("runs/b/checkpoints/step-00000006"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "runs/b/profile/steps-1-6/rank-0000.json")) << "the run's last step ends it";
}

TEST_F(ProfileCommand, SaysWhatItCannotDo) {
  prepare();
  const Outcome never = run("pimoe train tiny.yaml train.steps=2 --profile steps=90:91");
  EXPECT_EQ(never.code, 0);
  EXPECT_NE(never.err.find("no step was profiled"), std::string::npos) << never.err;
  const Outcome wrong = run("pimoe train tiny.yaml train.steps=2 --profile 10:12");
  EXPECT_EQ(wrong.code, 64);
  EXPECT_NE(wrong.err.find("steps=10:12"), std::string::npos) << wrong.err;
  const Outcome memory = run("pimoe train tiny.yaml train.steps=2 mesh.device=cpu --profile steps=1:2,memory");
  EXPECT_EQ(memory.code, 64);
  EXPECT_NE(memory.err.find("leave memory out"), std::string::npos) << memory.err;
}

TEST_F(ProfileCommand, AFullDiskEndsTheProfileAndNotTheRun) {
  prepare();
  std::filesystem::create_directories(folder_ / "runs/tiny");
  std::ofstream(folder_ / "runs/tiny/profile") << "a file where the folder should be";
  const Outcome trained = run("pimoe train tiny.yaml train.steps=6 --profile steps=2:3");
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("the profile is not whole"), std::string::npos) << trained.err;
  EXPECT_EQ(steps("runs/tiny").size(), 6U);
}

}  // namespace
}  // namespace pimoe
