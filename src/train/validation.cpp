#include "train/validation.h"

#include "base/errors.h"
#include "base/text.h"
#include "data/data_stream.h"
#include "data/document_starts.h"
#include "ops/trace_range.h"
#include "train/gradient_step.h"
#include "train/masked_documents.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {
namespace {

/// What one rank computes of one forward pass.
struct Share {
  int64_t first_token;  ///< of the corpus
  int64_t sequences;
  int64_t length;
};

/// @param documents  null: no mask
at::Tensor cross_entropy_of_share(const Transformer& model, const TokenFile& corpus, const DocumentStarts* documents, const Share& share,
                                  BatchContext context, const ProcessMesh& mesh, const PredictionView& see) {
  const at::Tensor rows = at::zeros({share.sequences, share.length + 1}, at::kLong);
  for (int64_t row = 0; row < share.sequences; ++row) {
    int64_t* ids = rows.mutable_data_ptr<int64_t>() + row * (share.length + 1);
    const int64_t begin = share.first_token + row * share.length;
    corpus.read(begin, share.length + 1, ids);
    corpus.require_ids_below(model.config().vocabulary, begin, ids, share.length + 1);
  }
  const at::Tensor tokens = rows.narrow(1, 0, share.length).contiguous();
  const at::Tensor targets = rows.narrow(1, 1, share.length).clone(at::MemoryFormat::Contiguous);  // written to: of one row no view
  if (documents != nullptr) {
    RowDocuments packed(share.length);
    for (int64_t row = 0; row < share.sequences; ++row) {
      packed.add_row(documents->inside(share.first_token + row * share.length, share.length + 1), targets[row].mutable_data_ptr<int64_t>());
    }
    context.documents.emplace(packed.starts(), mesh.device());
  }
  const Prediction prediction = model.forward(tokens.to(mesh.device()), targets.to(mesh.device()), context);
  if (see) see(prediction);
  return prediction.cross_entropy_sum.to(at::kDouble);
}

/// @returns how many of the tokens at stream positions [1, last] begin a document
int64_t documents_behind_first_token(const TokenFile& corpus, int64_t last) {
  constexpr int64_t kChunk = 1 << 20;
  const DocumentStarts documents(corpus);
  int64_t count = 0;
  for (int64_t begin = 0; begin < last; begin += kChunk) {
    count += static_cast<int64_t>(documents.inside(begin, std::min(kChunk, last - begin) + 1).size());
  }
  return count;
}

}  // namespace

ValidationPart::ValidationPart(const TokenFile& corpus, int64_t sequence_length, const ValidationPlan& plan) {
  if (const MaskedDocuments documents(corpus, sequence_length, plan); documents.exist()) {
    whole = documents.count();
    targets = documents.targets();
    left_out = documents.left_out();
    return;
  }
  const SampleReader reader(corpus, sequence_length, 0, /*shuffle=*/false);
  const int64_t all = corpus.token_count() - 1;
  whole = plan.batches == 0 ? reader.samples_per_epoch() : std::min(reader.samples_per_epoch(), plan.batches * plan.batch);
  rest = plan.batches == 0 ? all - whole * sequence_length : 0;
  read = whole * sequence_length + rest;
  left_out = all - read;
  targets = read - (plan.document_mask ? documents_behind_first_token(corpus, read) : 0);
  if (targets == 0) {
    throw DataError(concat(corpus.prefix().string(), ": the first ", grouped(read + 1), " tokens, which are read, are ", grouped(read + 1),
                           " documents: with data.document_mask none of them is predicted from another"));
  }
}

std::optional<double> cross_entropy_of(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                       const ProcessMesh& mesh, const ValidationWatch& watch, const PredictionView& see) {
  const TracedPhase phase("validation");
  const at::NoGradGuard no_gradients;
  const int64_t length = model.config().sequence_length;
  if (const MaskedDocuments documents(corpus, length, plan); documents.exist()) return documents.cross_entropy(model, mesh, watch, see);
  const ValidationPart part(corpus, length, plan);
  const Communicator& group = mesh.group(Group::kBatch);
  const StepPlan steps(part.whole, group.size(), plan.micro_batch);
  const int64_t all = steps.micro_steps() + (part.rest > 0 ? 1 : 0);
  std::optional<DocumentStarts> documents;
  if (plan.document_mask) documents.emplace(corpus);
  const DocumentStarts* const starts = documents ? &*documents : nullptr;
  at::Tensor sum = at::zeros({1}, at::TensorOptions().dtype(at::kDouble).device(mesh.device()));
  for (int64_t micro_step = 0; micro_step < all; ++micro_step) {
    if (watch && watch(micro_step, all)) return std::nullopt;
    if (micro_step < steps.micro_steps()) {
      const auto [first, count] = steps.share(micro_step, group.rank());
      const BatchContext context = batch_context(first, steps.micro_step_sequences(micro_step), length, mesh);
      sum += cross_entropy_of_share(model, corpus, starts, {first * length, count, length}, context, mesh, see);
    } else {
      // Shorter than the others, and not filled up: padding would be routed, and take others' places under a capacity.
      const int64_t begin = part.whole * length;
      sum += cross_entropy_of_share(model, corpus, starts, {begin, group.rank() == 0 ? 1 : 0, part.rest}, {begin, part.rest}, mesh, see);
    }
  }
  group.all_reduce(sum);
  return sum.item<double>();
}

std::optional<double> validation_loss(const Transformer& model, const TokenFile& corpus, const ValidationPlan& plan,
                                      const ProcessMesh& mesh, const std::function<bool()>& leaves) {
  const ValidationPart part(corpus, model.config().sequence_length, plan);
  const ValidationWatch watch = leaves ? ValidationWatch([&](int64_t, int64_t) { return leaves(); }) : nullptr;
  const std::optional<double> sum = cross_entropy_of(model, corpus, plan, mesh, watch);
  if (!sum) return std::nullopt;
  return *sum / static_cast<double>(part.targets);
}

}  // namespace pimoe
