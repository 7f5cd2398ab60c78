#include "compress/calibration_pass.h"

#include "base/text.h"
#include "base/work_progress.h"
#include "data/sample_reader.h"
#include "train/validation.h"

#include <algorithm>

namespace pimoe {

int64_t compute_samples(const LoadedModel& loaded, const TokenFile& corpus, int64_t samples, Logger& log) {
  const int64_t room = SampleReader(corpus, loaded.model->config().sequence_length, 0, /*shuffle=*/false).samples_per_epoch();
  const int64_t computed = std::min(samples, room);
  WorkProgress progress(concat("calibrating on ", corpus.prefix().string()), WorkUnit::kCount, log);
  const auto tell = [&](int64_t done, int64_t all) {
    progress.at(done, all, "micro-steps");
    return false;
  };
  const ValidationPlan plan{.batch = computed,
                            .micro_batch = std::max<int64_t>(1, loaded.config.train.micro_batch),
                            .batches = 1,
                            .loss = LossTokens::kAll,
                            .document_mask = loaded.config.data.document_mask};
  cross_entropy_of(*loaded.model, corpus, plan, *loaded.mesh, tell);
  return computed;
}

}  // namespace pimoe
