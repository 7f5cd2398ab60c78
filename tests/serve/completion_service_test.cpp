/// The API over real sockets, with a script in place of a model.

#include "serve/serve_page.h"
#include "serve/served.h"

namespace pimoe {
namespace {

class CompletionServiceTest : public Served {};

TEST_F(CompletionServiceTest, AnswersACompletionAsTheApiHasIt) {
  serve();
  const auto response = post("/v1/completions", R"({"model": "small", "prompt": "the 3 cats", "max_tokens": 4})");
  ASSERT_EQ(response.status, 200) << response.body;
  const auto answer = json(response.body);
  EXPECT_EQ(answer.at("object"), "text_completion");
  EXPECT_EQ(answer.at("choices").at(0).at("text"), "abcd");
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "length");
  EXPECT_EQ(answer.at("choices").at(0).at("logprobs"), nullptr);
  const size_t prompt = small_tokenizer().encode("the 3 cats").size();
  EXPECT_EQ(answer.at("usage").at("prompt_tokens"), prompt);
  EXPECT_EQ(answer.at("usage").at("completion_tokens"), 4);
  EXPECT_NE(response.head.find("X-Request-Id: "), std::string::npos);
  EXPECT_TRUE(answer.at("id").get<std::string>().starts_with("cmpl-"));
}

TEST_F(CompletionServiceTest, SaysStopWhereTheDocumentEnded) {
  source_.script = "ab";
  serve();
  const auto answer = json(post("/v1/completions", R"({"prompt": "the", "max_tokens": 9})").body);
  EXPECT_EQ(answer.at("choices").at(0).at("text"), "ab");
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "stop");
}

TEST_F(CompletionServiceTest, EchoesAndScoresPromptsAsTheEvaluationHarnessReadsThem) {
  serve();
  const auto response = post(
      "/v1/completions",
      R"({"model": "small", "prompt": [[5, 6, 7], [9, 8]], "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234})");
  ASSERT_EQ(response.status, 200) << response.body;
  const auto choices = json(response.body).at("choices");
  ASSERT_EQ(choices.size(), 2u);
  for (size_t index = 0; index < 2; ++index) {
    const auto& logprobs = choices[index].at("logprobs");
    const size_t tokens = index == 0 ? 4 : 3;  // the prompt's and one more
    EXPECT_EQ(choices[index].at("index"), index);
    EXPECT_EQ(logprobs.at("token_logprobs").size(), tokens);
    EXPECT_EQ(logprobs.at("top_logprobs").size(), tokens);
    EXPECT_EQ(logprobs.at("text_offset").size(), tokens);
    EXPECT_EQ(logprobs.at("token_logprobs")[0], nullptr);
    EXPECT_EQ(logprobs.at("top_logprobs")[0], nullptr);
    for (size_t token = 1; token < tokens; ++token) {
      double largest = -1e300;
      for (const auto& [name, value] : logprobs.at("top_logprobs")[token].items()) largest = std::max(largest, value.get<double>());
      EXPECT_EQ(logprobs.at("token_logprobs")[token].get<double>(), largest) << "bit for bit";
    }
  }
  EXPECT_EQ(choices[0].at("logprobs").at("token_logprobs")[1].get<double>(), -0.1 * 7 / 3) << "numbers come back as the same bits";
  EXPECT_TRUE(choices[0].at("text").get<std::string>().ends_with("a")) << choices[0];
}

TEST_F(CompletionServiceTest, ScoresAloneWithoutNewTokens) {
  serve();
  const auto answer = json(post("/v1/completions", R"({"prompt": [5, 6, 7], "echo": true, "logprobs": 2, "max_tokens": 0})").body);
  EXPECT_EQ(answer.at("choices").at(0).at("logprobs").at("tokens").size(), 3u) << answer;
  EXPECT_EQ(answer.at("usage").at("completion_tokens"), 0);
  EXPECT_EQ(answer.at("choices").at(0).at("text"), small_tokenizer().decode({5, 6, 7}));
}

TEST_F(CompletionServiceTest, StreamsWholeTextInOrderAndUsageLast) {
  serve();
  const auto response =
      post("/v1/completions", R"({"prompt": "the", "max_tokens": 5, "stream": true, "stream_options": {"include_usage": true}})");
  EXPECT_NE(response.head.find("text/event-stream"), std::string::npos);
  const auto lines = events(response.body);
  ASSERT_EQ(lines.size(), 7u) << response.body;
  std::string text;
  for (size_t index = 0; index < 5; ++index) {
    const auto chunk = json(lines[index]);
    text += chunk.at("choices").at(0).at("text");
    EXPECT_EQ(chunk.at("usage"), nullptr);
    EXPECT_EQ(chunk.at("choices").at(0).at("finish_reason"), index == 4 ? nlohmann::json("length") : nlohmann::json(nullptr));
  }
  EXPECT_EQ(text, "abcde");
  EXPECT_EQ(json(lines[5]).at("usage").at("completion_tokens"), 5);
  EXPECT_TRUE(json(lines[5]).at("choices").empty());
  EXPECT_EQ(lines[6], "[DONE]");
}

TEST_F(CompletionServiceTest, AnswersAndStreamsChats) {
  serve();
  const std::string question =
      R"("messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": [{"type": "text", "text": "the 3"}]}])";
  const auto whole =
      json(post("/v1/chat/completions", concat("{", question, R"(, "max_tokens": 3, "logprobs": true, "top_logprobs": 2})")).body);
  EXPECT_EQ(whole.at("object"), "chat.completion");
  EXPECT_EQ(whole.at("choices").at(0).at("message").at("content"), "abc") << whole;
  EXPECT_EQ(whole.at("choices").at(0).at("message").at("role"), "assistant");
  ASSERT_EQ(whole.at("choices").at(0).at("logprobs").at("content").size(), 3u);
  EXPECT_EQ(whole.at("choices").at(0).at("logprobs").at("content")[0].at("top_logprobs").size(), 2u);
  const auto asked = source_.requests().front().prompt;
  const auto expected = small_tokenizer().encode_with_special("system: be short\nuser: the 3\nassistant: ");
  EXPECT_EQ(asked, std::vector<int64_t>(expected.begin(), expected.end()));

  const auto lines = events(post("/v1/chat/completions", concat("{", question, R"(, "max_completion_tokens": 2, "stream": true})")).body);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(json(lines[0]).at("choices").at(0).at("delta"), (nlohmann::json{{"role", "assistant"}, {"content", "a"}}));
  EXPECT_EQ(json(lines[1]).at("choices").at(0).at("delta"), (nlohmann::json{{"content", "b"}}));
  EXPECT_FALSE(json(lines[1]).contains("usage"));
}

TEST_F(CompletionServiceTest, GivesAChatAllTheRoomThatIsLeft) {
  source_.script = "z";
  serve();
  post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "the"}]})");
  const auto request = source_.requests().front();
  EXPECT_EQ(request.max_tokens, 4096 - static_cast<int64_t>(request.prompt.size()));
}

TEST_F(CompletionServiceTest, GivesAChatNoMoreRoomThanThePagesHave) {
  source_.script = "z";
  source_.most = 50;
  serve();
  EXPECT_EQ(post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "the"}]})").status, 200);
  const auto request = source_.requests().front();
  EXPECT_EQ(request.max_tokens, 50 - static_cast<int64_t>(request.prompt.size()));
}

TEST_F(CompletionServiceTest, NamesTheCheckpointThatHasAnsweredAndNotTheOneThatWasAsked) {
  source_.weights = 43;  // those of step 42 were replaced while the text waited
  serve();
  EXPECT_EQ(json(post("/v1/completions", R"({"prompt": "the", "max_tokens": 3})").body).at("system_fingerprint"), "step-00000043");
  for (const std::string& line : events(post("/v1/completions", R"({"prompt": "the", "max_tokens": 3, "stream": true})").body)) {
    if (line != "[DONE]") {
      EXPECT_EQ(json(line).at("system_fingerprint"), "step-00000043") << line;
    }
  }
}

TEST_F(CompletionServiceTest, DrawsEachOfSeveralChoicesWithASeedOfItsOwn) {
  serve();
  const auto answer = json(post("/v1/completions", R"({"prompt": ["the", "cats"], "n": 2, "seed": 7, "max_tokens": 2})").body);
  ASSERT_EQ(answer.at("choices").size(), 4u);
  for (size_t index = 0; index < 4; ++index) EXPECT_EQ(answer.at("choices")[index].at("index"), index);
  const auto requests = source_.requests();
  EXPECT_EQ(requests[0].sampling.seed, 7u);
  EXPECT_EQ(requests[1].sampling.seed, 8u);
  EXPECT_EQ(requests[2].sampling.seed, 7u);
  EXPECT_EQ(answer.at("usage").at("prompt_tokens"), requests[0].prompt.size() + requests[2].prompt.size()) << "each prompt once";
}

TEST_F(CompletionServiceTest, TellsOfEachTokensExpertsWhereAsked) {
  serve();
  const auto lines =
      events(post("/v1/completions", R"({"prompt": "the", "max_tokens": 2, "stream": true, "pimoe_trace_experts": true})").body);
  EXPECT_EQ(json(lines.at(0)).at("choices").at(0).at("pimoe_experts").at(0).at("layers"), (nlohmann::json{{0, 1}, {1, 2}}));
}

TEST_F(CompletionServiceTest, RefusesInTheApisWordsWithTheRightStatus) {
  serve();
  struct Case {
    std::string path, body;
    int status;
    std::string code;
  };
  const std::string chat = "/v1/chat/completions", text = "/v1/completions";
  for (const Case& refused : {Case{text, "{", 400, "invalid_json"}, Case{text, R"({"prompt": "the", "prompt": "x"})", 400, "invalid_json"},
                              Case{text, R"({"prompt": "the", "model": "gpt-4"})", 404, "model_not_found"},
                              Case{text, R"({"prompt": [300]})", 400, "invalid_value"},
                              Case{text, R"({"prompt": "the", "max_tokens": 5000})", 400, "context_length_exceeded"},
                              Case{text, R"({"prompt": "the", "best_of": 3})", 400, "unsupported_parameter"},
                              Case{chat, R"({"messages": [{"role": "oracle", "content": "x"}]})", 400, "invalid_value"},
                              Case{chat, R"({"prompt": "x", "messages": [{"role": "user", "content": "x"}]})", 400, "unknown_parameter"},
                              Case{"/v1/nothing", "{}", 404, "no_such_path"}, Case{"/health", "{}", 405, "wrong_method"}}) {
    const auto response = post(refused.path, refused.body);
    EXPECT_EQ(response.status, refused.status) << refused.body << response.body;
    EXPECT_EQ(error_code(response), refused.code) << refused.body << response.body;
    EXPECT_FALSE(json(response.body).at("error").at("message").get<std::string>().empty());
  }
  Client plain = client();
  plain.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(plain.response().status, 415) << "a web page may post text/plain anywhere without being asked";
  EXPECT_TRUE(source_.requests().empty());
}

TEST_F(CompletionServiceTest, MakesNoAnswerOfMoreNumbersThanItMay) {
  serve();
  const std::string large = R"({"prompt": "the", "n": 16, "max_tokens": 4000, "logprobs": 20})";
  EXPECT_EQ(error_code(post("/v1/completions", large)), "answer_too_large");
  EXPECT_TRUE(source_.requests().empty());
}

TEST_F(CompletionServiceTest, NeedsAChatTemplateForChats) {
  serve("", /*has_template=*/false);
  EXPECT_EQ(error_code(post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "x"}]})")), "no_chat_template");
}

TEST_F(CompletionServiceTest, AsksForAKeyWhereThereAreKeys) {
  serve("alice 0123456789abcdef0123\nbob   fedcba9876543210fedc 1\n");
  const std::string body = R"({"prompt": "the", "max_tokens": 1})";
  EXPECT_EQ(post("/v1/completions", body).status, 401);
  EXPECT_EQ(error_code(post("/v1/completions", body, "Authorization: Bearer 0123456789abcdef012\r\n")), "invalid_api_key");
  EXPECT_EQ(post("/v1/completions", body, "Authorization: Basic 0123456789abcdef0123\r\n").status, 401);
  EXPECT_EQ(post("/v1/completions", body, "Authorization: Bearer 0123456789abcdef0123\r\n").status, 200);
  EXPECT_EQ(get("/v1/models").status, 401);
  EXPECT_EQ(get("/metrics").status, 401);
  EXPECT_EQ(get("/health").status, 200);
  EXPECT_EQ(get("/").status, 200);
  const std::string bob = "Authorization: bearer fedcba9876543210fedc\r\n";
  EXPECT_EQ(post("/v1/completions", body, bob).status, 200);
  const auto second = post("/v1/completions", body, bob);
  EXPECT_EQ(second.status, 429) << "bob may ask once a minute";
  EXPECT_NE(second.head.find("Retry-After: "), std::string::npos);
  EXPECT_EQ(get("/v1/models", bob).status, 200) << "completions alone are counted";
  EXPECT_EQ(post("/v1/completions", body, "Authorization: Bearer 0123456789abcdef0123\r\n").status, 200) << "alice as often as she likes";
}

TEST_F(CompletionServiceTest, TellsTheEngineWhoseATextIs) {
  serve("alice 0123456789abcdef0123\nbob 3210fedcba98765432100000\n");
  for (const char* key : {"3210fedcba98765432100000", "0123456789abcdef0123"}) {
    EXPECT_EQ(post("/v1/completions", R"({"prompt": "the"})", concat("Authorization: Bearer ", key, "\r\n")).status, 200);
  }
  const auto requests = source_.requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].client, 1u);
  EXPECT_EQ(requests[1].client, 0u);
}

TEST_F(CompletionServiceTest, AnswersToLocalNamesAloneWhereThatIsAsked) {
  facts_.only_local_names = true;
  serve();
  for (const char* host : {"localhost:8000", "127.0.0.1", "[::1]:8000"}) {
    Client one = client();
    one.send(concat("GET /v1/models HTTP/1.1\r\nHost: ", host, "\r\n\r\n"));
    EXPECT_EQ(one.response().status, 200) << host;
  }
  Client rebound = client();
  rebound.send("GET /v1/models HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n");
  EXPECT_EQ(rebound.response().status, 403);
}

TEST_F(CompletionServiceTest, SaysLaterWhereTheQueueIsFullAndCancelsWhatItHadTaken) {
  source_.room = 2;
  source_.pause = std::chrono::milliseconds(20);
  serve();
  const auto response = post("/v1/completions", R"({"prompt": ["a", "b", "c"], "max_tokens": 26})");
  EXPECT_EQ(response.status, 429) << response.body;
  EXPECT_NE(response.head.find("Retry-After: 1"), std::string::npos);
  EXPECT_TRUE(comes_true([&] { return source_.cancelled() == 2 && source_.running() == 0; }));
}

TEST_F(CompletionServiceTest, CancelsWhatItHadTakenWhateverGoesWrong) {
  source_.breaks_at = 3;
  source_.pause = std::chrono::milliseconds(100);
  serve();
  EXPECT_EQ(post("/v1/completions", R"({"prompt": ["a", "b", "c"], "max_tokens": 26})").status, 500);
  EXPECT_TRUE(comes_true([&] { return source_.cancelled() == 2 && source_.running() == 0; }));
}

TEST_F(CompletionServiceTest, CancelsEveryTextOfAClientThatLeaves) {
  source_.pause = std::chrono::milliseconds(100);
  serve();
  for (const char* stream : {"false", "true"}) {
    const size_t before = source_.cancelled();
    Client one = client();
    one.post("/v1/completions", concat(R"({"prompt": "the", "n": 3, "max_tokens": 26, "stream": )", stream, "}"));
    ASSERT_TRUE(comes_true([&] { return source_.running() == 3; }));
    one.leave();
    EXPECT_TRUE(comes_true([&] { return source_.cancelled() == before + 3; })) << stream;
  }
  EXPECT_EQ(server_->counts().left, 2u);
}

TEST_F(CompletionServiceTest, DropsAClientThatDoesNotReadAndAnswersOthersMeanwhile) {
  limits_.unsent_bytes = 64 << 10;
  source_.token_bytes = 4000;
  source_.script = std::string(3000, 'x');
  serve();
  Client deaf(server_->port(), /*receive_buffer=*/4096);
  deaf.post("/v1/completions", R"({"prompt": "the", "max_tokens": 3000, "stream": true})");
  EXPECT_TRUE(comes_true([&] { return server_->counts().left == 1; }));
  source_.token_bytes = 1;
  EXPECT_EQ(post("/v1/completions", R"({"prompt": "the", "max_tokens": 2})").status, 200);
  EXPECT_TRUE(comes_true([&] { return source_.running() == 0; }));
}

TEST_F(CompletionServiceTest, TellsWhatFailedAlsoInTheMiddleOfAStream) {
  source_.fails = true;
  serve();
  const auto whole = post("/v1/completions", R"({"prompt": "the", "max_tokens": 3})");
  EXPECT_EQ(whole.status, 500);
  EXPECT_NE(whole.body.find("the script is torn"), std::string::npos);
  const auto lines = events(post("/v1/completions", R"({"prompt": "the", "max_tokens": 3, "stream": true})").body);
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(json(lines[0]).at("error").at("code"), "failed") << "and no [DONE]";
}

TEST_F(CompletionServiceTest, FinishesWhatItBeganWhileItRefusesWhatIsNew) {
  source_.pause = std::chrono::milliseconds(30);
  serve();
  Client early = client();
  early.post("/v1/completions", R"({"prompt": "the", "max_tokens": 10, "stream": true})");
  ASSERT_TRUE(comes_true([&] { return source_.running() == 1; }));
  service_->close("the server is leaving");
  const auto late = post("/v1/completions", R"({"prompt": "the"})");
  EXPECT_EQ(late.status, 503);
  EXPECT_NE(late.head.find("Retry-After"), std::string::npos);
  EXPECT_EQ(get("/health").status, 503);
  EXPECT_EQ(events(early.response().body).back(), "[DONE]");
}

TEST_F(CompletionServiceTest, CountsWhatItDidForPrometheus) {
  serve();
  post("/v1/completions", R"({"prompt": "the", "max_tokens": 5})");
  post("/v1/completions", "{");
  get("/nowhere/\"}");
  ASSERT_TRUE(comes_true([&] { return get("/metrics").body.find("completion_seconds_count 1\n") != std::string::npos; }));
  const std::string text = get("/metrics").body;
  for (const char* line : {"pimoe_serve_requests_total{route=\"/v1/completions\",status=\"200\"} 1\n",
                           "pimoe_serve_requests_total{route=\"/v1/completions\",status=\"400\"} 1\n",
                           "pimoe_serve_requests_total{route=\"none\",status=\"404\"} 1\n", "pimoe_serve_generated_tokens_total 5\n",
                           "pimoe_serve_first_token_seconds_count 1\n", "pimoe_serve_next_token_seconds_count 4\n",
                           "pimoe_serve_expert_share{expert=\"1\"} 0.75\n", "pimoe_serve_running 0\n"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
}

TEST_F(CompletionServiceTest, ServesAPageThatRunsNothingButItsOwnScript) {
  serve();
  const auto page = get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_NE(page.head.find("default-src 'none'"), std::string::npos);
  EXPECT_EQ(page.head.find("unsafe"), std::string::npos);
  const size_t begin = page.body.find("<script>") + 8;
  const std::string script = page.body.substr(begin, page.body.find("</script>") - begin);
  EXPECT_NE(page.head.find(concat("script-src '", policy_hash(script), "'")), std::string::npos);
  EXPECT_EQ(page.body.find("http://"), std::string::npos);
  EXPECT_EQ(page.body.find("https://"), std::string::npos);
  EXPECT_EQ(policy_hash("alert('Hello, world.');"), "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=") << "MDN's example";
}

}  // namespace
}  // namespace pimoe
