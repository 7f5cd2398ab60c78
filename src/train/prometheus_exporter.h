#pragma once

#include "base/log.h"
#include "train/monitor_config.h"
#include "train/prometheus_text.h"

#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace pimoe {

/// Shows the newest record to Prometheus, from a thread of its own: over HTTP (GET /metrics), in a file for node_exporter, or both. Training only hands a
/// record over. Nothing that goes wrong here ends or delays it: a port that is taken, or a file that cannot be written, is a warning, told once, and
/// tried again.
///
/// The server is ours, because one text for one kind of request needs none of what a web server brings (TLS, compression, a pool of threads):
/// no body, at most 8 KiB, and two seconds to ask and two to take the answer. Connections are served side by side, 32 at most (one more ends the
/// oldest), so that none that idles or is slow delays another.
class PrometheusExporter {
 public:
  /// @param log  outlives it  @param run, steps, ranks  for PrometheusFacts
  PrometheusExporter(const MonitorConfig& config, std::string run, int64_t steps, int64_t ranks, Logger& log);
  /// Writes the file a last time.
  ~PrometheusExporter();
  PrometheusExporter(const PrometheusExporter&) = delete;
  PrometheusExporter& operator=(const PrometheusExporter&) = delete;

  /// @cost a copy of the record
  void update(const StepRecord& record);
  /// Whether each alert fires, from the next update on.
  void set_alerts(std::vector<std::pair<std::string, bool>> alerts);

 private:
  struct Connection {
    int socket = -1;
    double deadline = 0.0;  ///< on the steady clock
    std::string head = {};  ///< of the request, as far as it has come
    std::string answer = {};
    size_t sent = 0;  ///< of the answer
    bool is_over = false;
  };

  void serve();
  /// Opens the port if it is time to. @returns whether it is open
  bool listen_if_due();
  void accept_one();
  /// One read or write, whichever is next.
  void advance(Connection& connection) const;
  std::string answer_to(const std::string& head) const;
  void write_textfile();
  std::string text() const;
  void tell(const std::string& trouble, std::string& told);

  MonitorConfig config_;
  Logger& log_;

  mutable std::mutex mutex_;  ///< of the next two
  std::optional<StepRecord> record_;
  PrometheusFacts facts_;

  int wake_;  ///< an eventfd: there is something to do, or the end
  int listener_ = -1;
  std::vector<Connection> connections_;  ///< the serving thread's; oldest first
  double next_try_ = 0.0;                ///< to open the port, on the steady clock
  double written_at_ = -1e9;             ///< the file, likewise
  bool is_file_stale_ = false;           ///< guarded by mutex_
  bool is_over_ = false;                 ///< likewise
  std::string port_trouble_;
  std::string file_trouble_;
  std::thread thread_;
};

}  // namespace pimoe
