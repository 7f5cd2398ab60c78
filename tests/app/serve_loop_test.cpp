#include "app/serve_loop.h"

#include "base/errors.h"
#include "model/generation_fixture.h"
#include "serve/api_keys.h"
#include "serve/engine_fixture.h"
#include "serve/engine_source.h"
#include "serve/served.h"

#include <gtest/gtest.h>
#include <pthread.h>

#include <csignal>
#include <future>
#include <string>
#include <thread>

namespace pimoe {
namespace {

int health(int port) {
  Client one(port);
  one.get("/health");
  return one.response().status;
}

TEST(ServeLoop, AnEngineThatFailsWhileItDrainsIsAnError) {
  const ServeSignals signals;
  Logger log(1);
  const ModelFixture fixture(served_model_config(), at::kDouble);
  const CompletionTexts texts(small_tokenizer(), nullptr, 300, 4096);
  const ApiKeys keys;
  EngineFailure failure;
  Engine engine(served(fixture), letter_texts(), {}, nullptr, [&](const std::exception_ptr& failed) { failure.set(failed); });
  EngineSource source(engine, at::kCPU);
  CompletionFacts facts;
  facts.model = "small";
  CompletionService service(facts, texts, keys, source, log);
  HttpServer server({"127.0.0.1", 0}, {}, service, log);
  ServeMonitor monitor({}, "small", log);

  std::promise<void> has_begun, is_leaving;
  Heard heard;
  engine.submit(greedy_request({1}, 5), heard.listener(0, [&, first = true](const Heard::Text& text) mutable {
    if (text.ending) return;
    if (std::exchange(first, false)) has_begun.set_value();
    is_leaving.get_future().wait();
    throw DataError("a step that fails");
  }));
  has_begun.get_future().wait();
  std::string said = "nothing";
  std::thread loop([&] {
    try {
      serve_until_told({.checkpoint = "nowhere"}, signals, engine, failure, service, server, monitor, log);
    } catch (const DataError& error) {
      said = error.what();
    }
  });
  ::pthread_kill(loop.native_handle(), SIGTERM);
  while (health(server.port()) == 200) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  is_leaving.set_value();
  loop.join();
  EXPECT_EQ(said, "a step that fails");
}

}  // namespace
}  // namespace pimoe
