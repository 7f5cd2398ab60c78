#include "moe/moe_layer.h"

#include "ops/grouped_product.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>

namespace pimoe {
namespace {

Parameter& declare_weight(ParameterList& parameters, const std::string& name, Box box, Group copies, at::ScalarType dtype,
                          double deviation) {
  return parameters.declare({.name = name,
                             .box = std::move(box),
                             .copies = copies,
                             .dtype = dtype,
                             .decay = true,
                             .initializer = {Initializer::Kind::kNormal, deviation},
                             .value = {}});
}

ExpertPlacement placement_on(const ProcessMesh& mesh, const MoeConfig& config) {
  const Communicator& group = mesh.group(Group::kExpert);
  return {config.experts, group.size(), group.rank()};
}

}  // namespace

FeedForward::FeedForward(ParameterList& parameters, const std::string& name, int64_t width, int64_t hidden, at::ScalarType dtype,
                         InitialDeviation deviation)
    : gate_up_(
          &declare_weight(parameters, name + ".gate_up.weight", Box::whole({2 * hidden, width}), Group::kDense, dtype, deviation.inner)),
      down_(&declare_weight(parameters, name + ".down.weight", Box::whole({width, hidden}), Group::kDense, dtype, deviation.output)) {}

at::Tensor FeedForward::forward(const at::Tensor& tokens) const {
  const at::Tensor ends = at::full({1}, tokens.size(0), tokens.options().dtype(at::kInt));
  return grouped_swiglu_mlp(tokens, gate_up_->value.unsqueeze(0), down_->value.unsqueeze(0), ends);
}

ExpertBank::ExpertBank(ParameterList& parameters, const std::string& name, const ExpertPlacement& placement, int64_t width, int64_t hidden,
                       at::ScalarType dtype, InitialDeviation deviation)
    : gate_up_(&declare_weight(parameters, name + ".gate_up.weight",
                               Box::rows({placement.experts(), 2 * hidden, width}, placement.first_local(), placement.local()),
                               Group::kExpertReplica, dtype, deviation.inner)),
      down_(&declare_weight(parameters, name + ".down.weight",
                            Box::rows({placement.experts(), width, hidden}, placement.first_local(), placement.local()),
                            Group::kExpertReplica, dtype, deviation.output)) {}

at::Tensor ExpertBank::forward(const at::Tensor& rows, const at::Tensor& ends) const {
  return grouped_swiglu_mlp(rows, gate_up_->value, down_->value, ends);
}

MoELayer::MoELayer(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, at::ScalarType dtype,
                   InitialDeviation deviation, const ProcessMesh& mesh)
    : router_(parameters, name + ".router", config, width, dtype, mesh.device(), deviation.inner),
      dispatcher_(placement_on(mesh, config), config.choices, mesh.group(Group::kExpert)),
      experts_(parameters, name + ".experts", placement_on(mesh, config), width, config.expert_width, dtype, deviation) {
  if (config.shared_width > 0) shared_.emplace(parameters, name + ".shared", width, config.shared_width, dtype, deviation);
}

MoEOutput MoELayer::forward(const at::Tensor& tokens, std::optional<RoutingMemo>& memo) const {
  const Routing routing = router_.route(tokens, memo ? memo->experts : at::Tensor());
  if (!memo) memo.emplace(RoutingMemo{routing.experts, dispatcher_.plan(routing.experts)});
  const DispatchPlan& plan = memo->plan;

  const at::Tensor rows = dispatcher_.dispatch(tokens, plan);
  const at::Tensor results = experts_.forward(rows, plan.ends);
  at::Tensor output = dispatcher_.combine(results, routing.weights, plan);
  if (shared_) output = output + shared_->forward(tokens);
  return {output, {plan.order.counts, routing.probability_sum, routing.z_sum, routing.confidence_sum}};
}

}  // namespace pimoe
