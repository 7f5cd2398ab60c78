#include "app/user.h"

#include <cmath>

namespace pimoe {
namespace {

class EvaluateCommand : public User {
 protected:
  /// A run of two ranks that validated after its last step, and a corpus of other text.
  void train(const std::string& more = "") const {
    prepare();
    write("other/b.txt", "dogs run 9 9 9 and 8\n the rain in spain and the cats on mats run to the sea again and again\n");
    ASSERT_EQ(
        run("head -c 60000 text/a.txt > held.txt && pimoe data build --output held --tokenizer corpus.model --validation 0 held.txt").code,
        0);
    ASSERT_EQ(run("pimoe data build --output other-corpus --tokenizer corpus.model --validation 0 other").code, 0);
    const Outcome trained =
        run(concat("$MPIRUN -n 2 $PIMOE train tiny.yaml train.steps=6 data.validation=held train.validation_batches=9 ", more));
    ASSERT_EQ(trained.code, 0) << trained.err;
  }

  nlohmann::json evaluate(const std::string& launcher, const std::string& options) const {
    const Outcome outcome = run(concat(launcher, " evaluate --checkpoint runs/tiny --json ", options));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << outcome.out;
    return json;
  }

  double logged_validation_loss() const {
    const std::vector<nlohmann::json> logged = records("runs/tiny");
    return logged.at(logged.size() - 1).at("validation_loss");
  }
};

TEST_F(EvaluateCommand, FindsTheValidationLossThatTrainingLogged) {
  train();
  const double logged = logged_validation_loss();
  const auto same = evaluate("$MPIRUN -n 2 $PIMOE", "--data held --batches 9");
  EXPECT_NEAR(same.at("loss").get<double>(), logged, 1e-12);
  EXPECT_EQ(same.at("tokens"), 9 * 5 * 16);
  EXPECT_NEAR(same.at("perplexity").get<double>(), std::exp(logged), 1e-9);
  for (const int ranks : {1, 3, 4}) {
    const auto other = evaluate(concat("$MPIRUN -n ", ranks, " $PIMOE"), "--data held --batches 9");
    EXPECT_NEAR(other.at("loss").get<double>(), logged, 1e-5) << ranks << " ranks";
  }
  EXPECT_NEAR(evaluate("pimoe", "--batches 9").at("loss").get<double>(), logged, 1e-5) << "the run's own validation corpus";
}

TEST_F(EvaluateCommand, PredictsEveryTokenOnceToTheLast) {
  train();
  const Outcome facts = run("pimoe data inspect held --json");
  const int64_t tokens = nlohmann::json::parse(facts.out).at("tokens");
  ASSERT_NE((tokens - 1) % 16, 0) << "the last sequence is to be a shorter one";
  const auto alone = evaluate("pimoe", "--data held");
  EXPECT_EQ(alone.at("tokens"), tokens - 1);
  EXPECT_EQ(alone.at("tokens_left_out"), 0);
  EXPECT_EQ(alone.at("bytes"), 60000 - 3) << "all but those of the first token, 'the'";
  const auto shared = evaluate("$MPIRUN -n 4 $PIMOE", "--data held --micro-batch 1");
  EXPECT_EQ(shared.at("tokens"), tokens - 1);
  EXPECT_NEAR(shared.at("loss").get<double>(), alone.at("loss").get<double>(), 1e-5);
  const double bits = alone.at("loss").get<double>() * static_cast<double>(tokens - 1) / std::log(2.0) / alone.at("bytes").get<double>();
  EXPECT_NEAR(alone.at("bits_per_byte").get<double>(), bits, 1e-9);
  const auto part = evaluate("pimoe", "--data held --batches 1");
  EXPECT_EQ(part.at("tokens_left_out"), tokens - 1 - 5 * 16);
}

TEST_F(EvaluateCommand, OfAModelThatWasTrainedInsideDocumentsEvaluatesEachByItself) {
  prepare();
  std::string lines;
  for (int line = 0; line < 600; ++line) lines += concat("{\"text\": \"the ", line % 7, " cats sat on ", line % 11, " mats\"}\n");
  write("texts.jsonl", lines);
  ASSERT_EQ(run("pimoe data build --output docs --tokenizer corpus.model --validation 0.4 texts.jsonl").code, 0);
  const std::string train_on = "train tiny.yaml data.train=docs data.document_mask=true train.steps=6 ";
  const Outcome checked = run(concat("pimoe check tiny.yaml data.train=docs data.document_mask=true --ranks 2"));
  EXPECT_EQ(checked.code, 0) << checked.out << checked.err;
  const Outcome trained = run(concat("$MPIRUN -n 2 $PIMOE ", train_on, "data.validation=docs-validation train.validation_batches=9 "));
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("attention stays inside each"), std::string::npos) << trained.err;
  const double logged = logged_validation_loss();

  const auto same = evaluate("$MPIRUN -n 2 $PIMOE", "--batches 9");
  EXPECT_NEAR(same.at("loss").get<double>(), logged, 1e-12);
  EXPECT_EQ(same.at("document_mask"), true);
  EXPECT_LT(same.at("tokens"), 9 * 5 * 16);
  const auto facts = nlohmann::json::parse(run("pimoe data inspect docs-validation --json").out);
  const int64_t documents = facts.at("documents"), tokens = facts.at("tokens");
  ASSERT_GT(documents, 100);
  const auto whole = evaluate("pimoe", "--micro-batch 3");
  EXPECT_EQ(whole.at("tokens"), tokens - documents) << "all but the first of each document";
  EXPECT_NEAR(evaluate("$MPIRUN -n 3 $PIMOE", "").at("loss").get<double>(), whole.at("loss").get<double>(), 1e-5);
  const auto plain = evaluate("pimoe", "--document-mask off");
  EXPECT_EQ(plain.at("document_mask"), false);
  EXPECT_EQ(plain.at("tokens"), tokens - 1);
  EXPECT_LT(whole.at("bytes"), plain.at("bytes"));
  EXPECT_GT(std::abs(plain.at("loss").get<double>() - whole.at("loss").get<double>()), 1e-5);
  EXPECT_EQ(run("pimoe evaluate --checkpoint runs/tiny --document-mask maybe").code, 64);

  const Outcome changed = run(concat("pimoe ", train_on, "train.steps=7 data.document_mask=false"));
  EXPECT_EQ(changed.code, 0) << changed.err;
  EXPECT_NE(changed.err.find("data.document_mask: true in the checkpoint, false now"), std::string::npos) << changed.err;
}

TEST_F(EvaluateCommand, GivesEachCorpusARowAndCountsEveryTokenOnceInAll) {
  train();
  const auto all = evaluate("$MPIRUN -n 2 $PIMOE", "--data held --data dogs=other-corpus");
  ASSERT_EQ(all.at("domains").size(), 2u);
  EXPECT_EQ(all.at("domains")[0].at("name"), "held");
  EXPECT_EQ(all.at("domains")[1].at("name"), "dogs");
  double sum = 0;
  int64_t tokens = 0;
  for (const auto& row : all.at("domains")) {
    sum += row.at("loss").get<double>() * row.at("tokens").get<double>();
    tokens += row.at("tokens").get<int64_t>();
  }
  EXPECT_EQ(all.at("tokens"), tokens);
  EXPECT_NEAR(all.at("loss").get<double>(), sum / static_cast<double>(tokens), 1e-9);
  EXPECT_NEAR(evaluate("pimoe", "--data other-corpus").at("loss").get<double>(), all.at("domains")[1].at("loss").get<double>(), 1e-5);
  const Outcome table = run("pimoe evaluate --checkpoint runs/tiny --data held --data dogs=other-corpus");
  for (const char* word : {"perplexity", "held", "dogs", "all"}) EXPECT_NE(table.out.find(word), std::string::npos) << table.out;
}

TEST_F(EvaluateCommand, RefusesWhatDoesNotFitOnAnyNumberOfRanks) {
  train();
  write("short/s.txt", "a");
  ASSERT_EQ(run("pimoe data build --output short-corpus --tokenizer corpus.model --validation 0 short").code, 0);
  write("big/c.txt", read_file(folder_ / "text/a.txt") + read_file("/proc/self/status"));
  ASSERT_EQ(run("pimoe data build --output big-corpus --vocabulary 330 --validation 0 big").code, 0);
  ASSERT_EQ(run("cp held.idx cut.idx; : > cut.bin").code, 0);
  struct Case {
    const char* options;
    int code;
    std::vector<const char*> said;
  };
  const std::vector<Case> cases = {
      {"--checkpoint runs/tiny --data nowhere", 65, {"nowhere"}},
      {"--checkpoint runs/none --data held", 65, {"runs/none"}},
      {"--checkpoint runs/tiny --data short-corpus", 65, {"short-corpus", "needs at least 17"}},
      {"--checkpoint runs/tiny --data cut", 65, {"cut"}},
      {"--checkpoint runs/tiny --data held --data big-corpus", 65, {"big-corpus", "300", "vocabulary"}},
      {"--checkpoint runs/tiny --data held --tokenizer nowhere.model", 65, {"nowhere.model"}},
      {"--checkpoint runs/tiny --data held --data held", 64, {"two corpora are called 'held'"}},
      {"--checkpoint runs/tiny --data =held", 64, {"NAME=PREFIX"}},
      {"--checkpoint runs/tiny --data held --batches 0", 64, {"--batches"}},
  };
  for (const Case& refused : cases) {
    for (const char* launcher : {"pimoe", "timeout 60 $MPIRUN -n 2 $PIMOE"}) {
      SCOPED_TRACE(concat(launcher, " ", refused.options));
      const Outcome outcome = run(concat(launcher, " evaluate ", refused.options));
      EXPECT_EQ(outcome.code, refused.code) << outcome.err;
      for (const char* part : refused.said) EXPECT_NE(outcome.err.find(part), std::string::npos) << part << "\n" << outcome.err;
      EXPECT_EQ(outcome.out.find("perplexity"), std::string::npos) << outcome.out;
    }
  }
}

TEST_F(EvaluateCommand, WithoutATokenizerEverythingButBytesIsThere) {
  train();
  ASSERT_EQ(run("mv corpus.model away.model").code, 0);
  const auto json = evaluate("pimoe", "--data held");
  EXPECT_TRUE(json.at("bits_per_byte").is_null()) << json;
  EXPECT_GT(json.at("tokens").get<int64_t>(), 0);
  EXPECT_TRUE(evaluate("pimoe", "--data held --tokenizer away.model").at("bits_per_byte").is_number());
}

TEST_F(EvaluateCommand, WarnsOfWhatGoesByRanks) {
  train("model.moe.capacity_factor=1.0");
  const Outcome outcome = run("pimoe evaluate runs/tiny --data held");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("capacity_factor"), std::string::npos) << outcome.err;
  EXPECT_NEAR(evaluate("$MPIRUN -n 2 $PIMOE", "--data held --batches 9").at("loss").get<double>(), logged_validation_loss(), 1e-12);
}

}  // namespace
}  // namespace pimoe
