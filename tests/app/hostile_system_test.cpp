#include "app/user.h"

namespace pimoe {
namespace {

/// What somebody does who means no good, or has no luck.
using HostileUser = User;

TEST_F(HostileUser, CannotDriveATerminalWithWhatIsEchoed) {
  prepare();
  struct Row {
    const char* command;
    const char* echoed;  ///< what is said of it, "" where it is not quoted
  };
  const Row rows[] = {
      {"pimoe train 'no\033[2Jfile.yaml'", "no\\x1b[2Jfile.yaml"},
      {"pimoe train tiny.yaml 'model.\033[2Jlayers=3'", "model.\\x1b[2Jlayers"},
      {"pimoe train tiny.yaml 'train.precision=\033]0;mine\007'", ""},
      {"pimoe train tiny.yaml '--\033[2J'", "\\x1b[2J"},
      {"pimoe '\033[2J'", "\\x1b[2J"},
      {"pimoe data inspect '\033[2J'", "\\x1b[2J.idx"},
      {"pimoe checkpoint list '\033[2J'", "\\x1b[2J"},
      {"pimoe train tiny.yaml 'checkpoint.resume=\302\233"
       "2J'",
       "\\xc2\\x9b"
       "2J"},
  };
  for (const auto& [command, echoed] : rows) {
    const Outcome outcome = run(command);
    EXPECT_NE(outcome.code, 0) << command;
    const std::string said = outcome.out + outcome.err;
    EXPECT_EQ(said.find('\x1b'), std::string::npos) << command;
    EXPECT_EQ(said.find("\xc2\x9b"), std::string::npos) << command;
    EXPECT_NE(said.find(echoed), std::string::npos) << command << ": " << said;
  }
}

TEST_F(HostileUser, CannotDriveATerminalWithTheTextOfACorpus) {
  write("text/a.txt", "red \033[31m and a title \033]0;mine\007, in two\nlines\n");
  std::string more;
  for (int line = 0; line < 2000; ++line) more += concat("a line of words, number ", line, "\n");
  write("text/b.txt", more);
  ASSERT_EQ(run("pimoe data build --output corpus --vocabulary 300 text").code, 0);
  const Outcome outcome = run("pimoe data inspect corpus");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out.find('\033'), std::string::npos);
  EXPECT_NE(outcome.out.find("red \\x1b[31m and a title \\x1b]0;mine\\x07, in two\nlines"), std::string::npos) << outcome.out;
}

TEST_F(HostileUser, IsWarnedOfThreadsThatHaveNoCores) {
  prepare();
  const Outcome many = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=1 train.threads=512");
  EXPECT_EQ(many.code, 0) << many.err;
  const size_t at = many.err.find("train.threads (512) is far more than this machine has: ");
  ASSERT_NE(at, std::string::npos) << many.err;
  EXPECT_NE(many.err.find(" for 2 ranks. ", at), std::string::npos) << many.err;
  EXPECT_EQ(many.err.find("is far more", at + 30), std::string::npos) << "once";
  const Outcome few = run("pimoe train tiny.yaml train.steps=1 train.threads=1 run.directory=runs/few");
  EXPECT_EQ(few.err.find("is far more"), std::string::npos) << few.err;
}

TEST_F(HostileUser, GetsNoAbsurdNumberOfThreads) {
  prepare();
  for (const char* threads : {"0", "-1", "100000", "abc", "4,", "2,x", " 2", "1e3", "99999999999999999999"}) {
    const Outcome outcome = run(concat("OMP_NUM_THREADS='", threads, "' pimoe train tiny.yaml train.steps=1"));
    EXPECT_EQ(outcome.code, 78) << threads;
    EXPECT_NE(outcome.err.find(concat("OMP_NUM_THREADS ('", threads, "') must be a whole number from 1 to 4096")), std::string::npos)
        << threads << ": " << outcome.err;
  }
  const Outcome list = run("OMP_NUM_THREADS=2,1 pimoe train tiny.yaml train.steps=1 run.directory=runs/list");
  EXPECT_EQ(list.code, 0) << list.err;
  EXPECT_NE(list.err.find("2 threads a rank"), std::string::npos) << list.err;
  EXPECT_EQ(run("OMP_NUM_THREADS= pimoe train tiny.yaml train.steps=1 run.directory=runs/empty").code, 0);
  EXPECT_EQ(run("OMP_NUM_THREADS=abc pimoe train tiny.yaml train.steps=1 train.threads=1 run.directory=runs/said").code, 0);
}

TEST_F(HostileUser, IsToldOnceOfKeysThatDoNothing) {
  prepare();
  const std::string key = "model.moe.capacity_drop (position, command line) has no effect, because model.moe.capacity_factor is 0";
  const Outcome trained = run("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=2 model.moe.capacity_drop=position");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const size_t at = trained.err.find(key);
  ASSERT_NE(at, std::string::npos) << trained.err;
  EXPECT_EQ(trained.err.find(key, at + 1), std::string::npos);
  EXPECT_NE(run("pimoe check tiny.yaml model.moe.capacity_drop=position").out.find(key), std::string::npos);
  EXPECT_EQ(run("pimoe check tiny.yaml").out.find("has no effect"), std::string::npos);
}

TEST_F(HostileUser, CannotEndARunWithADamagedRecordOfIt) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=10").code, 0);
  for (const std::string& garbage : {std::string("{\"step\":11,\"lo"), std::string("{\"step\":\"x\"}\n"), std::string("\0\x1b\xff", 3)}) {
    const std::string whole = read_file(folder_ / "runs/tiny/metrics.jsonl") + garbage;
    write("runs/tiny/metrics.jsonl", whole);
    std::filesystem::remove(folder_ / "runs/tiny/metrics.jsonl.damaged");
    const Outcome again = run("pimoe train tiny.yaml train.steps=10");
    EXPECT_EQ(again.code, 0) << again.err;
    EXPECT_NE(again.err.find("metrics.jsonl was damaged"), std::string::npos) << again.err;
    EXPECT_EQ(steps("runs/tiny").size(), 10u);
    EXPECT_EQ(read_file(folder_ / "runs/tiny/metrics.jsonl.damaged"), whole);
  }
}

TEST_F(HostileUser, CannotMakeAReplayWaitOrReadForEver) {
  prepare();
  std::filesystem::create_directories(folder_ / "pipes");
  ASSERT_EQ(run("mkfifo pipes/a.h5; echo 00 > pipes/a.h5.sha256").code, 0);
  struct Row {
    const char* replay;
    const char* said;
  };
  const Row rows[] = {{"pipes", "model.moe.router.replay: cannot read pipes/a.h5: it is no regular file"},
                      {"/dev/zero", "model.moe.router.replay: cannot read /dev/zero: it is no regular file"},
                      {"nowhere", "model.moe.router.replay: cannot read nowhere: No such file or directory"}};
  for (const auto& [replay, said] : rows) {
    for (const char* command : {"train", "check"}) {
      const Outcome outcome =
          run(concat("timeout -s KILL 60 $PIMOE ", command, " tiny.yaml train.steps=1 model.moe.router.replay=", replay));
      EXPECT_EQ(outcome.code, 74) << command << " " << replay;
      EXPECT_NE((outcome.out + outcome.err).find(said), std::string::npos) << command << ": " << outcome.out << outcome.err;
    }
  }
}

TEST_F(HostileUser, IsToldOfAReplayThatDoesNothingAndRefusedOneOfAnotherRouter) {
  prepare();
  const Outcome recorded = run("$PIMOE train tiny.yaml train.steps=5 log.routing.every_steps=5 model.moe.router.kind=expert_choice");
  ASSERT_EQ(recorded.code, 0) << recorded.err;
  ASSERT_EQ(run("mv runs/tiny/routing recorded; rm -r runs").code, 0);
  const std::string replay = " tiny.yaml model.moe.router.replay=recorded ";
  const std::string idle =
      "model.moe.router.replay (recorded) has no effect, because step 5 is what was recorded, and this run does steps 1 to 2";
  for (const std::string command : {"check", "train"}) {
    const Outcome early = run("$PIMOE " + command + replay + "model.moe.router.kind=expert_choice train.steps=2");
    EXPECT_EQ(early.code, 0) << early.err;
    EXPECT_NE((early.out + early.err).find(idle), std::string::npos) << command << ": " << early.out << early.err;
    const Outcome reached = run("$PIMOE " + command + replay + "model.moe.router.kind=expert_choice train.steps=5");
    EXPECT_EQ(reached.code, 0) << reached.err;
    EXPECT_EQ((reached.out + reached.err).find("has no effect"), std::string::npos) << command << ": " << reached.out << reached.err;
    for (const char* other : {"model.moe.choices=4", "model.moe.router.kind=sigmoid model.moe.choices=4",
                              "model.moe.router.kind=expert_choice model.moe.choices=1"}) {
      const Outcome refused = run("$PIMOE " + command + replay + "run.directory=runs/other " + other);
      EXPECT_EQ(refused.code, 65) << command << " " << other << ": " << refused.err;
      EXPECT_NE((refused.out + refused.err).find("recorded/step-00000005-rank-0000.h5 was recorded of another model: layers.0.moe.router "),
                std::string::npos)
          << command << ": " << refused.out << refused.err;
    }
  }
}

TEST_F(HostileUser, CannotEndARunByWhatIsInTheWayOfItsRecordings) {
  prepare();
  const std::string recording = " tiny.yaml train.steps=3 log.routing.every_steps=1";
  write("runs/tiny/routing", "mine");
  for (const std::string command : {"check", "train"}) {
    const Outcome outcome = run("$PIMOE " + command + recording);
    EXPECT_EQ(outcome.code, 74) << command << ": " << outcome.out << outcome.err;
    EXPECT_NE((outcome.out + outcome.err).find("log.routing.every_steps (1): "), std::string::npos) << outcome.out << outcome.err;
  }
  std::filesystem::remove(folder_ / "runs/tiny/routing");
  std::filesystem::create_directories(folder_ / "runs/tiny/routing/step-00000002-rank-0001.h5");
  const Outcome checked = run("$PIMOE check" + recording + " --ranks 2");
  EXPECT_EQ(checked.code, 0) << checked.out;
  EXPECT_NE(checked.out.find("step-00000002-rank-0001.h5 is no regular file, and in the way"), std::string::npos) << checked.out;
  const Outcome trained = run("$MPIRUN -n 2 $PIMOE train" + recording + " log.routing.tokens=80");
  EXPECT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(steps("runs/tiny"), (std::vector<int64_t>{1, 2, 3}));
  EXPECT_NE(trained.err.find("step 2: routing decisions were not recorded: rank 1: cannot write "), std::string::npos) << trained.err;
  EXPECT_TRUE(std::filesystem::exists(folder_ / "runs/tiny/routing/step-00000003-rank-0001.h5"));
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "runs/tiny/routing")) {
    EXPECT_EQ(entry.path().string().find(".tmp"), std::string::npos) << entry.path();
  }
}

TEST_F(HostileUser, IsToldWhichLayoutsFit) {
  prepare();
  const Outcome ranks = run("$MPIRUN -n 3 $PIMOE train tiny.yaml mesh.expert_parallel=2");
  EXPECT_EQ(ranks.code, 78);
  EXPECT_NE(ranks.err.find("mesh.expert_parallel (2) must divide the 3 ranks. Nearest that works: expert_parallel 1, or 2 or 4 ranks"),
            std::string::npos)
      << ranks.err;
  const Outcome batch = run("$MPIRUN -n 3 $PIMOE train tiny.yaml train.steps=1 train.global_batch=2");
  EXPECT_EQ(batch.code, 0) << batch.err;
  EXPECT_NE(batch.err.find("train.global_batch (2) is below the 3 ranks: 1 of them"), std::string::npos) << batch.err;
}

}  // namespace
}  // namespace pimoe
