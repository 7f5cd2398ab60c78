#include "train/router_state.h"

namespace pimoe {

StatePiece router_bias_state(MoELayer& layer) {
  const at::Tensor& bias = layer.router().bias();
  return {"state", {layer.router().name() + ".bias", Box::whole({bias.numel()}), 0, bias.numel()}, bias};
}

}  // namespace pimoe
