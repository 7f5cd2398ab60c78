#pragma once

#include "bench/bench.h"

namespace pimoe {

/// The presets that the guide has figures of (docs/guide.md), each with a layer of the guide's shape, with a short training and as a server, and whether each
/// beats the one before it in what it is for. Shapes, seed and text are the suite's own; of the bench's configuration the mesh, the threads and the device count.
/// Collective. @throws ConfigError where the mesh's expert groups do not divide eight experts
void run_preset_suite(Bench& bench);

}  // namespace pimoe
