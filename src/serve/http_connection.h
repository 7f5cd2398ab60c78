#pragma once

/// One connection of the server, and what connections share. Included by http_*.cpp alone: here is Beast, which takes long to compile.

#include "base/log.h"
#include "serve/http_message.h"
#include "serve/http_server.h"

#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

namespace pimoe {

namespace net = boost::asio;
namespace beast = boost::beast;
using tcp = net::ip::tcp;

class HttpConnection;

/// The connections of a server, and what they may have together. Thread-safe.
class HttpHub {
 public:
  HttpHub(const HttpLimits& limits_of_each, HttpHandler& answers, Logger& logger) : limits(limits_of_each), handler(answers), log(logger) {}

  HttpLimits limits;  ///< constant once connections come
  HttpHandler& handler;
  Logger& log;

  /// @returns false where there is no room for another, not even in place of one that waits for a request
  bool admit(const std::shared_ptr<HttpConnection>& connection);
  void remove(HttpConnection* connection);
  /// Whether a connection waits for a request, so that it may be closed.
  void set_waiting(HttpConnection* connection, bool is_waiting);

  /// @returns false where requests have all the bytes that they may have together
  bool take_bytes(int64_t bytes);
  void return_bytes(int64_t bytes);

  void count_refused();
  void count_left();
  bool is_closing() const;
  HttpServer::Counts counts() const;

  /// Has connections that wait for a request closed, from now on each after its answer; or all of them.
  void close_all(bool answering);
  bool wait_until_empty(double seconds);

 private:
  struct Entry {
    std::weak_ptr<HttpConnection> connection;
    bool is_waiting = false;
    std::list<HttpConnection*>::iterator place;  ///< in waiting_
  };

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<HttpConnection*, Entry> connections_;
  std::list<HttpConnection*> waiting_;  ///< the longest first
  HttpServer::Counts counts_;
  bool is_closing_ = false;
};

/// Everything of a connection happens on its strand, but for what HttpExchange's functions post there.
class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  static void start(tcp::socket socket, HttpHub& hub);
  HttpConnection(tcp::socket socket, HttpHub& hub);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  /// Closes it, from any thread. @param answering  also where a request's body is coming, or is being answered
  void request_close(bool answering);

 private:
  class Exchange;
  using Parser = beast::http::request_parser<beast::http::string_body>;

  // Reading, http_connection.cpp.
  void wait_for_request();
  void read_head();
  void on_head();
  void read_body(HttpRequest head);
  void read_more_of_body(HttpRequest head);
  void on_request(HttpRequest request);
  void on_read_error(boost::system::error_code error);

  // Answering, http_answer.cpp. `number` is the exchange's: what an earlier one still posts is ignored.
  template <class Work>
  void post_for(uint64_t number, Work work);
  void respond(HttpResponse response);
  void begin_stream(const HttpResponse& head);
  void send_chunk(const std::string& chunk);
  void finish_stream();
  void write(std::string bytes);
  void write_next();
  void after_answer();
  void watch_client();
  void look_at_client();
  void client_left();
  void refuse(int status, const std::string& why);
  std::string head_of(const HttpResponse& response, bool is_stream);
  void discard_rest();
  void close();

  /// From then on what is read or written is cancelled, until disarm().
  void arm(double seconds);
  void expire_after(std::chrono::steady_clock::duration time, uint64_t number, int cancels);
  void disarm();

  tcp::socket socket_;
  HttpHub& hub_;
  net::steady_timer deadline_;  ///< of the one read or write that is under way
  net::steady_timer watch_;     ///< looks whether a client that sends on while it is answered is still there
  uint64_t armed_ = 0;          ///< which arming of the deadline is in force
  bool is_late_ = false;        ///< the deadline has passed
  std::string peer_;

  beast::flat_buffer buffer_;
  std::optional<Parser> parser_;
  int64_t bytes_taken_ = 0;  ///< of the hub

  // Of the exchange.
  uint64_t exchange_ = 0;         ///< the number of the newest
  bool is_reading_body_ = false;  ///< of a request that was not refused by its head
  bool is_answering_ = false;
  bool is_streaming_ = false;
  bool is_ended_ = false;  ///< all of the answer is in out_
  bool is_head_ = false;   ///< HEAD: no body
  bool is_chunked_ = false;
  bool is_http_10_ = false;
  bool keeps_open_ = false;
  bool lingers_ = true;  ///< reads on for a moment before it closes
  std::string request_id_;
  std::function<void()> gone_;

  std::deque<std::string> out_;
  uint64_t unsent_bytes_ = 0;
  uint64_t largest_chunk_ = 0;  ///< of the stream
  bool is_writing_ = false;
  bool is_closed_ = false;
  std::string discarded_;
  uint64_t discarded_bytes_ = 0;
};

/// @returns a name for a request in logs and answers: 24 hexadecimal digits, different for each
std::string new_request_id();

}  // namespace pimoe
