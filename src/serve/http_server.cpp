#include "serve/http_server.h"

#include "serve/http_connection.h"

#include "base/errors.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <thread>
#include <utility>

namespace pimoe {
namespace {

constexpr rlim_t kOtherFiles = 128;  // that the process holds open beside connections
constexpr auto kPauseWithoutFiles = std::chrono::milliseconds(100);

/// Lets the process hold as many files open as it may. @returns how many connections that is room for
int64_t connections_that_fit(int64_t wanted, Logger& log) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, std::max<rlim_t>(limit.rlim_cur, static_cast<rlim_t>(wanted) + kOtherFiles));
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::getrlimit(RLIMIT_NOFILE, &limit);
  }
  const int64_t room =
      std::max<int64_t>(16, static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, INT64_MAX)) - static_cast<int64_t>(kOtherFiles));
  if (room < wanted) log.warning(concat("the limit on open files (ulimit -n) leaves room for ", room, " connections of ", wanted));
  return std::min(wanted, room);
}

net::ip::address address_of(const std::string& host) {
  boost::system::error_code wrong;
  const auto address = net::ip::make_address(host == "localhost" ? "127.0.0.1" : host, wrong);
  if (wrong)
    throw UsageError(concat("--host '", host, "' is no IP address: 127.0.0.1 (this machine alone), 0.0.0.0 (all interfaces), ::1"));
  return address;
}

IoError cannot_listen(const std::string& host, int port, const boost::system::system_error& error) {
  return {concat("cannot listen on ", host, " port ", port, ": ", error.code().message()), error.code().value()};
}

}  // namespace

HttpPort::HttpPort(const std::string& host, int number) : host_(host) {
  const tcp::endpoint endpoint(address_of(host), static_cast<uint16_t>(number));
  net::io_context context;
  tcp::acceptor acceptor(context);
  try {
    acceptor.open(endpoint.protocol());
    acceptor.set_option(net::socket_base::reuse_address(true));
    acceptor.bind(endpoint);
    number_ = acceptor.local_endpoint().port();
    socket_ = acceptor.release();
  } catch (const boost::system::system_error& error) {
    throw cannot_listen(host, number, error);
  }
}

HttpPort::~HttpPort() {
  if (socket_ >= 0) ::close(socket_);
}

HttpPort::HttpPort(HttpPort&& other) noexcept
    : host_(std::move(other.host_)), number_(other.number_), socket_(std::exchange(other.socket_, -1)) {}

bool is_loopback(const std::string& host) {
  boost::system::error_code wrong;
  const auto address = net::ip::make_address(host == "localhost" ? "127.0.0.1" : host, wrong);
  if (wrong) return false;
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return net::ip::make_address_v4(net::ip::v4_mapped, address.to_v6()).is_loopback();
  }
  return address.is_loopback();
}

class HttpServer::Impl {
 public:
  Impl(const std::string& host, int port, int bound, const HttpLimits& limits, HttpHandler& handler, Logger& log)
      : hub_(limits, handler, log), acceptor_(net::make_strand(context_)), pause_(acceptor_.get_executor()) {
    hub_.limits.connections = connections_that_fit(limits.connections, log);
    hub_.limits.bodies_bytes = std::max(limits.bodies_bytes, static_cast<int64_t>(limits.body_bytes));  // each may come, if alone
    try {
      acceptor_.assign(address_of(host).is_v6() ? tcp::v6() : tcp::v4(), bound);
      acceptor_.listen(net::socket_base::max_listen_connections);
    } catch (const boost::system::system_error& error) {
      throw cannot_listen(host, port, error);
    }
    port_ = port;
    net::post(acceptor_.get_executor(), [this] { accept(); });
    for (int64_t index = 0; index < limits.threads; ++index) threads_.push_back(quiet_thread([this] { run(); }));
  }

  ~Impl() { stop(0); }

  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  int port() const { return port_; }
  Counts counts() const { return hub_.counts(); }

  void stop(double seconds) {
    if (threads_.empty()) return;
    net::post(acceptor_.get_executor(), [this] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      pause_.cancel();
    });
    hub_.close_all(/*answering=*/false);
    if (hub_.wait_until_empty(seconds)) return finish();
    hub_.close_all(/*answering=*/true);
    hub_.wait_until_empty(kSecondsOfGoodbye);
    finish();
  }

 private:
  static constexpr double kSecondsOfGoodbye = 5.0;

  void finish() {
    work_.reset();
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

  void run() {
    while (true) {
      try {
        context_.run();
        return;
      } catch (const std::exception& error) {  // the contract: it costs one client its connection, which goes with what has thrown
        hub_.log.error(concat("a connection is closed: ", error.what()));
      } catch (...) {
        hub_.log.error("a connection is closed: unknown error");
      }
    }
  }

  void accept() {
    acceptor_.async_accept(net::make_strand(context_), [this](boost::system::error_code error, tcp::socket socket) {
      if (error == net::error::operation_aborted || !acceptor_.is_open()) return;
      if (error) {  // no file descriptor is left, or the client has gone already
        pause_.expires_after(kPauseWithoutFiles);
        pause_.async_wait([this](boost::system::error_code cancelled) {
          if (!cancelled) accept();
        });
        return;
      }
      try {
        HttpConnection::start(std::move(socket), hub_);
      } catch (const std::exception& trouble) {  // whatever this one lacks, the next may have it
        hub_.log.error(concat("a connection is closed: ", trouble.what()));
      }
      accept();
    });
  }

  HttpHub hub_;  ///< outlives the connections, which the context's end destroys
  net::io_context context_;
  tcp::acceptor acceptor_;
  net::steady_timer pause_;
  net::executor_work_guard<net::io_context::executor_type> work_ = net::make_work_guard(context_);
  int port_ = 0;
  std::vector<std::thread> threads_;
};

HttpServer::HttpServer(HttpPort port, const HttpLimits& limits, HttpHandler& handler, Logger& log)
    : impl_(std::make_unique<Impl>(port.host_, port.number_, std::exchange(port.socket_, -1), limits, handler, log)) {}
HttpServer::~HttpServer() = default;
int HttpServer::port() const { return impl_->port(); }
void HttpServer::stop(double seconds) { impl_->stop(seconds); }
HttpServer::Counts HttpServer::counts() const { return impl_->counts(); }

}  // namespace pimoe
