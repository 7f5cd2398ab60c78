#pragma once

#include "train/train_config.h"

#include <string>
#include <vector>

namespace pimoe {

/// What `auto` of `mesh:` becomes where a run is, or would be.
struct IdlePlace {
  bool on_cpu = false;
  int64_t expert_parallel = 0;  ///< 0: not known
};

/// Keys that do nothing in this configuration, because others leave them nothing to do: "KEY has no effect, because ...", one line each, and where
/// it is written.
///
/// Only what the file or the command line says, and otherwise than the default, is told of: presets are made for many runs, and a configuration
/// that --print-config printed has every key.
///
/// @param file, overrides, pretrained  what load_train_config accepted
/// @param place  without it nothing is told of that hangs on what is not known
std::vector<std::string> idle_keys(const ConfigSource& file, const std::vector<std::string>& overrides,
                                   const PretrainedDefaults& pretrained = nullptr, const IdlePlace& place = {});

/// The same for a configuration and where its values came from.
std::vector<std::string> idle_keys(const TrainConfig& config, const ConfigOrigins& origins, const IdlePlace& place = {});

}  // namespace pimoe
