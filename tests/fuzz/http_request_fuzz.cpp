/// What a client sends, to the whole server over a socket: it is answered in HTTP or its connection is closed, and the next client is served.

#include "fuzz/fuzz_target.h"

#include "base/log.h"
#include "serve/client.h"
#include "serve/http_server.h"

#include <cerrno>
#include <cstring>

namespace {

/// Answers with what it was sent, so that a body that is not what its head says shows.
class Echo : public pimoe::HttpHandler {
 public:
  std::optional<pimoe::HttpResponse> refuse_head(const pimoe::HttpRequest& head) override {
    if (head.path != "/refuse") return std::nullopt;
    return refusal(401, "no");
  }
  void answer(std::shared_ptr<pimoe::HttpExchange> exchange) override {
    pimoe::HttpResponse response;
    if (exchange->request().path != "/stream") {
      response.body = exchange->request().body;
      return exchange->respond(response);
    }
    exchange->begin_stream(response);
    exchange->send(exchange->request().body);
    exchange->finish();
  }
  pimoe::HttpResponse refusal(int status, const std::string& why) override {
    pimoe::HttpResponse response;
    response.status = status;
    response.body = why;
    return response;
  }
};

struct Fixture {
  Fixture() : server({"127.0.0.1", 0}, limits(), handler, log) {}
  static pimoe::HttpLimits limits() {
    pimoe::HttpLimits of;
    of.threads = 1;
    of.header_bytes = 4096;
    of.body_bytes = 8192;
    of.idle_seconds = of.header_seconds = of.body_seconds = 0.5;
    return of;
  }
  pimoe::Logger log{1};
  Echo handler;
  pimoe::HttpServer server;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  using namespace pimoe;
  static Fixture fixture;
  static uint32_t count_so_far = 0;
  Client client(fixture.server.port(), 0, 1 + count_so_far++ / 10'000 % 200);
  require(client.is_connected(), "the server takes connections", std::strerror(errno));
  client.send({reinterpret_cast<const char*>(bytes), count});
  client.finish_sending();
  const std::string answer = client.read_to_end();
  require(client.is_closed(), "the server ends the connection in time");
  require(answer.empty() || answer.starts_with("HTTP/1.1 "), "what comes is HTTP", answer);
  return 0;
}
