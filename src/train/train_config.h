#pragma once

#include "base/config_fields.h"
#include "checkpoint/checkpoint_store.h"
#include "data/data_stream.h"
#include "model/model_config.h"
#include "model/transformer.h"
#include "parallel/process_mesh.h"
#include "train/monitor_config.h"
#include "train/optimizer_config.h"
#include "train/precision.h"
#include "train/routing_log.h"
#include "train/spikes.h"

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace pimoe {

/// `run:`
struct RunConfig {
  std::filesystem::path directory;  ///< empty: runs/<name of the configuration file>
  int64_t seed = 1234;
  bool deterministic = false;      ///< refuse operations whose bits differ from run to run
  std::string walltime;            ///< that the job has, "12:00:00"; empty: no end
  double walltime_margin = 120.0;  ///< seconds before its end in which the run saves and leaves
  double hang_limit = 30.0;        ///< seconds after which the watchdog calls a rank hung; 0: no watchdog

  /// @returns seconds after the start at which the run saves and leaves; 0: never
  double seconds_until_leaving() const;

  void fields(FieldVisitor& visit);
};

/// Whether steps are recorded and replayed (step_graph.h).
enum class CudaGraphs {
  kOff,
  kOn,    ///< refused where it is known not to be possible
  kAuto,  ///< where it is, and the model is so small that it pays
};

/// `train:`
struct LoopConfig {
  int64_t steps = 300;
  int64_t global_batch = 16;  ///< sequences of a step, over all ranks
  int64_t micro_batch = 8;    ///< sequences that a rank computes at a time, at most; 0 is auto, which becomes a number as a run begins
  Precision precision = Precision::kBfloat16;
  RecomputePolicy recompute = RecomputePolicy::kNone;
  int64_t validate_every = 100;    ///< steps; 0: only at the end
  int64_t verify_every = 0;        ///< steps between comparisons of the ranks' copies of weights; 0 is auto: 100
  int64_t validation_batches = 8;  ///< of global_batch sequences each
  CudaGraphs cuda_graphs = CudaGraphs::kAuto;
  int64_t threads = 0;  ///< CPU threads of a rank; 0 is auto
  SpikeConfig spikes;
  int64_t rollbacks = 3;  ///< to a checkpoint, without a new one in between, of a run whose last ten steps were skipped

  void fields(FieldVisitor& visit);
};

/// `log:`
struct LogConfig {
  int64_t every_steps = 10;
  bool tensorboard = true;  ///< event files with the numbers of metrics.jsonl
  RoutingLogConfig routing;

  void fields(FieldVisitor& visit);
};

/// The whole configuration: a tree of structs, each beside its component.
struct TrainConfig {
  std::string preset = "none";  ///< what fills in the keys that neither the file nor the command line has; a name of train/presets.h
  RunConfig run;
  MeshConfig mesh;
  DataConfig data;
  ModelConfig model;
  LoopConfig train;
  OptimizerConfig optimizer;
  CheckpointConfig checkpoint;
  LogConfig log;
  MonitorConfig monitor;

  void fields(FieldVisitor& visit);
};

/// What the keys are that nothing says where model.initial_weights names a folder: its model, and what suits weights that have learned already. Who knows
/// such folders hands it in.
/// @param asked  model: initial_weights, upcycle, and sequence_length, or 0 where nothing says it
using PretrainedDefaults = std::function<TrainConfig(const ModelConfig& asked)>;

/// Reads the preset that `file` or `overrides` ("a.b=c") name, then `file` and then `overrides`, each stronger than those before it; checks
/// every rule that spans keys, fills in run.directory and, from the tokenizer, the vocabulary.
/// @param needs_corpus  an empty data.train is a violation
/// @param pretrained    null: model.initial_weights changes nothing
/// @throws ConfigError listing all violations, also each key of the model that model.initial_weights says otherwise; DataError if the tokenizer cannot be
///         read; what `pretrained` throws
TrainConfig load_train_config(const std::filesystem::path& file, const std::vector<std::string>& overrides, bool needs_corpus = true,
                              const PretrainedDefaults& pretrained = nullptr);
/// The same for a file that was read: a pipe can be read once.
TrainConfig load_train_config(const ConfigSource& file, const std::vector<std::string>& overrides, bool needs_corpus = true,
                              const PretrainedDefaults& pretrained = nullptr);

/// The keys alone, without rules that span them. @returns where each value came from
ConfigOrigins read_train_config(const ConfigSource& file, const std::vector<std::string>& overrides, const PretrainedDefaults& pretrained,
                                TrainConfig& config);

/// The same from text that a checkpoint carries: nothing is filled in, and as it has every key its preset changes nothing. It may know no corpus:
/// that of an imported model does not.
TrainConfig parse_train_config(const std::string& yaml, const std::string& name_for_messages);

/// @returns which of the corpus' sequences this rank reads, and how
DataStreamOptions stream_options(const TrainConfig& config, const ProcessMesh& mesh);

/// @returns the tree as YAML, valid input again
std::string to_yaml(TrainConfig config);

/// @returns what is allowed but seldom meant, one line each: an expert count without a layer for it, a warm-up that never ends, ranks without work
std::vector<std::string> doubts_about(const TrainConfig& config, int64_t ranks);

}  // namespace pimoe
