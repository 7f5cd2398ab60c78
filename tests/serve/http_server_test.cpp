/// What clients may do wrong, and what others notice of it: nothing.

#include "base/errors.h"
#include "serve/served.h"

#include <atomic>
#include <map>
#include <memory>
#include <stdexcept>
#include <thread>
#include <utility>

namespace pimoe {
namespace {

class HttpServerTest : public Served {
 protected:
  static constexpr const char* kAsk = R"({"prompt": "the", "max_tokens": 2})";
  static constexpr size_t kBeginning = 5;  ///< bytes of it that begin_upload sends

  /// Returns when the server waits for the rest of `slow`'s body.
  void begin_upload(Client& slow) {
    const std::string body = kAsk;
    slow.send(concat("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ", body.size(),
                     "\r\n\r\n", body.substr(0, kBeginning)));
    ASSERT_TRUE(comes_true([&] { return server_->counts().body_bytes > 0; }));
  }
  void end_upload(Client& slow) { slow.send(kAsk + kBeginning); }
};

TEST_F(HttpServerTest, AnswersSeveralRequestsOfOneConnectionInTheirOrder) {
  serve();
  Client one = client();
  for (int count = 0; count < 3; ++count) {
    one.get("/health", concat("X-Request-Id: mine-", count, "\r\n"));
    const auto response = one.response();
    EXPECT_EQ(response.status, 200);
    EXPECT_NE(response.head.find(concat("X-Request-Id: mine-", count, "\r\n")), std::string::npos);
  }
  one.get("/health");
  one.get("/health");
  const std::string both = one.read([](const std::string& so_far) { return split(so_far, '{').size() == 3; });
  EXPECT_EQ(split(both, '{').size(), 3u) << both;
  one.get("/health", "Connection: close\r\n");
  one.read_to_end();
  EXPECT_TRUE(one.is_closed());
}

TEST_F(HttpServerTest, TakesNoNameForARequestThatCouldForgeALogLine) {
  serve();
  for (const std::string& name : {std::string("a b"), std::string(65, 'x'), std::string("\x1b[31m")}) {
    EXPECT_EQ(get("/health", concat("X-Request-Id: ", name, "\r\n")).head.find(name), std::string::npos) << name;
  }
}

TEST_F(HttpServerTest, AnswersHeadWithoutABody) {
  serve();
  Client one = client();
  one.send("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  const std::string all = one.read_to_end();
  EXPECT_TRUE(all.starts_with("HTTP/1.1 200")) << all;
  EXPECT_TRUE(all.ends_with("\r\n\r\n")) << all;
}

TEST_F(HttpServerTest, StreamsToAClientOfHttp10UntilTheConnectionsEnd) {
  serve();
  Client old = client();
  const std::string body = R"({"prompt": "the", "max_tokens": 2, "stream": true})";
  old.send(concat("POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: ", body.size(), "\r\n\r\n", body));
  const std::string all = old.read_to_end();
  EXPECT_EQ(all.find("chunked"), std::string::npos);
  EXPECT_TRUE(all.ends_with("data: [DONE]\n\n")) << all;
}

TEST_F(HttpServerTest, TakesABodyInChunksAndAfterAContinue) {
  serve();
  Client chunks = client();
  chunks.send(
      concat("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
             "10\r\n", std::string(kAsk).substr(0, 16), "\r\n", "12\r\n", std::string(kAsk).substr(16), "\r\n0\r\n\r\n"));
  EXPECT_EQ(chunks.response().status, 200);
  Client polite = client();
  polite.send(concat(
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: ",
      std::string(kAsk).size(), "\r\n\r\n"));
  EXPECT_TRUE(polite.read([](const std::string& so_far) { return so_far.ends_with("\r\n\r\n"); }).starts_with("HTTP/1.1 100"));
  polite.send(kAsk);
  EXPECT_EQ(polite.response().status, 200);
}

TEST_F(HttpServerTest, SendsNoContinueToAClientOfHttp10) {
  serve();
  Client old = client();
  old.send(concat(
      "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: ",
      std::string(kAsk).size(), "\r\n\r\n", kAsk));
  EXPECT_TRUE(old.read_to_end().starts_with("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, TakesATargetWithAHostWhichCountsInPlaceOfTheHeader) {
  facts_.only_local_names = true;
  serve();
  for (const auto& [target, status] : {std::pair{"http://localhost/health", 200},
                                       {"http://127.0.0.1:8000/health?now", 200},
                                       {"http://localhost", 200},
                                       {"http://example.com/health", 403},
                                       {"HTTP://localhost/health", 200},
                                       {"http://localhost@example.com/health", 403},
                                       {"http://127.0.0.1:8000@example.com/health", 403},
                                       {"http:///health", 403}}) {
    Client one = client();
    one.send(concat("GET ", target, " HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    EXPECT_EQ(one.response().status, status) << target;
  }
}

TEST_F(HttpServerTest, TakesOneHost) {
  facts_.only_local_names = true;
  serve();
  Client one = client();
  one.send("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: example.com\r\n\r\n");
  EXPECT_EQ(one.response().status, 400);
}

TEST_F(HttpServerTest, TakesNoBodyForAnotherRequest) {
  serve();
  for (const char* coding : {"gzip", "gzip, chunked", "chunked, gzip", "identity", "", "\r\nTransfer-Encoding: gzip"}) {
    Client one = client();
    one.send(concat("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: ", coding,
                    "\r\n\r\nGET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    const std::string all = one.read_to_end();
    EXPECT_TRUE(all.starts_with("HTTP/1.1 501 ")) << coding << ": " << all;
    EXPECT_EQ(all.find("HTTP/1.1 200"), std::string::npos) << coding << ": " << all;
    EXPECT_TRUE(one.is_closed()) << coding;
  }
}

TEST_F(HttpServerTest, EndsWhatPassesALimitWithItsStatus) {
  limits_.header_bytes = 2000;
  limits_.body_bytes = 5000;
  serve();
  struct Case {
    const char* what;
    std::string bytes;
    int status;
  };
  const std::string post = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
  for (const Case& wrong : {Case{"a head without end", "GET /health HTTP/1.1\r\nA: " + std::string(300'000, 'a'), 431},
                            Case{"a body of 1 GiB, as it says", post + "Content-Length: 1073741824\r\n\r\n", 413},
                            Case{"chunks without end", post + "Transfer-Encoding: chunked\r\n\r\n1770\r\n" + std::string(6000, ' '), 413},
                            Case{"a length that wraps around", post + "Content-Length: 99999999999999999999\r\n\r\n", 400},
                            Case{"two lengths", post + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400},
                            Case{"a length and chunks", post + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
                            Case{"no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400},
                            Case{"a NUL in the target", std::string("GET /\xff\0 HTTP/1.1\r\n\r\n", 19), 400},
                            Case{"another protocol", "GET / HTTP/2.0\r\n\r\n", 400}}) {
    Client one = client();
    one.send(wrong.bytes);
    EXPECT_EQ(one.response().status, wrong.status) << wrong.what;
    one.read_to_end();
    EXPECT_TRUE(one.is_closed()) << wrong.what;
  }
  EXPECT_EQ(get("/health").status, 200);
}

TEST_F(HttpServerTest, ReadsNoBodyOfWhomItRefusesByTheHead) {
  serve("alice 0123456789abcdef0123\n");
  Client stranger = client();
  stranger.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{");
  EXPECT_EQ(stranger.response().status, 401);
  EXPECT_EQ(server_->counts().body_bytes, 0);
}

TEST_F(HttpServerTest, WaitsForNobodyLongerThanItSays) {
  limits_.header_seconds = 0.2;
  limits_.body_seconds = 0.2;
  limits_.idle_seconds = 0.3;
  serve();
  Client slow_head = client(), slow_body = client(), idle = client();
  slow_head.send("GET /health HT");
  slow_body.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
  EXPECT_EQ(slow_head.response().status, 408);
  EXPECT_EQ(slow_body.response().status, 408);
  EXPECT_EQ(idle.read_to_end(), "");
  EXPECT_TRUE(idle.is_closed());
}

// Of such a client every read ends at once: there is none that the deadline could cancel.
TEST_F(HttpServerTest, ABodyThatComesWithoutAPauseHasADeadlineToo) {
  limits_.body_seconds = 0.3;
  limits_.body_bytes = limits_.bodies_bytes = 1 << 30;
  serve();
  Client busy = client();
  busy.send("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
  std::string chunks;
  for (int count = 0; count < 10'000; ++count) chunks += "1\r\n \r\n";
  const auto begun = std::chrono::steady_clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count(); };
  while (server_->counts().refused == 0 && seconds() < 20 && busy.send(chunks)) {
  }
  EXPECT_LT(seconds(), 10);
  EXPECT_TRUE(comes_true([&] { return server_->counts().body_bytes == 0; }));
}

TEST_F(HttpServerTest, ARequestWhoseBodyIsComingIsNotIdle) {
  limits_.connections = 2;
  serve();
  Client slow = client();
  ASSERT_NO_FATAL_FAILURE(begin_upload(slow));
  EXPECT_EQ(server_->counts().idle, 0);
  std::vector<Client> others;
  for (int count = 0; count < 5; ++count) {
    others.push_back(client());
    others.back().get("/health");
    EXPECT_EQ(others.back().response().status, 200) << count;
    ASSERT_TRUE(comes_true([&] { return server_->counts().idle == 1; })) << "what was answered waits for the next request";
  }
  end_upload(slow);
  EXPECT_EQ(slow.response().status, 200) << "the others have made room for each other";
}

TEST_F(HttpServerTest, WaitsForTheRestOfABodyBeforeItLeaves) {
  serve();
  Client slow = client();
  ASSERT_NO_FATAL_FAILURE(begin_upload(slow));
  std::thread leaving([&] { server_->stop(10); });
  EXPECT_TRUE(comes_true([&] { return !client().is_connected(); }));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  end_upload(slow);
  EXPECT_EQ(slow.response().status, 200);
  leaving.join();
}

TEST_F(HttpServerTest, TakesTheLargestBodyThoughAllTogetherMayHaveLess) {
  limits_.bodies_bytes = 1000;
  limits_.body_bytes = 5000;
  serve();
  Client chunks = client();
  chunks.send(
      concat("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
             "10\r\n", std::string(kAsk).substr(0, 16), "\r\n", "12\r\n", std::string(kAsk).substr(16), "\r\n0\r\n\r\n"));
  EXPECT_EQ(chunks.response().status, 200);
}

TEST_F(HttpServerTest, AClientThatReadsGetsAChunkThatIsLargerThanWhatMayBeUnsent) {
  limits_.unsent_bytes = 64 << 10;
  source_.token_bytes = 400'000;
  serve();
  const auto response = post("/v1/completions", R"({"prompt": "the", "max_tokens": 1, "stream": true})");
  EXPECT_EQ(response.status, 200);
  EXPECT_GT(response.body.size(), 400'000u);
  EXPECT_TRUE(response.body.ends_with("data: [DONE]\n\n"));
  EXPECT_EQ(server_->counts().left, 0u);
}

TEST_F(HttpServerTest, MakesRoomByClosingWhatHasBeenIdleLongest) {
  limits_.connections = 20;
  serve();
  std::vector<Client> idle;
  for (int count = 0; count < 30; ++count) {
    idle.push_back(client());
    EXPECT_EQ(get("/health").status, 200) << count;
  }
  EXPECT_EQ(idle.front().read_to_end(), "");
  EXPECT_TRUE(idle.front().is_closed());
  idle.back().get("/health");
  EXPECT_EQ(idle.back().response().status, 200);
}

TEST_F(HttpServerTest, RefusesWhereEveryConnectionIsBeingAnswered) {
  limits_.connections = 3;
  source_.pause = std::chrono::milliseconds(200);
  serve();
  std::vector<Client> busy;
  for (int count = 0; count < 3; ++count) {
    busy.push_back(client());
    busy.back().post("/v1/completions", kAsk);
  }
  ASSERT_TRUE(comes_true([&] { return source_.running() == 3; }));
  EXPECT_EQ(get("/health").status, 503);
  for (Client& each : busy) EXPECT_EQ(each.response().status, 200);
  EXPECT_TRUE(comes_true([&] { return get("/health").status == 200; }));
}

TEST_F(HttpServerTest, HoldsNoMoreBytesOfBodiesThanItMay) {
  limits_.bodies_bytes = 150'000;
  limits_.body_bytes = 100'000;
  serve();
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n";
  Client first = client();
  first.send(head + "{");
  ASSERT_TRUE(comes_true([&] { return server_->counts().body_bytes == 100'000; }));
  Client second = client();
  second.send(head);
  EXPECT_EQ(second.response().status, 503);
  EXPECT_EQ(post("/v1/completions", kAsk).status, 200) << "a small one has room";
  first.leave();
  EXPECT_TRUE(comes_true([&] { return server_->counts().body_bytes == 0; }));
}

// Who has sent on is looked at five times a second, whoever has not is seen leaving by the socket itself.
TEST_F(HttpServerTest, CancelsWhatAClientAskedForWhenItLeaves) {
  source_.pause = std::chrono::seconds(30);
  serve();
  size_t left = 0;
  const auto seconds_of_ten = [&](const std::string& more) {
    std::chrono::steady_clock::duration waited{};
    for (int count = 0; count < 10; ++count) {
      Client hasty = client();
      hasty.post("/v1/completions", kAsk);
      EXPECT_TRUE(comes_true([&] { return source_.running() == 1; }));
      hasty.send(more);
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until the server has looked at it
      const auto begun = std::chrono::steady_clock::now();
      hasty.leave();
      EXPECT_TRUE(comes_true([&] { return source_.cancelled() == left + 1; }));
      waited += std::chrono::steady_clock::now() - begun;
      ++left;
    }
    return waited;
  };
  const auto of_plain_ones = seconds_of_ten(""), of_those_that_sent_on = seconds_of_ten("GET /");
  EXPECT_LT(2 * of_plain_ones, of_those_that_sent_on);
}

TEST_F(HttpServerTest, HoldsLittleOfAStreamThatItsClientDoesNotRead) {
  limits_.unsent_bytes = 64 << 10;
  source_.token_bytes = 4000;
  source_.script = std::string(3000, 'x');
  serve();
  Client deaf(server_->port(), /*receive_buffer=*/4096);
  deaf.post("/v1/completions", R"({"prompt": "the", "max_tokens": 3000, "stream": true})");
  ASSERT_TRUE(comes_true([&] { return server_->counts().left == 1; }));
  EXPECT_LT(deaf.read_to_end().size(), 256u << 10) << "of 12 MB: the rest was neither in the server nor in the kernel";
}

TEST_F(HttpServerTest, LeavesWhenTheLastAnswerIsSent) {
  source_.pause = std::chrono::milliseconds(50);
  serve();
  Client idle = client(), busy = client();
  busy.post("/v1/completions", R"({"prompt": "the", "max_tokens": 8})");
  ASSERT_TRUE(comes_true([&] { return source_.running() == 1; }));
  server_->stop(10);
  const auto response = busy.response();
  EXPECT_EQ(response.status, 200);
  EXPECT_NE(response.head.find("Connection: close"), std::string::npos);
  EXPECT_EQ(idle.read_to_end(), "");
  EXPECT_FALSE(client().is_connected());
}

TEST_F(HttpServerTest, LeavesInTimeThoughAnAnswerIsStillOnItsWay) {
  source_.pause = std::chrono::seconds(30);
  serve();
  Client busy = client();
  busy.post("/v1/completions", kAsk);
  ASSERT_TRUE(comes_true([&] { return source_.running() == 1; }));
  const auto begun = std::chrono::steady_clock::now();
  server_->stop(0.1);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(20)) << "a token takes 30";
  EXPECT_TRUE(comes_true([&] { return source_.cancelled() == 1; })) << "and its text is cancelled";
}

/// Throws where its contract says that nothing may be thrown.
class BrokenHandler : public HttpHandler {
 public:
  std::optional<HttpResponse> refuse_head(const HttpRequest& head) override {
    if (head.path == "/broken") throw std::runtime_error("the handler is broken");
    return std::nullopt;
  }
  void answer(std::shared_ptr<HttpExchange> exchange) override { exchange->respond({}); }
  HttpResponse refusal(int status, const std::string& /*why*/) override {
    HttpResponse response;
    response.status = status;
    return response;
  }
};

TEST(HttpServer, AnExceptionCostsItsConnectionAlone) {
  Logger log(1);
  BrokenHandler handler;
  HttpServer server({"127.0.0.1", 0}, {.threads = 2}, handler, log);
  for (int count = 0; count < 4; ++count) {
    Client one(server.port());
    one.get("/broken");
    EXPECT_EQ(one.read_to_end(), "");
    EXPECT_TRUE(one.is_closed());
  }
  Client other(server.port());
  other.get("/");
  EXPECT_EQ(other.response().status, 200);
}

TEST(HttpPort, IsTakenFromTheBeginningAndLetsInWhoComesOnceAServerListens) {
  Logger log(1);
  BrokenHandler handler;
  HttpPort port("127.0.0.1", 0);
  const int number = port.number();
  EXPECT_FALSE(Client(number).is_connected()) << "nobody listens yet";
  HttpServer server(std::move(port), {.threads = 1}, handler, log);
  EXPECT_EQ(server.port(), number);
  Client one(number);
  one.get("/");
  EXPECT_EQ(one.response().status, 200);
  EXPECT_THROW(HttpPort("127.0.0.1", number), IoError);
}

/// Takes longer than a server that is told to leave waits, and keeps the exchange.
class SlowHandler : public BrokenHandler {
 public:
  void answer(std::shared_ptr<HttpExchange> exchange) override {
    kept = std::move(exchange);
    is_asked = true;
    std::this_thread::sleep_for(std::chrono::seconds(6));
    is_done = true;
  }
  std::shared_ptr<HttpExchange> kept;
  std::atomic<bool> is_asked = false, is_done = false;
};

TEST(HttpServer, CallsNobodyOnceItHasStoppedAndItsExchangesMayStillBeUsed) {
  Logger log(1);
  SlowHandler handler;
  HttpServer server({"127.0.0.1", 0}, {.threads = 2}, handler, log);
  Client one(server.port());
  one.get("/");
  while (!handler.is_asked) std::this_thread::yield();
  server.stop(0);
  EXPECT_TRUE(handler.is_done);
  handler.kept->respond({});
  handler.kept->send("nobody hears it");
  handler.kept.reset();
}

TEST(Loopback, IsWhatNoOtherMachineReaches) {
  for (const char* host : {"127.0.0.1", "127.8.9.10", "::1", "localhost", "::ffff:127.0.0.1"}) EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "example.com", "", "127.0.0.1.example.com"})
    EXPECT_FALSE(is_loopback(host)) << host;
}

}  // namespace
}  // namespace pimoe
