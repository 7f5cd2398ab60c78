#include "serve/http_connection.h"

#include "base/text.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <ctime>
#include <exception>

namespace pimoe {
namespace {

constexpr size_t kPieceBytes = 256 << 10;  // that are written with one deadline
constexpr auto kBetweenLooks = std::chrono::milliseconds(200);
constexpr double kSecondsOfRest = 2.0;         // for what a refused client still sends, so that it gets to read why
constexpr uint64_t kMostRestBytes = 16 << 20;  // likewise

std::string reason_of(int status) {
  const auto reason = beast::http::obsolete_reason(static_cast<beast::http::status>(status));
  return {reason.data(), reason.size()};
}

std::string date() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 64> text{};
  std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return text.data();
}

}  // namespace

/// What the handler holds. A handler that lets go of it without an answer has forgotten the client: 500.
class HttpConnection::Exchange : public HttpExchange {
 public:
  Exchange(std::shared_ptr<HttpConnection> connection, HttpRequest request)
      : connection_(std::move(connection)), number_(connection_->exchange_), request_(std::move(request)) {}
  ~Exchange() override {
    connection_->post_for(number_, [](HttpConnection& connection) {
      if (connection.is_streaming_) return connection.client_left();
      connection.respond(connection.hub_.handler.refusal(500, "the request was not answered"));
    });
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  const HttpRequest& request() const override { return request_; }
  void respond(HttpResponse response) override {
    connection_->post_for(
        number_, [response = std::move(response)](HttpConnection& connection) mutable { connection.respond(std::move(response)); });
  }
  void begin_stream(HttpResponse head) override {
    connection_->post_for(number_, [head = std::move(head)](HttpConnection& connection) { connection.begin_stream(head); });
  }
  void send(std::string chunk) override {
    connection_->post_for(number_, [chunk = std::move(chunk)](HttpConnection& connection) { connection.send_chunk(chunk); });
  }
  void finish() override {
    connection_->post_for(number_, [](HttpConnection& connection) { connection.finish_stream(); });
  }
  void post(std::function<void()> work) override {
    connection_->post_for(number_, [work = std::move(work)](HttpConnection&) { work(); });
  }
  void on_gone(std::function<void()> gone) override {
    connection_->post_for(number_, [gone = std::move(gone)](HttpConnection& connection) { connection.gone_ = gone; });
  }

 private:
  std::shared_ptr<HttpConnection> connection_;
  uint64_t number_;
  HttpRequest request_;
};

template <class Work>
void HttpConnection::post_for(uint64_t number, Work work) {
  net::post(socket_.get_executor(), [self = shared_from_this(), number, work = std::move(work)]() mutable {
    if (self->exchange_ != number || !self->is_answering_ || self->is_ended_) return;
    try {
      work(*self);
    } catch (const std::exception& error) {  // the contract: it costs this client its answer
      self->hub_.log.error(concat("request ", self->request_id_, ": ", error.what()));
      self->client_left();
    }
  });
}

void HttpConnection::on_request(HttpRequest request) {
  ++exchange_;
  is_reading_body_ = false;
  is_answering_ = true;
  watch_client();
  const auto exchange = std::make_shared<Exchange>(shared_from_this(), std::move(request));
  try {
    hub_.handler.answer(exchange);
  } catch (const std::exception& error) {  // the contract of HttpHandler::answer
    hub_.log.error(concat("request ", request_id_, ": ", error.what()));
    exchange->respond(hub_.handler.refusal(500, "the server failed"));
  }
}

void HttpConnection::refuse(int status, const std::string& why) {
  hub_.count_refused();
  hub_.set_waiting(this, false);
  keeps_open_ = false;
  is_reading_body_ = false;
  is_answering_ = true;
  if (request_id_.empty()) request_id_ = new_request_id();
  respond(hub_.handler.refusal(status, why));
}

std::string HttpConnection::head_of(const HttpResponse& response, bool is_stream) {
  if (hub_.is_closing()) keeps_open_ = false;
  is_chunked_ = is_stream && !is_http_10_;
  if (is_stream && is_http_10_) keeps_open_ = false;  // its end is the connection's
  std::string head =
      concat("HTTP/1.1 ", response.status, " ", reason_of(response.status), "\r\nDate: ", date(),
             "\r\nConnection: ", keeps_open_ ? "keep-alive" : "close", "\r\nX-Request-Id: ", request_id_,
             "\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nContent-Type: ", response.content_type, "\r\n");
  for (const auto& [name, value] : response.headers) head += concat(name, ": ", value, "\r\n");
  if (is_chunked_) head += "Transfer-Encoding: chunked\r\n";
  if (!is_stream) head += concat("Content-Length: ", response.body.size(), "\r\n");
  return head + "\r\n";
}

void HttpConnection::respond(HttpResponse response) {
  is_ended_ = true;
  std::string head = head_of(response, /*is_stream=*/false);
  write(is_head_ ? std::move(head) : head + response.body);
}

void HttpConnection::begin_stream(const HttpResponse& head) {
  is_streaming_ = true;
  largest_chunk_ = 0;
  write(head_of(head, /*is_stream=*/true));
}

void HttpConnection::send_chunk(const std::string& chunk) {
  if (chunk.empty()) return;  // an empty chunk would be the end
  largest_chunk_ = std::max<uint64_t>(largest_chunk_, chunk.size());
  // Nobody can have read of a large chunk what was handed over a moment ago: it does not count.
  if (unsent_bytes_ > hub_.limits.unsent_bytes + largest_chunk_) return client_left();
  if (!is_chunked_) return write(chunk);
  std::array<char, 32> size{};
  std::snprintf(size.data(), size.size(), "%zx\r\n", chunk.size());
  write(concat(size.data(), chunk, "\r\n"));
}

void HttpConnection::finish_stream() {
  is_ended_ = true;
  if (is_chunked_) return write("0\r\n\r\n");
  if (!is_writing_ && out_.empty()) after_answer();
}

void HttpConnection::write(std::string bytes) {
  unsent_bytes_ += bytes.size();
  for (size_t begin = 0; begin < bytes.size(); begin += kPieceBytes) {
    out_.push_back(bytes.size() <= kPieceBytes ? std::move(bytes) : bytes.substr(begin, kPieceBytes));
    if (bytes.empty()) break;
  }
  if (!is_writing_) write_next();
}

void HttpConnection::write_next() {
  is_writing_ = true;
  arm(hub_.limits.write_seconds);
  net::async_write(socket_, net::buffer(out_.front()), [self = shared_from_this()](boost::system::error_code error, size_t) {
    self->disarm();
    self->is_writing_ = false;
    if (self->is_closed_) return;
    if (error) return self->client_left();
    self->unsent_bytes_ -= self->out_.front().size();
    self->out_.pop_front();
    if (!self->out_.empty()) return self->write_next();
    if (self->is_ended_) self->after_answer();
  });
}

void HttpConnection::after_answer() {
  watch_.cancel();
  gone_ = nullptr;
  ++exchange_;
  is_answering_ = is_streaming_ = is_ended_ = false;
  if (bytes_taken_ > 0) hub_.return_bytes(std::exchange(bytes_taken_, 0));
  parser_.reset();
  if (keeps_open_) return wait_for_request();
  discard_rest();
}

void HttpConnection::discard_rest() {
  // Closed while something is unread, the kernel resets the connection, and the client may never see the answer.
  if (!lingers_) return close();
  boost::system::error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  if (ignored) return close();
  hub_.set_waiting(this, true);
  discarded_.resize(64 << 10);
  arm(kSecondsOfRest);
  const auto self = shared_from_this();
  const auto next = [](const auto& again, const std::shared_ptr<HttpConnection>& connection) -> void {
    connection->socket_.async_read_some(net::buffer(connection->discarded_),
                                        [again, connection](boost::system::error_code error, size_t bytes) {
                                          connection->discarded_bytes_ += bytes;
                                          if (error || connection->discarded_bytes_ > kMostRestBytes) return connection->close();
                                          again(again, connection);
                                        });
  };
  next(next, self);
}

void HttpConnection::watch_client() {
  // At once, and not at the next look: who asks and leaves a thousand times a second would have a fifth of a second computed for each.
  socket_.async_wait(tcp::socket::wait_read, [self = weak_from_this(), number = exchange_](boost::system::error_code cancelled) {
    const auto connection = self.lock();
    if (!cancelled && connection && connection->exchange_ == number) connection->look_at_client();
  });
}

void HttpConnection::look_at_client() {
  if (!is_answering_ || is_closed_) return;
  pollfd look{socket_.native_handle(), POLLRDHUP, 0};
  if (::poll(&look, 1, 0) > 0 && (look.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0) return client_left();
  // It has sent more before its answer was there, so that the socket stays readable whether it leaves or not.
  watch_.expires_after(kBetweenLooks);
  watch_.async_wait([self = weak_from_this(), number = exchange_](boost::system::error_code cancelled) {
    const auto connection = self.lock();
    if (!cancelled && connection && connection->exchange_ == number) connection->look_at_client();
  });
}

void HttpConnection::client_left() {
  if (is_closed_) return;
  if (is_answering_) hub_.count_left();
  const std::function<void()> gone = std::exchange(gone_, nullptr);
  ++exchange_;  // nothing more for this one
  is_answering_ = false;
  close();
  if (gone) gone();
}

void HttpConnection::close() {
  if (is_closed_) return;
  is_closed_ = true;
  disarm();
  watch_.cancel();
  boost::system::error_code ignored;
  socket_.close(ignored);
}

}  // namespace pimoe
