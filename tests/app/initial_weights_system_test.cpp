#include "app/user.h"
#include "interop/hf_fixture.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Runs that begin with a Hugging Face folder, without an import.
class InitialWeights : public User {
 protected:
  InitialWeights() {
    EXPECT_EQ(run("seq -f 'line %g of the text' 1 3000 >text.txt; pimoe data build --output corpus --vocabulary 285 text.txt").code, 0);
    write("start.yaml", R"(mesh: {device: cpu}
data: {train: corpus}
model: {initial_weights: hf}
train: {steps: 5, global_batch: 8, micro_batch: 2, threads: 1}
log: {tensorboard: false}
)");
  }

  void write_model(HfJson config, at::ScalarType dtype = at::kBFloat16) const {
    config["vocab_size"] = 300;
    fs::remove_all(folder_ / "hf");
    write("hf/config.json", config.dump());
    write("hf/generation_config.json", "{\"eos_token_id\": 2}");
    write_tiny_weights(folder_ / "hf", config, dtype);
  }

  /// "loss grad_norm" of each step, to the bit
  std::vector<std::string> losses(const std::string& run_folder) const {
    std::vector<std::string> found;
    for (const auto& record : records(run_folder)) found.push_back(record.at("loss").dump() + " " + record.at("grad_norm").dump());
    return found;
  }

  /// Trains from the folder, and from an import of it by as many ranks, and compares every step.
  void expect_the_losses_of_an_import(int ranks, int expert_parallel, const std::string& more, const std::string& upcycle = "") const {
    SCOPED_TRACE(concat(ranks, " ranks, expert_parallel ", expert_parallel, ", ", more, upcycle));
    run("rm -rf imported direct");
    const std::string mpirun = concat("$MPIRUN -n ", ranks, " $PIMOE ");
    const std::string layout = concat(" run.deterministic=true mesh.expert_parallel=", expert_parallel, " ", more);
    Outcome outcome = run(concat(mpirun, "import hf --output imported mesh.expert_parallel=", expert_parallel,
                                 upcycle.empty() ? "" : " --upcycle " + upcycle));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    outcome = run(concat(mpirun,
                         "train imported/config.yaml mesh.device=cpu data.train=corpus train.steps=5 train.global_batch=8 "
                         "train.micro_batch=2 train.threads=1",
                         layout));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    outcome = run(concat(mpirun, "train start.yaml run.directory=direct", layout, upcycle.empty() ? "" : " model.upcycle=" + upcycle));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    ASSERT_EQ(losses("direct").size(), 5u);
    EXPECT_EQ(losses("direct"), losses("imported"));
  }
};

TEST_F(InitialWeights, TheFirstStepsAreThoseOfAnImportInEveryPrecision) {
  write_model(tiny_config(HfFamily::kQwen3Moe));
  expect_the_losses_of_an_import(1, 1, "train.precision=float64");
  expect_the_losses_of_an_import(3, 1, "train.precision=float32");
  expect_the_losses_of_an_import(4, 4, "train.precision=bfloat16");
}

TEST_F(InitialWeights, SoTheyAreWithLatentAttentionAndOfUpcycledModels) {
  write_model(tiny_config(HfFamily::kDeepseekV3), at::kFloat);
  expect_the_losses_of_an_import(2, 2, "train.precision=float64 model.moe.balance.bias_rate=0.01");
  write_model(tiny_config(HfFamily::kLlama), at::kHalf);
  expect_the_losses_of_an_import(4, 2, "train.precision=float32", "experts=4,choices=2,split=2,noise=0.1");
}

TEST_F(InitialWeights, ARunGoesOnFromItsOwnCheckpointsAndIsExportedAsAnImportedOne) {
  write_model(tiny_config(HfFamily::kMixtral));
  ASSERT_EQ(run("pimoe train start.yaml run.directory=run train.steps=2").code, 0);
  EXPECT_EQ(run("cmp hf/generation_config.json run/hf/generation_config.json").code, 0);
  // The weights may be gone by now.
  ASSERT_EQ(run("mv hf/model.safetensors away").code, 0);
  Outcome outcome = run("$MPIRUN -n 2 $PIMOE train start.yaml run.directory=run train.steps=3");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("resumed from run/checkpoints/step-00000002"), std::string::npos) << outcome.err;
  EXPECT_EQ(steps("run"), (std::vector<int64_t>{1, 2, 3}));
  ASSERT_EQ(run("pimoe export run --output back").code, 0);
  EXPECT_EQ(run("cmp hf/generation_config.json back/generation_config.json").code, 0);
  EXPECT_EQ(HfJson::parse(read_file(folder_ / "back/config.json"))["eos_token_id"], 2);

  ASSERT_EQ(run("mv away hf/model.safetensors").code, 0);
  outcome = run("pimoe train start.yaml run.directory=branch checkpoint.resume=run train.steps=4");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(steps("branch"), (std::vector<int64_t>{4}));
  outcome = run("pimoe train run/config.yaml run.directory=again checkpoint.resume=none train.steps=2");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(losses("again").size(), 2u);
}

TEST_F(InitialWeights, WhatDoesNotFitIsNamedAndLeavesNothing) {
  write_model(tiny_config(HfFamily::kMixtral));
  Outcome outcome = run("pimoe train start.yaml run.directory=run model.layers=3 model.moe.router.kind=sigmoid");
  EXPECT_EQ(outcome.code, 78);
  for (const char* line : {"command line: model.layers (3) must be 2, as hf has it", "model.moe.router.kind (sigmoid) must be softmax"}) {
    EXPECT_NE(outcome.err.find(line), std::string::npos) << outcome.err;
  }
  outcome = run("pimoe train start.yaml run.directory=run model.initial_weights=nowhere");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("there is no nowhere: a Hugging Face model is a folder with config.json"), std::string::npos) << outcome.err;
  outcome = run("pimoe train start.yaml run.directory=run model.upcycle=experts=2");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("model.upcycle is for dense models"), std::string::npos) << outcome.err;
  outcome = run("pimoe train start.yaml run.directory=run model.initial_weights= model.upcycle=experts=2 model.vocabulary=300");
  EXPECT_EQ(outcome.code, 78);
  EXPECT_NE(outcome.err.find("model.upcycle (experts=2) is for a model that model.initial_weights names"), std::string::npos)
      << outcome.err;
  outcome = run("pimoe train start.yaml run.directory=run model.initial_weights= model.vocabulary=300 checkpoint.resume=hf");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("hf is a Hugging Face model and no checkpoint: model.initial_weights=hf begins a run with it"),
            std::string::npos)
      << outcome.err;
  // One rank's weights, which no other reads.
  ASSERT_EQ(
      run("size=$(stat -c %s hf/model.safetensors); printf '\\200\\177' | dd of=hf/model.safetensors bs=1 seek=$((size - 2)) conv=notrunc")
          .code,
      0);
  outcome = run("$MPIRUN -n 4 $PIMOE train start.yaml run.directory=run");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("has numbers that are not finite"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("not finite", outcome.err.find("not finite") + 1), std::string::npos) << outcome.err;
  EXPECT_EQ(run("ls run/checkpoints/*").code, 2);
  outcome = run("pimoe check start.yaml --ranks 4");
  EXPECT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  ASSERT_EQ(run("rm hf/model.safetensors").code, 0);
  outcome = run("pimoe check start.yaml --ranks 4");
  EXPECT_EQ(outcome.code, 65) << outcome.out << outcome.err;
  EXPECT_NE(outcome.out.find("hf has neither model.safetensors nor model.safetensors.index.json"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace pimoe
