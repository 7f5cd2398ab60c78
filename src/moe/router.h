#pragma once

#include "moe/matrix.h"
#include "moe/moe_config.h"
#include "moe/routing.h"
#include "parallel/parameter.h"
#include "parallel/precision.h"

#include <string>

namespace pimoe {

/// Chooses each token's experts and their gates.
///
/// With x = W t / temperature (W [E, D]; t jittered in training and projected where asked), b the loss-free bias, which selection alone sees:
///
///     softmax, pre_softmax   s = softmax(x); the K largest of s + b; gates s                    arXiv 2101.03961; OLMoE, Qwen3, Mixtral
///     softmax, otherwise     the K largest of x + b; gates softmax over these K logits          arXiv 2401.04088, section 2.1
///     sigmoid                s = sigmoid(x); the K largest of s + b; gates s                    arXiv 2412.19437, eq. 12-16
///     expert choice          s = softmax(x); expert i takes the ceil(K S / E) tokens of each sequence with the largest s_i; gates s
///                            arXiv 2202.09368, eq. 1-3. A token's fate depends on later tokens: it leaks the future in causal training.
///                            In a float64 run scores are compared to 1 part in 2^31: repeated tokens then tie in every layout.
///     hash                   K neighbouring experts from a number drawn for the token's id; gates 1 / K       arXiv 2106.04426
///     uniform                global token t's choice k is expert (t K + k) mod E; gates 1 / K
///
/// Gates are divided by their sum if `renormalize` (not in expert choice), then multiplied by route_scale. Group-limited (arXiv 2412.19437,
/// section 2.1.2): experts in G groups of neighbours; a group's score is the sum of its best n selection scores, or its best; the best M
/// groups stay, the K are chosen inside them. Ties go to the lower index everywhere.
///
/// With BatchContext::replay a token that was recorded takes the recorded experts, with gates as above for these.
///
/// At least float32, float64 when the run is. Holds weights and the loss-free bias (arXiv 2408.15664, eq. 3), no state of a call.
class Router {
 public:
  /// Declares `name`.weight [E, D or projection], and `name`.projection.weight, `name`.logit_bias where they are asked for.
  Router(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, int64_t vocabulary,
         at::ScalarType compute_dtype, c10::Device device, double initial_deviation, const QuantizationConfig& quantization = {});

  /// @param tokens   [T, D], T may be 0  @throws ShapeError where the hash router, or replay, lacks BatchContext::token_ids; DataError of replay
  /// @param experts  [T, K] int32 of an earlier decision to take again (recompute never routes anew), or undefined
  Routing route(const at::Tensor& tokens, const BatchContext& context, const at::Tensor& experts) const;

  /// [E] at least float32 on the device, zeros at first; the same on every rank. Selection alone sees it.
  at::Tensor& bias() { return bias_; }
  const at::Tensor& bias() const { return bias_; }
  const std::string& name() const { return name_; }
  /// The configuration's at first; adaptive control moves it between steps.
  void set_temperature(double temperature) { temperature_ = temperature; }

 private:
  struct Scores;
  /// @returns [T, E] before the temperature
  at::Tensor logits_of(const at::Tensor& tokens, const BatchContext& context) const;
  Scores score(const at::Tensor& logits) const;
  /// Experts and gates of scores, or the gates of these experts. @returns a Routing that has these two alone
  Routing chosen_by(const Scores& scores, const BatchContext& context, const at::Tensor& experts) const;
  at::Tensor jittered(const at::Tensor& tokens, const BatchContext& context) const;
  /// @returns the selection scores with -infinity outside of the chosen groups
  at::Tensor limited_to_groups(const at::Tensor& selection) const;
  at::Tensor choose_by_expert(const at::Tensor& scores, const BatchContext& context) const;
  /// @returns the experts, or what was recorded in their place
  at::Tensor replayed(const at::Tensor& experts, const BatchContext& context) const;
  Routing route_without_scores(const at::Tensor& tokens, const BatchContext& context) const;

  std::string name_;
  MoeConfig config_;
  Matrix weight_;
  Matrix projection_;
  Parameter* logit_bias_ = nullptr;
  at::Tensor bias_;
  double temperature_;
  at::Tensor hashed_;  ///< [V] int32, the hash router's first expert of each token id
};

/// What Router::route keeps for backward of T tokens.
struct RouterKept {
  int64_t decision = 0;      ///< bytes of experts and gates: the caller's, and kept whatever is recomputed
  int64_t scores = 0;        ///< bytes of all else
  bool tokens = false;       ///< its input is kept, counted by whoever made it
  bool gates_learn = false;  ///< the gates have a gradient
};

/// @param width  D  @param sequence_length  S
RouterKept kept_by_router(const MoeConfig& config, int64_t tokens, int64_t width, int64_t sequence_length, ElementBytes bytes);

}  // namespace pimoe
