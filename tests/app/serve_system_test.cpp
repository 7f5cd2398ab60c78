/// `pimoe serve` as its users meet it: a trained model behind a port, signals, reloads, ranks that die.

#include "app/user.h"
#include "serve/client.h"

#include <csignal>
#include <regex>

namespace pimoe {
namespace {

constexpr const char* kAsk = R"({"prompt": "the 3 cats", "max_tokens": 9, "temperature": 0})";

class ServeCommand : public User {
 protected:
  void train(const std::string& more = "") const {
    const Outcome trained = run(concat("pimoe train tiny.yaml train.threads=1 model.sequence_length=64 ", more));
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  /// Starts a server on a port of its own, and waits until it listens.
  void serve(const std::string& options = "", const std::string& launcher = "$PIMOE") {
    write("background.txt", "");
    group_ = start(concat("env OMP_NUM_THREADS=1 ", launcher, " serve --checkpoint runs/tiny --port 0 ", options));
    ASSERT_TRUE(says("serving ")) << log();
    const std::string said = log();
    std::smatch match;
    ASSERT_TRUE(std::regex_search(said, match, std::regex("at http://[^ ]*:([0-9]+)"))) << said;
    port_ = std::stoi(match[1]);
  }
  std::string log() const { return read_file(folder_ / "background.txt"); }
  /// Waits until the log has a text; a minute is far more than it takes.
  bool says(const std::string& text, int seconds = 60) const {
    for (int tries = 0; tries < 20 * seconds; ++tries) {
      if (log().find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }
  Client::Response ask(const std::string& body = kAsk) const {
    Client client(port_);
    client.post("/v1/completions", body);
    return client.response();
  }
  static std::string text_of(const Client::Response& response) {
    const auto answer = nlohmann::json::parse(response.body, nullptr, false);
    return response.status == 200 ? answer.at("choices").at(0).at("text").get<std::string>() : concat(response.status, response.body);
  }
  int64_t served_step() const {
    Client client(port_);
    client.get("/v1/models");
    return nlohmann::json::parse(client.response().body).at("data").at(0).at("pimoe").at("step");
  }
  /// @returns the process of that rank, 0 where there is none
  pid_t rank(int number) const {
    for (const pid_t process : ranks()) {
      const std::string variables = read_file(concat("/proc/", process, "/environ"));
      for (const char* name : {"OMPI_COMM_WORLD_RANK=", "PMI_RANK="}) {
        if (variables.find(concat(name, number) + '\0') != std::string::npos) return process;
      }
    }
    return 0;
  }
  void TearDown() override {
    if (group_ > 0) ::kill(-group_, SIGKILL);
  }

  pid_t group_ = 0;
  int port_ = 0;
};

TEST_F(ServeCommand, SaysWhatGenerateSaysAndLeavesWhenTold) {
  prepare();
  train("train.steps=20");
  const Outcome generated = run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --temperature 0 --tokens 9 --json");
  serve();
  EXPECT_EQ(text_of(ask()), nlohmann::json::parse(generated.out).at("text").get<std::string>());
  const auto scored = ask(R"({"prompt": "the 3 cats sat on 5 mats", "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1})");
  const auto logprobs = nlohmann::json::parse(scored.body).at("choices").at(0).at("logprobs");
  const double drawn = logprobs.at("token_logprobs").back();
  EXPECT_EQ(drawn, logprobs.at("top_logprobs").back().begin()->get<double>()) << "the greedy token is the likeliest, bit for bit";
  const auto traced = ask(R"({"prompt": "the", "max_tokens": 2, "temperature": 0, "pimoe_trace_experts": true})");
  const auto layers = nlohmann::json::parse(traced.body).at("choices").at(0).at("pimoe_experts").at(0).at("layers");
  ASSERT_EQ(layers.size(), 2u) << "MoE layers";
  EXPECT_EQ(layers[0].size(), 2u) << "choices of each token";
  EXPECT_EQ(log().find("cats"), std::string::npos) << "nobody's words are in the log\n" << log();
  ::kill(group_, SIGTERM);
  EXPECT_EQ(wait_for(std::exchange(group_, 0)), 0) << log();
  EXPECT_NE(log().find("done: 3 texts"), std::string::npos) << log();
}

TEST_F(ServeCommand, EndsWhatRunsBeforeItLeaves) {
  prepare();
  train("train.steps=5");
  serve();
  std::vector<Client> running;
  for (int count = 0; count < 8; ++count) {
    running.emplace_back(port_);
    running.back().post("/v1/completions", R"({"prompt": "the", "max_tokens": 60, "n": 4, "stream": true})");
  }
  running.front().read([](const std::string& so_far) { return so_far.find("data: ") != std::string::npos; });
  ::kill(group_, SIGTERM);
  ASSERT_TRUE(says("leaving: ")) << log();
  for (size_t index = 1; index < running.size(); ++index) {
    const std::string all = running[index].read_to_end();
    const bool is_refused = all.starts_with("HTTP/1.1 503");
    EXPECT_TRUE(is_refused || all.find("data: [DONE]") != std::string::npos) << all.substr(0, 300) << "\n...\n"
                                                                             << all.substr(all.size() - std::min<size_t>(all.size(), 300));
  }
  EXPECT_EQ(wait_for(std::exchange(group_, 0)), 0) << log();
}

TEST_F(ServeCommand, TakesANewerCheckpointWithoutDroppingARequest) {
  prepare();
  train("train.steps=5");
  serve();
  EXPECT_EQ(served_step(), 5);
  ::kill(group_, SIGHUP);
  ASSERT_TRUE(says("no newer checkpoint")) << log();
  Client during(port_);
  during.post("/v1/completions", R"({"prompt": "the", "max_tokens": 60, "n": 8})");
  train("train.steps=10");
  ::kill(group_, SIGHUP);
  ASSERT_TRUE(says("step 10, from now on")) << log();
  EXPECT_EQ(during.response().status, 200);
  EXPECT_EQ(served_step(), 10);
  EXPECT_EQ(text_of(ask()),
            nlohmann::json::parse(run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --temperature 0 --tokens 9 --json").out)
                .at("text")
                .get<std::string>());
  // A newer one that is damaged changes nothing.
  train("train.steps=15");
  run("for file in runs/tiny/checkpoints/step-00000015/*.h5; do truncate -s -1 $file; done");
  ::kill(group_, SIGHUP);
  ASSERT_TRUE(says("no reload, step 10 is served as before: ")) << log();
  EXPECT_NE(log().find("step-00000015: rank-0000-of-0001-part-000.h5"), std::string::npos) << log();
  EXPECT_EQ(served_step(), 10) << log();
  EXPECT_EQ(ask().status, 200);
}

TEST_F(ServeCommand, AnswersOnTwoRanksAndEndsWhenOneIsKilled) {
  prepare();
  train("train.steps=20");
  serve("", "$MPIRUN -n 2 $PIMOE");
  EXPECT_EQ(text_of(ask()),
            nlohmann::json::parse(run("pimoe generate --checkpoint runs/tiny --prompt 'the 3 cats' --temperature 0 --tokens 9 --json").out)
                .at("text")
                .get<std::string>());
  const auto both = ranks();
  ASSERT_EQ(both.size(), 2u);
  ::kill(both.back(), SIGKILL);
  EXPECT_NE(wait_for(std::exchange(group_, 0)), 0) << "no rank is left waiting";
  wait_for_no_rank();
  EXPECT_FALSE(Client(port_).is_connected());
}

// The other rank stands still, and the reload waits for it.
TEST_F(ServeCommand, HearsThatItIsToLeaveWhileAReloadWaits) {
  prepare();
  train("train.steps=5");
  serve("", "$MPIRUN -n 2 $PIMOE");
  const pid_t first = rank(0), other = rank(1);
  ASSERT_GT(first, 0);
  ASSERT_GT(other, 0);
  ::kill(other, SIGSTOP);
  train("train.steps=10");
  ::kill(first, SIGHUP);
  std::this_thread::sleep_for(std::chrono::seconds(2));  // it finds the newer one, and asks for it
  ::kill(first, SIGTERM);
  const bool leaves = says("leaving: ", 20);
  ::kill(other, SIGCONT);
  EXPECT_TRUE(leaves) << log();
  EXPECT_EQ(wait_for(std::exchange(group_, 0)), 0) << log();
  EXPECT_EQ(log().find("from now on"), std::string::npos) << log();
}

TEST_F(ServeCommand, TakesWhatItsOptionsLeaveRoomFor) {
  prepare();
  train("train.steps=5");
  write("chat.jinja", "{% for message in messages %}{{ message.content }}{% endfor %}");
  // A page of this model has 2 layers * 16 positions * 2 * 16 numbers of 4 bytes: three of them are 48 positions of 64.
  serve("--max-queue 2 --memory-budget 12288 --chat-template chat.jinja");
  Client chat(port_);
  chat.post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "the 3"}]})");
  EXPECT_EQ(chat.response().status, 200) << log();
  EXPECT_EQ(ask(R"({"prompt": "the", "n": 2, "max_tokens": 1})").status, 200);
  const auto many = ask(R"({"prompt": "the", "n": 3, "max_tokens": 1})");
  EXPECT_EQ(many.status, 400) << "and not 429, which says that it may come true: " << many.body;
}

TEST_F(ServeCommand, RefusesToStartWhereItWouldNotBeSafeOrCannotServe) {
  prepare();
  train("train.steps=5");
  write("keys", "alice tooshort\n");
  write("good", "alice 0123456789abcdef\n");
  write("monitor.yaml", "monitor: {folder: keys/alerts, alerts: [{when: \"texts_waiting > 2\"}]}\n");
  struct Case {
    const char* options;
    int code;
    const char* said;
  };
  for (const Case& refused :
       {Case{"--checkpoint runs/tiny --host 0.0.0.0", 64, "--api-key-file"},
        Case{"--checkpoint runs/tiny --host :: --port 0", 64, "--api-key-file"},
        Case{"--checkpoint runs/tiny --api-key-file keys", 65, "keys:1"},
        Case{"--checkpoint runs/tiny --api-key-file nowhere", 65, "nowhere"},
        Case{"--checkpoint runs/tiny --api-key-file good --host here", 64, "--host"}, Case{"--checkpoint nowhere", 65, "nowhere"},
        Case{"--checkpoint runs/tiny --max-batch 0", 64, "--max-batch"},
        Case{"--checkpoint runs/tiny --memory-budget 10", 64, "memory-budget"},
        Case{"--checkpoint runs/tiny --chat-template nowhere", 65, "chat template nowhere is no file"},
        Case{"--checkpoint runs/tiny --monitor monitor.yaml", 74, "monitor.folder (keys/alerts)"}, Case{"", 64, "--checkpoint"}}) {
    const Outcome outcome = run(concat("timeout 60 $PIMOE serve ", refused.options));
    EXPECT_EQ(outcome.code, refused.code) << refused.options << outcome.err;
    EXPECT_NE(outcome.err.find(refused.said), std::string::npos) << refused.options << outcome.err;
  }
  serve();
  const Outcome taken = run(concat("timeout 60 $PIMOE serve --checkpoint runs/tiny --port ", port_));
  EXPECT_EQ(taken.code, 74) << taken.err;
  EXPECT_NE(taken.err.find("cannot listen"), std::string::npos) << taken.err;
  const Outcome unread = run(concat("timeout 60 $PIMOE serve nowhere --port ", port_));
  EXPECT_EQ(unread.code, 74) << "before a model is read, or even looked for: " << unread.err;
}

}  // namespace
}  // namespace pimoe
