#include "train/step_sums.h"

#include "moe/load_statistics.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <numeric>

namespace pimoe {

StepSums::StepSums(const Transformer& model, const ProcessMesh& mesh, double step_tokens, const BalanceConfig& balance)
    : mesh_(mesh),
      step_tokens_(step_tokens),
      layers_(model.config().moe_layers()),
      first_layer_(model.config().moe.first_dense_layers),
      balance_(balance) {
  const auto options = at::TensorOptions().device(mesh.device()).dtype(at_least_float32(model.dtype()));
  cross_entropy_ = at::zeros({1}, options);
  load_ = at::zeros({layers_, std::max<int64_t>(1, model.config().moe.experts)}, options.dtype(at::kLong));
  parts_ = at::zeros({static_cast<int64_t>(balance_.rules().size()), layers_}, options);
  confidence_ = at::zeros({layers_}, options);
  counts_ = at::zeros({4, layers_}, options.dtype(at::kLong));
  phases_.resize(static_cast<size_t>(layers_));
}

void StepSums::add(const Prediction& prediction, const std::optional<BalanceTerms>& balance) {
  cross_entropy_ += prediction.cross_entropy_sum.detach();
  if (!balance) return;
  load_ += balance->load;
  parts_ += balance->parts;
  std::vector<at::Tensor> confidences;
  std::vector<at::Tensor> counts;
  for (const auto member : {&RoutingRecord::dropped, &RoutingRecord::fallback, &RoutingRecord::nonfinite, &RoutingRecord::rows}) {
    for (const RoutingRecord& record : prediction.routing) counts.push_back(record.*member);
  }
  for (size_t layer = 0; layer < prediction.routing.size(); ++layer) {
    const RoutingRecord& record = prediction.routing[layer];
    confidences.push_back(record.confidence_sum);
    phases_[layer].insert(phases_[layer].end(), record.phases.begin(), record.phases.end());
  }
  confidence_ += at::stack(confidences) / step_tokens_;
  counts_ += at::stack(counts).view_as(counts_);
}

void StepSums::finish(StepRecord& record, const std::vector<at::Tensor>& biases) const {
  const Communicator& group = mesh_.group(Group::kBatch);
  // Each rank's rows in a column of its own: the sum over the ranks brings everyone's to everyone.
  at::Tensor rows = at::zeros({layers_, group.size()}, cross_entropy_.options().dtype(at::kDouble));
  rows.select(1, group.rank()).copy_(counts_[3]);
  at::Tensor shared = at::cat({cross_entropy_, parts_.view(-1), confidence_}).to(at::kDouble);
  shared = at::cat({shared, counts_.narrow(0, 0, 3).reshape({-1}).to(at::kDouble), rows.view(-1)});
  group.all_reduce(shared);
  // What is the same on every rank already joins for the copy to the host; counts are exact in float64.
  std::vector<at::Tensor> all = {shared, load_.view(-1).to(at::kDouble)};
  if (layers_ > 0) {
    const at::Tensor bias = at::stack(biases).to(at::kDouble);
    all.push_back(bias.amin(1));
    all.push_back(bias.amax(1));
  }
  const at::Tensor host = at::cat(all).cpu();
  const double* next = host.const_data_ptr<double>();
  const auto take = [&next](int64_t count) {
    next += count;
    return std::vector<double>(next - count, next);
  };

  record.loss = take(1)[0] / step_tokens_;
  record.activation_bytes = activation_bytes_;
  if (layers_ == 0) return;
  RoutingMetrics routing = routing_metrics(host.narrow(0, shared.numel(), load_.numel()).to(at::kLong).view_as(load_), first_layer_);
  routing.scaled_loss.assign(static_cast<size_t>(layers_), 0.0);
  for (const BalanceRule rule : balance_.rules()) {
    RuleLoss loss{.rule = rule, .unscaled = take(layers_), .scaled = {}};
    for (size_t layer = 0; layer < loss.unscaled.size(); ++layer) {
      loss.scaled.push_back(balance_.coefficient(rule) * loss.unscaled[layer]);
      routing.scaled_loss[layer] += loss.scaled[layer];
    }
    routing.losses.push_back(std::move(loss));
  }
  routing.gate_confidence = take(layers_);
  for (const std::vector<int64_t>& load : routing.load) {
    routing.dropped_fraction.push_back(1.0 /
                                       std::max<double>(1.0, static_cast<double>(std::accumulate(load.begin(), load.end(), int64_t{0}))));
  }
  for (double& fraction : routing.dropped_fraction) fraction *= *next++;
  routing.fallback_tokens = take(layers_);
  routing.nonfinite_slots = take(layers_);
  for (int64_t layer = 0; layer < layers_; ++layer) routing.maxvio_rank.push_back(maxvio(take(group.size())));
  take(load_.numel());
  routing.bias_min = take(layers_);
  routing.bias_max = take(layers_);
  for (const std::vector<PhaseMarks>& layer : phases_) {
    double dispatch = 0.0, experts = 0.0, combine = 0.0;
    for (const PhaseMarks& marks : layer) {
      dispatch += marks.dispatched.milliseconds_since(marks.begin);
      experts += marks.computed.milliseconds_since(marks.dispatched);
      combine += marks.combined.milliseconds_since(marks.computed);
    }
    routing.dispatch_ms.push_back(dispatch);
    routing.experts_ms.push_back(experts);
    routing.combine_ms.push_back(combine);
  }
  record.routing = std::move(routing);
}

}  // namespace pimoe
