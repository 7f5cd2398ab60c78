#include "train/masked_documents.h"

#include "base/errors.h"
#include "base/text.h"
#include "data/data_stream.h"
#include "train/gradient_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <memory>

namespace pimoe {

MaskedDocuments::MaskedDocuments(const TokenFile& corpus, int64_t sequence_length, const ValidationPlan& plan)
    : plan_(plan), sequence_length_(sequence_length) {
  if (plan.loss == LossTokens::kAll || (plan.loss == LossTokens::kAuto && !LossMask::is_beside(corpus.prefix()))) return;
  mask_.emplace(corpus);
  reader_.emplace(corpus, &*mask_, PackedReader::Options{.sequence_length = sequence_length, .shuffle = false, .alone = true});
  const int64_t all = reader_->samples_per_epoch();
  count_ = plan.batches == 0 ? all : std::min(all, plan.batches * plan.batch);
  targets_ = reader_->targets(0, count_);
  left_out_ = reader_->targets(count_, all);
  if (targets_ == 0) {
    throw DataError(
        concat(corpus.prefix().string(), ": the loss mask marks no token of its first ", counted(count_, "document"), ", which are read"));
  }
}

void MaskedDocuments::for_each_target(int64_t vocabulary, const std::function<void(int64_t id)>& see) const {
  const auto length = static_cast<size_t>(sequence_length_);
  std::vector<int64_t> tokens(length);
  std::vector<int64_t> targets(length);
  const std::unique_ptr<bool[]> counted(new bool[length]);
  SampleRow row{.tokens = tokens.data(), .targets = targets.data(), .counted = counted.get()};
  for (int64_t document = 0; document < count_; ++document) {
    reader_->read(document, vocabulary, row);
    for (const int64_t id : targets) {
      if (id >= 0) see(id);
    }
  }
}

std::optional<double> MaskedDocuments::cross_entropy(const Transformer& model, const ProcessMesh& mesh, const ValidationWatch& watch,
                                                     const PredictionView& see) const {
  const at::NoGradGuard no_gradients;
  const Communicator& group = mesh.group(Group::kBatch);
  const StepPlan steps(count_, group.size(), plan_.micro_batch);
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(mesh.device()));
  int64_t first = 0;
  for (int64_t micro_step = 0; micro_step < steps.micro_steps(); ++micro_step) {
    if (watch && watch(micro_step, steps.micro_steps())) return std::nullopt;
    const int64_t count = steps.micro_step_sequences(micro_step);
    sum += sum_of_rows(model, mesh, first, count, see);
    first += count;
  }
  group.all_reduce(sum);
  return sum.item<double>();
}

at::Tensor MaskedDocuments::sum_of_rows(const Transformer& model, const ProcessMesh& mesh, int64_t first, int64_t count,
                                        const PredictionView& see) const {
  const Communicator& group = mesh.group(Group::kBatch);
  const auto [mine, rows] = StepPlan(count, group.size(), count).share(0, group.rank());
  int64_t length = 1;
  for (int64_t document = first; document < first + count; ++document) length = std::max(length, reader_->positions(document));
  const at::Tensor tokens = at::empty({rows, sequence_length_}, at::kLong);
  const at::Tensor targets = at::empty({rows, sequence_length_}, at::kLong);
  const at::Tensor counted = at::empty({rows, sequence_length_}, at::kBool);
  for (int64_t i = 0; i < rows; ++i) {
    SampleRow row{.tokens = tokens.mutable_data_ptr<int64_t>() + i * sequence_length_,
                  .targets = targets.mutable_data_ptr<int64_t>() + i * sequence_length_,
                  .counted = counted.mutable_data_ptr<bool>() + i * sequence_length_};
    reader_->read(first + mine + i, model.config().vocabulary, row);
  }
  const auto on_device = [&](const at::Tensor& whole) { return whole.narrow(1, 0, length).contiguous().to(mesh.device()); };
  BatchContext context = batch_context(first + mine, count, length, mesh);
  context.counted = on_device(counted).reshape({-1});
  const Prediction prediction = model.forward(on_device(tokens), on_device(targets), context);
  if (see) see(prediction);
  return prediction.cross_entropy_sum.to(at::kDouble);
}

}  // namespace pimoe
