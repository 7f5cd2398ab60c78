#include "moe/moe_layer.h"

#include <ATen/TensorOperators.h>

namespace pimoe {
namespace {

ExpertPlacement placement_on(const ProcessMesh& mesh, const MoeConfig& config) {
  const Communicator& group = mesh.group(Group::kExpert);
  return {config.experts, group.size(), group.rank()};
}

}  // namespace

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
