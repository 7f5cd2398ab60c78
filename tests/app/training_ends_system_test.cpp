#include "app/user.h"

#include <signal.h>

#include <fstream>

namespace pimoe {
namespace {

/// How a training ends that does not end well, and what it leaves.
class TrainingEnds : public User {
 protected:
  std::vector<int64_t> saved_steps(const std::string& run_folder) const {
    std::vector<int64_t> found;
    for (const auto& checkpoint : nlohmann::json::parse(run("pimoe checkpoint list " + run_folder + " --json").out)) {
      found.push_back(checkpoint.at("step"));
    }
    return found;
  }
};

// float16's scale is still far above 1 when these runs end: a loss or weights that are not finite need no more proof.
TEST_F(TrainingEnds, WeightsThatAreNotFiniteAreNeverSaved) {
  prepare();
  for (const char* overrides : {"train.precision=float16 optimizer.learning_rate=1e18",
                                "train.precision=float32 optimizer.learning_rate=1e38 optimizer.warmup_steps=0"}) {
    SCOPED_TRACE(overrides);
    const Outcome outcome = run(concat("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=4 checkpoint.every_steps=1 ", overrides));
    EXPECT_EQ(outcome.code, 70) << outcome.err;
    EXPECT_NE(outcome.err.find("diverged"), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.err.find("done:"), std::string::npos) << outcome.err;
    EXPECT_EQ(saved_steps("runs/tiny"), std::vector<int64_t>{});
    std::filesystem::remove_all(folder_ / "runs");
  }
}

TEST_F(TrainingEnds, ALossThatIsNotFiniteIsNoSuccessAtAnyScale) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.precision=float16 train.steps=3 checkpoint.every_steps=1").code, 0);
  const Outcome outcome =
      run("$PIMOE train tiny.yaml train.precision=float16 train.steps=9 checkpoint.every_steps=1 optimizer.learning_rate=3e4 "
          "optimizer.warmup_steps=0");
  EXPECT_EQ(outcome.code, 70) << outcome.err;
  EXPECT_NE(outcome.err.find("loss nan"), std::string::npos) << outcome.err;
  // Step 4 ends in weights that are still finite; what they lose is seen in step 5.
  EXPECT_EQ(saved_steps("runs/tiny"), (std::vector<int64_t>{3, 4}));
}

// The loss falls below 20 at once: the alert fires at step 3, stops the run, and does not fire again in the one that goes on.
TEST_F(TrainingEnds, AnAlertThatStopsTheRunSavesItAndIsToldOnce) {
  prepare();
  const std::string command =
      "$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=8 checkpoint.every_steps=100 monitor.log_interval=4 "
      "'monitor.alerts=[{when: \"loss < 20 for 3 steps\", do: [log, file, stop]}]'";
  const Outcome stopped = run(command);
  EXPECT_EQ(stopped.code, 1) << stopped.err;
  EXPECT_NE(stopped.err.find("alert fired at step 3"), std::string::npos) << stopped.err;
  EXPECT_EQ(saved_steps("runs/tiny"), std::vector<int64_t>{3});
  const Outcome again = run(command);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(again.err.find("alert fired"), std::string::npos) << again.err;
  EXPECT_NE(again.err.find("monitor: steps 5 to 8: latency "), std::string::npos) << again.err;
  EXPECT_EQ(split(read_file(folder_ / "runs/tiny/alerts.jsonl"), '\n').size(), 2u);
}

TEST_F(TrainingEnds, AnAlertThatCannotBeReadIsRefusedBeforeTheRun) {
  prepare();
  const Outcome outcome = run("$PIMOE train tiny.yaml 'monitor.alerts=[{when: \"moe/maxvi > 2\"}, {when: \"loss > 1\", do: webhook}]'");
  EXPECT_EQ(outcome.code, 78) << outcome.err;
  EXPECT_NE(outcome.err.find("did you mean moe/maxvio?"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("monitor.alerts[1].do"), std::string::npos) << outcome.err;
}

TEST_F(TrainingEnds, AReaderOfItsLinesThatLeavesDoesNotEndARun) {
  prepare();
  const Outcome outcome = run("(pimoe train tiny.yaml train.steps=20 log.every_steps=1 2>&1; echo $? >code) | head -n 1; cat code");
  EXPECT_NE(outcome.out.find("\n0\n"), std::string::npos) << outcome.out;
  EXPECT_EQ(saved_steps("runs/tiny").back(), 20);
}

// A pipe in the configuration's place holds the process between its first line and MPI's start.
TEST_F(TrainingEnds, ASignalBeforeMpiStartsIsKept) {
  prepare();
  ASSERT_EQ(run("mkfifo pipe.yaml").code, 0);
  const pid_t asked = start("$PIMOE train pipe.yaml run.directory=runs/early train.steps=100000");
  std::ofstream pipe(folder_ / "pipe.yaml");  // opens once the other end reads
  kill(asked, SIGUSR1);
  pipe << read_file(folder_ / "tiny.yaml");
  pipe.close();
  EXPECT_EQ(wait_for(asked), 75) << read_file(folder_ / "background.txt");
  EXPECT_EQ(saved_steps("runs/early"), std::vector<int64_t>{1});
}

// A terminal that closes sends SIGHUP; nohup has it ignored.
TEST_F(TrainingEnds, ATerminalThatClosesIsAReasonToSaveAndLeave) {
  prepare();
  const pid_t asked = start("$PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=100000");
  wait_for_step("runs/tiny", 3);
  kill(asked, SIGHUP);
  EXPECT_EQ(wait_for(asked), 75);
  EXPECT_EQ(run("pimoe checkpoint verify runs/tiny").code, 0);

  const pid_t kept = start("nohup $PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=100000 run.directory=runs/kept");
  wait_for_step("runs/kept", 3);
  kill(kept, SIGHUP);
  wait_for_step("runs/kept", 30);
  kill(kept, SIGUSR1);
  EXPECT_EQ(wait_for(kept), 75);
}

TEST_F(TrainingEnds, ALimitOnFileSizesIsAFullDisk) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=5").code, 0);
  // In blocks of 512 bytes: a shard has some 600 kB, and room is left for the log.
  const Outcome limited = run("ulimit -f 300; $PIMOE train tiny.yaml train.steps=12 checkpoint.retry_seconds=100");
  EXPECT_EQ(limited.code, 74) << limited.err;
  EXPECT_NE(limited.err.find("step-00000010 was not saved"), std::string::npos) << limited.err;
  EXPECT_NE(limited.err.find("step-00000012 was not saved"), std::string::npos) << "trained on to the end\n" << limited.err;
  EXPECT_NE(limited.err.find("File too large"), std::string::npos) << limited.err;
  EXPECT_EQ(saved_steps("runs/tiny"), std::vector<int64_t>{5});
}

// There is room for the log, of 4 kB, and not for config.yaml, of 9 kB, which a first start needs, and a run that has saved can do without.
TEST_F(TrainingEnds, AConfigurationThatDoesNotFitOntoTheDiskEndsAFirstStartAlone) {
  prepare();
  const std::string limited = "ulimit -f 16; $PIMOE train tiny.yaml checkpoint.every_steps=0 checkpoint.at_end=false train.steps=";
  const Outcome first = run(limited + "5");
  EXPECT_EQ(first.code, 74) << first.err;
  EXPECT_NE(first.err.find("config.yaml"), std::string::npos) << first.err;
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=5").code, 0);
  const Outcome second = run(limited + "8");
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_NE(second.err.find("config.yaml is not that of this start"), std::string::npos) << second.err;
}

TEST_F(TrainingEnds, ARunWhoseFolderIsMovedAwayEndsAndGoesOnWhenItIsBack) {
  prepare();
  const pid_t job = start("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=2");
  wait_for_step("runs/tiny", 8);
  std::filesystem::rename(folder_ / "runs/tiny", folder_ / "away");
  EXPECT_EQ(wait_for(job), 78);
  const std::string said = read_file(folder_ / "background.txt");
  const std::string moved = "run.directory (runs/tiny) was removed or moved away";
  EXPECT_NE(said.find(moved), std::string::npos) << said;
  EXPECT_EQ(said.find(moved), said.rfind(moved)) << "said twice\n" << said;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs/tiny"));
  std::filesystem::rename(folder_ / "away", folder_ / "runs/tiny");
  const int64_t next = steps("runs/tiny").back() + 5;
  const Outcome again = run(concat("$PIMOE train tiny.yaml train.steps=", next));
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("resumed from"), std::string::npos) << again.err;
}

TEST_F(TrainingEnds, ARunWhoseFolderIsTakenAwayLeavesTheNextOneInItsPlaceAlone) {
  prepare();
  const pid_t first = start("$PIMOE train tiny.yaml train.steps=100000 checkpoint.every_steps=2");
  wait_for_step("runs/tiny", 4);
  const Outcome second = run("mv runs/tiny away && $MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=12");
  EXPECT_EQ(second.code, 0) << second.err;
  EXPECT_EQ(wait_for(first), 78);
  EXPECT_EQ(steps("runs/tiny").size(), 12u);
  EXPECT_EQ(saved_steps("runs/tiny"), (std::vector<int64_t>{10, 12}));
}

TEST_F(TrainingEnds, AFolderInTheLocksPlaceIsSaid) {
  prepare();
  const Outcome outcome = run("mkdir -p runs/tiny/lock && $MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=2");
  EXPECT_EQ(outcome.code, 74) << outcome.err;
  EXPECT_NE(outcome.err.find("run.directory (runs/tiny): cannot lock runs/tiny/lock: it is a folder, and must be a file"),
            std::string::npos)
      << outcome.err;
}

// As where a file is changed while the job starts, or one node sees it as it was. Ranks that go on so wait for each other for ever, or crash.
TEST_F(TrainingEnds, RanksWithDifferentConfigurationsAreToldWhatDiffers) {
  prepare();
  for (const auto& [first, second, said] :
       {std::tuple("mesh.expert_parallel=1", "mesh.expert_parallel=2", "mesh.expert_parallel: 1 at rank 0, 2 here"),
        std::tuple("train.steps=4", "train.steps=5", "train.steps: 4 at rank 0, 5 here"),
        std::tuple("run.directory=runs/a", "run.directory=runs/b", "run.directory: runs/a at rank 0, runs/b here")}) {
    const Outcome outcome =
        run(concat("timeout 60 $MPIRUN -n 1 $PIMOE train tiny.yaml ", first, " : -n 1 $PIMOE train tiny.yaml ", second));
    EXPECT_EQ(outcome.code, 78) << outcome.err;
    EXPECT_NE(outcome.err.find(concat("rank 1: the configuration is not that of rank 0:\n  ", said, "\n")), std::string::npos)
        << outcome.err;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs"));
}

TEST_F(TrainingEnds, WhatIsInThePlaceOfTheRunFolderIsNamed) {
  prepare();
  ASSERT_EQ(run("touch file; ln -s nowhere broken; mkdir real; ln -s real link").code, 0);
  for (const auto& [place, said] : {std::pair("file", "run.directory (file): file is there, and is no folder"),
                                    std::pair("file/runs/a", "run.directory (file/runs/a): file is there, and is no folder"),
                                    std::pair("broken", "run.directory (broken): broken is a link to nowhere, which is not there"),
                                    std::pair("broken/a", "run.directory (broken/a): broken is a link to nowhere, which is not there")}) {
    const Outcome outcome = run(concat("$PIMOE train tiny.yaml train.steps=2 run.directory=", place));
    EXPECT_EQ(outcome.code, 78) << outcome.err;
    EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(run("$PIMOE train tiny.yaml train.steps=2 run.directory=link/a").code, 0);
  EXPECT_EQ(saved_steps("real/a"), std::vector<int64_t>{2});
  const Outcome outcome = run("$PIMOE train tiny.yaml train.steps=4 checkpoint.resume=");
  EXPECT_EQ(outcome.code, 78) << outcome.err;
  EXPECT_NE(outcome.err.find("checkpoint.resume is empty, but must be auto, none or the path of a checkpoint"), std::string::npos)
      << outcome.err;
}

TEST_F(TrainingEnds, AResumedRunSaysWhichDataHaveChanged) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=2").code, 0);
  ASSERT_EQ(run("cp corpus.bin moved.bin; cp corpus.idx moved.idx").code, 0);
  const Outcome moved = run("$PIMOE train tiny.yaml train.steps=3 data.train=moved");
  EXPECT_EQ(moved.code, 0) << moved.err;
  EXPECT_EQ(moved.err.find("data.train:"), std::string::npos) << moved.err;
  write("more/b.txt", std::string(5000, 'x'));
  ASSERT_EQ(run("pimoe data build --output other --tokenizer corpus.model --validation 0 text more").code, 0);
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=4 data.train=other");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("data.train: moved in the checkpoint, other now"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("rank 1:"), std::string::npos) << "every rank said the same\n" << outcome.err;
}

TEST_F(TrainingEnds, AResumedRunSaysWhichDataWereBuiltAgainUnderTheirNames) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=2").code, 0);
  write("text/b.txt", std::string(5000, 'x'));
  ASSERT_EQ(run("pimoe data build --output corpus --vocabulary 300 --validation 0 text").code, 0);
  const Outcome checked = run("pimoe check tiny.yaml train.steps=4");
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=4");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  for (const std::string& said : {checked.out + checked.err, outcome.err}) {
    EXPECT_NE(said.find("data.train: corpus was built again: "), std::string::npos) << said;
    EXPECT_NE(said.find("data.tokenizer: corpus.model was built again: other content than in the checkpoint"), std::string::npos) << said;
  }
  const Outcome again = run("$PIMOE train tiny.yaml train.steps=6");
  EXPECT_EQ(again.err.find("was built again"), std::string::npos) << "the last checkpoint has the new ones\n" << again.err;
}

TEST_F(TrainingEnds, AMissingTokenizerIsSaidAtTheStart) {
  prepare();
  const Outcome outcome = run("$PIMOE train tiny.yaml model.vocabulary=300 data.tokenizer=nowhere.model");
  EXPECT_EQ(outcome.code, 65) << outcome.err;
  EXPECT_NE(outcome.err.find("nowhere.model"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace pimoe
