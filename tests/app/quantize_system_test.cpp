#include "app/trained_user.h"

#include <cmath>

namespace pimoe {
namespace {

class QuantizeCommand : public TrainedUser {
 protected:
  nlohmann::json quantize(const std::string& options, const std::string& launcher = "pimoe") const {
    return report_of(concat(launcher, " quantize runs/tiny --json ", options));
  }
};

TEST_F(QuantizeCommand, EveryKindIsSmallerNearlyAsGoodAndLoadsAtAnyRankCount) {
  train();
  const double before = loss_of("runs/tiny");
  for (const std::string kind : {"weight_only", "dynamic", "static"}) {
    const std::string output = "runs/" + kind;
    const auto json = quantize(concat("--output ", output, " --kind ", kind, kind == "static" ? " --calibration corpus --samples 20" : ""));
    EXPECT_NEAR(json.at("before").at("loss").get<double>(), before, 1e-6);
    EXPECT_LE(std::abs(json.at("loss_increase").get<double>()), 0.02) << kind;
    EXPECT_GE(json.at("before").at("expert_bytes").get<double>() / json.at("after").at("expert_bytes").get<double>(), 3.2)
        << "channels of 32 numbers have a scale each";
    EXPECT_GE(json.at("routing_agreement").get<double>(), 0.8) << kind;
    for (const auto& layer : json.at("layers")) {
      EXPECT_GT(layer.at("output_error").get<double>(), 0.0);
      EXPECT_LT(layer.at("output_error").get<double>(), 0.1);
    }
    EXPECT_NE(json.at("kernel").get<std::string>().find(kind == "weight_only" ? "widened" : "u8 x s8"), std::string::npos);
    const double after = json.at("after").at("loss");
    EXPECT_NEAR(loss_of(output), after, 1e-6);
    for (const int ranks : {2, 3}) EXPECT_NEAR(loss_of(output, concat("$MPIRUN -n ", ranks, " $PIMOE")), after, 2e-3) << ranks << " ranks";
    const Outcome generated = run(concat("pimoe generate --checkpoint ", output, " --prompt 'the ' --tokens 5 --json"));
    EXPECT_EQ(generated.code, 0) << generated.err;
    EXPECT_EQ(nlohmann::json::parse(generated.out).at("tokens").size(), 5U);
  }
}

TEST_F(QuantizeCommand, OnSeveralRanksWritesTheSameModel) {
  train();
  const auto alone = quantize("--output runs/one --kind static --calibration corpus --samples 20");
  const auto together = quantize("--output runs/two --kind static --calibration corpus --samples 20", "$MPIRUN -n 2 $PIMOE");
  EXPECT_EQ(together.at("ranks"), 2);
  EXPECT_NEAR(together.at("after").at("loss").get<double>(), alone.at("after").at("loss").get<double>(), 2e-3);
  const Outcome same = run("pimoe checkpoint diff runs/one runs/two --json");
  EXPECT_TRUE(nlohmann::json::parse(same.out).at("only_in_first").empty()) << same.out;
}

// A gate weighs what an expert's last matrix multiplies under `lean` and `balanced` while it is not int8, and its result once it is.
TEST_F(QuantizeCommand, StaticScalesAreTheSameWhereverGatesWeighRows) {
  prepare();
  for (const std::string memory : {"fast", "balanced", "lean"}) {
    const Outcome trained =
        run(concat("pimoe train tiny.yaml train.steps=1 optimizer.learning_rate=1e-30 data.validation=corpus run.directory=runs/", memory,
                   " model.moe.memory=", memory));
    ASSERT_EQ(trained.code, 0) << trained.err;
    const auto json = report_of(concat("pimoe quantize runs/", memory,
                                       " --json --batches 2 --kind static --calibration corpus --samples 10 --output runs/int8-", memory));
    for (const auto& layer : json.at("layers")) EXPECT_LT(layer.at("output_error").get<double>(), 0.05) << memory;
    const Outcome exact = run(concat("pimoe evaluate --json --batches 2 --checkpoint runs/", memory));
    EXPECT_EQ(json.at("before").at("loss"), nlohmann::json::parse(exact.out).at("loss")) << memory;
    if (memory == "fast") continue;
    const Outcome same = run("pimoe checkpoint diff runs/int8-fast runs/int8-" + memory);
    EXPECT_EQ(same.out.find("master/"), std::string::npos) << same.out;
    EXPECT_EQ(run(concat("grep -q 'memory: ", memory, "' runs/int8-", memory, "/checkpoints/*/manifest.json")).code, 0) << "the run's own";
  }
}

TEST_F(QuantizeCommand, AnImportedModelChatsWithoutTheRunThatItWasMadeOf) {
  if (!PIMOE_UNICODE) GTEST_SKIP() << "built without PCRE2 or utf8proc";
  import_chat_model();
  report_of("pimoe quantize runs/qwen --json --data corpus --batches 2 --output runs/int8");
  expect_it_chats("runs/int8");
}

TEST_F(QuantizeCommand, AllPartsMayBeAskedFor) {
  train("train.steps=30 model.moe.shared_width=32 model.moe.first_dense_layers=1");
  const auto json = quantize("--output runs/all --parts experts,attention,dense,router,head");
  EXPECT_LE(std::abs(json.at("loss_increase").get<double>()), 0.03);
  EXPECT_LT(json.at("after").at("bytes").get<double>(), 0.45 * json.at("before").at("bytes").get<double>()) << "the embedding stays";
  const auto some = quantize("--output runs/some --parts attention");
  EXPECT_EQ(some.at("after").at("expert_bytes"), some.at("before").at("expert_bytes"));
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=1 model.tie_embeddings=true run.directory=runs/tied").code, 0);
  const Outcome tied = run("pimoe quantize runs/tied --output runs/x --parts experts,head --data corpus");
  EXPECT_EQ(tied.code, 64) << tied.err;
  EXPECT_NE(tied.err.find("--parts has head"), std::string::npos) << tied.err;
}

TEST_F(QuantizeCommand, WhatLosesTooMuchIsNotWritten) {
  train();
  int refusals = 0;  // rounding may also lower a loss, but hardly in each of these
  for (const std::string options :
       {"--kind dynamic", "--kind weight_only", "--parts router,head", "--kind static --calibration corpus --samples 1",
        "--parts attention", "--kind weight_only --parts experts", "--parts head"}) {
    const Outcome outcome = run(concat("pimoe quantize runs/tiny --output runs/refused --max-loss-increase 0 --json ", options));
    const double increase = nlohmann::json::parse(outcome.out).at("loss_increase");
    EXPECT_EQ(outcome.code, increase > 0 ? 1 : 0) << outcome.err;
    EXPECT_EQ(is_there("runs/refused"), increase <= 0);
    EXPECT_FALSE(is_there("runs/refused.unfinished"));
    std::filesystem::remove_all(folder_ / "runs/refused");
    if (outcome.code != 1) continue;
    ++refusals;
    EXPECT_NE(outcome.err.find("--max-loss-increase"), std::string::npos) << outcome.err;
  }
  EXPECT_GT(refusals, 0);
}

TEST_F(QuantizeCommand, AQuantizedModelIsNeitherTrainedNorExportedNorQuantizedAgain) {
  train();
  quantize("--output runs/int8");
  EXPECT_EQ(run("pimoe checkpoint verify runs/int8").code, 0);
  EXPECT_EQ(run("pimoe checkpoint list runs/int8").code, 0);
  EXPECT_EQ(run("pimoe checkpoint extract runs/int8 layers.0.moe.experts.down.weight --output down.h5").code, 0);
  EXPECT_EQ(run("pimoe checkpoint diff runs/tiny runs/int8").code, 1);
  for (const std::string command :
       {"train tiny.yaml checkpoint.resume=runs/int8 run.directory=runs/on", "quantize runs/int8 --output runs/again",
        "train tiny.yaml model.quantization.kind=dynamic run.directory=runs/new", "export runs/int8 --output hf"}) {
    const Outcome outcome = run("pimoe " + command);
    EXPECT_EQ(outcome.code, 78) << command << "\n" << outcome.err;
    EXPECT_NE(outcome.err.find("quanti"), std::string::npos) << outcome.err;
  }
}

TEST_F(QuantizeCommand, WhatDoesNotFitIsRefusedBeforeAnythingIsWritten) {
  train();
  write("taken/file", "mine");
  for (const auto& [options, code] :
       std::vector<std::pair<std::string, int>>{{"--output taken", 64},
                                                {"--output runs/x --kind static", 64},
                                                {"--output runs/x --calibration corpus", 64},
                                                {"--output runs/x --kind static --calibration corpus --samples 0", 64},
                                                {"--output runs/x --kind int4", 64},
                                                {"--output runs/x --parts gates", 64},
                                                {"--output runs/x --data missing", 65},
                                                {"--output runs/x --max-loss-increase -1", 64}}) {
    const Outcome outcome = run("pimoe quantize runs/tiny " + options);
    EXPECT_EQ(outcome.code, code) << options << "\n" << outcome.err;
    EXPECT_FALSE(is_there("runs/x")) << options;
    EXPECT_FALSE(is_there("runs/x.unfinished")) << options;
  }
  // Some 2,000 words of six letters: enough pieces for a vocabulary that is larger than the model's.
  const auto word = [](int number) {
    std::string letters;
    for (const int factor : {1, 7, 11, 3, 19}) letters += static_cast<char>('a' + number * factor % 26);
    return letters + static_cast<char>('a' + number / 26 % 26);
  };
  std::string words;
  for (int line = 0; line < 6000; ++line) words += concat(word(line % 997), " ", word(line * 31 % 991), "\n");
  write("words/w.txt", words);
  ASSERT_EQ(run("pimoe data build --output words-corpus --vocabulary 900 --validation 0 words").code, 0);
  const Outcome foreign = run("pimoe quantize runs/tiny --output runs/x --kind static --calibration words-corpus --samples 50");
  EXPECT_EQ(foreign.code, 65) << foreign.err;
  EXPECT_NE(foreign.err.find("vocabulary"), std::string::npos) << foreign.err;
  for (const char* command : {"quantize", "prune --samples 8"}) {
    const Outcome measured = run(concat("pimoe ", command, " runs/tiny --output runs/x --data words-corpus"));
    EXPECT_EQ(measured.code, 65) << measured.err;
    EXPECT_NE(measured.err.find("words-corpus.bin: the id at position "), std::string::npos) << measured.err;
  }
  EXPECT_FALSE(is_there("runs/x.unfinished"));
}

}  // namespace
}  // namespace pimoe
