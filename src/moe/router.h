#pragma once

#include "moe/moe_config.h"
#include "moe/routing.h"
#include "parallel/parameter.h"

#include <string>

namespace pimoe {

/// Softmax top-k: p = softmax(W x), the K largest of p + b are chosen, the gates are their p (never b), divided by their sum if asked.
///
/// At least float32, float64 when the run is. Holds the weight and the loss-free bias, no state of a call.
/// @source top-k gating: arXiv 2101.03961 and Mixtral (arXiv 2401.04088, section 2.1); bias in the choice alone: arXiv 2408.15664, eq. 3.
class Router {
 public:
  /// Declares `name`.weight [E, D].
  Router(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, at::ScalarType compute_dtype,
         c10::Device device, double initial_deviation);

  /// @param tokens   [T, D], T may be 0
  /// @param experts  [T, K] int32 of an earlier decision to take again (recompute never routes anew), or undefined
  Routing route(const at::Tensor& tokens, const at::Tensor& experts) const;

  /// [E] at least float32 on the device, zeros at first; the same on every rank. Selection alone sees it.
  at::Tensor& bias() { return bias_; }
  const at::Tensor& bias() const { return bias_; }
  const std::string& name() const { return name_; }

 private:
  Routing route_uniformly(int64_t tokens) const;

  std::string name_;
  MoeConfig config_;
  Parameter* weight_;
  at::Tensor bias_;
};

}  // namespace pimoe
