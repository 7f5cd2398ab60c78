#include "app/user.h"

namespace pimoe {
namespace {

class GenerateCommand : public User {
 protected:
  void train(const std::string& more = "") const {
    prepare();
    const Outcome trained = run(concat("pimoe train tiny.yaml train.steps=20 train.threads=1 ", more));
    ASSERT_EQ(trained.code, 0) << trained.err;
    write("prompts.txt", "the 3 cats\nthe 1 cats sat on\n\nmats and 2 hats\r\nthe");
  }

  nlohmann::json generate(const std::string& launcher, const std::string& options) const {
    const Outcome outcome = run(concat(launcher, " generate --checkpoint runs/tiny --json ", options));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return nlohmann::json::parse(outcome.out, nullptr, false);
  }
};

TEST_F(GenerateCommand, GivesTheSameTextsWithAndWithoutCacheOnAnyNumberOfRanks) {
  train();
  const std::string options = "--prompts prompts.txt --temperature 0 --tokens 9";
  const auto texts = generate("pimoe", options);
  ASSERT_EQ(texts.size(), 5u) << "a line each, the empty one and the one without an end too";
  EXPECT_EQ(texts[2].at("prompt"), "");
  EXPECT_EQ(texts[3].at("prompt"), "mats and 2 hats");
  EXPECT_EQ(texts[1].at("tokens").size(), 9u);
  EXPECT_EQ(generate("pimoe", options + " --no-cache"), texts);
  EXPECT_EQ(generate("pimoe", options + " --batch 2"), texts);
  for (const int ranks : {2, 4}) EXPECT_EQ(generate(concat("timeout 100 $MPIRUN -n ", ranks, " $PIMOE"), options), texts) << ranks;
  const auto one = generate("pimoe", "--prompt 'the 1 cats sat on' --temperature 0 --tokens 9");
  EXPECT_EQ(one.at("text"), texts[1].at("text")) << "one prompt is an object by itself";
  EXPECT_EQ(generate("pimoe", "--prompt 'the 3 cats' --prompt '[the, 1]' --temperature 0 --tokens 2")[1].at("prompt"), "[the, 1]");
}

TEST_F(GenerateCommand, StopsAtTextsAndSaysWhereTheModelsSightEnds) {
  train();
  const auto whole = generate("pimoe", "--prompt 'the 3 cats' --temperature 0 --tokens 6");
  const std::string text = whole.at("text");
  EXPECT_EQ(whole.at("ending"), "tokens");
  ASSERT_GE(text.size(), 4u);
  const std::string stop = text.substr(2, 2);
  const auto stopped =
      generate("$MPIRUN -n 2 $PIMOE", concat("--prompt 'the 3 cats' --temperature 0 --tokens 6 --stop nothing --stop '", stop, "'"));
  EXPECT_EQ(stopped.at("text"), text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.at("ending"), "stop");
  const Outcome longer = run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --temperature 0 --tokens 40");
  EXPECT_EQ(longer.code, 0) << longer.err;
  EXPECT_NE(longer.err.find("16 tokens that the model sees"), std::string::npos) << longer.err;
  EXPECT_NE(longer.err.find("tok/s"), std::string::npos) << longer.err;
}

TEST_F(GenerateCommand, DrawsTheSameForASeedWhateverTheRanks) {
  train();
  const std::string options = "--prompts prompts.txt --tokens 5 --temperature 1.5 --top-k 20 --top-p 0.9 --repetition-penalty 1.3 --seed 7";
  const auto texts = generate("pimoe", options);
  EXPECT_EQ(generate("$MPIRUN -n 3 $PIMOE", options), texts);
  EXPECT_NE(generate("pimoe", options + "1"), texts);
}

TEST_F(GenerateCommand, LeavesOutWhatGoesByBatchesAndSaysSo) {
  train("model.moe.capacity_factor=1.0");
  const Outcome capacity = run("pimoe generate runs/tiny --prompt the --tokens 2");
  EXPECT_EQ(capacity.code, 0) << capacity.err;
  EXPECT_NE(capacity.err.find("capacity_factor (1) is left out"), std::string::npos) << capacity.err;
  ASSERT_EQ(run("pimoe train tiny.yaml train.steps=2 run.directory=runs/choice model.moe.router.kind=expert_choice").code, 0);
  const Outcome choice = run("$MPIRUN -n 2 $PIMOE generate --checkpoint runs/choice --prompt the --prompt cats --tokens 2");
  EXPECT_EQ(choice.code, 0) << choice.err;
  EXPECT_NE(choice.err.find("expert_choice"), std::string::npos) << choice.err;
  EXPECT_NE(choice.out.find("==> prompt 2 of 2 <=="), std::string::npos) << choice.out;
}

TEST_F(GenerateCommand, RefusesWhatCannotBeMeant) {
  train();
  write("empty.txt", "");
  struct Case {
    const char* options;
    int code;
    const char* said;
  };
  for (const Case& refused :
       {Case{"", 64, "--prompts FILE"}, Case{"--prompt a --prompts prompts.txt", 64, "--prompt"},
        Case{"--prompts nowhere.txt", 74, "nowhere.txt"}, Case{"--prompts empty.txt", 65, "has no line"},
        Case{"--prompt a --stop ''", 64, "--stop"}, Case{"--prompt a --repetition-penalty 0", 64, "--repetition-penalty"},
        Case{"--prompt a --top-k -1", 64, "--top-k"}, Case{"--prompt a --batch 0", 64, "--batch"}}) {
    for (const char* launcher : {"pimoe", "timeout 60 $MPIRUN -n 2 $PIMOE"}) {
      const Outcome outcome = run(concat(launcher, " generate --checkpoint runs/tiny ", refused.options));
      EXPECT_EQ(outcome.code, refused.code) << launcher << " " << refused.options << outcome.err;
      EXPECT_NE(outcome.err.find(refused.said), std::string::npos) << refused.options << outcome.err;
    }
  }
}

}  // namespace
}  // namespace pimoe
