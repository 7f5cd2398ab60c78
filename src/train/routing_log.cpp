#include "train/routing_log.h"

#include "base/text.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>

namespace pimoe {

void RoutingLogConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 0, .at_most = 1'000'000'000},
                "steps between recordings of routing decisions in RUN/routing; 0: none");
  visit.integer("tokens", tokens, {.at_least = 1, .at_most = 1 << 20}, "tokens that are recorded: the first of the step's global batch");
}

RoutingLog::RoutingLog(const RoutingLogConfig& config, std::filesystem::path folder, int rank, std::vector<std::string> routers,
                       int64_t sequence_length)
    : config_(config), folder_(std::move(folder)), rank_(rank), routers_(std::move(routers)), sequence_length_(sequence_length) {}

void RoutingLog::add(int64_t step, const MicroBatch& batch, const Prediction& prediction) {
  if (config_.every_steps == 0 || step % config_.every_steps != 0) return;
  const int64_t first = batch.first_sequence * sequence_length_;
  const int64_t count = std::min(batch.tokens.numel(), config_.tokens - first);
  if (count <= 0) return;
  sample_.step = step;
  if (!routers_.empty()) sample_.expert_count = prediction.routing.front().load.numel();
  for (int64_t token = 0; token < count; ++token) sample_.tokens.push_back(first + token);
  const int64_t* ids = batch.tokens.const_data_ptr<int64_t>();
  sample_.token_ids.insert(sample_.token_ids.end(), ids, ids + count);
  for (size_t layer = 0; layer < routers_.size(); ++layer) {
    const at::Tensor experts = prediction.routing[layer].experts.narrow(0, 0, count).cpu().contiguous();
    const at::Tensor weights = prediction.routing[layer].weights.narrow(0, 0, count).cpu().to(at::kDouble).contiguous();
    RoutingDecisions& decisions = sample_.routers[routers_[layer]];
    decisions.choices = experts.size(1);
    decisions.experts.insert(decisions.experts.end(), experts.const_data_ptr<int32_t>(),
                             experts.const_data_ptr<int32_t>() + experts.numel());
    decisions.weights.insert(decisions.weights.end(), weights.const_data_ptr<double>(), weights.const_data_ptr<double>() + weights.numel());
  }
}

void RoutingLog::write() {
  if (sample_.tokens.empty()) return;
  const RoutingSample done = std::exchange(sample_, {});
  std::filesystem::create_directories(folder_);
  write_routing(folder_ / concat("step-", padded(done.step, 8), "-rank-", padded(rank_, 4), ".h5"), done);
}

}  // namespace pimoe
