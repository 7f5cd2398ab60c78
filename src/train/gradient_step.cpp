#include "train/gradient_step.h"

#include "moe/balance.h"
#include "ops/trace_range.h"
#include "parallel/device.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <optional>

namespace pimoe {

BatchContext batch_context(int64_t first_sequence, int64_t global_sequences, int64_t length, const ProcessMesh& mesh) {
  const int64_t ranks = mesh.group(Group::kBatch).size();
  return {first_sequence * length, (global_sequences + ranks - 1) / ranks * length};
}

int64_t counted_tokens(const std::vector<MicroBatch>& batches, const ProcessMesh& mesh) {
  at::Tensor count = at::zeros({1}, at::kLong);
  for (const MicroBatch& batch : batches)
    count += batch.counted.defined() ? batch.counted.sum() : at::full({}, batch.tokens.numel(), at::kLong);
  mesh.control().all_reduce(count);
  return count.item<int64_t>();
}

int64_t counted_targets(const std::vector<MicroBatch>& batches, const ProcessMesh& mesh) {
  at::Tensor count = at::zeros({1}, at::kLong);
  for (const MicroBatch& batch : batches) count += (batch.targets >= 0).sum();
  mesh.control().all_reduce(count);
  return count.item<int64_t>();
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
