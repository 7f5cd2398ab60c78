#include "train/gradient_step.h"

#include "moe/balance.h"
#include "ops/trace_range.h"
#include "parallel/device.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

#include <optional>

namespace pimoe {

BatchContext batch_context(int64_t first_sequence, int64_t global_sequences, int64_t length, const ProcessMesh& mesh) {
  const int64_t ranks = mesh.group(Group::kBatch).size();
  return {first_sequence * length, (global_sequences + ranks - 1) / ranks * length};
}

StepCounts step_counts(const std::vector<MicroBatch>& batches, const ProcessMesh& mesh) {
  at::Tensor counts = at::zeros({2}, at::kLong);
  auto* const here = counts.mutable_data_ptr<int64_t>();
  for (const MicroBatch& batch : batches) {
    here[0] += batch.counted.defined() ? batch.counted.sum().item<int64_t>() : batch.tokens.numel();
    here[1] += (batch.targets >= 0).sum().item<int64_t>();
  }
  mesh.control().all_reduce(counts);
  return {.tokens = here[0], .targets = here[1]};
}

BatchContext training_context(const MicroBatch& batch, const StepTerms& terms, const ProcessMesh& mesh) {
  BatchContext context = batch_context(batch.first_sequence, batch.global_sequences, batch.tokens.size(1), mesh);
  context.training = true;
  context.seed = terms.seed;
  context.step = terms.step;
  context.static_rows = terms.static_rows;
  context.replay = terms.replay;
  if (batch.documents.defined()) context.documents.emplace(batch.documents, mesh.device());
  if (batch.counted.defined()) context.counted = batch.counted.reshape({-1}).to(mesh.device());
  return context;
}

StepSums accumulate_gradients(const Transformer& model, GradientReducer& reducer, const ProcessMesh& mesh,
                              const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen) {
  const ModelConfig& config = model.config();
  StepSums sums(model, mesh, terms.step_tokens, terms.step_targets, terms.balance);
  reducer.begin_step();
  for (const MicroBatch& batch : batches) {
    std::optional<TracedPhase> phase("forward");
    const TimeMark begin = TimeMark::now(mesh.device());
    const int64_t before = memory_use(mesh.device()).now_bytes;
    const at::Tensor tokens = batch.tokens.to(mesh.device(), /*non_blocking=*/true);
    const at::Tensor targets = batch.targets.to(mesh.device(), /*non_blocking=*/true);
    const Prediction prediction = model.forward(tokens, targets, training_context(batch, terms, mesh), terms.recompute);
    at::Tensor loss = prediction.cross_entropy_sum / terms.step_targets;
    std::optional<BalanceTerms> balance;
    if (config.moe_layers() > 0) {
      balance = balance_terms(prediction.routing, terms.balance, terms.step_tokens, sums.load(), mesh.group(Group::kBatch));
      loss = loss + balance->loss;
    }
    if (seen) seen(batch, prediction);
    sums.add(prediction, balance);
    sums.note_activation_bytes(memory_use(mesh.device()).now_bytes - before);
    const TimeMark middle = TimeMark::now(mesh.device());
    sums.note_time(StepPart::kForward, begin, middle);
    phase.emplace("backward");
    reducer.begin_backward(batch.is_last);
    (loss * terms.loss_scale).backward();
    sums.note_time(StepPart::kBackward, middle, TimeMark::now(mesh.device()));
  }
  const TracedPhase phase("gradients");
  const TimeMark begin = TimeMark::now(mesh.device());
  reducer.finish();
  sums.note_time(StepPart::kGradients, begin, TimeMark::now(mesh.device()));
  return sums;
}

}  // namespace pimoe
