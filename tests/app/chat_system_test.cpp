#include "app/user.h"

namespace pimoe {
namespace {

class Chat : public User {
 protected:
  /// A tokenizer, a template, and questions with answers that can be learned by heart.
  void prepare_chat() const {
    prepare();
    write("plain.jinja",
          "{% for m in messages %}{{ m.role ~ '\\n' ~ m.content ~ eos_token ~ '\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}");
    std::string lines;
    for (int i = 0; i < 5; ++i) lines += concat(R"({"prompt": "cats )", i, R"(", "answer": ")", (i * 3) % 5, R"( mats"})", "\n");
    lines +=
        R"({"messages": [{"role": "user", "content": "hats"}, {"role": "assistant", "content": "on"}, {"role": "user", "content": "and"}, {"role": "assistant", "content": "sat"}]})";
    write("chat.jsonl", lines + "\n");
  }

  Outcome build(const std::string& options, const std::string& input = "chat.jsonl") const {
    return run(concat("pimoe data build --output chat --chat --tokenizer corpus.model --chat-template plain.jinja ", options, " ", input));
  }
};

TEST_F(Chat, ConversationsAreBuiltShownVerifiedTrainedEvaluatedAndAnswered) {
  prepare_chat();
  const Outcome built = build("--sequence-length 48 --json");
  ASSERT_EQ(built.code, 0) << built.err;
  const auto facts = nlohmann::json::parse(built.out);
  EXPECT_EQ(facts.at("documents"), 6);
  const int64_t learned = facts.at("learned_tokens");
  EXPECT_GT(learned, 5 * 2 + 2 * 2) << "each answer and its end of turn";
  EXPECT_LT(learned, facts.at("tokens").get<int64_t>() / 2);
  const Outcome shown = run("pimoe data inspect chat --tokenizer corpus.model");
  EXPECT_NE(shown.out.find(concat("learned             ", learned, " tokens")), std::string::npos) << shown.out;
  EXPECT_NE(run("pimoe data verify chat --tokenizer corpus.model").out.find("its loss mask is its own"), std::string::npos);

  const std::string keys =
      " data.train=chat data.validation=chat data.chat_template=plain.jinja model.sequence_length=48 train.steps=100 "
      "train.validate_every=0 train.global_batch=4 "
      "optimizer.learning_rate=1e-2 checkpoint.every_steps=0";
  const Outcome trained = run("pimoe train tiny.yaml" + keys);
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_NE(trained.err.find("of the tokens are learned;"), std::string::npos) << trained.err;
  const std::vector<nlohmann::json> logged = records("runs/tiny");
  const nlohmann::json& last = logged.back();
  EXPECT_LT(last.at("validation_loss").get<double>(), logged.front().at("loss").get<double>() / 2);

  const Outcome measured = run("$MPIRUN -n 2 $PIMOE evaluate --checkpoint runs/tiny --data chat --json");
  ASSERT_EQ(measured.code, 0) << measured.err;
  EXPECT_EQ(nlohmann::json::parse(measured.out).at("tokens"), learned) << "answers alone count";
  EXPECT_NEAR(nlohmann::json::parse(measured.out).at("loss").get<double>(), last.at("validation_loss").get<double>(), 1e-4);

  for (const char* question : {"cats 1", "cats 4"}) {
    const Outcome said =
        run(concat("pimoe generate --checkpoint runs/tiny --chat --prompt '", question, "' --temperature 0 --tokens 20 --json"));
    ASSERT_EQ(said.code, 0) << said.err;
    const auto json = nlohmann::json::parse(said.out);
    EXPECT_FALSE(json.at("text").get<std::string>().empty());
    EXPECT_EQ(json.at("ending"), "end_of_document") << "it ends its turn";
  }
}

TEST_F(Chat, BadLinesAreRefusedByTheirPlaceOrLeftOutAndReported) {
  prepare_chat();
  write("bad.jsonl", concat(R"({"prompt": "a", "answer": "b"})", "\n\n", R"({"prompt": "a"})", "\n", R"({"prompt": "a", "answer": " "})",
                            "\n", R"({"prompt": ")", std::string(200, 'x'), R"(", "answer": "b"})", "\nno json\n"));
  const Outcome refused = build("", "bad.jsonl");
  EXPECT_EQ(refused.code, 65);
  EXPECT_NE(refused.err.find("bad.jsonl:3: the line has a prompt, and no answer"), std::string::npos) << refused.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "chat.idx"));
  const Outcome skipped = build("--bad-lines skip --sequence-length 60 --json", "bad.jsonl");
  ASSERT_EQ(skipped.code, 0) << skipped.err;
  EXPECT_EQ(nlohmann::json::parse(skipped.out).at("skipped_lines"), 4);
  EXPECT_EQ(nlohmann::json::parse(skipped.out).at("documents"), 1);
  EXPECT_EQ(nlohmann::json::parse(skipped.out).at("empty_documents"), 1);
  for (const char* said : {"bad.jsonl:3:", "bad.jsonl:4: message 2, an answer, is empty", "bad.jsonl:5: the conversation has",
                           "bad.jsonl:6: the line is no JSON"}) {
    EXPECT_NE(skipped.err.find(said), std::string::npos) << said << "\n" << skipped.err;
  }
  EXPECT_EQ(build("", "text/a.txt").code, 65) << "no .jsonl";
  EXPECT_EQ(run("pimoe data build --output chat --chat chat.jsonl").code, 64) << "no tokenizer";
  EXPECT_EQ(run("pimoe data build --output chat --bad-lines skip chat.jsonl").code, 64) << "no --chat";
  const Outcome no_template = run("pimoe data build --output chat --chat --tokenizer corpus.model chat.jsonl");
  EXPECT_EQ(no_template.code, 65);
  EXPECT_NE(no_template.err.find("name one with --chat-template FILE"), std::string::npos) << no_template.err;
}

TEST_F(Chat, AMaskThatIsMissingOrStaleIsRefusedByName) {
  prepare_chat();
  ASSERT_EQ(build("").code, 0);
  const std::string train = "pimoe train tiny.yaml data.train=chat model.sequence_length=48 train.steps=1 run.directory=runs/x ";
  const Outcome brief = run(train + "model.sequence_length=4");
  EXPECT_EQ(brief.code, 65);
  EXPECT_NE(brief.err.find("chat: document 0 has"), std::string::npos) << brief.err;
  // The same conversations in another order: a corpus of the same size.
  ASSERT_EQ(run("cp chat.loss_mask kept && tac chat.jsonl > turned.jsonl").code, 0);
  ASSERT_EQ(build("", "turned.jsonl").code, 0);
  ASSERT_EQ(run("cp kept chat.loss_mask").code, 0);
  const Outcome stale = run(train);
  EXPECT_EQ(stale.code, 65);
  EXPECT_NE(stale.err.find("chat.loss_mask is of another corpus"), std::string::npos) << stale.err;
  EXPECT_EQ(run("pimoe data verify chat --tokenizer corpus.model").code, 1);
  ASSERT_EQ(run("rm chat.loss_mask").code, 0);
  const Outcome missing = run(train + "data.loss=masked");
  EXPECT_EQ(missing.code, 65);
  EXPECT_NE(missing.err.find("chat.loss_mask is no file"), std::string::npos) << missing.err;
  // A corpus of texts in its place leaves no mask behind.
  ASSERT_EQ(build("").code, 0);
  ASSERT_EQ(run("pimoe data build --output chat --tokenizer corpus.model text").code, 0);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "chat.loss_mask"));
}

TEST_F(Chat, AHostileTemplateEndsInAnErrorAndNotInAHang) {
  prepare_chat();
  write("plain.jinja", "{% for i in range(1000000000) %}{{ i }}{% endfor %}");
  const Outcome hostile = build("");
  EXPECT_EQ(hostile.code, 65);
  EXPECT_NE(hostile.err.find("chat.jsonl:1: the chat template plain.jinja was stopped"), std::string::npos) << hostile.err;
}

}  // namespace
}  // namespace pimoe
