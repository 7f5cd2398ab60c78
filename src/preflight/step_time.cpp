#include "preflight/step_time.h"

#include <algorithm>

namespace pimoe {
namespace {

/// Bytes that a layer reads and writes per number of the residual stream, forward and backward, in numbers of the compute dtype: norms 10, residual
/// sums 12, rotary positions and views of heads 16, and the router's wide copy 8.
constexpr double kStreamPasses = 38.0;
constexpr double kRouterPasses = 8.0;
/// Per number of an expert's row: fused, results and gradients of rows are written by products and read once; exchanged, rows are gathered, permuted
/// to experts and back, and added up, and so are their gradients.
constexpr double kFusedRowPasses = 2.0;
constexpr double kLocalRowPasses = 8.0;
constexpr double kExchangedRowPasses = 14.0;
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
  // Recomputation is a third forward: 8 in place of 6 FLOP a weight.
  const double again = config.train.recompute == RecomputePolicy::kFull ? 4.0 / 3.0 : 1.0;
  const double again_moe = config.train.recompute != RecomputePolicy::kNone || model.moe.memory == MoeMemory::kLean ? 4.0 / 3.0 : 1.0;

  StepTimeForecast time;
  Clock clock(time);
  const double head = static_cast<double>(model.head_size());
  const double heads = static_cast<double>(model.heads), kv_heads = static_cast<double>(model.kv_heads);
  clock.add("attention's projections", 6 * tokens * layers * width * head * (2 * heads + 2 * kv_heads) * again, rates.product, "products");
  clock.add("attention", 7 * tokens * layers * static_cast<double>(model.sequence_length) * heads * head * again, rates.attention,
            "products");
  clock.add("norms, residuals, positions", tokens * width * element * (kStreamPasses * layers + kRouterPasses * moe_layers) * again,
            rates.copy, "memory");
  clock.add("dense feed-forward",
            18 * tokens * width *
                (static_cast<double>(model.feed_forward_width) * dense_layers + static_cast<double>(model.moe.shared_width) * moe_layers) *
                again,
            rates.product, "products");
  double exchanged_seconds = 0.0;
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
      const double passes = expert_ranks > 1 ? kExchangedRowPasses : rows.fused ? kFusedRowPasses : kLocalRowPasses;
      moved += of_bank * element * passes * width;
    }
    clock.add("experts", flops * moe_layers * micro_steps * again_moe, rates.grouped_product, "products");
    clock.add("moves of rows", moved * moe_layers * micro_steps * again_moe, rates.copy, "memory");
    if (expert_ranks > 1) {
      const bool near = inside_node(expert_ranks, place);
      const double rate = near ? rates.link : rates.network;
      const double calls = moe_layers * micro_steps * 5.0 * again_moe;  // counts; dispatch and combine, and their ways back
      exchanged_seconds =
          static_cast<double>(forecast.traffic().rows) *
              (static_cast<double>(rows.all_rows()) / static_cast<double>(std::max<int64_t>(1, forecast.rows(1.0).all_rows()))) / rate +
          calls * rates.message;
      clock.add("exchange of rows", exchanged_seconds, 1.0, near ? "links" : "network");
    }
  }
  clock.add("head and cross-entropy", 6 * tokens * width * static_cast<double>(model.vocabulary), rates.head, "products");

  const MemoryForecast memory = forecast.memory(1.0);
  const auto gradient_bytes = static_cast<double>(memory.gradients);
  // Each micro-step reads its gradients and writes, then adds to, the sums.
  const double weight_bytes = static_cast<double>(memory.weights);
  clock.add("sums of gradients", weight_bytes * 2 * micro_steps + gradient_bytes * (2 * micro_steps - 1), rates.copy, "memory");
  const double launched =
      (kOperationsOfLayer * layers * std::max(again, again_moe) + kOperationsOfMicroStep) * micro_steps * rates.operation;
  // A host that starts work faster than the device does it does not count.
  clock.add("waiting for the host", std::max(0.0, launched - time.seconds), 1.0, "host");

  const TrafficForecast traffic = forecast.traffic();
  const double ring = inside_node(place.ranks, place) ? rates.link : rates.network;
  const char* ring_limit = inside_node(place.ranks, place) ? "links" : "network";
  if (place.ranks > 1) {
    const double summed = static_cast<double>(traffic.gradients) / ring + rates.message;
    const double backward_of_last = 2.0 / 3.0 * time.seconds / micro_steps;
    time.hidden_seconds = place.on_gpu ? std::min(summed, kHideable * backward_of_last) : 0.0;
    clock.add("gradients over ranks", summed - time.hidden_seconds, 1.0, ring_limit);
  }
  const bool apart = bytes.compute < bytes.wide;  // else the masters are the weights, and no part of the optimizer's memory
  const double slice = static_cast<double>(memory.optimizer) / static_cast<double>((apart ? 3 : 2) * bytes.wide);
  clock.add("update", slice * (kUpdatePasses * static_cast<double>(bytes.wide) + static_cast<double>(apart ? bytes.compute : 0)),
            rates.copy, "memory");
  if (place.ranks > 1) clock.add("weights to ranks", static_cast<double>(traffic.weights) / ring + rates.message, 1.0, ring_limit);

  const double all_tokens = static_cast<double>(config.train.global_batch * model.sequence_length);
  const TokenFlops flops = token_flops(model);
  time.tokens_per_second = all_tokens / time.seconds;
  time.megatron_flops = flops.megatron * time.tokens_per_second / static_cast<double>(place.ranks);
  time.torchtitan_flops = flops.torchtitan * time.tokens_per_second / static_cast<double>(place.ranks);
  return time;
}

}  // namespace pimoe
