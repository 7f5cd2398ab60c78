#pragma once

#include "moe/adaptive_config.h"
#include "moe/balance_config.h"
#include "moe/load_statistics.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace pimoe {

/// What the controller moves.
struct AdaptiveSettings {
  std::vector<double> bias_rate;  ///< [N] for update_bias, one of each MoE layer
  double switch_loss = 0.0;       ///< for balance_terms
  double temperature = 1.0;       ///< the router's logits are divided by it
};

/// One setting moved, and why.
struct AdaptiveMove {
  int64_t layer = -1;  ///< the model's; -1: of every layer with experts
  double from = 0.0;
  double to = 0.0;
  std::string text;  ///< "step 40: bias rate of layer 3 0.001 -> 0.004: MaxVio 1.80 for 3 steps on the same expert, target 0.20"
};

/// Steers load balancing by what it sees of the load: raises what balances while a layer is out of balance, lets go once it is balanced.
///
/// The bias comes first, because it costs no quality, each layer by itself, in proportion to what each expert's load misses of the mean,
/// e_i = (mean c - c_i) / mean c (update_bias, BiasLaw::kProportional). Such a loop is right when what is left of the error is noise: then
/// the errors of two steps have nothing to do with each other. With r the sum over experts and recent steps (weights 0.7^age) of
/// e_i(t) e_i(t-1), over the same of e_i(t-1)^2, and while MaxVio is above target:
///
///   r > 0.5     the errors last: the rate doubles
///   r < -0.05   they alternate, or a monopoly goes round: the bias goes too far, the rate halves
///
/// judged anew two steps after each move.
///
/// Where four looks in a row miss the target as the mean over layers, and get no better, the Switch loss' coefficient doubles, and once that
/// is at its bound the temperature rises by a quarter; after as many looks that met it the last of these goes back. A step back that proved
/// too early doubles the looks that the next one waits for: nothing is done and undone for ever. The target is never below the MaxVio that
/// chance alone makes, about sqrt(2 ln E / mean c).
///
/// A function of what it observed alone, so that it is the same on every rank: it must be fed global counts. No tensors, no randomness.
/// @source ours; bias law arXiv 2408.15664, the variant of algorithm 1; an optimal loop leaves white errors: Mehra 1970, Harris 1989
class AdaptiveControl {
 public:
  static constexpr BiasLaw kBiasLaw = BiasLaw::kProportional;  ///< that the rates are for

  /// @param configured  what the settings are without control: where it begins, and returns to. Under control the bias rates begin at
  ///                    config.bias_rate_start instead, brought inside its bounds. bias_rate: of one element, or of N.
  /// Where `config.enabled` is false nothing moves: the settings stay what was configured.
  AdaptiveControl(const AdaptiveConfig& config, const AdaptiveSettings& configured, const MoeLayers& layers);

  /// Takes in a step that updated the weights; the settings are then those of the next step.
  /// @param step  its number, for the texts
  /// @param load  [N][E] slots of each expert over the step's global batch
  /// @returns what it moved  @cost  N * E operations on the host
  std::vector<AdaptiveMove> observe(int64_t step, const std::vector<std::vector<int64_t>>& load);

  const AdaptiveSettings& settings() const { return settings_; }

  /// Everything that later moves depend on, keys for which is_state() holds; restoring it gives the same moves to the bit.
  std::map<std::string, double> state() const;
  /// @returns whether a number of this key is part of state(): it begins with "adaptive."
  static bool is_state(const std::string& key);
  /// Takes what state() gave out of a larger map. Values outside the present bounds are brought inside: moves of the next step that observe()
  /// takes in.
  /// @returns false, and changes nothing, if there is none of it
  /// @throws CheckpointError if there is only a part of it
  bool restore(const std::map<std::string, double>& numbers);
  /// @returns the router temperature that control had settled on when it wrote these numbers; nothing if it was off
  static std::optional<double> temperature_in(const std::map<std::string, double>& numbers);

 private:
  /// When a raised setting may go back: after `needed` looks in a row that met the target.
  struct Patience {
    double needed = 1.0;
    double met = 0.0;
    double gave_way = 0.0;  ///< 1: the last move was back, so that a raise now says that it was too early

    void raised();
    void gave_back();
  };
  struct Layer {
    double fullest = -1.0;      ///< expert of the last step; -1: there was none
    double steps = 0.0;         ///< since the last move, that the two sums are about
    double product = 0.0;       ///< weighted sum of e(t) . e(t-1)
    double square = 0.0;        ///< weighted sum of e(t-1) . e(t-1)
    std::vector<double> error;  ///< [E] e of the last step
    double look_maxvio = 0.0;   ///< sum over the look
  };

  /// A setting that restore() brought inside its bounds, not told yet.
  struct Bounded {
    int64_t layer;  ///< -1: of every layer with experts
    std::string setting;
    double from, to;
  };

  template <class Visit>
  void each_number(const Visit& visit);

  /// The configured target, or what chance alone makes of this many slots an expert.
  double target_for(double mean_load) const;
  double bounded_rate(double rate) const;
  void steer_bias(int64_t step, int64_t index, const std::vector<int64_t>& load, std::vector<AdaptiveMove>& moves);
  void look(int64_t step, std::vector<AdaptiveMove>& moves);
  void look_at_common(int64_t step, double mean_maxvio, std::vector<AdaptiveMove>& moves);
  void move_bias(int64_t step, int64_t index, double to, const std::string& reason, std::vector<AdaptiveMove>& moves);
  void move_common(int64_t step, const char* name, double& setting, double to, const std::string& reason, std::vector<AdaptiveMove>& moves);

  AdaptiveConfig config_;
  AdaptiveSettings configured_;  ///< inside the bounds
  AdaptiveSettings settings_;
  int64_t experts_;
  int64_t first_layer_;
  double chance_;  ///< sqrt(2 ln E)
  std::vector<Layer> layers_;
  std::vector<Bounded> bounded_;
  double look_steps_ = 0.0;
  double look_target_ = 0.0;  ///< sum over the look of the target, chance considered
  double missed_ = 0.0;       ///< looks in a row in which the mean over layers missed the target without getting better
  double last_maxvio_ = 0.0;  ///< mean over layers, of the look before
  Patience patience_;
};

}  // namespace pimoe
