#pragma once

#include "moe/moe_layer.h"

#include <torch/nn/module.h>

#include <cstdint>
#include <string>

namespace pimoe {

/// A MoE layer for a libtorch program of one's own: a torch::nn::Module whose parameters() any torch::optim takes, with its experts spread over
/// the ranks of `mesh`. examples/moe_layer is a whole program. PiMoE's own trainer uses MoELayer, and has buckets and hooks around it.
///
///     const MoeModule::Result result = moe.forward(tokens);
///     (task_loss(result.tokens) + result.loss).backward();      // task_loss: this rank's mean
///     moe.average_gradients();
///     optimizer.step();
///     moe.update_biases();
///
/// Each rank holds its own experts' parameters; the router's and the shared expert's are the same on all ranks, and stay so if every rank's
/// optimizer does the same. The module lives on mesh.device(): to() would part its parameters from the layer's.
class MoeModule : public torch::nn::Module {
 public:
  struct Result {
    at::Tensor tokens;  ///< as the input
    at::Tensor loss;    ///< scalar: balance losses with their coefficients (balance.h), to be added to this rank's mean loss
    at::Tensor load;    ///< [E] int64, slots of each expert over all ranks
  };

  /// Equal (config, width, seed, name) give equal weights in every layout.
  /// @param width      D
  /// @param dtype      of the experts; the router is at least float32
  /// @param name       tells layers of one program apart
  /// @param deviation  of the weights' initial values
  /// @throws ConfigError naming key, value and rule of all that is wrong with `config`; adaptive control, schedules of the bias rate, replay
  ///         and the hash router need what only a trainer knows, and are refused. `mesh` must outlive the module
  MoeModule(const MoeConfig& config, int64_t width, const ProcessMesh& mesh, at::ScalarType dtype = at::kFloat, uint64_t seed = 0,
            const std::string& name = "moe", double deviation = 0.02);

  /// @param tokens  [T, D] or [B, S, D] of the module's dtype on mesh.device(); T may be 0, and differ from rank to rank
  /// @throws ShapeError
  /// @cost the layer's collectives (dispatcher.h, balance.h), and one of the ranks' token counts on the host. Collective
  Result forward(const at::Tensor& tokens);

  /// Makes every gradient that of the mean over the ranks of their losses, as DistributedDataParallel does: copies are summed over the ranks that
  /// have them, at least in float32, and all is divided by the number of ranks. A parameter without a gradient counts as zero. Collective
  void average_gradients();

  /// Loss-free balancing (balance.h, update_bias) by the loads of the forward passes in training since the last call; nothing where bias_rate is 0.
  void update_biases();

  MoELayer& layer() { return layer_; }

 private:
  ParameterList declared_;
  MoeConfig config_;
  int64_t width_;
  const ProcessMesh& mesh_;
  uint64_t seed_;
  MoELayer layer_;
  at::Tensor load_;  ///< [E] int64 since update_biases
  int64_t step_ = 0;
};

}  // namespace pimoe
