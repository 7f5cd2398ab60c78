#pragma once

/// What a run folder tells of a run, read once from its beginning to its end: curves, maps over layers and experts, events, configuration.

#include "base/config_values.h"
#include "monitor/curve.h"
#include "monitor/run_state.h"

#include <nlohmann/json.hpp>

#include <array>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// The keys of metrics.jsonl (docs/metrics.md) that become curves, and those whose `_layers` become maps of layers over steps.
inline constexpr std::array kCurveKeys = {"loss",
                                          "validation_loss",
                                          "grad_norm",
                                          "learning_rate",
                                          "loss_scale",
                                          "tokens_per_second",
                                          "step_seconds",
                                          "forward_ms",
                                          "backward_ms",
                                          "gradients_ms",
                                          "mfu",
                                          "memory_bytes",
                                          "moe/maxvio",
                                          "moe/maxvio_worst",
                                          "moe/maxvio_rank_worst",
                                          "moe/entropy",
                                          "moe/entropy_worst",
                                          "moe/balance_loss",
                                          "moe/balance_loss_worst",
                                          "moe/z_loss",
                                          "moe/scaled_loss",
                                          "moe/gate_confidence",
                                          "moe/dead_experts",
                                          "moe/dropped_fraction",
                                          "moe/fallback_tokens",
                                          "moe/bias_min",
                                          "moe/bias_max",
                                          "moe/dispatch_ms",
                                          "moe/experts_ms",
                                          "moe/combine_ms",
                                          "adaptive/bias_rate",
                                          "adaptive/switch_loss",
                                          "adaptive/temperature"};
inline constexpr std::array kLayerMapKeys = {"moe/maxvio", "moe/dead_experts", "moe/bias_min", "moe/bias_max", "moe/dropped_fraction"};

/// Kinds of events that records of metrics.jsonl tell of.
namespace record_event {
inline constexpr const char* kSkipped = "skipped";  ///< steps in a row without an update
inline constexpr const char* kAlarm = "alarm";      ///< what somebody should look at
inline constexpr const char* kMoved = "moved";      ///< a setting, by adaptive control
}  // namespace record_event

/// Something that happened, for a mark on the curves.
struct RunEvent {
  int64_t step = 0;
  int64_t last_step = 0;  ///< of skipped steps in a row; else as step
  double time = 0.0;      ///< seconds since 1970; 0: unknown
  std::string kind;       ///< a word of train/run_events.h; or, from metrics.jsonl, of record_event
  std::string text;       ///< for a person; may be empty
};

struct RunRecord {
  std::filesystem::path folder;
  std::string name;                ///< the folder's
  std::vector<std::string> notes;  ///< what could not be read, a sentence each
  std::optional<ConfigValues> config;
  nlohmann::json start;  ///< the newest start or resume of events.jsonl; null: none
  std::vector<RunEvent> events;

  int64_t records = 0;  ///< of steps
  int64_t first_step = 0;
  nlohmann::json last;  ///< the newest record, without its lists; null: none
  std::map<std::string, Curve> curves;
  double train_seconds = 0.0;  ///< sum of the steps'
  double read_tokens = 0.0;    ///< in them
  int64_t skipped = 0;         ///< steps

  std::vector<int64_t> layers;                ///< the model's numbers of the MoE layers
  std::map<std::string, RowGrid> layer_maps;  ///< a row for each of them
  std::vector<RowGrid> loads;                 ///< of each of them a row for each expert: slots

  RunState state = RunState::kEmpty;  ///< as it was read
};

/// How finely a run is to be told.
struct RunRecordOptions {
  int64_t curve_stretches = 1000;
  int64_t layer_stretches = 200;
  int64_t most_load_cells = 1'200'000;  ///< of all layers, experts and stretches together
};

/// Reads RUN/metrics.jsonl, events.jsonl and config.yaml. What is damaged, missing or still being written is left out, and said in `notes`.
/// @param progress  called now and then with bytes read and bytes in all; may be empty
/// @throws DataError where there is no such folder, or nothing of a run in it; IoError
/// @cost one pass over metrics.jsonl; memory that does not grow with the run
RunRecord read_run(const std::filesystem::path& folder, const RunRecordOptions& options,
                   const std::function<void(uint64_t done, uint64_t total)>& progress);

}  // namespace pimoe
