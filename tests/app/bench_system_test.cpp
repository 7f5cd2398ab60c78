#include "app/tiny_model.h"
#include "app/user.h"
#include "base/text.h"

#include <cmath>
#include <map>

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

/// Of what was measured only what no machine's speed decides.
TEST_F(BenchCommand, PresetsStandBesideTheGuidesFiguresAndBeatEachOther) {
  write("where.yaml", "mesh: {device: cpu}\nrun: {directory: runs/mine}\n");
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE bench presets where.yaml train.threads=1 --seconds 0 --json=facts.json");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const std::string& line : split(outcome.out, '\n')) EXPECT_LE(line.size(), 100u) << line;
  EXPECT_NE(outcome.out.find("here (guide)"), std::string::npos) << outcome.out;
  const Json rows = Json::parse(read_file(folder_ / "facts.json")).at("rows");
  std::map<std::string, Json> named;
  for (const Json& row : rows) named[row.at("name")] = row;
  const std::vector<std::pair<std::string, double>> claims = {{"basic", 15.2}, {"enhanced", 12.8}, {"advanced", 10.1}, {"production", 8.5}};
  for (const auto& [name, claimed] : claims) {
    const Json& row = named.at(name);
    EXPECT_EQ(row.at("claimed").at("latency_ms"), claimed) << name;
    EXPECT_NEAR(row.at("first_loss").get<double>(), std::log(256), 0.1) << name << ": fresh weights know nothing";
    EXPECT_LT(row.at("loss").get<double>(), 4.5) << name << " learned the text";
    EXPECT_GT(row.at("loss").get<double>(), row.at("least_loss").get<double>()) << name << ": the loss of no text can be lower";
    EXPECT_GT(row.at("experts_used").get<double>(), 0.25) << name;
    EXPECT_LE(row.at("experts_used").get<double>(), 1.0) << name;
    EXPECT_GT(row.at("tokens_per_second").get<double>(), 0) << name;
    EXPECT_GT(row.at("served_new_tokens_per_second").get<double>(), 0) << name;
    const double lost = row.at("tokens_lost_to_a_broken_expert");
    EXPECT_EQ(lost > 0, name != "production") << name << " lost " << lost;
  }
  EXPECT_EQ(named.at("basic").at("precision"), "float32");
  EXPECT_TRUE(named.at("advanced / enhanced").at("beats_the_one_before"));
  EXPECT_TRUE(named.at("production / advanced").at("beats_the_one_before"));
  EXPECT_TRUE(named.contains("enhanced / basic")) << "which of them is faster the machine decides";
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
           {"pimoe bench layer tiny.yaml --json /dev/full", 74, "cannot write /dev/full: it is there, and is no regular file"},
           {"pimoe bench layer tiny.yaml --json /proc/facts.json", 74, "cannot write /proc/facts.json: "},
           {"pimoe bench layer tiny.yaml --seconds nan", 64, "--seconds"},
           {"pimoe bench presets tiny.yaml", 78,
            "suite presets has models of its own, and would not use what it is given:\n  model.layers ("},
           {"pimoe bench presets tiny.yaml", 78, "other keys\n  Leave these out"},
           {"pimoe bench presets model.width=64", 78, "model.width (64, command line)\n  Leave these out"},
           {"pimoe bench presets preset=basic mesh.device=cpu", 78, ":\n  preset (basic, command line)\n  Leave these out"},
       }) {
    SCOPED_TRACE(refused.command);
    const Outcome outcome = run(refused.command);
    EXPECT_EQ(outcome.code, refused.code) << outcome.err;
    EXPECT_NE(outcome.err.find(refused.said), std::string::npos) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.find("measuring"), std::string::npos) << "refused before anything is measured\n" << outcome.err;
  }
  EXPECT_EQ(read_file(folder_ / "tiny.yaml"), config);
}

TEST_F(BenchCommand, LeavesNothingWhereASignalEndsIt) {
  struct Row {
    const char* started;
    int signal;
  };
  for (const auto& [started, signal] :
       {Row{"$PIMOE", SIGINT}, Row{"$PIMOE", SIGTERM}, Row{"$MPIRUN --mca odls_base_sigkill_timeout 10 -n 2 $PIMOE", SIGTERM}}) {
    SCOPED_TRACE(concat(started, " ", signal));
    const pid_t bench = start(concat(started, " bench checkpoint tiny.yaml run.directory=runs/mine --seconds 600"));
    const auto saving = folder_ / "runs/mine/.pimoe-bench/checkpoints";
    for (int tries = 0; tries < 1200 && !std::filesystem::exists(saving); ++tries)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ASSERT_TRUE(std::filesystem::exists(saving)) << read_file(folder_ / "background.txt");
    ::kill(bench, signal);
    const int code = wait_for(bench);
    EXPECT_NE(code, 0);
    if (!std::string(started).starts_with("$MPIRUN")) {
      EXPECT_EQ(code, 128 + signal);  // mpirun has an exit code of its own
    }
    wait_for_no_rank();
    EXPECT_FALSE(std::filesystem::exists(folder_ / "runs")) << "which was not there before";
  }
}

TEST_F(BenchCommand, EndsOnEveryRankWhereOneCannotGoOn) {
  write("file", "no folder");
  const Outcome outcome = run("$MPIRUN -n 2 $PIMOE bench checkpoint tiny.yaml run.directory=file/run --seconds 0");
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.err.find("file/run"), std::string::npos) << outcome.err;
}

}  // namespace
}  // namespace pimoe
