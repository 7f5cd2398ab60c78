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

class Clock {
 public:
  explicit Clock(StepTimeForecast& time) : time_(time) {}
  void add(const std::string& name, double amount, double rate, const char* limit) {
    if (amount <= 0) return;
    time_.parts.push_back({name, amount / rate, limit});
    time_.seconds += amount / rate;
  }

 private:
  StepTimeForecast& time_;
};

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

}  // namespace

const TimedWork& StepTimeForecast::bottleneck() const {
  return *std::max_element(parts.begin(), parts.end(), [](const TimedWork& a, const TimedWork& b) { return a.seconds < b.seconds; });
}

StepTimeForecast step_time(const TrainConfig& config, const ForecastPlace& place, const DeviceRates& rates, double skew) {
  const Forecast forecast(config, place);
  const ModelConfig& model = config.model;
  const ElementBytes bytes = ElementBytes::of(place.dtype);
  const auto micro_steps = static_cast<double>(forecast.micro_steps());
  const auto tokens =
      static_cast<double>(forecast.sequences_at_once() * model.sequence_length) * micro_steps;  // of the fullest rank's step
  const auto width = static_cast<double>(model.width);
  const auto element = static_cast<double>(bytes.compute);
  const double moe_layers = static_cast<double>(model.moe_layers());
  const double dense_layers = static_cast<double>(model.layers) - moe_layers;
  const double layers = static_cast<double>(model.layers);
  const int64_t expert_ranks = forecast.expert_parallel();
  // Recomputation is forward once more: 8 in place of 6 FLOP a weight, and 9 in place of 7 in attention. A lean MoE layer inside a recomputed
  // region computes twice more.
  const bool all_again = config.train.recompute == RecomputePolicy::kFull;
  const double again = all_again ? 4.0 / 3.0 : 1.0;
  const int moe_forwards = (config.train.recompute != RecomputePolicy::kNone ? 1 : 0) + (model.moe.memory == MoeMemory::kLean ? 1 : 0);
  const double again_moe = 1.0 + moe_forwards / 3.0;

  StepTimeForecast time;
  Clock clock(time);
  clock.add("attention's projections", 6 * tokens * layers * static_cast<double>(attention_weights(model)) * again, rates.product,
            "products");
  // Where keys and values are of two widths the kernels compute with the larger.
  const auto mixed = static_cast<double>(model.heads * std::max(model.key_width(), model.value_width()));
  clock.add("attention", (all_again ? 9 : 7) * tokens * layers * static_cast<double>(model.sequence_length) * mixed, rates.attention,
            "products");
  const auto in_heads =
      static_cast<double>(model.heads * model.key_width() + model.key_heads() * (model.key_width() + model.value_width()));
  const double head_passes = kHeadPasses + (model.norms_heads()         ? kHeadPassesOfNorms
                                            : model.norms_projections() ? kHeadPassesOfWholeNorms
                                                                        : 0.0);
  clock.add("norms, residuals, positions", tokens * element * again * (kStreamPasses * width + head_passes * in_heads) * layers, rates.copy,
            "memory");
  clock.add("dense feed-forward",
            18 * tokens * width *
                (static_cast<double>(model.feed_forward_width) * dense_layers + static_cast<double>(model.moe.shared_width) * moe_layers) *
                again,
            rates.product, "products");
  double direct_weights = width * static_cast<double>(model.vocabulary);  // whose gradients their products add up
  if (moe_layers > 0) {
    const RoutedRows rows = forecast.rows(skew);
    const std::vector<ExpertGroupConfig> groups = model.moe.expert_groups();
    clock.add("router", 6 * tokens * width * static_cast<double>(model.moe.experts) * moe_layers * again_moe, rates.wide_product,
              "products");
    double flops = 0.0;
    double moved = 0.0;
    for (size_t bank = 0; bank < groups.size(); ++bank) {
      const auto of_bank = static_cast<double>(rows.rows[bank]);
      const auto hidden = static_cast<double>(groups[bank].width);
      const double weights =
          (is_gated(groups[bank].activation) ? 3 : 2) * width * hidden + static_cast<double>(groups[bank].layers - 2) * hidden * hidden;
      flops += 6 * of_bank * weights;
      direct_weights += static_cast<double>(groups[bank].count / expert_ranks) * weights * moe_layers;
      const bool rows_travel = expert_ranks > 1 && rows.exchange == MoeExchange::kRows;
      const double passes = rows_travel    ? kExchangedRowPasses
                            : !rows.fused  ? kLocalRowPasses
                            : place.on_gpu ? kFusedRowPassesOnGpu
                                           : kFusedRowPasses;
      moved += of_bank * element * passes * width;
    }
    if (rows.exchange == MoeExchange::kTokens) moved += kExchangedTokenPasses * static_cast<double>(rows.arrived) * element * width;
    if (rows.exchange == MoeExchange::kDirect) moved += kDirectTokenPasses * static_cast<double>(rows.arrived) * element * width;
    clock.add("experts", flops * moe_layers * micro_steps * again_moe, rates.grouped_product, "products");
    clock.add("moves of rows", moved * moe_layers * micro_steps * again_moe, rates.copy, "memory");
    if (expert_ranks > 1) {
      const double collectives = rows.exchange == MoeExchange::kRows ? 5.0 : 8.0;
      const double calls =
          moe_layers * micro_steps * collectives * again_moe;  // counts; dispatch, of gates too, combine, and their ways back
      const RoutedRows even = forecast.rows(1.0);
      const auto travelling = [](const RoutedRows& of) { return of.exchange == MoeExchange::kRows ? of.all_rows() : of.arrived; };
      const double fuller = static_cast<double>(travelling(rows)) / static_cast<double>(std::max<int64_t>(1, travelling(even)));
      const Exchange moved_rows = exchange(static_cast<double>(forecast.traffic().rows) * fuller, expert_ranks, place, rates);
      clock.add("exchange", moved_rows.seconds + calls * rates.message, 1.0, moved_rows.limit);
    }
  }
  clock.add("head and cross-entropy", 6 * tokens * width * static_cast<double>(model.vocabulary), rates.head, "products");

  const MemoryForecast memory = forecast.memory(1.0);
  const auto gradient_bytes = static_cast<double>(memory.gradients);
  // Each micro-step reads its gradients and writes, then adds to, the sums. On a GPU experts and head write there themselves, and read what they
  // add to.
  const auto weight_bytes = static_cast<double>(memory.weights);
  const double direct = place.on_gpu ? std::min(1.0, direct_weights * element / weight_bytes) : 0.0;
  clock.add("sums of gradients",
            (1 - direct) * (weight_bytes * 2 * micro_steps + gradient_bytes * (2 * micro_steps - 1)) +
                direct * gradient_bytes * (micro_steps - 1),
            rates.copy, "memory");
  const double launched =
      (kOperationsOfLayer * layers * std::max(again, again_moe) + kOperationsOfMicroStep) * micro_steps * rates.operation;
  if (place.on_gpu) {
    // A host that starts work faster than the device does it does not count.
    clock.add("waiting for the host", std::max(0.0, launched - time.seconds), 1.0, "host");
  } else {
    clock.add("starting operations", launched, 1.0, "host");
  }

  double summed = 0.0, gathered = 0.0;
  const char* ring_limit = "links";
  for (const RingTraffic& ring : forecast.rings()) {
    if (ring.ranks == 1 || ring.gradients == 0) continue;
    const Way way = ring_way(ring, place, rates);
    summed += static_cast<double>(ring.gradients) / way.rate + rates.message;
    gathered += static_cast<double>(ring.weights) / way.rate + rates.message;
    if (std::string(way.limit) == "network") ring_limit = way.limit;
  }
  const double backward_of_last = 2.0 / 3.0 * time.seconds / micro_steps;
  time.hidden_seconds = place.on_gpu ? std::min(summed, kHideable * backward_of_last) : 0.0;
  clock.add("gradients over ranks", summed - time.hidden_seconds, 1.0, ring_limit);
  const bool apart = bytes.compute < bytes.wide;  // else the masters are the weights, and no part of the optimizer's memory
  const double slice = static_cast<double>(memory.optimizer) / static_cast<double>((apart ? 3 : 2) * bytes.wide);
  clock.add("update", slice * (kUpdatePasses * static_cast<double>(bytes.wide) + static_cast<double>(apart ? bytes.compute : 0)),
            rates.copy, "memory");
  clock.add("weights to ranks", gathered, 1.0, ring_limit);

  const double all_tokens = static_cast<double>(config.train.global_batch * model.sequence_length);
  const TokenFlops flops = token_flops(model);
  time.tokens_per_second = all_tokens / time.seconds;
  time.megatron_flops = flops.megatron * time.tokens_per_second / static_cast<double>(place.ranks);
  time.torchtitan_flops = flops.torchtitan * time.tokens_per_second / static_cast<double>(place.ranks);
  return time;
}

}  // namespace pimoe
