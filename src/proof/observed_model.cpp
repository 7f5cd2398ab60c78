#include "proof/observed_model.h"

#include "base/random.h"
#include "checkpoint/training_state.h"
#include "parallel/device.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

namespace pimoe {
namespace {

/// float16 loses small gradients without a factor, and overflows with the one that training begins with and soon halves.
LossScaler settled_loss_scale() { return {.dynamic = true, .scale = 1024.0, .good_steps = 0}; }

/// Documents of random length, eight tokens in the mean.
void draw_documents(GlobalBatch& batch, uint64_t seed, int64_t first) {
  const uint64_t key = named_key(seed, "documents without a corpus");
  for (int64_t row = 0; row < batch.sequences(); ++row) {
    for (int64_t at = 1; at <= batch.length(); ++at) {
      const auto index = static_cast<uint64_t>((first + row) * (batch.length() + 1) + at);
      if (random_bits(key, index) % 8 == 0) batch.begins_document[row][at].fill_(true);
    }
  }
}

/// Adds up on the host what each rank knows its part of, the rest zeros.
void add_up(at::Tensor& tensor, const ProcessMesh& mesh) {
  if (tensor.numel() > 0) mesh.control().all_reduce(tensor);
}

}  // namespace

GlobalBatch read_batch(const TrainConfig& config, int64_t first, int64_t sequences, int64_t length, int ranks) {
  GlobalBatch batch;
  batch.rows = at::zeros({sequences, length + 1}, at::kLong);
  auto* ids = batch.rows.mutable_data_ptr<int64_t>();
  const auto seed = static_cast<uint64_t>(config.run.seed);
  const std::vector<BlendedCorpus> corpora = config.data.training();
  if (config.data.document_mask) batch.begins_document = at::zeros(batch.rows.sizes(), at::kBool);
  if (corpora.empty()) {
    const uint64_t key = named_key(seed, "tokens without a corpus");
    for (int64_t index = 0; index < batch.rows.numel(); ++index) {
      const uint64_t draw = random_bits(key, static_cast<uint64_t>(first * (length + 1) + index));
      ids[index] = static_cast<int64_t>(draw % static_cast<uint64_t>(config.model.vocabulary));
    }
    if (config.data.document_mask) draw_documents(batch, seed, first);
  } else {
    const SampleBlend samples(corpora, length, seed, /*shuffle=*/true, {.document_mask = config.data.document_mask});
    for (int64_t row = 0; row < sequences; ++row) {
      samples.read(first + row, config.model.vocabulary, ids + row * (length + 1));
      if (!config.data.document_mask) continue;
      for (const int64_t start : samples.document_starts(first + row)) batch.begins_document[row][start].fill_(true);
    }
  }
  const StepPlan plan(sequences, ranks, config.train.micro_batch);
  for (int64_t step = 0; step < plan.micro_steps(); ++step) batch.micro_steps.push_back(plan.micro_step_sequences(step));
  return batch;
}

at::Tensor GlobalBatch::targets() const {
  const at::Tensor next = rows.narrow(1, 1, length());
  return begins_document.defined() ? next.masked_fill(begins_document.narrow(1, 1, length()), -1) : next;
}

ObservedModel::ObservedModel(const TrainConfig& config, at::ScalarType dtype, const ProcessMesh& mesh)
    : config_(config), mesh_(mesh), learner_(config, dtype, settled_loss_scale(), mesh) {
  learner_.optimizer().initialize(static_cast<uint64_t>(config.run.seed));
}

std::vector<MicroBatch> ObservedModel::share_of(const GlobalBatch& batch) const {
  const Communicator& group = mesh_.group(Group::kBatch);
  std::vector<MicroBatch> shares;
  int64_t begin = 0;
  for (const int64_t sequences : batch.micro_steps) {
    const auto [first, count] = StepPlan(sequences, group.size(), sequences).share(0, group.rank());
    const auto of_share = [&](const at::Tensor& all) {
      return all.narrow(0, begin + first, count).narrow(1, 0, batch.length()).contiguous();
    };
    MicroBatch share;
    share.tokens = of_share(batch.rows);
    share.targets = of_share(batch.targets());
    if (batch.begins_document.defined()) {
      at::Tensor begins = of_share(batch.begins_document).reshape({-1});
      for (int64_t row = 0; row < count; ++row) begins[row * batch.length()].fill_(true);
      share.documents = at::cat({begins.nonzero().view({-1}), at::full({1}, begins.numel(), at::kLong)}).to(at::kInt);
    }
    share.micro_step = static_cast<int64_t>(shares.size());
    share.first_sequence = begin + first;
    share.global_sequences = sequences;
    shares.push_back(std::move(share));
    begin += sequences;
  }
  shares.back().is_last = true;
  return shares;
}

ObservedStep ObservedModel::step(const GlobalBatch& batch, bool whole) {
  const std::vector<MicroBatch> shares = share_of(batch);
  const StepTerms terms = learner_.begin_step(batch.tokens(), (batch.targets() >= 0).sum().item<int64_t>());
  ObservedStep seen;
  const int64_t slots = config_.model.moe.slots_per_token();
  const auto count = static_cast<int64_t>(learner_.moe_layers().size());
  seen.experts = at::zeros({count, batch.tokens(), slots}, at::kLong);
  seen.gates = at::zeros({count, batch.tokens(), slots}, at::kDouble);
  const auto note_routing = [&](const MicroBatch& share, const Prediction& prediction) {
    const int64_t first = share.first_sequence * batch.length();
    for (int64_t layer = 0; layer < count; ++layer) {
      const RoutingRecord& record = prediction.routing[static_cast<size_t>(layer)];
      const int64_t tokens = record.experts.size(0);
      seen.experts[layer].narrow(0, first, tokens).copy_(record.experts);
      seen.gates[layer].narrow(0, first, tokens).copy_(record.weights);
    }
  };
  if (whole) {
    const at::NoGradGuard no_gradients;
    seen.logits = at::zeros({batch.tokens(), config_.model.vocabulary}, at::kDouble);
    for (const MicroBatch& share : shares) {
      const at::Tensor logits = learner_.model().logits(share.tokens.to(mesh_.device()), training_context(share, terms, mesh_));
      const at::Tensor rows = logits.reshape({-1, config_.model.vocabulary});
      seen.logits.narrow(0, share.first_sequence * batch.length(), rows.size(0)).copy_(rows);
    }
    add_up(seen.logits, mesh_);
  }

  const StepSums sums = learner_.accumulate_gradients(shares, terms, note_routing);
  add_up(seen.experts, mesh_);
  add_up(seen.gates, mesh_);
  if (whole) {
    std::vector<Stretch> stretches;
    for (const Bucket& bucket : learner_.buckets().buckets()) {
      for (const auto& [piece, begin] : bucket.slice_pieces()) {
        stretches.emplace_back(piece, bucket.gradient_slice().narrow(0, begin, piece.numel()).to(at::kDouble) / terms.loss_scale);
      }
    }
    seen.gradients = gathered(stretches);
  }

  seen.record = learner_.update(sums);
  if (seen.record.outcome == StepOutcome::kTaken) seen.clip_factor = learner_.optimizer().clip_factor(seen.record.gradient_norm);
  return seen;
}

NamedTensors ObservedModel::masters() {
  std::vector<Stretch> stretches;
  for (const StatePiece& piece : learner_.optimizer().state()) {
    if (piece.kind == state_kind::kMaster) stretches.emplace_back(piece.piece, piece.values);
  }
  return gathered(stretches);
}

NamedTensors ObservedModel::gathered(const std::vector<Stretch>& stretches) {
  const at::NoGradGuard no_gradients;
  std::map<std::string, std::vector<const Stretch*>> of;
  for (const Stretch& stretch : stretches) of[stretch.first.name].push_back(&stretch);
  NamedTensors whole;
  for (const auto& parameter : learner_.model().parameters()) {  // in the same order on every rank
    at::Tensor values = at::zeros({parameter->box.global_numel()}, at::kDouble);
    for (const Stretch* stretch : of[parameter->name]) {
      for (const Run& run : runs_of(stretch->first)) {
        values.narrow(0, run.global_begin, run.length).copy_(stretch->second.narrow(0, run.local_begin, run.length));
      }
    }
    add_up(values, mesh_);
    if (mesh_.rank() == 0) whole[parameter->name] = values.view(parameter->box.global);
  }
  return whole;
}

}  // namespace pimoe
