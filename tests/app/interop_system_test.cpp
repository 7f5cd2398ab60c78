#include "app/user.h"
#include "data/byte_level_tokenizer.h"
#include "interop/hf_fixture.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class Interop : public User {
 protected:
  /// Writes a tiny model of a family into the user's folder.
  void write_model(const std::string& name, HfJson config, at::ScalarType dtype = at::kBFloat16) const {
    config["vocab_size"] = 300;
    fs::create_directories(folder_ / name);
    replace_file(folder_ / name / "config.json", config.dump());
    replace_file(folder_ / name / "tokenizer.json", std::string("{\"a\": 1}"));
    replace_file(folder_ / name / "generation_config.json", std::string("{\"eos_token_id\": 2}"));
    write_tiny_weights(folder_ / name, config, dtype);
  }
};

TEST_F(Interop, AModelIsImportedTrainedOnAndExported) {
  write_model("hf", tiny_config(HfFamily::kQwen3Moe));
  Outcome outcome = run("pimoe import hf --output run --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const HfJson facts = HfJson::parse(outcome.out);
  EXPECT_EQ(facts["path"], "run/checkpoints/step-00000000");
  EXPECT_EQ(facts["family"], "qwen3_moe");
  EXPECT_EQ(facts["precision"], "bfloat16");
  EXPECT_EQ(run("pimoe checkpoint verify run").code, 0);
  EXPECT_EQ(run("pimoe checkpoint list run --json").code, 0);

  ASSERT_EQ(run("pimoe export run --output back").code, 0);
  EXPECT_EQ(run("cmp hf/model.safetensors back/model.safetensors").code, 0);
  EXPECT_EQ(run("cmp hf/tokenizer.json back/tokenizer.json").code, 0);
  EXPECT_EQ(run("cmp hf/generation_config.json back/generation_config.json").code, 0);
  EXPECT_EQ(HfJson::parse(read_file(folder_ / "back/config.json"))["eos_token_id"], 2);

  ASSERT_EQ(run("seq -f 'line %g of the text' 1 3000 >text.txt; pimoe data build --output corpus --vocabulary 285 text.txt").code, 0);
  outcome =
      run("pimoe train run/config.yaml data.train=corpus run.directory=tuned checkpoint.resume=run train.steps=2 mesh.device=cpu "
          "train.threads=1 train.global_batch=2 train.micro_batch=2");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("resumed from"), std::string::npos) << outcome.err;
  EXPECT_EQ(outcome.err.find("another corpus"), std::string::npos) << outcome.err;
  outcome = run("pimoe export tuned --output after");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(run("cmp hf/tokenizer.json after/tokenizer.json").code, 0);
  EXPECT_EQ(run("cmp hf/model.safetensors after/model.safetensors").code, 1);
  EXPECT_EQ(run("pimoe import after --output again").code, 0);

  ASSERT_EQ(run("$MPIRUN -n 2 $PIMOE train run/config.yaml data.train=corpus train.steps=1 mesh.device=cpu train.threads=1").code, 0);
  EXPECT_EQ(steps("run"), (std::vector<int64_t>{1}));
  EXPECT_EQ(run("pimoe export run --output third --dtype float32 --shard-bytes 3000").code, 0);
  EXPECT_TRUE(fs::exists(folder_ / "third/model.safetensors.index.json"));
}

TEST_F(Interop, ATokenizerJsonComesAlongAndIsTheRuns) {
  if (!PIMOE_UNICODE) GTEST_SKIP() << "built without PCRE2 or utf8proc";
  write_model("hf", tiny_config(HfFamily::kLlama));
  const std::string tokenizer = byte_level({{"h", "e"}, {"l", "l"}, {"he", "ll"}}).dump(1);
  replace_file(folder_ / "hf/tokenizer.json", tokenizer);
  replace_file(folder_ / "hf/tokenizer_config.json", std::string(R"({"eos_token": "<|endoftext|>"})"));
  Outcome outcome = run("pimoe import hf --output run");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  outcome = run("pimoe generate --checkpoint run --prompt hell --tokens 4 --json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_LE(HfJson::parse(outcome.out)["tokens"].size(), 4u);

  ASSERT_EQ(
      run("seq -f 'hell line %g of the text' 1 300 >text.txt; pimoe data build --output corpus --tokenizer hf/tokenizer.json text.txt")
          .code,
      0);
  EXPECT_EQ(run("pimoe data verify corpus --tokenizer hf/tokenizer.json").code, 0);
  EXPECT_EQ(HfJson::parse(run("pimoe data inspect corpus --tokenizer hf/tokenizer.json --json").out)["largest_id"], 259);  // <|endoftext|>
  ASSERT_EQ(run("pimoe train run/config.yaml data.train=corpus train.steps=1 mesh.device=cpu train.threads=1").code, 0);
  EXPECT_EQ(run("pimoe evaluate --checkpoint run --data corpus --batches 1 --json").code, 0);
  outcome = run("pimoe export run --output back");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    EXPECT_EQ(run(concat("cmp hf/", file, " back/", file)).code, 0) << file;
  }
}

TEST_F(Interop, DeepseekIsImportedTrainedOnTwoRanksReshardedAndExported) {
  HfJson config = tiny_config(HfFamily::kDeepseekV3);
  config["rope_scaling"] = {
      {"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 4}, {"mscale", 1.0}, {"mscale_all_dim", 1.0}};
  write_model("hf", config);
  ASSERT_EQ(run("seq -f 'line %g of the text' 1 3000 >text.txt; pimoe data build --output corpus --vocabulary 285 text.txt").code, 0);
  ASSERT_EQ(run("pimoe import hf --output run").code, 0);
  ASSERT_EQ(run("pimoe export run --output same").code, 0);
  EXPECT_EQ(run("cmp hf/model.safetensors same/model.safetensors").code, 0);
  Outcome outcome = run(
      "$MPIRUN -n 2 $PIMOE train run/config.yaml data.train=corpus train.steps=2 mesh.device=cpu mesh.expert_parallel=2 train.threads=1 "
      "train.global_batch=4 train.micro_batch=1 model.moe.balance.bias_rate=0.01");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_EQ(run("pimoe checkpoint reshard run/checkpoints/step-00000002 --ranks 4 --expert-parallel 4 --output four").code, 0);
  ASSERT_EQ(run("pimoe export run --output two").code, 0);
  outcome = run("pimoe export four/checkpoints/step-00000002 --output back --like hf");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(run("cmp two/model.safetensors back/model.safetensors").code, 0);
  EXPECT_EQ(run("cmp hf/model.safetensors two/model.safetensors").code, 1);
  EXPECT_EQ(HfJson::parse(read_file(folder_ / "two/config.json"))["rope_scaling"]["mscale_all_dim"], 1.0);
  outcome =
      run("pimoe train run/config.yaml data.train=corpus train.steps=3 mesh.device=cpu train.threads=1 train.global_batch=4 "
          "train.micro_batch=2 mesh.expert_parallel=1 run.directory=on checkpoint.resume=four");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(steps("on"), (std::vector<int64_t>{3}));
}

TEST_F(Interop, ADenseModelIsUpcycledTrainedOnTwoRanksAndExported) {
  HfJson config = tiny_config(HfFamily::kQwen3);
  config["max_position_embeddings"] = 64;
  write_model("hf", config, at::kFloat);
  ASSERT_EQ(run("seq -f 'line %g of the text' 1 3000 >text.txt; pimoe data build --output corpus --vocabulary 285 text.txt").code, 0);
  ASSERT_EQ(run("pimoe import hf --output dense").code, 0);
  Outcome outcome = run("pimoe import hf --output sparse --upcycle experts=4,choices=2,split=2");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("upcycled: 2 layers with 8 experts of width 6, of which 4 serve each token"), std::string::npos)
      << outcome.err;
  const auto loss = [&](const std::string& what) {
    const Outcome evaluated = run(concat(what, " --data corpus --batches 2 --json"));
    EXPECT_EQ(evaluated.code, 0) << evaluated.err;
    return HfJson::parse(evaluated.out)["loss"].get<double>();
  };
  const double dense = loss("pimoe evaluate --checkpoint dense");
  EXPECT_NEAR(loss("pimoe evaluate --checkpoint sparse"), dense, 1e-5);
  EXPECT_NEAR(loss("$MPIRUN -n 2 $PIMOE evaluate --checkpoint sparse"), dense, 1e-5);
  outcome =
      run("$MPIRUN -n 2 $PIMOE train sparse/config.yaml data.train=corpus train.steps=2 mesh.device=cpu mesh.expert_parallel=2 "
          "train.threads=1 train.global_batch=2");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_EQ(run("pimoe export sparse --output back").code, 0);
  const HfJson written = HfJson::parse(read_file(folder_ / "back/config.json"));
  EXPECT_EQ(written["model_type"], "qwen3_moe");
  EXPECT_EQ(written["eos_token_id"], 2);
  EXPECT_EQ(run("pimoe import back --output again").code, 0);

  outcome = run("pimoe import hf --output other --upcycle experts=4,choise=2");
  EXPECT_EQ(outcome.code, 64);
  EXPECT_NE(outcome.err.find("--upcycle (experts=4,choise=2): command line: choise: unknown key; did you mean choices?"), std::string::npos)
      << outcome.err;
  outcome = run("pimoe import back --output other --upcycle experts=4");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("--upcycle is for dense models"), std::string::npos) << outcome.err;
  EXPECT_EQ(run("ls -d other*").code, 2);
}

TEST_F(Interop, WhatIsRefusedLeavesNothing) {
  HfJson config = tiny_config(HfFamily::kLlama);
  config["attention_bias"] = true;
  write_model("biased", tiny_config(HfFamily::kLlama));
  replace_file(folder_ / "biased/config.json", config.dump());
  Outcome outcome = run("pimoe import biased --output run");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("biased/config.json: attention_bias (true)"), std::string::npos) << outcome.err;
  EXPECT_EQ(run("ls -d run*").code, 2);

  write_model("good", tiny_config(HfFamily::kMixtral));
  EXPECT_EQ(run("pimoe import missing --output run").code, 65);
  EXPECT_EQ(run("pimoe import good --output good").code, 64);
  EXPECT_EQ(run("pimoe import good").code, 64);
  EXPECT_EQ(run("pimoe import good --output run --sequence-length 17").code, 65);
  EXPECT_EQ(run("$MPIRUN -n 2 $PIMOE import good --output run").code, 64);
  EXPECT_EQ(run("ls -d run*").code, 2);
  ASSERT_EQ(run("pimoe import good --output run --sequence-length 16").code, 0);
  EXPECT_EQ(run("pimoe import good --output run").code, 64);

  EXPECT_EQ(run("pimoe export run --output back --dtype int8").code, 64);
  EXPECT_EQ(run("pimoe export run --output good").code, 64);
  outcome = run("pimoe export run --output back --like biased");
  EXPECT_EQ(outcome.code, 65);
  EXPECT_NE(outcome.err.find("is a mixtral, and config.json"), std::string::npos) << outcome.err;
  ASSERT_EQ(run("printf x | dd of=run/checkpoints/step-00000000/rank-0000-of-0001-part-000.h5 bs=1 seek=5000 conv=notrunc").code, 0);
  EXPECT_EQ(run("pimoe export run --output back").code, 65);
  EXPECT_EQ(run("pimoe export run/checkpoints/step-00000000 --output back").code, 65);
  EXPECT_EQ(run("ls -d back*").code, 2);
}

TEST_F(Interop, AModelIsNotImportedIntoTheFolderOfARun) {
  write_model("hf", tiny_config(HfFamily::kLlama));
  ASSERT_EQ(run("pimoe import hf --output run").code, 0);
  ASSERT_EQ(run("seq -f 'line %g of the text' 1 3000 >text.txt; pimoe data build --output corpus --vocabulary 285 text.txt").code, 0);
  ASSERT_EQ(run("pimoe train run/config.yaml data.train=corpus run.directory=tuned checkpoint.resume=run train.steps=1 mesh.device=cpu "
                "train.threads=1 train.global_batch=1 train.micro_batch=1")
                .code,
            0);
  const std::string before = run("find tuned run | sort").out;
  for (const char* place :
       {"tuned", "tuned/", "tuned/mine", "tuned/checkpoints", "tuned/checkpoints/mine", "tuned/checkpoints/step-00000001/mine"}) {
    const Outcome refused = run(concat("pimoe import hf --output ", place));
    EXPECT_EQ(refused.code, 64) << place;
    for (const char* said : {", the folder of ", "its checkpoints are one sequence"}) {
      EXPECT_NE(refused.err.find(said), std::string::npos) << place << ": " << refused.err;
    }
  }
  // Another model that was imported, and one whose manifest no longer says whose it is.
  EXPECT_EQ(run("pimoe import hf --output run/mine").code, 64);
  EXPECT_EQ(run("cp -r run damaged && : >damaged/checkpoints/step-00000000/manifest.json && pimoe import hf --output damaged/mine").code,
            64);
  EXPECT_EQ(run("find tuned run | sort").out, before);
}

TEST_F(Interop, AFullDiskIsAnErrorAndLeavesNothing) {
  write_model("hf", tiny_config(HfFamily::kLlama));
  EXPECT_EQ(run("ulimit -f 8; pimoe import hf --output run").code, 74);
  EXPECT_EQ(run("ls -d run*").code, 2);
  ASSERT_EQ(run("pimoe import hf --output run").code, 0);
  EXPECT_EQ(run("ulimit -f 4; pimoe export run --output back").code, 74);
  EXPECT_EQ(run("ls -d back*").code, 2);
}

TEST_F(Interop, HelpShowsAnExample) {
  for (const char* command : {"import", "export"}) {
    const Outcome outcome = run(concat("pimoe ", command, " --help"));
    EXPECT_EQ(outcome.code, 0);
    EXPECT_NE(outcome.out.find(concat("Example:\n  pimoe ", command)), std::string::npos);
  }
}

}  // namespace
}  // namespace pimoe
