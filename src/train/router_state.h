#pragma once

#include "checkpoint/snapshot.h"
#include "moe/moe_layer.h"
#include "train/train_config.h"

#include <map>
#include <optional>
#include <string>

namespace pimoe {

/// A layer's loss-free bias as a checkpoint stores it, a copy on every rank: state_kind::kState, name "layers.N.moe.router.bias", [E].
/// The piece's values are the bias itself: restoring fills it.
StatePiece router_bias_state(MoELayer& layer);
/// @throws CheckpointError, on every rank, where a bias that was loaded is not finite: no run saves one
void require_finite_bias(const MoELayer& layer);

/// @returns the router temperature that a checkpoint's model computes with: the configured one, or what adaptive control had made of it
/// @param numbers  of the checkpoint
double temperature_of(const TrainConfig& saved, const std::map<std::string, double>& numbers);

/// Before a run goes on with `wanted`: where that names the temperature that the checkpoint's model really has, `saved` takes it.
/// @param controlled  the temperature that adaptive control had settled on; nothing where it was off
/// @returns a warning where the temperature goes back because adaptive control is off now; "" otherwise
std::string settle_temperature(TrainConfig& saved, const TrainConfig& wanted, std::optional<double> controlled);

}  // namespace pimoe
