#pragma once

#include "base/log.h"
#include "serve/http_message.h"

#include <cstdint>
#include <memory>
#include <string>

namespace pimoe {

/// What one client may cost. A limit that is passed ends the connection, with an answer where one can still be sent.
struct HttpLimits {
  int64_t threads = 4;
  uint32_t header_bytes = 16 << 10;  ///< of a request's head: 431
  uint64_t body_bytes = 1 << 20;     ///< of a request: 413
  int64_t bodies_bytes = 256 << 20;  ///< of all requests that are being read or answered: 503; at least body_bytes
  uint64_t unsent_bytes = 1 << 20;  ///< of a stream, beside one chunk, that its client does not read: then the client is taken to have left
  int64_t connections = 4096;       ///< beyond them the one that has been idle longest goes; 503 where none is idle
  double header_seconds = 10.0;     ///< from a request's first byte to the end of its head: 408
  double body_seconds = 60.0;       ///< from there to the end of its body: 408
  double idle_seconds = 75.0;       ///< of a connection without a request
  double write_seconds = 30.0;      ///< for a piece of an answer: a client that does not take it in that time has left
};

/// A port that is this process' own from now on. Nobody is let in until a server takes it: whoever tries is refused, as where there is no server.
class HttpPort {
 public:
  /// @param number  0: any that is free
  /// @throws UsageError where the host is no address, IoError where the port is taken or may not be used
  HttpPort(const std::string& host, int number);
  ~HttpPort();
  HttpPort(HttpPort&& other) noexcept;
  HttpPort& operator=(HttpPort&&) = delete;
  HttpPort(const HttpPort&) = delete;
  HttpPort& operator=(const HttpPort&) = delete;

  int number() const { return number_; }

 private:
  friend class HttpServer;
  std::string host_;
  int number_ = 0;
  int socket_ = -1;
};

/// HTTP/1.1 for many clients on a few threads, asynchronous: a connection without traffic costs memory alone. Keeps connections open between requests,
/// answers one request of a connection at a time, sees a client leave while it waits. No TLS: a proxy in front has that.
///
/// One request, in order: first byte (idle_seconds), head (header_seconds), `refuse_head`, body (body_seconds), `answer`, the answer's pieces.
class HttpServer {
 public:
  /// Listens at once. @throws IoError where another has begun to listen on the port meanwhile
  HttpServer(HttpPort port, const HttpLimits& limits, HttpHandler& handler, Logger& log);
  ~HttpServer();  ///< as stop(0)
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;
  /// Takes no new connections, closes those without a request, waits up to `seconds` for the answers of the others, and closes these too. The handler
  /// is not called any more when it returns; exchanges that somebody still holds may be used, to no effect, as long as the server lives.
  void stop(double seconds);

  struct Counts {
    int64_t connections = 0;
    int64_t idle = 0;
    uint64_t accepted = 0;
    uint64_t refused = 0;    ///< answered by HttpHandler::refusal
    uint64_t left = 0;       ///< clients that were gone before their answer's end
    int64_t body_bytes = 0;  ///< of requests that are being read or answered
  };
  Counts counts() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

/// @returns whether an address can be reached from this machine alone: 127.0.0.0/8, ::1, localhost
bool is_loopback(const std::string& host);

}  // namespace pimoe
