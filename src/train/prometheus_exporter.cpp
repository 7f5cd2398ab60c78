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
constexpr double kSecondsOfRequest = 2.0;
constexpr size_t kMostRequestBytes = 8192;

double steady_seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// @returns the request's head; empty where it does not come in time
std::string read_head(int connection) {
  std::string head;
  const double end = steady_seconds() + kSecondsOfRequest;
  while (head.find("\r\n\r\n") == std::string::npos && head.size() < kMostRequestBytes) {
    pollfd waiting{connection, POLLIN, 0};
    const int left = static_cast<int>((end - steady_seconds()) * kMilliseconds);
    if (left <= 0 || ::poll(&waiting, 1, left) <= 0) return "";
    std::array<char, 1024> bytes{};
    const ssize_t got = ::recv(connection, bytes.data(), bytes.size(), 0);
    if (got <= 0) return "";
    head.append(bytes.data(), static_cast<size_t>(got));
  }
  return head;
}

void send_all(int connection, const std::string& bytes) {
  const double end = steady_seconds() + kSecondsOfRequest;
  for (size_t sent = 0; sent < bytes.size();) {
    pollfd waiting{connection, POLLOUT, 0};
    const int left = static_cast<int>((end - steady_seconds()) * kMilliseconds);
    if (left <= 0 || ::poll(&waiting, 1, left) <= 0) return;
    const ssize_t count = ::send(connection, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return;
    if (count > 0) sent += static_cast<size_t>(count);
  }
}

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
    std::array<pollfd, 2> waiting = {pollfd{wake_, POLLIN, 0}, pollfd{listener_, POLLIN, 0}};
    ::poll(waiting.data(), is_listening ? 2 : 1, kMilliseconds);
    {
      const std::lock_guard lock(mutex_);
      if (is_over_) return;
    }
    if (is_listening && (waiting[1].revents & POLLIN) != 0) {
      const int connection = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection >= 0) {
        answer(connection);
        ::close(connection);
      }
    }
    if (steady_seconds() - written_at_ >= kSecondsBetweenFiles) write_textfile();
  }
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

void PrometheusExporter::answer(int connection) const {
  const std::string head = read_head(connection);
  if (head.empty()) return;
  constexpr const char* kPlain = "text/plain; charset=utf-8";
  if (!head.starts_with("GET ")) return send_all(connection, response("405 Method Not Allowed", kPlain, "only GET\n"));
  const std::string path = head.substr(4, head.find_first_of(" ?\r", 4) - 4);
  if (path == "/metrics") return send_all(connection, response("200 OK", "text/plain; version=0.0.4; charset=utf-8", text()));
  send_all(connection, response("404 Not Found", kPlain, "only /metrics\n"));
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
