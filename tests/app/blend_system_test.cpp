#include "app/user.h"

namespace pimoe {
namespace {

using Json = nlohmann::json;

/// Two corpora of one tokenizer: corpus, and digits, which is far smaller.
class Blend : public User {
 protected:
  Blend() {
    prepare();
    std::string text;
    for (int line = 0; line < 120; ++line) text += concat(line, " and ", line % 7, " are ", line + line % 7, "\n");
    write("numbers/a.txt", text);
    EXPECT_EQ(run("pimoe data build --output digits --tokenizer corpus.model --validation 0 numbers").code, 0);
    write("blend.yaml", R"(run: {directory: runs/blend}
mesh: {device: cpu}
data:
  train:
    - {prefix: corpus, weight: 2}
    - {prefix: digits, weight: 1}
  tokenizer: corpus.model
model: {layers: 2, width: 32, heads: 2, kv_heads: 1, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32}}
train: {steps: 300, global_batch: 6, micro_batch: 2, precision: float32, threads: 1}
optimizer: {schedule: constant}
checkpoint: {every_steps: 100}
)");
  }

  /// @returns the losses of a run's records
  std::vector<double> losses(const std::string& folder) const {
    std::vector<double> found;
    for (const Json& record : records(folder)) found.push_back(record.at("loss"));
    return found;
  }

  void expect_refused(const std::string& overrides, int code, const std::string& words) const {
    for (const char* command : {"$PIMOE train blend.yaml ", "pimoe check blend.yaml "}) {
      const Outcome outcome = run(command + overrides);
      EXPECT_EQ(outcome.code, code) << command << overrides << "\n" << outcome.out << outcome.err;
      EXPECT_NE((outcome.out + outcome.err).find(words), std::string::npos) << command << overrides << "\n" << outcome.out << outcome.err;
    }
  }
};

TEST_F(Blend, IsCheckedTrainedGoneOnWithAndCountedByCorpus) {
  const Outcome checked = run("pimoe check blend.yaml --json");
  ASSERT_EQ(checked.code, 0) << checked.err;
  const Json facts = Json::parse(checked.out);
  ASSERT_EQ(facts.at("blend").size(), 2u);
  EXPECT_NEAR(facts["blend"][0].at("share").get<double>(), 2.0 / 3.0, 1e-12);
  const auto samples = facts["blend"][1].at("samples_per_epoch").get<double>();
  EXPECT_DOUBLE_EQ(facts["blend"][1].at("epochs").get<double>(), 600 / samples);
  EXPECT_NE(facts.at("warnings").dump().find("data.train[1] (digits) is read "), std::string::npos) << facts.at("warnings");
  EXPECT_EQ(facts.at("warnings").dump().find("data.train[0]"), std::string::npos) << facts.at("warnings");

  const Outcome trained = run("$MPIRUN -n 2 $PIMOE train blend.yaml train.steps=20");
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("data: corpus: 66.67 % of the samples; "), std::string::npos) << trained.err;
  EXPECT_NE(trained.err.find("data: digits: 33.33 % of the samples; "), std::string::npos) << trained.err;
  const Outcome resumed = run("$PIMOE train blend.yaml train.steps=40");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(resumed.err.find("data.train"), std::string::npos) << "nothing has changed\n" << resumed.err;
  ASSERT_EQ(run("$PIMOE train blend.yaml train.steps=40 run.directory=runs/whole").code, 0);
  const std::vector<double> parts = losses("runs/blend");
  const std::vector<double> whole = losses("runs/whole");
  ASSERT_EQ(parts.size(), 40u);
  ASSERT_EQ(whole.size(), 40u);
  for (size_t step = 0; step < 40; ++step) EXPECT_NEAR(parts[step], whole[step], 2e-3) << "step " << step + 1;
  EXPECT_NEAR(records("runs/blend").back().at("data/epochs")[1].get<double>(), 80 / samples, 1e-6);
}

TEST_F(Blend, OfOtherWeightsOrRebuiltCorporaIsSaidAsTheRunGoesOn) {
  ASSERT_EQ(run("$PIMOE train blend.yaml train.steps=2").code, 0);
  const Outcome weights = run("$PIMOE train blend.yaml train.steps=3 data.train.1.weight=2");
  EXPECT_EQ(weights.code, 0) << weights.err;
  EXPECT_NE(weights.err.find("data.train: weights 2, 1 in the checkpoint, 2, 2 now; "), std::string::npos) << weights.err;
  write("numbers/b.txt", std::string(3000, 'x'));
  ASSERT_EQ(run("pimoe data build --output digits --tokenizer corpus.model --validation 0 numbers").code, 0);
  const Outcome built = run("$MPIRUN -n 2 $PIMOE train blend.yaml train.steps=4 data.train.1.weight=2");
  EXPECT_EQ(built.code, 0) << built.err;
  EXPECT_NE(built.err.find("data.train[1]: digits was built again: "), std::string::npos) << built.err;
  EXPECT_EQ(built.err.find("data.train[0]"), std::string::npos) << built.err;
  const Outcome one = run("$PIMOE train blend.yaml train.steps=5 data.train=corpus");
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_NE(one.err.find("data.train: corpus, digits in the checkpoint, corpus now; another blend"), std::string::npos) << one.err;
}

TEST_F(Blend, ThatCannotBeMeantIsRefusedByTrainAndByCheck) {
  expect_refused("data.train.1.weight=0", 78, "data.train[1].weight");
  expect_refused("'data.train=[{prefix: corpus}, {prefix: corpus, weight: 2}]'", 78, "(corpus) is data.train[0] already");
  expect_refused("'data.train=[{prefix: corpus, wait: 2}]'", 78, "unknown key");
  expect_refused("data.train=[]", 78, "data.train: must name a corpus");
  expect_refused("'data.validation=[{prefix: corpus}]'", 78, "data.validation: is one value, not a list");
  expect_refused("'data.train=[{prefix: corpus}, {prefix: nowhere}]'", 65, "nowhere.idx");
  expect_refused("model.sequence_length=2000", 65, "digits has ");
  ASSERT_EQ(run("$PIMOE train blend.yaml train.steps=1").code, 0);
  const Outcome experts = run("pimoe experts runs/blend");
  EXPECT_EQ(experts.code, 64) << experts.err;
  EXPECT_NE(experts.err.find("give --data PREFIX"), std::string::npos) << experts.err;
}

}  // namespace
}  // namespace pimoe
