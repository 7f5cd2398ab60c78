#include "app/tiny_model.h"
#include "app/user.h"

namespace pimoe {
namespace {

using Json = nlohmann::json;

class BenchCommand : public User {
 protected:
  BenchCommand() { write("tiny.yaml", kTinyModel); }
};

TEST_F(BenchCommand, PrintsATableOrOneDocument) {
  const Outcome table = run("pimoe bench layer tiny.yaml train.precision=float32 --seconds 0");
  EXPECT_EQ(table.code, 0) << table.err;
  for (const char* said : {"1 rank on 1 host", "ceilings", "gemm float32", "layer", "balanced", "zipf", "kept for backward"}) {
    EXPECT_NE(table.out.find(said), std::string::npos) << said << "\n" << table.out;
  }
  for (const char* json : {"--json", "--json -"}) {
    const Outcome printed = run(concat("pimoe bench layer tiny.yaml train.precision=float32 --seconds 0 ", json));
    EXPECT_EQ(printed.code, 0) << printed.err;
    const Json document = Json::parse(printed.out, nullptr, false);
    ASSERT_TRUE(document.is_object()) << printed.out;
    EXPECT_EQ(document.at("command"), "pimoe bench layer tiny.yaml train.precision=float32 --seconds 0");
    EXPECT_EQ(document.at("machine").at("precision"), "float32");
    EXPECT_NE(document.at("config").get<std::string>().find("expert_width: 12"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "runs")) << "nothing of this suite is written";
}

TEST_F(BenchCommand, TakesAllRanksAndWritesTheFile) {
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE bench scaling tiny.yaml mesh.expert_parallel=2 --seconds 0 --json=facts.json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("2 ranks on 1 host"), std::string::npos) << outcome.out;
  const Json document = Json::parse(read_file(folder_ / "facts.json"));
  EXPECT_EQ(document.at("machine").at("ranks"), 2);
  EXPECT_EQ(document.at("rows").at(0).at("forward_seconds_by_rank").size(), 2u);
}

TEST_F(BenchCommand, NeedsNoConfigurationFile) {
  const Outcome outcome =
      run("pimoe bench dispatch model.width=32 model.moe.experts=4 model.sequence_length=16 train.micro_batch=1 mesh.device=cpu --seconds "
          "0 --json");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out).at("rows").at(0).at("suite"), "dispatch");
}

TEST_F(BenchCommand, RefusesWhatCannotBeMeant) {
  const std::string config = read_file(folder_ / "tiny.yaml");
  struct Refused {
    const char* command;
    int code;
    const char* said;
  };
  for (const Refused& refused : std::vector<Refused>{
           {"pimoe bench modle tiny.yaml", 64, "did you mean 'model'?"},
           {"pimoe bench", 64, "suite"},
           {"pimoe bench layer missing.yaml", 78, "missing.yaml"},
           {"pimoe bench layer tiny.yaml model.moe.expert=4", 78, "model.moe.experts"},
           {"pimoe bench layer tiny.yaml --model.width=4", 64, "model.width=4"},
           {"pimoe bench layer tiny.yaml model.moe.experts=0", 78, "needs a MoE layer"},
           {"pimoe bench layer --json tiny.yaml", 64, "put --json last"},
           {"pimoe bench layer --json model.width=4", 64, "put --json last"},
           {"pimoe bench layer tiny.yaml --json nowhere/facts.json", 74, "nowhere"},
           {"pimoe bench layer tiny.yaml --seconds nan", 64, "--seconds"},
       }) {
    SCOPED_TRACE(refused.command);
    const Outcome outcome = run(refused.command);
    EXPECT_EQ(outcome.code, refused.code) << outcome.err;
    EXPECT_NE(outcome.err.find(refused.said), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }
  EXPECT_EQ(read_file(folder_ / "tiny.yaml"), config);
}

TEST_F(BenchCommand, EndsOnEveryRankWhereOneCannotGoOn) {
  write("file", "no folder");
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE bench checkpoint tiny.yaml run.directory=file/run --seconds 0");
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.err.find("file/run"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace pimoe
