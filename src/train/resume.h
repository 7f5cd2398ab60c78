#pragma once

/// Which checkpoint a run goes on from, and what may have changed since: the same rules for the run and for `pimoe check`.

#include "base/log.h"
#include "checkpoint/checkpoint_store.h"
#include "moe/routing_file.h"
#include "train/data_facts.h"
#include "train/train_config.h"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What a run has saved so far, as whoever looked for it found it.
struct OwnCheckpoints {
  std::optional<std::filesystem::path> newest_good;
  int64_t damaged = 0;  ///< that were set aside, or would be
};

/// A good checkpoint at the path of checkpoint.resume. @throws CheckpointError, IoError where there is none
using CheckpointFinder = std::function<std::filesystem::path(const std::filesystem::path& path)>;

struct ResumeChoice {
  std::optional<std::filesystem::path> checkpoint;  ///< nothing: from scratch
  std::string said;                                 ///< for the log: why it is not the one of checkpoint.resume; "" if it is
};

/// The rule by which a run goes on, for the run and for who foretells it. Looks at no checkpoint itself but through `find`.
/// @throws ConfigError where resuming would mix two runs, CheckpointError where none of the run's checkpoints is good, and what `find` throws
ResumeChoice choose_checkpoint(const TrainConfig& config, const OwnCheckpoints& own, const CheckpointFinder& find);

/// What a run goes on from.
struct ResumePoint {
  std::filesystem::path checkpoint;
  std::string config;                            ///< that it was written with, as YAML
  std::optional<double> controlled_temperature;  ///< of its routers, where adaptive control was on
  bool is_newest_of_run = false;                 ///< it was looked for, not named: another of the run may take its place
};

/// Which checkpoint a run goes on from, as choose_checkpoint says; nothing: it begins from scratch. Damaged ones are set aside, all bytes are
/// verified. Rank 0 looks for all: ranks that look for themselves could find different ones. Collective, the same on every rank, and so is what
/// it throws.
/// @throws as choose_checkpoint and CheckpointStore::newest_good
std::optional<ResumePoint> checkpoint_to_resume(const TrainConfig& config, CheckpointStore& checkpoints, const ProcessMesh& mesh,
                                                Logger& log);

/// A run goes on with the model that it began with: weights of equal shape can mean other maths, and layers left out would be lost with the
/// next checkpoint.
/// @throws ConfigError with every key of `model` that differs and both its values; balancing, limits, memory, checks and the scale of initial weights may
void require_same_model(const TrainConfig& saved, const TrainConfig& wanted, const std::string& checkpoint);

/// Whether a replay does anything in the steps that a run has to do. @param done  steps that it goes on from
/// @returns a warning where it does not, "" otherwise
/// @throws ConfigError where it would take decisions from its own recordings of steps that are done again, which go (RoutingLog::cut_after)
std::string doubt_about_replay(const RoutingReplay& replay, const TrainConfig& config, int64_t done);

/// For messages: what makes the run go on from its newest checkpoint. @returns "the same command", with what has to be added to it
std::string command_to_go_on(const TrainConfig& config);

/// What changes the data of a run that goes on: allowed, and worth a warning. Files that were rebuilt under the same name are known by the facts
/// of both; files that are the same under another name are no change. Where a checkpoint has no facts, names alone are compared.
/// @returns one line each, none where nothing changed
std::vector<std::string> changes_of_data(const TrainConfig& saved, const DataFacts& facts_saved, const TrainConfig& wanted,
                                         const DataFacts& facts_now);

}  // namespace pimoe
