#include "train/prometheus_exporter.h"

#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cmath>
#include <thread>
#include <utility>

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

  /// @returns the answer; "" where nobody listens
  std::string ask(const std::string& request) const {
    const int made = ::socket(AF_INET, SOCK_STREAM, 0);
    std::string answer;
    if (::connect(made, reinterpret_cast<const sockaddr*>(&address_), sizeof address_) == 0) {
      EXPECT_EQ(::send(made, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
      std::array<char, 4096> bytes{};
      for (ssize_t got = 0; (got = ::recv(made, bytes.data(), bytes.size(), 0)) > 0;) answer.append(bytes.data(), static_cast<size_t>(got));
    }
    ::close(made);
    return answer;
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
