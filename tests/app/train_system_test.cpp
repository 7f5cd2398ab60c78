#include "app/user.h"
#include "train/presets.h"

#include <signal.h>

namespace pimoe {
namespace {

using TrainCommand = User;

std::vector<int64_t> one_to(int64_t last) {
  std::vector<int64_t> all;
  for (int64_t step = 1; step <= last; ++step) all.push_back(step);
  return all;
}

TEST_F(TrainCommand, LeavesTheRunFolderThatItPromises) {
  prepare();
  const Outcome trained = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=12");
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(steps("runs/tiny"), one_to(12));
  for (const char* file : {"config.yaml", "log/rank-0000.log", "log/rank-0001.log", "checkpoints/step-00000012/manifest.json"}) {
    EXPECT_TRUE(std::filesystem::exists(folder_ / "runs/tiny" / file)) << file;
  }
  EXPECT_EQ(run("pimoe checkpoint verify runs/tiny/checkpoints/step-00000012").code, 0);
  const Outcome again = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=12");
  EXPECT_EQ(again.code, 0);
  EXPECT_NE((again.out + again.err).find("the run is complete"), std::string::npos) << again.err;
  const Outcome text = run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --tokens 8 --json");
  ASSERT_EQ(text.code, 0) << text.err;
  EXPECT_EQ(nlohmann::json::parse(text.out).at("tokens").size(), 8u);
}

TEST_F(TrainCommand, ResumesAfterSigkillWithTheSameBits) {
  prepare();
  for (const char* layout : {"$MPIRUN -n 1 $PIMOE train tiny.yaml", "$MPIRUN -n 2 $PIMOE train tiny.yaml mesh.expert_parallel=2"}) {
    for (const char* recompute : {"none", "full"}) {
      SCOPED_TRACE(concat(layout, " recompute ", recompute));
      const std::string common = concat(layout, " train.recompute=", recompute, " train.threads=1 ");
      ASSERT_EQ(run(common + "run.directory=runs/whole").code, 0);
      const pid_t killed = start(common + "run.directory=runs/killed");
      wait_for_step("runs/killed", 26);
      kill(-killed, SIGKILL);
      wait_for(killed);
      for (const pid_t rank : ranks()) kill(rank, SIGKILL);
      wait_for_no_rank();
      ASSERT_LT(steps("runs/killed").size(), 60u) << "killed too late to prove anything";
      const Outcome resumed = run(common + "run.directory=runs/killed");
      ASSERT_EQ(resumed.code, 0) << resumed.err;
      EXPECT_NE((resumed.out + resumed.err).find("resumed from"), std::string::npos);
      EXPECT_EQ(steps("runs/killed"), one_to(60));
      const auto whole = digests("runs/whole/checkpoints/step-00000060");
      EXPECT_GT(whole.size(), 30u);
      EXPECT_EQ(digests("runs/killed/checkpoints/step-00000060"), whole);
      std::filesystem::remove_all(folder_ / "runs");
    }
  }
}

TEST_F(TrainCommand, SavesAndLeavesWith75WhenAsked) {
  prepare();
  const pid_t asked = start("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=0");
  wait_for_step("runs/tiny", 3);
  kill(asked, SIGUSR1);  // mpirun forwards it
  EXPECT_EQ(wait_for(asked), 75) << read_file(folder_ / "background.txt");
  const auto done = steps("runs/tiny");
  const Outcome listed = run("pimoe checkpoint list runs/tiny --json");
  ASSERT_EQ(listed.code, 0) << listed.err;
  const auto checkpoints = nlohmann::json::parse(listed.out);
  ASSERT_EQ(checkpoints.size(), 1u);
  EXPECT_EQ(checkpoints[0].at("step"), done.back());
  EXPECT_TRUE(checkpoints[0].at("good").get<bool>());
  EXPECT_EQ(run(concat("$MPIRUN -n 1 $PIMOE train tiny.yaml train.steps=", done.back() + 2)).code, 0);
  EXPECT_EQ(steps("runs/tiny"), one_to(done.back() + 2));
}

TEST_F(TrainCommand, SaysWhatGoesOnAfterALeaveByTheClock) {
  prepare();
  const std::string command = "$PIMOE train tiny.yaml train.steps=100000 run.walltime_margin=1 run.walltime=";
  const Outcome first = run(command + "00:00:02 checkpoint.every_steps=0");
  ASSERT_EQ(first.code, 75) << first.err;
  EXPECT_NE(first.err.find("to go on start the same command again\n"), std::string::npos) << first.err;
  const std::string saved = concat("runs/tiny/checkpoints/", nlohmann::json::parse(run("pimoe checkpoint list runs/tiny --json").out)
                                                                 .at(0)
                                                                 .at("path")
                                                                 .get<std::filesystem::path>()
                                                                 .filename()
                                                                 .string());
  const Outcome second = run(concat(command, "00:00:02 checkpoint.every_steps=0 checkpoint.resume=", saved));
  ASSERT_EQ(second.code, 75) << second.err;
  EXPECT_NE(second.err.find("to go on start the same command with checkpoint.resume=auto again\n"), std::string::npos) << second.err;
}

TEST_F(TrainCommand, EndsTheJobWhenARankDies) {
  prepare();
  const pid_t job = start("$MPIRUN -n 2 $PIMOE train tiny.yaml run.directory=runs/dies train.steps=100000 checkpoint.every_steps=0");
  wait_for_step("runs/dies", 3);
  ASSERT_EQ(ranks().size(), 2u);
  kill(ranks().back(), SIGKILL);
  EXPECT_NE(wait_for(job), 0);
  wait_for_no_rank();
}

TEST_F(TrainCommand, ASurvivorNamesRankZeroAndThoseThatDiedWithIt) {
  prepare();
  const pid_t job = start("$MPIRUN -n 3 $PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=0");
  wait_for_step("runs/tiny", 2);
  std::vector<pid_t> found = ranks();
  ASSERT_EQ(found.size(), 3u);
  std::sort(found.begin(), found.end());  // as mpirun started them
  kill(found[0], SIGKILL);
  kill(found[1], SIGKILL);
  EXPECT_NE(wait_for(job), 0);
  wait_for_no_rank();
  const std::string said = read_file(folder_ / "background.txt");
  EXPECT_NE(said.find("error: dead: rank 0 ("), std::string::npos) << said;
  EXPECT_NE(said.find("gone as well: rank 1 ("), std::string::npos) << said;
}

TEST_F(TrainCommand, PrintConfigIsValidInputAgain) {
  prepare();
  const Outcome first = run("pimoe train tiny.yaml train.steps=7 --print-config");
  ASSERT_EQ(first.code, 0) << first.err;
  write("again.yaml", first.out);
  const Outcome second = run("pimoe train again.yaml --print-config");
  EXPECT_EQ(second.out, first.out);
  EXPECT_NE(first.out.find("steps: 7"), std::string::npos);
}

TEST_F(TrainCommand, PresetsAreWhereverTheBinaryIsStartedAndPrintConfigKeepsThem) {
  prepare();
  const Outcome help = run("pimoe train --help");
  for (const std::string& name : preset_names()) {
    EXPECT_NE(help.out.find(concat("\n  ", name, " ")), std::string::npos) << help.out;
    const Outcome first = run(concat("pimoe train tiny.yaml preset=", name, " train.validate_every=7 --print-config"));
    ASSERT_EQ(first.code, 0) << first.err;
    EXPECT_EQ(first.out.find(concat("preset: ", name, " ")), 0u) << first.out;
    EXPECT_NE(first.out.find("validate_every: 7"), std::string::npos) << "the command line is stronger";
    EXPECT_NE(first.out.find("every_steps: 5 "), std::string::npos) << "the file is stronger";
    write("again.yaml", first.out);
    EXPECT_EQ(run("pimoe train again.yaml --print-config").out, first.out);
  }
}

TEST_F(TrainCommand, ARunWithAPresetResumesAndItsCheckpointIsRead) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml preset=basic train.steps=5").code, 0);
  const Outcome resumed = run("$PIMOE train tiny.yaml preset=basic train.steps=8");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(steps("runs/tiny"), one_to(8));
  EXPECT_EQ(run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --tokens 2").code, 0);
}

TEST_F(TrainCommand, RefusesToGoOnWithAnotherModel) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=6").code, 0);
  for (const char* change : {"model.layers=1", "model.heads=4", "model.tie_embeddings=true", "model.moe.choices=1"}) {
    const Outcome outcome = run(concat("$PIMOE train tiny.yaml train.steps=8 ", change));
    EXPECT_EQ(outcome.code, 78) << change << outcome.err;
    EXPECT_NE(outcome.err.find("step-00000006"), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(run("$PIMOE train tiny.yaml train.steps=8").code, 0) << "nothing was lost";
}

TEST_F(TrainCommand, RefusesARunFolderThatAnotherJobUses) {
  prepare();
  const pid_t first = start("$PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=0");
  wait_for_step("runs/tiny", 2);
  write("runs/tiny/hang/rank-0000.txt", "of a start before\n");
  const Outcome second = run("$MPIRUN -n 2 $PIMOE train tiny.yaml");
  EXPECT_EQ(second.code, 78) << second.err;
  EXPECT_NE(second.err.find("in use by another job"), std::string::npos) << second.err;
  EXPECT_EQ(read_file(folder_ / "runs/tiny/log/rank-0000.log").find("in use"), std::string::npos) << "the log is the first job's";
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs/tiny/log/rank-0001.log"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "runs/tiny/hang/rank-0000.txt"));
  kill(-first, SIGKILL);
  wait_for(first);
  EXPECT_EQ(run("$PIMOE train tiny.yaml train.steps=3").code, 0) << "a dead job holds nothing";
}

TEST_F(TrainCommand, NeverBeginsAgainOverDamagedCheckpoints) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=6").code, 0);
  const auto before = steps("runs/tiny");
  run("for manifest in runs/tiny/checkpoints/*/manifest.json; do : > $manifest; done");
  const Outcome outcome = run("$PIMOE train tiny.yaml train.steps=6");
  EXPECT_EQ(outcome.code, 65) << outcome.err;
  EXPECT_NE(outcome.err.find(".bad"), std::string::npos) << outcome.err;
  EXPECT_EQ(steps("runs/tiny"), before);
}

TEST_F(TrainCommand, ADivergedRunIsNoSuccess) {
  prepare();
  const Outcome outcome = run("$PIMOE train tiny.yaml train.steps=9 optimizer.learning_rate=1e30 checkpoint.every_steps=2");
  EXPECT_EQ(outcome.code, 70) << outcome.err;
  EXPECT_NE(outcome.err.find("learning_rate"), std::string::npos) << outcome.err;
}

struct BadInput {
  const char* arguments;
  int code;
  std::vector<const char*> said;
};

TEST_F(TrainCommand, RefusesBadInputWithTheRightCodeAndSaysWhatToChange) {
  prepare();
  write("typo.yaml", "data: {train: corpus, tokenizer: corpus.model}\nmodel:\n  moe:\n    expert: 4\n    choices: zwei\n");
  write("foreign.yaml",
        "mesh: {device: cpu}\ndata: {train: corpus}\nmodel: {vocabulary: 40, width: 32, heads: 2, kv_heads: 1, sequence_length: 16, moe: "
        "{experts: 4}}\n");
  const std::vector<BadInput> cases = {
      {"train typo.yaml", 78, {"typo.yaml:4:5", "experts", "typo.yaml:5:14", "choices"}},
      {"train missing.yaml", 78, {"missing.yaml"}},
      {"train tiny.yaml train.stepz=3", 78, {"train.stepz", "train.steps"}},
      {"train tiny.yaml mesh.expert_parallel=3", 78, {"model.moe.experts (4)", "mesh.expert_parallel (3)"}},
      {"train tiny.yaml mesh.expert_parallel=4", 78, {"mesh.expert_parallel", "4", "2"}},
      {"train tiny.yaml preset=advnced", 78, {"command line: preset: advnced", "did you mean advanced?"}},
      {"train tiny.yaml mesh.transport=nccl", 78, {"mesh.transport"}},
      {"train tiny.yaml data.train=nowhere", 65, {"nowhere"}},
      {"train foreign.yaml", 65, {"40", "corpus"}},
      {"train tiny.yaml data.validation=nowhere", 65, {"nowhere"}},
      {"train tiny.yaml data.train=''", 78, {"data.train"}},
      {"train tiny.yaml checkpoint.resume=nowhere", 65, {"nowhere"}},
      {"trian tiny.yaml", 64, {"train"}},
      {"trian --help", 64, {"did you mean 'train'"}},
      {"train", 64, {"config"}},
  };
  for (const BadInput& bad : cases) {
    SCOPED_TRACE(bad.arguments);
    const Outcome outcome = run(concat("$MPIRUN -n 2 $PIMOE ", bad.arguments));
    EXPECT_EQ(outcome.code, bad.code) << outcome.err;
    for (const char* part : bad.said) EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
    EXPECT_EQ(outcome.err.find("rank 1:"), std::string::npos) << "every rank said the same\n" << outcome.err;
  }
}

}  // namespace
}  // namespace pimoe
