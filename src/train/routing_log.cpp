#include "train/routing_log.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

namespace pimoe {
namespace {

constexpr std::string_view kStep = "step-";
constexpr std::string_view kRank = "-rank-";

}  // namespace

void RoutingLogConfig::fields(FieldVisitor& visit) {
  visit.integer("every_steps", every_steps, {.at_least = 0, .at_most = 1'000'000'000},
                "steps between recordings of routing decisions in RUN/routing; 0: none");
  visit.integer("tokens", tokens, {.at_least = 1, .at_most = 1 << 20}, "tokens that are recorded: the first of the step's global batch");
}

RoutingLog::RoutingLog(const RoutingLogConfig& config, std::filesystem::path folder, int rank, std::vector<std::string> routers,
                       const ModelConfig& model)
    : config_(config),
      folder_(std::move(folder)),
      rank_(rank),
      routers_(std::move(routers)),
      router_kind_(name_of(model.moe.router.kind)),
      choices_(model.moe.choices),
      experts_(model.moe.experts),
      sequence_length_(model.sequence_length) {}

void RoutingLog::begin_after(int64_t step) const {
  if (config_.every_steps == 0) return;
  std::error_code failed;
  std::filesystem::create_directories(folder_, failed);
  if (failed) throw IoError(concat("log.routing: cannot make ", folder_.string(), ": ", failed.message()), failed.value());
  const std::filesystem::path probe = folder_ / "probe.tmp";
  write_durably(probe, "", 0);
  std::filesystem::remove(probe, failed);
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kStep)) continue;
    int64_t of = 0;
    const auto [end, error] = std::from_chars(name.data() + kStep.size(), name.data() + name.size(), of);
    if (error == std::errc() && std::string_view(end).starts_with(kRank) && of > step) std::filesystem::remove_all(entry.path(), failed);
  }
}

void RoutingLog::add(int64_t step, const MicroBatch& batch, const Prediction& prediction) {
  if (!is_due(step)) return;
  const int64_t first = batch.first_sequence * sequence_length_;
  const int64_t count = std::min(batch.tokens.numel(), config_.tokens - first);
  if (count <= 0) return;
  sample_.step = step;
  sample_.router_kind = router_kind_;
  sample_.choices = choices_;
  sample_.expert_count = experts_;
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

std::string RoutingLog::write() {
  if (sample_.tokens.empty()) return "";
  const RoutingSample done = std::exchange(sample_, {});
  try {
    write_routing(folder_ / concat(kStep, padded(done.step, 8), kRank, padded(rank_, 4), ".h5"), done);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace pimoe
