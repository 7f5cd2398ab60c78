#include "train/validation.h"

#include "base/progress.h"
#include "data/data_stream.h"
#include "train/gradient_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {

std::optional<double> validation_loss(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                      const ProcessMesh& mesh, const std::function<bool()>& leaves) {
  const ProgressPhase phase("validation");
  const at::NoGradGuard no_gradients;
  const int64_t length = model.config().sequence_length;
  const SampleReader reader(corpus, length, 0, /*shuffle=*/false);
  const int64_t sequences = std::min(reader.samples_per_epoch(), plan.batches * plan.batch);
  const Communicator& group = mesh.group(Group::kBatch);
  const StepPlan steps(sequences, group.size(), plan.micro_batch);
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(mesh.device()));
  for (int64_t micro_step = 0; micro_step < steps.micro_steps(); ++micro_step) {
    if (leaves && leaves()) return std::nullopt;
    const auto [first, count] = steps.share(micro_step, group.rank());
    const at::Tensor rows = at::zeros({count, length + 1}, at::kLong);
    for (int64_t row = 0; row < count; ++row) {
      int64_t* ids = rows.mutable_data_ptr<int64_t>() + row * (length + 1);
      reader.read(first + row, ids);
      corpus.require_ids_below(model.config().vocabulary, (first + row) * length, ids, length + 1);
    }
    const at::Tensor tokens = rows.narrow(1, 0, length).contiguous().to(mesh.device());
    const at::Tensor targets = rows.narrow(1, 1, length).contiguous().to(mesh.device());
    const BatchContext context = batch_context(first, steps.micro_step_sequences(micro_step), length, mesh);
    sum += model.forward(tokens, targets, context).cross_entropy_sum.to(at::kDouble);
  }
  group.all_reduce(sum);
  return sum.item<double>() / static_cast<double>(sequences * length);
}

}  // namespace pimoe
