#pragma once

#include "base/log.h"
#include "data/token_file.h"
#include "train/loaded_model.h"

#include <cstdint>

namespace pimoe {

/// Computes sequences of a corpus from its beginning, for whoever watches the model's matrices meanwhile: those of all ranks together, each rank its share.
/// Documents are masked as the model was trained. Collective
/// @returns how many: `samples`, or as many as there are
/// @throws DataError as ValidationPart; an id beyond the model's vocabulary
int64_t compute_samples(const LoadedModel& loaded, const TokenFile& corpus, int64_t samples, Logger& log);

}  // namespace pimoe
