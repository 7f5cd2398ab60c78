#include "train/router_state.h"

#include "base/errors.h"
#include "base/number_text.h"
#include "base/text.h"
#include "checkpoint/training_state.h"
#include "moe/adaptive_control.h"

namespace pimoe {

StatePiece router_bias_state(MoELayer& layer) {
  const at::Tensor& bias = layer.router().bias();
  return {state_kind::kState, {layer.router().name() + ".bias", Box::whole({bias.numel()}), 0, bias.numel()}, bias};
}

void require_finite_bias(const MoELayer& layer) {
  if (layer.router().bias().isfinite().all().item<bool>()) return;
  throw CheckpointError(concat(layer.router().name(), ".bias of the checkpoint is not finite: PiMoE saves no such state"));
}

double temperature_of(const TrainConfig& saved, const std::map<std::string, double>& numbers) {
  return AdaptiveControl::temperature_in(numbers).value_or(saved.model.moe.router.temperature);
}

std::string settle_temperature(TrainConfig& saved, const TrainConfig& wanted, std::optional<double> controlled) {
  double& configured = saved.model.moe.router.temperature;
  const double had = controlled.value_or(configured);
  const double is = wanted.model.moe.router.temperature;
  if (is == had) {
    configured = had;
    return "";
  }
  if (is != configured || wanted.model.moe.adaptive.enabled) return "";  // another model, or control goes on from where it was
  return concat("model.moe.adaptive is off: the routers' temperature goes from ", shortest(had),
                ", which control had raised it to, back to ", shortest(is),
                ", and scores change at once. model.moe.router.temperature=", shortest(had), " keeps it");
}

}  // namespace pimoe
