#pragma once

#include "checkpoint/snapshot.h"
#include "moe/moe_layer.h"

namespace pimoe {

/// A layer's loss-free bias as a checkpoint stores it, a copy on every rank: kind "state", name "layers.N.moe.router.bias", [E].
/// The piece's values are the bias itself: restoring fills it.
StatePiece router_bias_state(MoELayer& layer);

}  // namespace pimoe
