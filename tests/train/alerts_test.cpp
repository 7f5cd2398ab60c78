#include "train/alerts.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "support/temporary_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace pimoe {
namespace {

/// A sink on a port of this machine: takes POSTs, and answers what it is told to.
class Sink {
 public:
  Sink() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address);
    ::listen(listener_, 16);
    socklen_t size = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~Sink() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  std::string url() const { return concat("http://127.0.0.1:", port_, "/hook"); }
  void answer(int status) { status_ = status; }
  std::vector<std::string> bodies() {
    const std::lock_guard lock(mutex_);
    return bodies_;
  }
  bool comes_to(size_t count) {
    for (int tries = 0; tries < 1000 && bodies().size() < count; ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(10));
    return bodies().size() == count;
  }

 private:
  void serve() {
    for (int connection; (connection = ::accept(listener_, nullptr, nullptr)) >= 0; ::close(connection)) {
      std::string text;
      char block[4096];
      size_t needed = std::string::npos;
      while (text.size() < needed) {
        const ssize_t got = ::recv(connection, block, sizeof block, 0);
        if (got <= 0) break;
        text.append(block, static_cast<size_t>(got));
        const size_t head = text.find("\r\n\r\n");
        const size_t length = text.find("Content-Length: ");
        if (head != std::string::npos && length != std::string::npos) needed = head + 4 + std::stoul(text.substr(length + 16));
      }
      if (status_ == 200) {
        const std::lock_guard lock(mutex_);
        bodies_.push_back(text.substr(text.find("\r\n\r\n") + 4));
      }
      const std::string reply = concat("HTTP/1.1 ", status_.load(), " X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
      ::send(connection, reply.data(), reply.size(), MSG_NOSIGNAL);
    }
  }

  int listener_;
  int port_ = 0;
  std::atomic<int> status_ = 200;
  std::mutex mutex_;
  std::vector<std::string> bodies_;
  std::thread thread_;
};

class AlertsTest : public ::testing::Test {
 protected:
  AlertPlaces places(const std::string& webhook = "") const {
    return {.state = folder_.path() / "alerts.json",
            .lines = folder_.path() / "alerts.jsonl",
            .unsent = folder_.path() / "unsent.jsonl",
            .webhook = webhook,
            .source = "run-7"};
  }
  Alerts alerts(std::vector<std::string> actions, const std::string& webhook = "", const std::string& when = "loss > 2") {
    return Alerts({{.when = when, .do_ = std::move(actions)}}, places(webhook), {"loss", "other"}, log_);
  }
  static size_t changes(Alerts& alerts, std::vector<double> losses) {
    size_t count = 0;
    int64_t step = 0;
    for (const double loss : losses) {
      ++step;
      count += alerts.observe(step, static_cast<double>(step), {{"other", 9.0}, {"loss", loss}}).size();
    }
    return count;
  }

  TemporaryFolder folder_;
  Logger log_{1};
};

TEST_F(AlertsTest, WriteALineWhenTheyFireAndWhenTheyClear) {
  Alerts alerts = this->alerts({"file"});
  EXPECT_EQ(changes(alerts, {1, 3, 4, 1}), 2u);
  const std::vector<std::string> lines = split(read_file(folder_.path() / "alerts.jsonl"), '\n');
  ASSERT_EQ(lines.size(), 3u) << "the last is empty";
  const auto fired = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(fired["state"], "firing");
  EXPECT_EQ(fired["step"], 2);
  EXPECT_EQ(fired["rule"], "loss > 2");
  EXPECT_EQ(fired["value"], 3.0);
  EXPECT_EQ(fired["source"], "run-7");
  EXPECT_EQ(nlohmann::json::parse(lines[1])["state"], "cleared");
  EXPECT_FALSE(alerts.stops());
}

TEST_F(AlertsTest, AreToldOnceAcrossARestart) {
  {
    Alerts first = alerts({"file"});
    EXPECT_EQ(changes(first, {3}), 1u);
  }
  Alerts second = alerts({"file"});
  EXPECT_EQ(second.firing(), std::vector<std::string>{"loss > 2"});
  EXPECT_EQ(changes(second, {3, 3, 1}), 1u) << "only that it is over";
  Alerts third = alerts({"file"});
  EXPECT_EQ(changes(third, {1, 1}), 0u);
}

TEST_F(AlertsTest, LeaveAValueThatIsNotThereAlone) {
  Alerts alerts = this->alerts({"file"}, "", "loss > 2 for 2 steps");
  EXPECT_TRUE(alerts.observe(1, 1, {{"loss", 3.0}}).empty());
  EXPECT_TRUE(alerts.observe(2, 2, {{"other", 3.0}}).empty());
  EXPECT_EQ(alerts.observe(3, 3, {{"loss", 3.0}}).size(), 1u);
}

TEST_F(AlertsTest, StopTheRunWhereTheyAreTo) {
  Alerts alerts = this->alerts({"stop"});
  EXPECT_EQ(changes(alerts, {1}), 0u);
  EXPECT_FALSE(alerts.stops());
  EXPECT_EQ(changes(alerts, {3}), 1u);
  EXPECT_TRUE(alerts.stops());
  Alerts after = this->alerts({"stop"});
  EXPECT_EQ(changes(after, {3}), 0u);
  EXPECT_FALSE(after.stops()) << "the one that stopped it has been told of: the run may go on";
}

TEST_F(AlertsTest, TakeADamagedStateForNone) {
  for (const char* content : {"", "[", "[]", "{}", R"({"firing": 3})", R"({"firing": [3]})"}) {
    write_durably(folder_.path() / "alerts.json", content, std::string(content).size());
    Alerts alerts = this->alerts({"file"});
    EXPECT_TRUE(alerts.firing().empty()) << content;
  }
}

TEST_F(AlertsTest, ReachTheWebhookInOrder) {
  Sink sink;
  {
    Alerts alerts = this->alerts({"webhook"}, sink.url());
    EXPECT_EQ(changes(alerts, {3, 1, 3}), 3u);
  }
  ASSERT_TRUE(sink.comes_to(3));
  EXPECT_EQ(nlohmann::json::parse(sink.bodies()[0])["state"], "firing");
  EXPECT_EQ(nlohmann::json::parse(sink.bodies()[1])["state"], "cleared");
  EXPECT_FALSE(is_there(folder_.path() / "unsent.jsonl"));
}

TEST_F(AlertsTest, WaitForASinkThatIsDownAndDelayNobody) {
  Sink sink;
  sink.answer(500);
  Alerts alerts = this->alerts({"webhook"}, sink.url());
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(changes(alerts, {3, 1}), 2u);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(5)) << "nobody waits for the answer, nor for the next try";
  EXPECT_EQ(split(read_file(folder_.path() / "unsent.jsonl"), '\n').size(), 3u);
  sink.answer(200);
  EXPECT_TRUE(sink.comes_to(2));
}

TEST_F(AlertsTest, AreSentByTheNextProcessWhereTheSinkWasDown) {
  Sink sink;
  sink.answer(503);
  {
    Alerts alerts = this->alerts({"webhook"}, sink.url());
    EXPECT_EQ(changes(alerts, {3}), 1u);
  }
  EXPECT_TRUE(is_there(folder_.path() / "unsent.jsonl"));
  sink.answer(200);
  Alerts next = alerts({"webhook"}, sink.url());
  EXPECT_TRUE(sink.comes_to(1));
}

TEST(Webhook, TellsAUrlThatCannotBe) {
  EXPECT_EQ(webhook_trouble("http://127.0.0.1:8080/x"), "");
  EXPECT_EQ(webhook_trouble("https://example.com"), "");
  for (const char* url : {"example.com", "ftp://example.com", "http://", "http://a b", "file:///etc/passwd", "http://a\nHost: b"}) {
    EXPECT_NE(webhook_trouble(url), "") << url;
  }
}

}  // namespace
}  // namespace pimoe
