#include "app/user.h"

namespace pimoe {
namespace {

using Commands = User;

struct Refused {
  const char* command;
  int code;
  std::vector<const char*> said;
};

TEST_F(Commands, RefuseWhatCannotBeMeantAndSayItShortly) {
  prepare();
  const std::vector<Refused> cases = {
      {"pimoe xyzzy", 64, {"xyzzy", "train", "data"}},
      {"pimoe", 64, {"train", "data"}},
      {"pimoe checkpoint", 64, {"list", "verify", "reshard"}},
      {"pimoe data xyzzy corpus", 64, {"build", "inspect", "verify"}},
      {"pimoe train tiny.yaml --steps 3", 64, {"train.steps=3"}},
      {"pimoe parity tiny.yaml --expert-parallel=2", 64, {"mesh.expert_parallel=2"}},
      {"pimoe drill ties tiny.yaml --choices 3", 64, {"model.moe.choices=3"}},
      {"pimoe train tiny.yaml model.moe.rank_budget=0.9999999", 78, {"(0.9999999) must be 0, or at least 1"}},
      {"pimoe train tiny.yaml --every-steps=3", 64, {"checkpoint.every_steps=3", "log.every_steps=3"}},
      {"pimoe train tiny.yaml train.global_batch=9223372036854775807", 78, {"train.global_batch", "at most"}},
      {"pimoe train tiny.yaml train.validation_batches=9223372036854775807", 78, {"train.validation_batches", "at most"}},
      {"pimoe train tiny.yaml model.vocabulary=100000000000", 78, {"model.vocabulary", "at most"}},
      {"pimoe train tiny.yaml \"run.directory=runs/$(printf '\\377')\"", 78, {"run.directory", "UTF-8"}},
      {"ulimit -v 30000000; pimoe train tiny.yaml model.width=1048576", 70, {"Out of memory", "micro_batch"}},
      {"pimoe data build --output z/ text", 64, {"z/", "PREFIX"}},
      {"pimoe data build --output '' text", 64, {"PREFIX"}},
      {"pimoe data build --output q --sample-bytes 99999999999999999999999999 text", 64, {"--sample-bytes"}},
      {"pimoe data build --output q --sample-bytes 8MQ text", 64, {"--sample-bytes", "8MQ", "80GiB"}},
      {"pimoe check tiny.yaml --memory -1GB", 64, {"--memory", "-1GB", "80GiB"}},
      {"pimoe export runs/x --output y --shard-bytes 0", 64, {"--shard-bytes", "'0'", "size in [1 - "}},
      {"pimoe export runs/x --output y --shard-bytes 9EB", 64, {"--shard-bytes", "9EB"}},
      {"pimoe data build --output q --threads -1 text", 64, {"--threads"}},
      {"pimoe generate --checkpoint x --prompt y --temperature nan", 64, {"--temperature", "nan"}},
      {"pimoe generate --checkpoint x --prompt y --temperature -1", 64, {"--temperature", "-1"}},
      {"pimoe generate --checkpoint x --prompt y --top-p nan", 64, {"--top-p", "nan"}},
      {"pimoe generate --checkpoint x --prompt y --tokens 99999999999999999999999", 64, {"--tokens"}},
      {"pimoe generate --checkpoint x --prompt y --seed -1", 64, {"--seed", "-1"}},
      {"pimoe drill ties tiny.yaml --timeout 9e18", 64, {"--timeout", "9e18", "whole number"}},
      {"pimoe drill ties tiny.yaml --timeout 0", 64, {"--timeout", "whole number in [1 - "}},
      {"pimoe parity tiny.yaml --sequences 100000000", 64, {"--sequences", "100000000", "65536"}},
      {"pimoe parity tiny.yaml --sequences 65536 model.vocabulary=10000000", 64, {"--sequences", "65536", "model.vocabulary", "logits"}},
      {"PIMOE_PARITY_BREAK=head.wieght pimoe parity tiny.yaml", 64, {"PIMOE_PARITY_BREAK", "head.wieght", "did you mean head.weight"}},
      {"pimoe experts runs/x --batches 99999999999999999999", 64, {"--batches", "whole number"}},
      {"pimoe experts runs/x --classes latin", 64, {"--classes: 'latin' must be python or prose"}},
  };
  for (const Refused& refused : cases) {
    SCOPED_TRACE(refused.command);
    const Outcome outcome = run(refused.command);
    EXPECT_EQ(outcome.code, refused.code) << outcome.err;
    for (const char* part : refused.said) EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
    EXPECT_LT(outcome.err.size(), 700u) << outcome.err;
    EXPECT_EQ(outcome.err.find("frame #"), std::string::npos) << outcome.err;
  }
}

TEST_F(Commands, DataBuildTakesOnePatternForEachIncludeWhateverFollowsIt) {
  write("text/a.txt", std::string(3000, 'a') + "\n");
  write("text/b.md", "b\n");
  prepare();
  const Outcome built =
      run("pimoe data build --output q --tokenizer corpus.model --validation 0 --include '*.md' --include '*.rst' text --json");
  ASSERT_EQ(built.code, 0) << built.err;
  EXPECT_EQ(nlohmann::json::parse(built.out).at("documents"), 1);
}

TEST_F(Commands, TakeSizesInOneFormWhereverThereAreSome) {
  prepare();
  for (const char* size : {"1000000000000", "1000GB", "1 TB", "1tb", "0.001PB", "1e12"}) {
    const Outcome outcome = run(concat("pimoe check tiny.yaml --memory '", size, "' --json"));
    EXPECT_EQ(outcome.code, 0) << size << outcome.err;
    EXPECT_NE(outcome.out.find("1000000000000"), std::string::npos) << size << "\n" << outcome.out;
  }
  EXPECT_NE(run("pimoe check tiny.yaml --memory 1GiB --json").out.find("1073741824"), std::string::npos);
}

TEST_F(Commands, OfOneProcessRefuseToBeStartedSeveralTimes) {
  for (const char* command : {"experts runs/tiny", "data inspect corpus", "checkpoint list runs"}) {
    const Outcome outcome = run(concat("$MPIRUN -n 2 $PIMOE ", command));
    EXPECT_EQ(outcome.code, 64) << command << outcome.err;
    EXPECT_NE(outcome.err.find("runs as one process, and 2 were started"), std::string::npos) << command << outcome.err;
    EXPECT_EQ(outcome.out, "") << command;
  }
  prepare();
  EXPECT_EQ(run("$MPIRUN -n 1 $PIMOE data inspect corpus").code, 0) << "one is one, whoever starts it";
}

TEST_F(Commands, GenerateAndExpertsTakeTheThreadsOfTheirRun) {
  prepare();
  ASSERT_EQ(run("$PIMOE train tiny.yaml train.steps=1 train.threads=3").code, 0);
  for (const char* command : {"pimoe generate --checkpoint runs/tiny --prompt the --tokens 2", "pimoe experts runs/tiny --batches 1"}) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.err.find("step 1; 3 threads"), std::string::npos) << outcome.err;
  }
}

TEST_F(Commands, PrintJsonWhateverAPathIsMadeOf) {
  prepare();
  const Outcome outcome = run("mv corpus.bin $'corp\\377s.bin'; mv corpus.idx $'corp\\377s.idx'; pimoe data inspect $'corp\\377s' --json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(nlohmann::json::parse(outcome.out, nullptr, false).is_object()) << outcome.out;
}

TEST_F(Commands, AValueOnTheCommandLineIsTakenAsItStands) {
  prepare();
  const Outcome outcome = run("pimoe train tiny.yaml 'run.directory=runs/a #b' train.steps=1");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(std::filesystem::exists(folder_ / "runs/a #b/config.yaml"));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs/a"));
}

TEST_F(Commands, WhatCouldNotBePrintedIsAnError) {
  prepare();
  for (const char* command : {"pimoe train tiny.yaml --print-config >/dev/full", "pimoe --help >/dev/full"}) {
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 74) << command << outcome.err;
    EXPECT_NE(outcome.err.find("standard output"), std::string::npos) << outcome.err;
  }
}

// The first file that such a process opens must not be taken for its standard output or error.
TEST_F(Commands, WhatIsPrintedGoesIntoNoFileWhereThereAreNoStandardStreams) {
  prepare();
  write_durably(folder_ / "text.txt", "the cat sat on the mat\n", 23);
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  EXPECT_EQ(run("pimoe data build --output again --tokenizer corpus.model --validation 0 text.txt >&- 2>&- <&-").code, 74);
  const Outcome built = run("pimoe data verify again");
  EXPECT_EQ(built.code, 0) << built.err;
  const Outcome told = run("pimoe data build --output once-more --tokenizer corpus.model --validation 0 text.txt >&-");
  EXPECT_EQ(told.code, 74) << told.err;
  EXPECT_NE(told.err.find("what it makes is complete: only what it prints is lost"), std::string::npos) << told.err;
  EXPECT_EQ(run("pimoe checkpoint reshard runs/tiny --ranks 2 --output two >&- 2>&- <&-").code, 74);
  EXPECT_EQ(run("pimoe checkpoint verify two").code, 0);
  EXPECT_EQ(run("pimoe train tiny.yaml train.steps=4 log.every_steps=1 >&- 2>&- <&-").code, 0);
  EXPECT_EQ(run("pimoe checkpoint verify runs/tiny").code, 0);
}

TEST_F(Commands, CheckpointCommandsSayWhatTheyWereGiven) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  const Outcome one = run("pimoe checkpoint list runs/tiny/checkpoints/step-00000002/");
  EXPECT_EQ(one.code, 65);
  EXPECT_NE(one.err.find("is one checkpoint"), std::string::npos) << one.err;
  const Outcome none = run("pimoe checkpoint list text --json");
  EXPECT_EQ(none.code, 0);
  EXPECT_EQ(nlohmann::json::parse(none.out), nlohmann::json::array());
  EXPECT_NE(none.err.find("there are no checkpoints"), std::string::npos) << none.err;

  ASSERT_EQ(run("mv corpus.model away.model").code, 0);
  const Outcome text = run("pimoe generate --checkpoint runs/tiny --prompt x");
  EXPECT_EQ(text.code, 65);
  EXPECT_NE(text.err.find("--tokenizer"), std::string::npos) << text.err;

  ASSERT_EQ(run("mv runs/tiny/checkpoints/step-00000002 runs/tiny/checkpoints/step-00000009").code, 0);
  const Outcome renamed = run("pimoe checkpoint verify runs/tiny/checkpoints/step-00000009/");
  EXPECT_EQ(renamed.code, 1);
  EXPECT_NE(renamed.err.find("step-00000002"), std::string::npos) << renamed.err;
  EXPECT_EQ(renamed.err.find("checkpoint "), renamed.err.rfind("checkpoint ")) << "said twice\n" << renamed.err;
}

TEST_F(Commands, CheckpointCommandsTakeNoFileForAFolderAndNoEmptyName) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  for (const char* command : {"list", "verify"}) {
    const Outcome file = run(concat("pimoe checkpoint ", command, " tiny.yaml"));
    EXPECT_EQ(file.code, 65) << file.err;
    EXPECT_NE(file.err.find("tiny.yaml is no folder"), std::string::npos) << file.err;
  }
  EXPECT_EQ(run("pimoe checkpoint extract runs/tiny final_norm.weight --output ''").code, 64);
  EXPECT_EQ(run("pimoe checkpoint reshard runs/tiny --ranks 2 --output ''").code, 64);
  EXPECT_EQ(run("pimoe checkpoint reshard runs/tiny --ranks 2 --output other/step-00000002/").code, 0);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "other/step-00000002/manifest.json"));
  EXPECT_EQ(run("pimoe checkpoint reshard runs/tiny --ranks 2 --output another/").code, 0);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "another/checkpoints/step-00000002/manifest.json"));
}

TEST_F(Commands, ACheckpointIsNotWrittenAmongThoseOfAnotherRun) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=1 run.directory=runs/other").code, 0);
  for (const char* place : {"runs/other", "runs/other/checkpoints/step-00000002", "runs/other/mine", "runs/tiny/mine/checkpoints"}) {
    const Outcome refused = run(concat("pimoe checkpoint reshard runs/tiny --ranks 2 --output ", place));
    EXPECT_EQ(refused.code, 64) << place;
    EXPECT_NE(refused.err.find(", the folder of "), std::string::npos) << refused.err;
    EXPECT_NE(refused.err.find("its checkpoints are one sequence"), std::string::npos) << refused.err;
  }
  ASSERT_EQ(run("pimoe checkpoint reshard runs/other --ranks 2 --output shared").code, 0);
  const Outcome mixed = run("pimoe checkpoint reshard runs/tiny --ranks 2 --output shared");
  EXPECT_EQ(mixed.code, 64);
  EXPECT_NE(mixed.err.find("shared/checkpoints, the folder of run runs/other (step-00000001)"), std::string::npos) << mixed.err;
  EXPECT_EQ(run("ls -A runs/other/checkpoints shared/checkpoints | grep -c step-00000002").out, "0\n");
}

TEST_F(Commands, DiffTellsWeightsFromCounters) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  ASSERT_EQ(run("cp -r runs/tiny/checkpoints/step-00000002 same").code, 0);
  const Outcome same = run("pimoe checkpoint diff runs/tiny same");
  EXPECT_EQ(same.code, 0) << same.out;
  EXPECT_NE(same.out.find("weights the same, moments the same, other tensors the same; step, numbers and counters the same"),
            std::string::npos)
      << same.out;
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=3 run.directory=runs/other").code, 0);
  const Outcome other = run("pimoe checkpoint diff runs/tiny runs/other --json");
  EXPECT_EQ(other.code, 1) << other.out;
  const auto facts = nlohmann::json::parse(other.out);
  EXPECT_FALSE(facts.at("same_weights"));
  EXPECT_FALSE(facts.at("same_moments"));
}

TEST_F(Commands, ReshardWritesWhereACheckpointIsLookedForOrNowhere) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  for (const char* name : {"step-2", "step-7", "step-00000002.tmp", "step-0000002/"}) {
    const Outcome refused = run(concat("pimoe checkpoint reshard runs/tiny --ranks 2 --output other/", name));
    EXPECT_EQ(refused.code, 64) << name;
    EXPECT_NE(refused.err.find("that of step 2 is called step-00000002"), std::string::npos) << refused.err;
  }
  const Outcome inside = run("pimoe checkpoint reshard runs/tiny --ranks 2 --output runs/tiny/checkpoints/step-00000002/two");
  EXPECT_EQ(inside.code, 64) << inside.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "other"));
  EXPECT_EQ(run("pimoe checkpoint reshard runs/tiny --ranks 2 --output other/checkpoints").code, 0);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "other/checkpoints/step-00000002/manifest.json"));
  EXPECT_EQ(run("pimoe checkpoint verify other").code, 0);
}

TEST_F(Commands, ExtractLeavesTheCheckpointAsItIs) {
  prepare();
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2").code, 0);
  const Outcome inside =
      run("pimoe checkpoint extract runs/tiny final_norm.weight --output runs/../runs/tiny/checkpoints/step-00000002/manifest.json");
  EXPECT_EQ(inside.code, 64) << inside.err;
  EXPECT_EQ(run("pimoe checkpoint verify runs/tiny").code, 0);
  const Outcome over = run("pimoe checkpoint extract runs/tiny final_norm.weight --output runs/tiny/metrics.jsonl");
  EXPECT_EQ(over.code, 64) << over.err;
  EXPECT_NE(over.err.find("is no HDF5 file: it is not overwritten"), std::string::npos) << over.err;
  EXPECT_EQ(run("pimoe checkpoint extract runs/tiny final_norm.weight --output norm.h5").code, 0);
  EXPECT_EQ(run("pimoe checkpoint extract runs/tiny final_norm.weight --output norm.h5").code, 0) << "its own is replaced";
  EXPECT_TRUE(std::filesystem::exists(folder_ / "norm.h5"));
  const Outcome facts = run("pimoe checkpoint extract runs/tiny final_norm.weight --output norm.h5 --json");
  ASSERT_EQ(facts.code, 0) << facts.err;
  const auto json = nlohmann::json::parse(facts.out);
  EXPECT_EQ(json.at("path"), "norm.h5");
  EXPECT_EQ(json.at("tensor"), "master/final_norm.weight");
  EXPECT_EQ(json.at("shape").size(), 1u);
  EXPECT_EQ(json.at("dtype"), "float32");
}

}  // namespace
}  // namespace pimoe
