#include "train/prometheus_exporter.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/host.h"
#include "base/text.h"
#include "parallel/quiet_thread.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <utility>

namespace pimoe {
namespace {

constexpr int kMilliseconds = 1000;            // between looks at what is due
constexpr double kSecondsBetweenTries = 10.0;  // to open a port that is taken
constexpr double kSecondsBetweenFiles = 1.0;
constexpr double kSecondsOfRequest = 2.0;  // from its connection to its last byte
constexpr double kSecondsOfAnswer = 2.0;
constexpr size_t kMostRequestBytes = 8192;
constexpr size_t kMostConnections = 32;

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

bool is_for_later(ssize_t result) { return result < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR); }

std::string response(const char* status, const char* type, const std::string& body) {
  return concat("HTTP/1.1 ", status, "\r\nContent-Type: ", type, "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n",
                body);
}

}  // namespace

PrometheusExporter::PrometheusExporter(const MonitorConfig& config, std::string run, int64_t steps, int64_t ranks, Logger& log)
    : config_(config), log_(log), wake_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  facts_.run = std::move(run);
  facts_.steps = steps;
  facts_.ranks = ranks;
  thread_ = quiet_thread([this] { serve(); });
}

PrometheusExporter::~PrometheusExporter() {
  {
    const std::lock_guard lock(mutex_);
    is_over_ = true;
  }
  ::eventfd_write(wake_, 1);
  thread_.join();
  write_textfile();
  for (const Connection& connection : connections_) ::close(connection.socket);
  if (listener_ >= 0) ::close(listener_);
  ::close(wake_);
}

void PrometheusExporter::set_alerts(std::vector<std::pair<std::string, bool>> alerts) {
  const std::lock_guard lock(mutex_);
  facts_.alerts = std::move(alerts);
}

void PrometheusExporter::update(const StepRecord& record) {
  const std::lock_guard lock(mutex_);
  const std::optional<double> validation = record_ ? record_->validation_loss : std::nullopt;
  record_ = record;
  if (!record_->validation_loss) record_->validation_loss = validation;
  facts_.time = wall_clock_seconds();
  if (record.outcome != StepOutcome::kTaken) ++facts_.skipped;
  facts_.alarms += static_cast<int64_t>(record.alarms.size());
  is_file_stale_ = true;
}

void PrometheusExporter::serve() {
  while (true) {
    const bool is_listening = listen_if_due();
    std::vector<pollfd> waiting = {{wake_, POLLIN, 0}, {is_listening ? listener_ : -1, POLLIN, 0}};
    for (const Connection& connection : connections_) {
      waiting.push_back({connection.socket, static_cast<short>(connection.answer.empty() ? POLLIN : POLLOUT), 0});
    }
    ::poll(waiting.data(), waiting.size(), kMilliseconds);
    {
      const std::lock_guard lock(mutex_);
      if (is_over_) return;
    }
    for (size_t index = 0; index < connections_.size(); ++index) {
      if (waiting[index + 2].revents != 0) advance(connections_[index]);
    }
    const double now = steady_seconds();
    std::erase_if(connections_, [now](const Connection& connection) {
      const bool is_over = connection.is_over || now >= connection.deadline;
      if (is_over) ::close(connection.socket);
      return is_over;
    });
    if ((waiting[1].revents & POLLIN) != 0) accept_one();
    if (steady_seconds() - written_at_ >= kSecondsBetweenFiles) write_textfile();
  }
}

void PrometheusExporter::accept_one() {
  const int made = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (made < 0) return;
  if (connections_.size() == kMostConnections) {  // the oldest has had its chance; a scrape takes milliseconds
    ::close(connections_.front().socket);
    connections_.erase(connections_.begin());
  }
  connections_.push_back({.socket = made, .deadline = steady_seconds() + kSecondsOfRequest});
}

void PrometheusExporter::advance(Connection& connection) const {
  if (connection.answer.empty()) {
    std::array<char, 1024> bytes{};
    const ssize_t got = ::recv(connection.socket, bytes.data(), bytes.size(), 0);
    if (is_for_later(got)) return;
    connection.is_over = got <= 0;
    if (connection.is_over) return;
    connection.head.append(bytes.data(), static_cast<size_t>(got));
    if (connection.head.find("\r\n\r\n") == std::string::npos && connection.head.size() < kMostRequestBytes) return;
    connection.answer = answer_to(connection.head);
    connection.deadline = steady_seconds() + kSecondsOfAnswer;
  }
  const ssize_t sent =
      ::send(connection.socket, connection.answer.data() + connection.sent, connection.answer.size() - connection.sent, MSG_NOSIGNAL);
  if (is_for_later(sent)) return;
  connection.sent += static_cast<size_t>(std::max<ssize_t>(sent, 0));
  connection.is_over = sent < 0 || connection.sent == connection.answer.size();
}

bool PrometheusExporter::listen_if_due() {
  if (config_.prometheus_port == 0) return false;
  if (listener_ >= 0) return true;
  if (steady_seconds() < next_try_) return false;
  next_try_ = steady_seconds() + kSecondsBetweenTries;
  const int made = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(config_.prometheus_port));
  ::inet_pton(AF_INET, config_.prometheus_address.c_str(), &address.sin_addr);
  const int yes = 1;
  if (made >= 0) ::setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (made < 0 || ::bind(made, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 || ::listen(made, 16) != 0) {
    const std::string why = std::generic_category().message(errno);
    if (made >= 0) ::close(made);
    tell(concat("cannot serve /metrics on ", config_.prometheus_address, ":", config_.prometheus_port, " (monitor.prometheus_port): ", why),
         port_trouble_);
    return false;
  }
  listener_ = made;
  port_trouble_.clear();
  log_.info(concat("Prometheus: http://", config_.prometheus_address, ":", config_.prometheus_port, "/metrics"));
  return true;
}

std::string PrometheusExporter::answer_to(const std::string& head) const {
  constexpr const char* kPlain = "text/plain; charset=utf-8";
  if (!head.starts_with("GET ")) return response("405 Method Not Allowed", kPlain, "only GET\n");
  const std::string path = head.substr(4, head.find_first_of(" ?\r", 4) - 4);
  if (path == "/metrics") return response("200 OK", "text/plain; version=0.0.4; charset=utf-8", text());
  return response("404 Not Found", kPlain, "only /metrics\n");
}

void PrometheusExporter::write_textfile() {
  if (config_.prometheus_textfile.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(is_file_stale_, false)) return;
  }
  written_at_ = steady_seconds();
  try {
    replace_file(config_.prometheus_textfile, text());
    file_trouble_.clear();
  } catch (const IoError& error) {  // the contract: it costs the run nothing
    tell(concat(error.what(), " (monitor.prometheus_textfile)"), file_trouble_);
  }
}

std::string PrometheusExporter::text() const {
  std::unique_lock lock(mutex_);
  const std::optional<StepRecord> record = record_;
  const PrometheusFacts facts = facts_;
  lock.unlock();  // training waits for copies at most
  return record ? to_prometheus(*record, facts) : "";
}

void PrometheusExporter::tell(const std::string& trouble, std::string& told) {
  if (told.empty()) log_.warning(concat(trouble, ". Training goes on; it is tried again"));
  told = trouble;
}

}  // namespace pimoe
