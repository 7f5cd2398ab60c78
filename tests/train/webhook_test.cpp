#include "train/webhook.h"

#include "base/file_io.h"
#include "support/temporary_folder.h"
#include "train/webhook_sink.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

namespace pimoe {
namespace {

class WebhookTest : public ::testing::Test {
 protected:
  WebhookTest() { log_->open_file(folder_ / "log"); }

  /// @returns whether it came true in ten seconds
  template <class Condition>
  static bool comes_true(const Condition& condition) {
    for (int tries = 0; tries < 2000 && !condition(); ++tries) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return condition();
  }
  std::string log() {
    log_ = std::make_unique<Logger>(1);  // the file's end
    return read_file(folder_ / "log");
  }

  TemporaryFolder folder_;
  std::unique_ptr<Logger> log_ = std::make_unique<Logger>(1);
  WebhookSink sink_;
};

TEST(Webhook, TellsAUrlThatCannotBe) {
  EXPECT_EQ(webhook_trouble("http://127.0.0.1:8080/x"), "");
  EXPECT_EQ(webhook_trouble("https://example.com"), "");
  for (const char* url : {"example.com", "ftp://example.com", "http://", "http://a b", "file:///etc/passwd", "http://a\nHost: b"}) {
    EXPECT_NE(webhook_trouble(url), "") << url;
  }
}

TEST(Webhook, ShowsNothingOfAUrlThatMayBeAPassword) {
  EXPECT_EQ(webhook_place("https://hooks.slack.com/services/T0/B0/secret"), "https://hooks.slack.com");
  EXPECT_EQ(webhook_place("http://user:secret@10.0.0.1:8080?token=secret"), "http://10.0.0.1:8080");
  EXPECT_EQ(webhook_place("hooks.slack.com/secret"), "hooks.slack.com");
  EXPECT_EQ(webhook_trouble("hooks.slack.com/secret").find("secret"), std::string::npos);
}

TEST_F(WebhookTest, TellsWhoDoesNotAnswerWithoutTheSecretOfItsUrl) {
  sink_.answer(500);
  {
    Webhook webhook(sink_.url() + "/secret", folder_ / "unsent", *log_, /*last_seconds=*/0.5);
    webhook.send("{}");
    EXPECT_TRUE(comes_true([&] { return sink_.posts() > 0; }));
  }
  const std::string told = log();
  EXPECT_NE(told.find("alerts do not reach http://127.0.0.1:"), std::string::npos) << told;
  EXPECT_NE(told.find("1 alert could not be sent to http://127.0.0.1:"), std::string::npos) << told;
  EXPECT_EQ(told.find("secret"), std::string::npos) << told;
}

TEST_F(WebhookTest, GivesUpWhatIsRefusedForGoodAndSendsWhatIsBehindIt) {
  sink_.answer(400);
  {
    Webhook webhook(sink_.url(), folder_ / "unsent", *log_);
    webhook.send(R"({"first": 1})");
    ASSERT_TRUE(comes_true([&] { return sink_.posts() > 0 && !is_there(folder_ / "unsent"); }));
    sink_.answer(200);
    webhook.send(R"({"second": 2})");
    ASSERT_TRUE(sink_.comes_to(1));
    EXPECT_EQ(sink_.bodies()[0], R"({"second": 2})");
  }
  const std::string told = log();
  EXPECT_NE(told.find(R"(the answer is HTTP 400: {"first": 1})"), std::string::npos) << told;
}

TEST_F(WebhookTest, KeepsWhatMayPass) {
  for (const int status : {302, 408, 429, 500, 503}) {
    sink_.answer(status);
    const int before = sink_.posts();
    {
      Webhook webhook(sink_.url(), folder_ / "unsent", *log_, /*last_seconds=*/0.2);
      webhook.send("{}");
      EXPECT_TRUE(comes_true([&] { return sink_.posts() > before; }));
    }
    EXPECT_TRUE(is_there(folder_ / "unsent")) << status;
    std::filesystem::remove(folder_ / "unsent");
  }
}

TEST_F(WebhookTest, LeavesInItsTimeThoughAPostIsUnderWay) {
  sink_.answer(WebhookSink::kNothing);
  auto webhook = std::make_unique<Webhook>(sink_.url(), folder_ / "unsent", *log_, /*last_seconds=*/0.5);
  webhook->send("{}");
  EXPECT_TRUE(comes_true([&] { return sink_.posts() > 0; }));
  const auto begun = std::chrono::steady_clock::now();
  webhook.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(6)) << "a post may take ten";
  EXPECT_TRUE(is_there(folder_ / "unsent"));
}

}  // namespace
}  // namespace pimoe
