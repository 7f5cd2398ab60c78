#include "train/step_sums.h"

#include "moe/load_statistics.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace pimoe {

/// Of the whole step, over all ranks, on the host.
struct StepTotals {
  std::vector<double> cross_entropy;        ///< [1]
  std::vector<double> parts;                ///< [R, N]
  std::vector<double> confidence;           ///< [N]
  std::vector<double> dropped;              ///< [N]
  std::vector<double> fallback, nonfinite;  ///< likewise
  std::vector<double> rows;                 ///< [N, ranks]
  std::vector<double> load;                 ///< [N, E]
  std::vector<double> bias_min, bias_max;   ///< [N]
};

namespace {

/// Rows of counts_.
enum Count : int64_t { kDropped, kFallback, kNonfinite, kRows };
constexpr std::array kCounted = {&RoutingRecord::dropped, &RoutingRecord::fallback, &RoutingRecord::nonfinite, &RoutingRecord::rows};

/// A quantity on its way to the host, and its place there. A list of them is the layout of what travels, for packing and for taking out, so that none
/// can be taken for another.
struct Part {
  at::Tensor values;
  std::vector<double> StepTotals::*total;
};

/// In float64, in which counts are exact.
at::Tensor packed(const std::vector<Part>& parts) {
  std::vector<at::Tensor> flat;
  for (const Part& part : parts) flat.push_back(part.values.reshape({-1}).to(at::kDouble));
  return at::cat(flat);
}

/// @returns what follows the parts
const double* take(const std::vector<Part>& parts, const double* next, StepTotals& totals) {
  for (const Part& part : parts) {
    const double* const end = next + part.values.numel();
    (totals.*part.total).assign(next, end);
    next = end;
  }
  return next;
}

/// @returns [N] of an [.., N] list, the `index`-th
std::vector<double> row_of(const std::vector<double>& values, size_t index, int64_t length) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(index) * length;
  return {begin, begin + length};
}

}  // namespace

StepSums::StepSums(const Transformer& model, const ProcessMesh& mesh, double step_tokens, double step_targets, const BalanceConfig& balance)
    : mesh_(mesh),
      step_tokens_(step_tokens),
      step_targets_(step_targets),
      layers_(model.config().moe_layers()),
      first_layer_(model.config().moe.first_dense_layers),
      balance_(balance) {
  const auto options = at::TensorOptions().device(mesh.device()).dtype(at_least_float32(model.dtype()));
  cross_entropy_ = at::zeros({1}, options);
  load_ = at::zeros({layers_, std::max<int64_t>(1, model.config().moe.experts)}, options.dtype(at::kLong));
  parts_ = at::zeros({static_cast<int64_t>(balance_.rules().size()), layers_}, options);
  confidence_ = at::zeros({layers_}, options);
  counts_ = at::zeros({static_cast<int64_t>(kCounted.size()), layers_}, options.dtype(at::kLong));
  phases_.resize(static_cast<size_t>(layers_));
}

void StepSums::add(const Prediction& prediction, const std::optional<BalanceTerms>& balance) {
  cross_entropy_ += prediction.cross_entropy_sum.detach();
  if (!balance) return;
  load_ += balance->load;
  parts_ += balance->parts;
  std::vector<at::Tensor> confidences;
  std::vector<at::Tensor> counts;
  for (const auto member : kCounted) {
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
  rows.select(1, group.rank()).copy_(counts_[kRows]);
  const std::vector<Part> shared = {{cross_entropy_, &StepTotals::cross_entropy},
                                    {parts_, &StepTotals::parts},
                                    {confidence_, &StepTotals::confidence},
                                    {counts_[kDropped], &StepTotals::dropped},
                                    {counts_[kFallback], &StepTotals::fallback},
                                    {counts_[kNonfinite], &StepTotals::nonfinite},
                                    {rows, &StepTotals::rows}};
  at::Tensor sums = packed(shared);
  group.all_reduce(sums);
  // What is the same on every rank already joins for the copy to the host.
  std::vector<Part> known = {{load_, &StepTotals::load}};
  if (layers_ > 0) {
    const at::Tensor bias = at::stack(biases).to(at::kDouble);
    known.push_back({bias.amin(1), &StepTotals::bias_min});
    known.push_back({bias.amax(1), &StepTotals::bias_max});
  }
  const at::Tensor host = at::cat({sums, packed(known)}).cpu();
  StepTotals totals;
  take(known, take(shared, host.const_data_ptr<double>(), totals), totals);

  record.loss = totals.cross_entropy[0] / step_targets_;
  record.activation_bytes = activation_bytes_;
  for (const StepTime& time : times_) {
    const double taken = time.end.milliseconds_since(time.begin);
    switch (time.part) {
      case StepPart::kForward: record.forward_ms += taken; break;
      case StepPart::kBackward: record.backward_ms += taken; break;
      case StepPart::kGradients: record.gradients_ms += taken; break;
    }
  }
  if (layers_ > 0) record.routing = routing_of(totals, group.size());
}

RoutingMetrics StepSums::routing_of(const StepTotals& totals, int64_t ranks) const {
  const at::Tensor load = at::tensor(totals.load, at::kDouble).to(at::kLong).view(load_.sizes());
  RoutingMetrics routing = routing_metrics(load, first_layer_);
  routing.scaled_loss.assign(static_cast<size_t>(layers_), 0.0);
  for (const BalanceRule rule : balance_.rules()) {
    RuleLoss loss{.rule = rule, .unscaled = row_of(totals.parts, routing.losses.size(), layers_), .scaled = {}};
    for (size_t layer = 0; layer < loss.unscaled.size(); ++layer) {
      loss.scaled.push_back(balance_.coefficient(rule) * loss.unscaled[layer]);
      routing.scaled_loss[layer] += loss.scaled[layer];
    }
    routing.losses.push_back(std::move(loss));
  }
  routing.gate_confidence = totals.confidence;
  for (size_t layer = 0; layer < routing.load.size(); ++layer) {
    const std::vector<int64_t>& slots = routing.load[layer];
    const auto all = static_cast<double>(std::accumulate(slots.begin(), slots.end(), int64_t{0}));
    routing.dropped_fraction.push_back(1.0 / std::max(1.0, all) * totals.dropped[layer]);
    routing.maxvio_rank.push_back(maxvio(row_of(totals.rows, layer, ranks)));
  }
  routing.fallback_tokens = totals.fallback;
  routing.nonfinite_slots = totals.nonfinite;
  routing.bias_min = totals.bias_min;
  routing.bias_max = totals.bias_max;
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
  return routing;
}

}  // namespace pimoe
