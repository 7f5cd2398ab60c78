#pragma once

#include "base/log.h"
#include "train/alert_config.h"
#include "train/growing_file.h"
#include "train/scalars.h"
#include "train/webhook.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace pimoe {

/// Where alerts lie and go.
struct AlertPlaces {
  std::filesystem::path state;   ///< which alerts are firing, so that a restart does not tell of them again; empty: nowhere
  std::filesystem::path lines;   ///< of `file`
  std::filesystem::path unsent;  ///< of `webhook`
  std::string webhook;           ///< its URL
  std::string source;            ///< what the messages name: the run
  std::string unit = "step";     ///< of what is observed: what a person reads before its number
};

/// The alerts of a run or a server: judges what is observed, tells each change once, in the log, a file, and by a webhook. On one rank.
class Alerts {
 public:
  /// Takes up the state that an earlier process left. @param log  outlives it @throws Error for a rule that cannot be read
  Alerts(std::vector<AlertConfig> alerts, AlertPlaces places, const AlertMetrics& known, Logger& log);

  /// What changed with an observation.
  struct Change {
    bool fired = false;  ///< or cleared
    std::string rule;
    double value = 0.0;
    std::string text;  ///< for people
  };

  /// Judges all rules and tells of those that changed. @param step  done, or the number of AlertPlaces::unit; @param seconds  on a clock that only rises
  /// @cost where nothing changes none that could be seen; where something does, a durable write of a small file
  std::vector<Change> observe(int64_t step, double seconds, const Scalars& values);
  /// Whether one that has just fired, or one before it in this process, stops the run.
  bool stops() const { return stops_; }
  std::vector<std::string> firing() const;
  /// All rules, with whether they fire.
  std::vector<std::pair<std::string, bool>> states() const;

 private:
  void tell(size_t index, int64_t step, const Change& change);
  void keep_state();

  std::vector<AlertConfig> alerts_;
  std::vector<AlertRule> rules_;
  std::vector<AlertState> states_;
  AlertPlaces places_;
  Logger& log_;
  GrowingFile lines_;
  std::unique_ptr<Webhook> webhook_;
  bool stops_ = false;
};

}  // namespace pimoe
