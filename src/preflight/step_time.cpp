#include "preflight/step_time.h"

#include <algorithm>
#include <numeric>

namespace pimoe {
namespace {

/// What a layer reads and writes, forward and backward, in numbers of the compute dtype. Per number of the residual stream: two norms
/// with the additions before them, each 4 forward and 6 backward.
constexpr double kStreamPasses = 20.0;
/// Per number of queries, keys and values: rotary positions, one pass forward and one backward.
constexpr double kHeadPasses = 4.0;
/// Norms of queries and keys go with them; backward reads what was normed once more.
constexpr double kHeadPassesOfNorms = 1.0;
/// Norms over all heads go by themselves: copied out, normed and put together forward, and likewise backward.
constexpr double kHeadPassesOfWholeNorms = 12.0;
/// Per number of an expert's row: fused, results and gradients of rows are written by products and read once; exchanged, rows are gathered, permuted
/// to experts and back, and added up, and so are their gradients.
constexpr double kFusedRowPasses = 2.0;
constexpr double kFusedRowPassesOnGpu = 3.0;  ///< backward gathers the tokens once more, by a pass of its own
constexpr double kLocalRowPasses = 8.0;
constexpr double kExchangedRowPasses = 14.0;
/// Per number of a token that arrived, beside its rows': gathered to be sent, results added up, and their gradients likewise; written directly, by
/// the pass that also sends them.
constexpr double kExchangedTokenPasses = 10.0;
constexpr double kDirectTokenPasses = 7.0;
/// Numbers of the master's type that an update reads and writes of a parameter: the norm 1, AdamW 7; it writes the rounded weight too.
constexpr double kUpdatePasses = 8.0;
/// Operations of a layer forward and backward, and of a micro-step beside its layers.
constexpr double kOperationsOfLayer = 110.0;
constexpr double kOperationsOfMicroStep = 60.0;
constexpr double kHideable = 0.7;  ///< part of backward that buckets of gradients can be summed behind

/// Whether a group of `size` neighbouring ranks stays inside of a node.
bool inside_node(int64_t size, const ForecastPlace& place) { return size <= place.node_ranks && place.node_ranks % size == 0; }

struct Way {
  double rate;
  const char* limit;
};

/// What each rank of a ring can pass on. Between nodes as many rings run at once as the group has ranks in a node, each by another rank's way out,
/// so that a node's ranks share the load; a group with one rank in each node has one way.
Way ring_way(const RingTraffic& ring, const ForecastPlace& place, const DeviceRates& rates) {
  if (inside_node(ring.ranks * ring.stride, place)) return {rates.link, "links"};
  const auto in_node = static_cast<double>(std::max<int64_t>(1, place.node_ranks / ring.stride));
  const double out = rates.network * in_node;
  return out < rates.link ? Way{out, "network"} : Way{rates.link, "links"};
}

/// Of rows that a rank sends to all others of its expert group alike: those in its node and those outside travel at the same time.
struct Exchange {
  double seconds;
  const char* limit;
};
Exchange exchange(double bytes, int64_t ranks, const ForecastPlace& place, const DeviceRates& rates) {
  // Groups begin at multiples of their size, and nodes at multiples of theirs: so many ranks they have in common at least.
  const int64_t near = std::gcd(ranks, place.node_ranks);
  const double each = bytes / static_cast<double>(ranks - 1);
  const double inside = each * static_cast<double>(near - 1) / rates.link;
  const double outside = each * static_cast<double>(ranks - near) / rates.network;
  return inside >= outside ? Exchange{inside, "links"} : Exchange{outside, "network"};
}

double number(int64_t value) { return static_cast<double>(value); }

/// A step of the slowest rank, part by part. Parts are added in the order of the step; some need the sum of those before.
class StepClock {
 public:
  StepClock(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew)
      : config_(config),
        model_(config.model),
        place_(place),
        rates_(rates),
        forecast_(config, place),
        memory_(forecast_.memory(1.0)),
        rows_(model_.moe_layers() > 0 ? forecast_.rows(skew) : RoutedRows()),
        bytes_(ElementBytes::of(place.dtype)),
        element_(number(bytes_.compute)),
        micro_steps_(number(forecast_.micro_steps())),
        tokens_(number(forecast_.sequences_at_once() * model_.sequence_length) * micro_steps_),
        width_(number(model_.width)),
        layers_(number(model_.layers)),
        moe_layers_(number(model_.moe_layers())) {
    // Recomputation is forward once more: 8 in place of 6 FLOP a weight, and 9 in place of 7 in attention. A lean MoE layer inside a recomputed
    // region computes twice more.
    const RecomputePolicy recompute = config.train.recompute;
    if (recompute == RecomputePolicy::kFull) again_ = 4.0 / 3.0;
    const int moe_forwards = (recompute != RecomputePolicy::kNone ? 1 : 0) + (model_.moe.memory == MoeMemory::kLean ? 1 : 0);
    again_moe_ = 1.0 + moe_forwards / 3.0;
  }

  StepTimeForecast run() {
    add_attention();
    add_feed_forward();
    if (moe_layers_ > 0) {
      add_experts();
      if (forecast_.expert_parallel() > 1) add_exchange();
    }
    add("head and cross-entropy", 6 * tokens_ * head_weights(), rates_.head, "products");
    add_sums_of_gradients();
    add_host();
    add_ranks_and_update();
    add_rates();
    return time_;
  }

 private:
  void add(const std::string& name, double amount, double rate, const char* limit) {
    if (amount <= 0) return;
    time_.parts.push_back({name, amount / rate, limit});
    time_.seconds += amount / rate;
  }

  void add_attention() {
    add("attention's projections", 6 * tokens_ * layers_ * number(attention_weights(model_)) * again_, rates_.product, "products");
    // Where keys and values are of two widths the kernels compute with the larger.
    const double mixed = number(model_.heads * std::max(model_.key_width(), model_.value_width()));
    const double flops_of_pair = config_.train.recompute == RecomputePolicy::kFull ? 9 : 7;
    add("attention", flops_of_pair * tokens_ * layers_ * number(model_.sequence_length) * mixed, rates_.attention, "products");
    const double in_heads = number(model_.heads * model_.key_width() + model_.key_heads() * (model_.key_width() + model_.value_width()));
    const double head_passes = kHeadPasses + (model_.norms_heads()         ? kHeadPassesOfNorms
                                              : model_.norms_projections() ? kHeadPassesOfWholeNorms
                                                                           : 0.0);
    add("norms, residuals, positions", tokens_ * element_ * again_ * (kStreamPasses * width_ + head_passes * in_heads) * layers_,
        rates_.copy, "memory");
  }

  /// Of the dense layers, and the shared expert.
  void add_feed_forward() {
    const double hidden = number(model_.feed_forward_width) * (layers_ - moe_layers_) + number(model_.moe.shared_width) * moe_layers_;
    add("dense feed-forward", 18 * tokens_ * width_ * hidden * again_, rates_.product, "products");
  }

  void add_experts() {
    add("router", 6 * tokens_ * width_ * number(model_.moe.experts) * moe_layers_ * again_moe_, rates_.wide_product, "products");
    const std::vector<ExpertGroupConfig> groups = model_.moe.expert_groups();
    const bool rows_travel = forecast_.expert_parallel() > 1 && rows_.exchange == MoeExchange::kRows;
    const double passes = rows_travel     ? kExchangedRowPasses
                          : !rows_.fused  ? kLocalRowPasses
                          : place_.on_gpu ? kFusedRowPassesOnGpu
                                          : kFusedRowPasses;
    double flops = 0.0;
    double moved = 0.0;
    for (size_t bank = 0; bank < groups.size(); ++bank) {
      flops += 6 * number(rows_.rows[bank]) * weights_of(groups[bank]);
      moved += number(rows_.rows[bank]) * element_ * passes * width_;
    }
    if (rows_.exchange == MoeExchange::kTokens) moved += kExchangedTokenPasses * number(rows_.arrived) * element_ * width_;
    if (rows_.exchange == MoeExchange::kDirect) moved += kDirectTokenPasses * number(rows_.arrived) * element_ * width_;
    add("experts", flops * moe_layers_ * micro_steps_ * again_moe_, rates_.grouped_product, "products");
    add("moves of rows", moved * moe_layers_ * micro_steps_ * again_moe_, rates_.copy, "memory");
  }

  void add_exchange() {
    // Counts; dispatch, of gates too, combine, and their ways back.
    const double collectives = rows_.exchange == MoeExchange::kRows ? 5.0 : 8.0;
    const double calls = moe_layers_ * micro_steps_ * collectives * again_moe_;
    const RoutedRows even = forecast_.rows(1.0);
    const auto travelling = [](const RoutedRows& of) { return of.exchange == MoeExchange::kRows ? of.all_rows() : of.arrived; };
    const double fuller = number(travelling(rows_)) / number(std::max<int64_t>(1, travelling(even)));
    const Exchange moved = exchange(number(forecast_.traffic().rows) * fuller, forecast_.expert_parallel(), place_, rates_);
    add("exchange", moved.seconds + calls * rates_.message, 1.0, moved.limit);
  }

  /// Each micro-step reads its gradients and writes, then adds to, the sums. On a GPU experts and head write there themselves, and read what they
  /// add to.
  void add_sums_of_gradients() {
    double direct_weights = head_weights();
    if (moe_layers_ > 0) {
      for (const ExpertGroupConfig& group : model_.moe.expert_groups()) {
        direct_weights += number(group.count / forecast_.expert_parallel()) * weights_of(group) * moe_layers_;
      }
    }
    const double gradient_bytes = number(memory_.gradients);
    const double weight_bytes = number(memory_.weights);
    const double direct = place_.on_gpu ? std::min(1.0, direct_weights * element_ / weight_bytes) : 0.0;
    add("sums of gradients",
        (1 - direct) * (weight_bytes * 2 * micro_steps_ + gradient_bytes * (2 * micro_steps_ - 1)) +
            direct * gradient_bytes * (micro_steps_ - 1),
        rates_.copy, "memory");
  }

  void add_host() {
    const double launched =
        (kOperationsOfLayer * layers_ * std::max(again_, again_moe_) + kOperationsOfMicroStep) * micro_steps_ * rates_.operation;
    if (place_.on_gpu) {
      // A host that starts work faster than the device does it does not count.
      add("waiting for the host", std::max(0.0, launched - time_.seconds), 1.0, "host");
    } else {
      add("starting operations", launched, 1.0, "host");
    }
  }

  /// Gradients to the ranks that own them, behind the last backward as far as they can be hidden there; the update; weights back to all.
  void add_ranks_and_update() {
    double summed = 0.0, gathered = 0.0;
    const char* limit = "links";
    for (const RingTraffic& ring : forecast_.rings()) {
      if (ring.ranks == 1 || ring.gradients == 0) continue;
      const Way way = ring_way(ring, place_, rates_);
      summed += number(ring.gradients) / way.rate + rates_.message;
      gathered += number(ring.weights) / way.rate + rates_.message;
      if (std::string(way.limit) == "network") limit = way.limit;
    }
    const double backward_of_last = 2.0 / 3.0 * time_.seconds / micro_steps_;
    time_.hidden_seconds = place_.on_gpu ? std::min(summed, kHideable * backward_of_last) : 0.0;
    add("gradients over ranks", summed - time_.hidden_seconds, 1.0, limit);
    const bool apart = bytes_.compute < bytes_.wide;  // else the masters are the weights, and no part of the optimizer's memory
    const double slice = number(memory_.optimizer) / number((apart ? 3 : 2) * bytes_.wide);
    add("update", slice * (kUpdatePasses * number(bytes_.wide) + number(apart ? bytes_.compute : 0)), rates_.copy, "memory");
    add("weights to ranks", gathered, 1.0, limit);
  }

  void add_rates() {
    const TokenFlops flops = token_flops(model_);
    time_.tokens_per_second = number(config_.train.global_batch * model_.sequence_length) / time_.seconds;
    time_.megatron_flops = flops.megatron * time_.tokens_per_second / number(place_.ranks);
    time_.torchtitan_flops = flops.torchtitan * time_.tokens_per_second / number(place_.ranks);
  }

  double head_weights() const { return width_ * number(model_.vocabulary); }
  /// Of one expert.
  double weights_of(const ExpertGroupConfig& group) const {
    const double hidden = number(group.width);
    return (is_gated(group.activation) ? 3 : 2) * width_ * hidden + number(group.layers - 2) * hidden * hidden;
  }

  const TrainConfig& config_;
  const ModelConfig& model_;
  const ForecastPlace& place_;
  const DeviceRates& rates_;
  Forecast forecast_;
  MemoryForecast memory_;
  RoutedRows rows_;  ///< of a micro-step of the fullest rank
  ElementBytes bytes_;
  double element_;  ///< bytes of a number of the compute dtype
  double micro_steps_;
  double tokens_;  ///< of the fullest rank's step
  double width_;   ///< D
  double layers_;
  double moe_layers_;
  double again_ = 1.0;      ///< forward and backward over what they take without recomputation
  double again_moe_ = 1.0;  ///< the same of MoE layers
  StepTimeForecast time_;
};

}  // namespace

const TimedWork& StepTimeForecast::bottleneck() const {
  return *std::max_element(parts.begin(), parts.end(), [](const TimedWork& a, const TimedWork& b) { return a.seconds < b.seconds; });
}

StepTimeForecast step_time(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew) {
  return StepClock(config, place, rates, skew).run();
}

}  // namespace pimoe
