#include "serve/http_connection.h"

#include "base/text.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <random>

namespace pimoe {
namespace {

namespace http = beast::http;

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kLongestId = 64;
constexpr int kUnsentInKernel = 32 << 10;  // bytes of a connection, besides what is on its way
constexpr auto kBetweenCancels = std::chrono::milliseconds(50);
constexpr int kMostCancels = 10;  // before the connection is closed without a word

bool is_name(std::string_view text) {
  const auto is_plain = [](char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z') || (letter >= 'A' && letter <= 'Z') || letter == '-' ||
           letter == '_' || letter == '.';
  };
  return !text.empty() && text.size() <= kLongestId && std::all_of(text.begin(), text.end(), is_plain);
}

std::string text_of(beast::string_view view) { return {view.data(), view.size()}; }

/// As a proxy may be asked: http://HOST/PATH, whose HOST counts. @source RFC 9112, section 3.2.2
void take_authority(HttpRequest& request) {
  const size_t begin = request.path.find("://") + 3;
  const size_t end = std::min(request.path.size(), request.path.find_first_of("/?#", begin));
  request.host = request.path.substr(begin, end - begin);
  request.path.erase(0, end);
  if (!request.path.starts_with('/')) request.path.insert(0, "/");
}

/// The part of a request that its body does not change.
HttpRequest fields_of(const http::request<http::string_body>& message, const std::string& peer) {
  HttpRequest request;
  request.method = text_of(message.method_string());
  request.path = text_of(message.target());
  request.host = text_of(message[http::field::host]);
  if (beast::iequals(beast::string_view(request.path).substr(0, 7), "http://")) take_authority(request);
  request.path = request.path.substr(0, request.path.find_first_of("?#"));
  request.authorization = text_of(message[http::field::authorization]);
  request.content_type = text_of(message[http::field::content_type]);
  request.request_id = text_of(message["X-Request-Id"]);
  if (!is_name(request.request_id)) request.request_id = new_request_id();
  request.peer = peer;
  return request;
}

/// Whether every line of that field says `chunked`: who reads one line alone may be shown another one than who reads the last.
bool says_nothing_but_chunked(const http::request<http::string_body>& message) {
  const auto lines = message.equal_range(http::field::transfer_encoding);
  return std::all_of(lines.first, lines.second, [](const auto& line) { return beast::iequals(line.value(), "chunked"); });
}

}  // namespace

std::string new_request_id() {
  static const uint64_t start = [] {
    std::random_device entropy;
    return (uint64_t{entropy()} << 32) | entropy();
  }();
  static std::atomic<uint32_t> next{0};
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%016llx%08x", static_cast<unsigned long long>(start), next.fetch_add(1));
  return text.data();
}

void HttpConnection::start(tcp::socket socket, HttpHub& hub) {
  const auto connection = std::make_shared<HttpConnection>(std::move(socket), hub);
  net::post(connection->socket_.get_executor(), [connection, is_admitted = hub.admit(connection)] {
    if (is_admitted) return connection->wait_for_request();
    connection->lingers_ = false;
    connection->refuse(503, "too many connections");
  });
}

HttpConnection::HttpConnection(tcp::socket socket, HttpHub& hub)
    : socket_(std::move(socket)),
      hub_(hub),
      deadline_(socket_.get_executor()),
      watch_(socket_.get_executor()),
      buffer_(hub.limits.header_bytes + kReadBytes) {
  boost::system::error_code ignored;
  socket_.set_option(tcp::no_delay(true), ignored);
  // Else the kernel takes megabytes for a client that does not read, and nobody notices.
  ::setsockopt(socket_.native_handle(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &kUnsentInKernel, sizeof kUnsentInKernel);
  const auto remote = socket_.remote_endpoint(ignored);
  if (!ignored) peer_ = concat(remote.address().to_string(), ":", remote.port());
}

HttpConnection::~HttpConnection() {
  if (bytes_taken_ > 0) hub_.return_bytes(bytes_taken_);
  hub_.remove(this);
}

void HttpConnection::arm(double seconds) {
  is_late_ = false;
  expire_after(std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds)), ++armed_, 0);
}

void HttpConnection::expire_after(std::chrono::steady_clock::duration time, uint64_t number, int cancels) {
  deadline_.expires_after(time);
  deadline_.async_wait([self = weak_from_this(), number, cancels](boost::system::error_code cancelled) {
    const auto connection = self.lock();
    if (cancelled || !connection || connection->armed_ != number) return;
    connection->is_late_ = true;
    if (cancels == kMostCancels) return connection->close();
    boost::system::error_code ignored;
    connection->socket_.cancel(ignored);
    // Of a read or write in several pieces one may have ended and the next not begun: then there was nothing to cancel. Of a client that never pauses
    // it may always be so.
    connection->expire_after(kBetweenCancels, number, cancels + 1);
  });
}

void HttpConnection::disarm() {
  ++armed_;
  deadline_.cancel();
}

void HttpConnection::wait_for_request() {
  if (is_closed_) return;
  hub_.set_waiting(this, true);
  if (hub_.is_closing()) return close();
  if (buffer_.size() > 0) return read_head();  // of a client that did not wait for the answer
  arm(hub_.limits.idle_seconds);
  socket_.async_read_some(buffer_.prepare(kReadBytes / 16), [self = shared_from_this()](boost::system::error_code error, size_t bytes) {
    self->disarm();
    if (error) return self->close();
    self->buffer_.commit(bytes);
    self->read_head();
  });
}

void HttpConnection::read_head() {
  is_head_ = is_http_10_ = false;
  request_id_.clear();
  parser_.emplace();
  parser_->header_limit(hub_.limits.header_bytes);
  parser_->body_limit(hub_.limits.body_bytes);
  arm(hub_.limits.header_seconds);
  http::async_read_header(socket_, buffer_, *parser_, [self = shared_from_this()](boost::system::error_code error, size_t) {
    self->disarm();
    if (error) return self->on_read_error(error);
    self->on_head();
  });
}

void HttpConnection::on_head() {
  hub_.set_waiting(this, false);
  const auto& message = parser_->get();
  HttpRequest head = fields_of(message, peer_);
  request_id_ = head.request_id;
  is_head_ = message.method() == http::verb::head;
  is_http_10_ = message.version() < 11;
  keeps_open_ = message.keep_alive();
  if (message.version() > 11) return refuse(505, "HTTP/1.1 is spoken here");
  if (message.count(http::field::host) > 1) return refuse(400, "a request has one Host");  // @source RFC 9112, section 3.2
  if (auto refused = hub_.handler.refuse_head(head)) {
    if (!parser_->is_done()) keeps_open_ = false;  // its body is not read
    is_answering_ = true;
    return respond(std::move(*refused));
  }
  // What is not understood says nothing of where the body ends, and its rest could pass for another request.
  if (!says_nothing_but_chunked(message)) {
    return refuse(501, "Transfer-Encoding may be chunked, and nothing else");
  }
  const auto length = parser_->content_length();
  bytes_taken_ = parser_->chunked() ? static_cast<int64_t>(hub_.limits.body_bytes) : length ? static_cast<int64_t>(*length) : 0;
  if (!hub_.take_bytes(bytes_taken_)) {
    bytes_taken_ = 0;
    return refuse(503, "requests fill the memory that they may have");
  }
  if (parser_->is_done()) return on_request(std::move(head));
  is_reading_body_ = true;
  if (!is_http_10_ && beast::iequals(message[http::field::expect], "100-continue")) {
    arm(hub_.limits.write_seconds);
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    net::async_write(socket_, net::buffer(kContinue.data(), kContinue.size()),
                     [self = shared_from_this(), request = std::move(head)](boost::system::error_code error, size_t) mutable {
                       self->disarm();
                       if (error) return self->close();
                       self->read_body(std::move(request));
                     });
    return;
  }
  read_body(std::move(head));
}

void HttpConnection::read_body(HttpRequest head) {
  arm(hub_.limits.body_seconds);
  parser_->eager(true);
  read_more_of_body(std::move(head));
}

void HttpConnection::read_more_of_body(HttpRequest head) {
  // Piece by piece, so that between two a client that never pauses is seen to be late.
  http::async_read_some(socket_, buffer_, *parser_,
                        [self = shared_from_this(), request = std::move(head)](boost::system::error_code error, size_t) mutable {
                          const bool is_done = self->parser_->is_done();
                          if (!error && !is_done && !self->is_late_) return self->read_more_of_body(std::move(request));
                          self->disarm();
                          if (error || !is_done) return self->on_read_error(error);
                          request.body = std::move(self->parser_->get().body());
                          self->on_request(std::move(request));
                        });
}

void HttpConnection::on_read_error(boost::system::error_code error) {
  if (is_late_) return refuse(408, "the request did not come in time");
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    return refuse(431, concat("the request's head has more than ", hub_.limits.header_bytes, " bytes"));
  }
  if (error == http::error::body_limit) return refuse(413, concat("the request's body has more than ", hub_.limits.body_bytes, " bytes"));
  const bool is_no_http = error.category() == http::make_error_code(http::error::bad_method).category();
  if (is_no_http && error != http::error::end_of_stream && error != http::error::partial_message) {
    return refuse(400, concat("no HTTP request: ", error.message()));
  }
  close();  // the client has left
}

void HttpConnection::request_close(bool answering) {
  net::post(socket_.get_executor(), [self = shared_from_this(), answering] {
    if (!self->is_answering_ && !self->is_reading_body_) return self->close();
    if (answering) self->client_left();
  });
}

bool HttpHub::admit(const std::shared_ptr<HttpConnection>& connection) {
  std::shared_ptr<HttpConnection> in_place;  // of which; released after the lock, because its end takes the lock
  const std::lock_guard lock(mutex_);
  ++counts_.accepted;
  if (static_cast<int64_t>(connections_.size()) >= limits.connections) {
    while (!in_place && !waiting_.empty()) {
      HttpConnection* longest = waiting_.front();
      Entry& entry = connections_.at(longest);
      waiting_.pop_front();
      entry.is_waiting = false;
      in_place = entry.connection.lock();
    }
    if (!in_place) return false;
    in_place->request_close(/*answering=*/false);
  }
  connections_[connection.get()].connection = connection;
  return true;
}

void HttpHub::remove(HttpConnection* connection) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  if (found->second.is_waiting) waiting_.erase(found->second.place);
  connections_.erase(found);
  changed_.notify_all();
}

void HttpHub::set_waiting(HttpConnection* connection, bool is_waiting) {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(connection);
  if (found == connections_.end() || found->second.is_waiting == is_waiting) return;
  found->second.is_waiting = is_waiting;
  if (is_waiting) {
    found->second.place = waiting_.insert(waiting_.end(), connection);
  } else {
    waiting_.erase(found->second.place);
  }
}

bool HttpHub::take_bytes(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  if (bytes > 0 && counts_.body_bytes + bytes > limits.bodies_bytes) return false;
  counts_.body_bytes += bytes;
  return true;
}

void HttpHub::return_bytes(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  counts_.body_bytes -= bytes;
}

void HttpHub::count_refused() {
  const std::lock_guard lock(mutex_);
  ++counts_.refused;
}

void HttpHub::count_left() {
  const std::lock_guard lock(mutex_);
  ++counts_.left;
}

bool HttpHub::is_closing() const {
  const std::lock_guard lock(mutex_);
  return is_closing_;
}

HttpServer::Counts HttpHub::counts() const {
  const std::lock_guard lock(mutex_);
  HttpServer::Counts now = counts_;
  now.connections = static_cast<int64_t>(connections_.size());
  now.idle = static_cast<int64_t>(waiting_.size());
  return now;
}

void HttpHub::close_all(bool answering) {
  std::vector<std::shared_ptr<HttpConnection>> all;
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    for (const auto& [pointer, entry] : connections_) {
      if (auto connection = entry.connection.lock()) all.push_back(std::move(connection));
    }
  }
  for (const auto& connection : all) connection->request_close(answering);
}

bool HttpHub::wait_until_empty(double seconds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return connections_.empty(); });
}

}  // namespace pimoe
