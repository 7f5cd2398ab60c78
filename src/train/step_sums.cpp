#include "train/step_sums.h"

#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

namespace pimoe {

StepSums::StepSums(const Transformer& model, const ProcessMesh& mesh, double step_tokens)
    : mesh_(mesh), step_tokens_(step_tokens), layers_(model.config().moe_layers()) {
  const auto options = at::TensorOptions().device(mesh.device()).dtype(at_least_float32(model.dtype()));
  cross_entropy_ = at::zeros({1}, options);
  load_ = at::zeros({layers_, std::max<int64_t>(1, model.config().moe.experts)}, options.dtype(at::kLong));
  switch_part_ = at::zeros({layers_}, options);
  z_part_ = at::zeros({layers_}, options);
  confidence_ = at::zeros({layers_}, options);
}

void StepSums::add(const Prediction& prediction, const std::optional<BalanceTerms>& balance) {
  cross_entropy_ += prediction.cross_entropy_sum.detach();
  if (!balance) return;
  load_ += balance->load;
  switch_part_ += balance->switch_part;
  z_part_ += balance->z_part;
  std::vector<at::Tensor> confidences;
  for (const RoutingRecord& record : prediction.routing) confidences.push_back(record.confidence_sum);
  confidence_ += at::stack(confidences) / step_tokens_;
}

void StepSums::finish(StepRecord& record, const std::vector<at::Tensor>& biases) const {
  at::Tensor shared = at::cat({cross_entropy_, switch_part_, z_part_, confidence_}).to(at::kDouble);
  mesh_.group(Group::kBatch).all_reduce(shared);
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
  RoutingMetrics routing = routing_metrics(host.narrow(0, shared.numel(), load_.numel()).to(at::kLong).view_as(load_));
  routing.balance_loss = take(layers_);
  routing.z_loss = take(layers_);
  routing.gate_confidence = take(layers_);
  take(load_.numel());
  routing.bias_min = take(layers_);
  routing.bias_max = take(layers_);
  record.routing = std::move(routing);
}

}  // namespace pimoe
