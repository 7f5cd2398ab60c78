#pragma once

#include "base/log.h"
#include "data/sample_blend.h"
#include "parallel/process_mesh.h"
#include "train/alerts.h"
#include "train/metrics_file.h"
#include "train/monitor_summary.h"
#include "train/prometheus_exporter.h"
#include "train/run_events.h"
#include "train/tensorboard_file.h"
#include "train/train_config.h"

#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace pimoe {

/// What a run tells: the log's lines for a person, metrics.jsonl and events.jsonl for a program, curves for TensorBoard, numbers for Prometheus. It decides nothing.
class RunReport {
 public:
  /// @param mesh, log, events  must outlive it; events null: not on this rank
  RunReport(const TrainConfig& config, const ProcessMesh& mesh, Logger& log, RunEvents* events);
  ~RunReport();

  /// Before the first step: model, layout and step, and what is allowed but seldom meant. @param dtype  of the model
  void announce(at::ScalarType dtype) const;
  /// The corpora of a blend, each with its share and how often the run reads it through; nothing for one corpus.
  void announce_blend(const SampleBlend& samples) const;
  /// With data.document_mask, what the documents of each corpus are like.
  void announce_documents(const SampleBlend& samples) const;
  /// Says of each corpus what its rows are and what counts, where that is not a stream of which all counts.
  void announce_samples(const SampleBlend& samples) const;
  /// Opens metrics.jsonl, mended where a killed process left half a record, without records after `step`; rank 0 alone has one. @throws IoError
  void open_metrics(int64_t step);
  /// There are steps to do, from `step` on: the clock of the log's forecasts starts, and so does what is told beside metrics.jsonl.
  /// @param dtype  of the model, for the record of this start
  void begin(int64_t step, at::ScalarType dtype);
  /// Time, tokens a second, FLOP utilization and memory of a step that took `seconds`.
  void add_speed(StepRecord& record, double seconds) const;

  /// Judges the alerts of `monitor.alerts` and tells of those that changed.
  void judge(const StepRecord& record);
  /// Whether an alert that is to stop the run has fired. On other ranks than the first: false.
  bool alert_stops() const { return alerts_ && alerts_->stops(); }
  void say_stopped_by_alert(int64_t step) const;

  /// Logs what the step has to warn of and what adaptive control did.
  void tell_events(const StepRecord& record) const;
  /// Writes the record to metrics.jsonl, and its line to the log where it is due, the first, the last, validated or skipped.
  /// What cannot be written is said once, and written as soon as that can be done.
  void add(const StepRecord& record);
  /// REQUIRES that a record was added.
  const StepRecord& last() const { return last_.value(); }

  /// The run goes back from one step to another: records of later ones move out of metrics.jsonl, now or as soon as that can be done.
  void roll_back(int64_t from, int64_t to);
  /// At the end: writes what could not be written before, or says that it is lost.
  void flush();

  void say_complete(int64_t step) const;
  void say_stopped(int64_t step, bool by_clock) const;
  /// The end of a run that ended well. @param skipped  of its last steps
  void summarize(int64_t skipped) const;

 private:
  void start_clock(int64_t step);
  /// Since begin, or since the run went back.
  double elapsed_seconds() const;
  /// Says once what keeps records from being written; "": nothing does, or does any more. @param told  the trouble of the record before
  void tell_trouble(const std::string& trouble, std::string& told);
  void note(int64_t step, const char* event) const {
    if (events_ != nullptr) events_->add(step, event);
  }
  bool is_first_rank() const { return mesh_.rank() == 0; }

  TrainConfig config_;
  const ProcessMesh& mesh_;
  Logger& log_;
  double peak_flops_;                        ///< of all devices together; 0 where unknown
  int64_t tokens_before_ = 0;                ///< seen by the run before first_step_
  std::unique_ptr<MetricsFile> metrics_;     ///< rank 0 alone
  std::string metrics_trouble_;              ///< of the last record; "": it is written
  std::unique_ptr<TensorboardFile> curves_;  ///< rank 0 alone, where log.tensorboard
  std::string curves_trouble_;               ///< likewise
  RunEvents* events_;
  std::unique_ptr<PrometheusExporter> prometheus_;  ///< rank 0 alone, where `monitor` asks for it
  std::unique_ptr<Alerts> alerts_;                  ///< rank 0 alone, where there are some
  MonitorSummary summary_;
  int64_t first_step_ = 0;  ///< that the clock began at
  std::chrono::steady_clock::time_point started_;
  std::optional<StepRecord> first_;
  std::optional<StepRecord> last_;
  std::optional<double> validation_loss_;
};

}  // namespace pimoe
