#include "train/prometheus_exporter.h"

#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {
namespace {

TEST(PrometheusText, HasHelpTypeAndTheRunOfEachSample) {
  StepRecord record;
  record.step = 7;
  record.loss = 2.5;
  record.tokens = 700;
  record.gradient_norm = std::nan("");
  const std::string text = to_prometheus(record, {.run = "a\"b\\c", .steps = 10, .ranks = 2, .time = 12.5, .skipped = 3, .alarms = 4});
  EXPECT_NE(text.find("# HELP pimoe_step Optimizer steps done\n# TYPE pimoe_step gauge\npimoe_step{run=\"a\\\"b\\\\c\"} 7\n"),
            std::string::npos);
  EXPECT_NE(text.find("# TYPE pimoe_tokens_total counter\npimoe_tokens_total{run=\"a\\\"b\\\\c\"} 700\n"), std::string::npos);
  EXPECT_NE(text.find("pimoe_gradient_norm{run=\"a\\\"b\\\\c\"} NaN\n"), std::string::npos);
  EXPECT_NE(to_prometheus(record, {.run = "a\nb", .steps = 10, .ranks = 2}).find("pimoe_step{run=\"a\\nb\"} 7\n"), std::string::npos)
      << "a line break would end the sample";
  EXPECT_EQ(text.find("mfu"), std::string::npos) << "it is unknown";
  EXPECT_EQ(text.find("moe_layer"), std::string::npos) << "a dense model";
}

class Client {
 public:
  explicit Client(const sockaddr_in& server) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    is_connected_ = ::connect(socket_, reinterpret_cast<const sockaddr*>(&server), sizeof server) == 0;
  }
  Client(Client&& other) noexcept : socket_(std::exchange(other.socket_, -1)), is_connected_(other.is_connected_) {}
  ~Client() {
    if (socket_ >= 0) ::close(socket_);
  }
  bool send(const std::string& bytes) const {
    return is_connected_ && ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
  }
  std::string answer() const {
    std::string answer;
    std::array<char, 4096> bytes{};
    for (ssize_t got = 0; (got = ::recv(socket_, bytes.data(), bytes.size(), 0)) > 0;)
      answer.append(bytes.data(), static_cast<size_t>(got));
    return answer;
  }
  /// Whether the server has closed it.
  bool is_over() const {
    char byte = 0;
    return ::recv(socket_, &byte, 1, MSG_DONTWAIT | MSG_PEEK) >= 0 || errno != EAGAIN;
  }

 private:
  int socket_;
  bool is_connected_ = false;
};

/// A socket of a port that the system chose; what it is for may be taken from it.
class Port {
 public:
  Port() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(socket_, reinterpret_cast<const sockaddr*>(&address_), sizeof address_);
    socklen_t size = sizeof address_;
    ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address_), &size);
  }
  ~Port() { release(); }
  void listen() const { ::listen(socket_, 1); }
  void release() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  int number() const { return ntohs(address_.sin_port); }
  Client connect() const { return Client(address_); }

  /// @returns the answer; "" where nobody listens
  std::string ask(const std::string& request) const {
    Client client(address_);
    return client.send(request) ? client.answer() : "";
  }
  /// Until somebody listens: ten seconds are far more than it takes.
  std::string ask_until_answered(const std::string& request) const {
    std::string answer;
    for (int tries = 0; answer.empty() && tries < 1000; ++tries) {
      answer = ask(request);
      if (answer.empty()) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return answer;
  }

 private:
  int socket_;
  sockaddr_in address_{};
};

TEST(PrometheusExporter, ServesTheNewestRecordAndRefusesOtherRequests) {
  Port port;
  port.release();
  Logger log;
  MonitorConfig config;
  config.prometheus_port = port.number();
  PrometheusExporter exporter(config, "run", 10, 1, log);
  StepRecord record;
  record.step = 3;
  record.validation_loss = 1.25;
  exporter.update(record);
  record.step = 4;
  record.validation_loss.reset();
  exporter.update(record);
  const std::string answer = port.ask_until_answered("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")) << answer;
  EXPECT_NE(answer.find("\npimoe_step{run=\"run\"} 4\n"), std::string::npos) << answer;
  EXPECT_NE(answer.find("\npimoe_validation_loss_nats{run=\"run\"} 1.25\n"), std::string::npos) << "that of the newest validation stays";
  EXPECT_TRUE(port.ask("GET /other HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404"));
  EXPECT_TRUE(port.ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405"));
  EXPECT_TRUE(port.ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 405"));
}

/// An exporter on a port that nobody has.
struct Served {
  Port port;
  Logger log;
  std::optional<PrometheusExporter> exporter;

  Served() {
    port.release();
    MonitorConfig config;
    config.prometheus_port = port.number();
    exporter.emplace(config, "run", 10, 1, log);
    exporter->update(StepRecord{});
    port.ask_until_answered(kScrape);
  }
  static constexpr const char* kScrape = "GET /metrics HTTP/1.1\r\n\r\n";
};

// Connections that ask nothing are closed after two seconds: one that is still open has not been waited for. A machine may be that slow once.
TEST(PrometheusExporter, AnswersWhileFortyConnectionsIdle) {
  const Served served;
  bool has_overtaken = false;
  for (int tries = 0; tries < 10 && !has_overtaken; ++tries) {
    std::vector<Client> idle;
    for (int count = 0; count < 40; ++count) idle.push_back(served.port.connect());
    EXPECT_TRUE(served.port.ask(Served::kScrape).starts_with("HTTP/1.1 200 OK"));
    has_overtaken = std::any_of(idle.begin(), idle.end(), [](const Client& client) { return !client.is_over(); });
    EXPECT_TRUE(served.port.ask(Served::kScrape).starts_with("HTTP/1.1 200 OK"));
  }
  EXPECT_TRUE(has_overtaken);
}

TEST(PrometheusExporter, AnswersThoseWhoAskSlowlyAndOthersMeanwhile) {
  const Served served;
  bool is_answered = false;
  for (int tries = 0; tries < 10 && !is_answered; ++tries) {
    std::vector<Client> slow;
    for (int count = 0; count < 8; ++count) slow.push_back(served.port.connect());
    const std::string request = Served::kScrape;
    for (const char letter : request.substr(0, request.size() - 1)) {
      for (const Client& client : slow) client.send(std::string(1, letter));
    }
    EXPECT_TRUE(served.port.ask(Served::kScrape).starts_with("HTTP/1.1 200 OK"));
    for (const Client& client : slow) client.send("\n");
    is_answered = std::all_of(slow.begin(), slow.end(), [](const Client& client) { return client.answer().starts_with("HTTP/1.1 200"); });
  }
  EXPECT_TRUE(is_answered);
}

TEST(PrometheusExporter, EndsAConnectionThatAsksNothing) {
  const Served served;
  const Client idle = served.port.connect();
  EXPECT_EQ(idle.answer(), "");  // returns once the server has closed it
}

TEST(PrometheusExporter, LeavesAPortThatIsTakenToItsOwnerAndStillWritesTheFile) {
  const TemporaryFolder folder;
  const Port port;
  port.listen();
  Logger log;
  log.open_file(folder / "log");
  MonitorConfig config;
  config.prometheus_port = port.number();
  config.prometheus_textfile = folder / "run.prom";
  {
    PrometheusExporter exporter(config, "run", 10, 1, log);
    StepRecord record;
    record.step = 5;
    exporter.update(record);
  }
  EXPECT_NE(read_file(folder / "run.prom").find("pimoe_step{run=\"run\"} 5\n"), std::string::npos);
  const std::string said = read_file(folder / "log");
  EXPECT_NE(said.find(concat("cannot serve /metrics on 127.0.0.1:", port.number(),
                             " (monitor.prometheus_port): Address already in use. Training goes on")),
            std::string::npos)
      << said;
}

TEST(MonitorConfig, RefusesWhatNobodyCouldReadOrListenOn) {
  MonitorConfig config;
  config.prometheus_address = "localhost";
  config.prometheus_textfile = "numbers.txt";
  Violations violations;
  config.validate(violations);
  ASSERT_EQ(violations.lines().size(), 2u);
  EXPECT_EQ(violations.lines()[0].first, "monitor.prometheus_address");
  EXPECT_EQ(violations.lines()[1].first, "monitor.prometheus_textfile");
}

}  // namespace
}  // namespace pimoe
