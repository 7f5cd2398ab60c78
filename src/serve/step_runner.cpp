#include "serve/step_runner.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {
namespace {

/// Of each part its last `scored` tokens, counted through all parts.
std::vector<int64_t> scored_rows(const RankStep& step) {
  std::vector<int64_t> rows;
  int64_t end = 0;
  for (const CachedPart& part : step.parts) {
    end += part.count;
    for (int64_t row = end - part.scored; row < end; ++row) rows.push_back(row);
  }
  return rows;
}

void add_load(const std::vector<RoutingRecord>& routing, const at::Tensor& load) {
  for (const RoutingRecord& record : routing) load.add_(record.load);
}

}  // namespace

int64_t RankStep::scored() const {
  int64_t count = 0;
  for (const CachedPart& part : parts) count += part.scored;
  return count;
}

StepRunner::StepRunner(ServedModel model, int64_t pages, int64_t page_tokens, int64_t texts)
    : model_(std::move(model)),
      cache_(model_.model->config(), model_.model->dtype(), model_.mesh->device(), pages, page_tokens),
      layouts_(std::make_unique<KeptLayouts>(model_.model->weights())) {
  const ModelConfig& config = model_.model->config();
  if (config.moe_layers() > 0) load_ = at::zeros({config.moe.experts}, at::TensorOptions().dtype(at::kLong).device(model_.mesh->device()));
  graphs_ = std::make_unique<DecodeGraphs>(*model_.model, cache_, *model_.mesh, texts,
                                           [load = load_](const std::vector<RoutingRecord>& routing) { add_load(routing, load); });
}

at::Tensor StepRunner::scores_of(const RankStep& mine, int64_t most_tokens, std::vector<RoutingRecord>* experts) {
  if (experts == nullptr) {
    if (std::optional<at::Tensor> scores = graphs_->replay(mine.tokens, mine.parts)) return *scores;
  }
  std::vector<RoutingRecord> routing;
  const at::Tensor tokens = at::tensor(mine.tokens, at::kLong).to(model_.mesh->device());
  const at::Tensor scores = model_.model->extend(tokens, mine.parts, cache_, most_tokens, &routing);
  add_load(routing, load_);
  if (experts != nullptr) *experts = std::move(routing);
  return scores;
}

StepScores StepRunner::run(const std::vector<RankStep>& steps, bool experts) {
  const at::NoGradGuard no_gradients;
  const KeptLayouts::Use use(*layouts_);
  const RankStep& mine = steps[static_cast<size_t>(model_.mesh->rank())];
  size_t most = 0;
  for (const RankStep& step : steps) most = std::max(most, step.tokens.size());
  std::vector<RoutingRecord> routing;
  const at::Tensor logits = scores_of(mine, static_cast<int64_t>(most), experts ? &routing : nullptr);
  StepScores scores;
  scores.logits = gathered(logits.cpu(), steps);
  if (experts && !routing.empty()) {
    std::vector<at::Tensor> of_layers;
    const at::Tensor rows = at::tensor(scored_rows(mine), at::kLong).to(model_.mesh->device());
    for (const RoutingRecord& record : routing) of_layers.push_back(record.experts.index_select(0, rows));
    scores.experts = gathered(at::stack(of_layers, 1).cpu(), steps);
  }
  return scores;
}

at::Tensor StepRunner::gathered(const at::Tensor& rows, const std::vector<RankStep>& steps) const {
  if (steps.size() == 1) return rows.contiguous();
  const bool root = model_.mesh->rank() == 0;
  std::vector<int64_t> sent(steps.size()), received(steps.size());
  sent[0] = rows.size(0);
  for (size_t rank = 0; root && rank < steps.size(); ++rank) received[rank] = steps[rank].scored();
  return model_.mesh->control().all_to_all(rows.contiguous(), sent, received);
}

std::vector<int64_t> StepRunner::expert_load() const {
  if (!load_.defined()) return {};
  at::Tensor sum = load_.to(at::kCPU, /*non_blocking=*/false, /*copy=*/true);
  if (model_.mesh->size() > 1) model_.mesh->control().all_reduce(sum);
  const int64_t* counts = sum.const_data_ptr<int64_t>();
  return {counts, counts + sum.numel()};
}

}  // namespace pimoe
