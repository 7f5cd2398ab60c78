#pragma once

#include "model/transformer.h"
#include "serve/engine.h"
#include "serve/scheduler.h"

#include <cstdint>

namespace pimoe {

/// @returns the limits with the pages that the budget has room for  @throws ConfigError for limits below 1, or a budget without room for a page
SchedulerLimits scheduler_limits(const EngineLimits& limits, const Transformer& model, int ranks);

/// @throws ConfigError for a model whose routers go by the batch
void require_servable(const Transformer& model);

/// A model may take another's place where all that was promised to requests holds, and pages stay what they are.
/// @throws ConfigError where it may not
void require_alike(const Transformer& model, const Transformer& before);

/// @param room  positions that the model sees  @throws ShapeError where it is no request, or can never fit
void require_request(const GenerationRequest& request, int64_t vocabulary, int64_t room, const SchedulerLimits& limits);

}  // namespace pimoe
