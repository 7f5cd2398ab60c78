#pragma once

/// Requests and answers of HTTP as the rest of the server sees them. Beast is seen by http_server.cpp alone.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// A request, of which the head was checked by the server (http_server.h). Header values are as they came: bytes, not text.
struct HttpRequest {
  std::string method;         ///< "GET"
  std::string path;           ///< the target up to `?`
  std::string host;           ///< the Host header; empty where there is none
  std::string authorization;  ///< likewise
  std::string content_type;
  std::string request_id;  ///< X-Request-Id where it is a name of 1 to 64 letters, digits, `-`, `_`, `.`; else one of ours
  std::string peer;        ///< address and port of the client
  std::string body;
};

/// A whole answer.
struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> headers;  ///< besides those that the server sets itself
};

/// One request and its answer, from when the whole request is there until the answer is sent or the client has left.
///
/// Functions may be called by any thread; what they do happens later, in their order. After the answer's end, or once the client has left, they
/// do nothing. Either `respond`, or `begin_stream`, any number of `send`, `finish`.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;
  virtual void respond(HttpResponse response) = 0;
  virtual void begin_stream(HttpResponse head) = 0;  ///< its body is left out: chunks follow
  virtual void send(std::string chunk) = 0;
  virtual void finish() = 0;
  /// Runs `work` on the connection's thread, never two at a time.
  virtual void post(std::function<void()> work) = 0;
  /// What to do once, on the connection's thread, if the client leaves, or stops reading, before the answer's end. Set before the first `post`.
  virtual void on_gone(std::function<void()> gone) = 0;
};

/// What answers requests. Thread-safe.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  /// Looks at a request before its body is read. @returns the answer that refuses it, nothing where the body may come. Must not block. An exception
  /// closes the connection
  virtual std::optional<HttpResponse> refuse_head(const HttpRequest& head) = 0;
  /// Answers, now or later. Must not block for long: a few threads serve all connections. An exception ends the connection's answer with 500
  virtual void answer(std::shared_ptr<HttpExchange> exchange) = 0;
  /// @returns the answer to what is no request: a head that is too long (431), a body that is (413), no HTTP (400), no head in time (408), too many
  ///          connections (503)
  virtual HttpResponse refusal(int status, const std::string& why) = 0;
};

}  // namespace pimoe
