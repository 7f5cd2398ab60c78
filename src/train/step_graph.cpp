#include "train/step_graph.h"

#include "base/text.h"
#include "model/flops.h"
#include "parallel/device.h"

#include <ATen/ops/empty_like.h>
#include <c10/util/Exception.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kStepsBefore = 3;  // libraries choose their algorithms in the first

/// Whether two steps differ in nothing but the tokens' ids. Each has documents of its own (data.document_mask).
bool same_shape(const std::vector<MicroBatch>& left, const std::vector<MicroBatch>& right) {
  return std::equal(left.begin(), left.end(), right.begin(), right.end(), [](const MicroBatch& a, const MicroBatch& b) {
    return !a.documents.defined() && !b.documents.defined() && a.tokens.sizes() == b.tokens.sizes() &&
           a.first_sequence == b.first_sequence && a.global_sequences == b.global_sequences;
  });
}

/// Whether two steps have the same constants: all of StepTerms but `step`, which nothing looks at that a step can be recorded with.
bool same_constants(const StepTerms& left, const StepTerms& right) {
  return left.seed == right.seed && left.step_tokens == right.step_tokens && left.step_targets == right.step_targets &&
         left.loss_scale == right.loss_scale && left.recompute == right.recompute && left.balance == right.balance &&
         left.temperature == right.temperature && left.replay == right.replay;
}

}  // namespace

struct StepGraph::Recorded {
  std::optional<StepSums> sums;  // where the graph leaves them
  std::unique_ptr<DeviceGraph> graph;
};

std::string StepGraph::obstacle(const Transformer& model, const ProcessMesh& mesh) {
  if (!mesh.device().is_cuda()) return "the run is on the CPU";
  if (mesh.size() > 1 && mesh.transport() != Transport::kNccl) return "what travels between ranks goes through the host";
  return model.recording_obstacle();
}

bool StepGraph::pays(const TrainConfig& config, const ProcessMesh& mesh) {
  constexpr double kKernelsOfLayer = 130;   // of a micro-step, forward and backward, as `pimoe bench model` counts them
  constexpr double kSecondsOfStart = 1e-5;  // of libtorch's operators, called from C++
  const double peak = peak_flops(mesh.device());
  if (peak == 0) return true;
  const int ranks = mesh.group(Group::kBatch).size();
  const StepPlan plan(config.train.global_batch, ranks, config.train.micro_batch);
  const auto tokens = static_cast<double>(config.train.global_batch * config.model.sequence_length) / ranks;
  const double starting = static_cast<double>(plan.micro_steps() * config.model.layers) * kKernelsOfLayer * kSecondsOfStart;
  return starting > tokens * token_flops(config.model).megatron / peak;
}

StepGraph::~StepGraph() = default;

StepGraph::StepGraph(const Transformer& model, GradientReducer& reducer, const ProcessMesh& mesh)
    : model_(model), reducer_(reducer), mesh_(mesh), stream_(mesh.device()) {}

StepSums StepGraph::accumulate_gradients(const std::vector<MicroBatch>& batches, const StepTerms& terms, const PredictionObserver& seen) {
  note(batches, terms);
  std::optional<StepSums> sums;
  stream_.run({}, [&] {
    const bool replays = can_replay(seen);
    sums.emplace(replays ? replay(batches) : pimoe::accumulate_gradients(model_, reducer_, mesh_, batches, terms, seen));
  });
  stream_.join();
  return *sums;
}

void StepGraph::note(const std::vector<MicroBatch>& batches, const StepTerms& terms) {
  if (terms_ && same_shape(inputs_, batches) && same_constants(*terms_, terms)) {
    ++steady_steps_;
    return;
  }
  recorded_.reset();
  steady_steps_ = 0;
  terms_ = terms;
  inputs_ = batches;
}

bool StepGraph::can_replay(const PredictionObserver& seen) {
  if (!trouble_.empty() || seen || steady_steps_ < kStepsBefore) return false;
  if (!recorded_) record();
  return recorded_ != nullptr;
}

void StepGraph::record() {
  // The graph's memory is taken beside that of the steps before, and has room for the worst routing.
  const int64_t needed = memory_use(mesh_.device()).peak_bytes * mesh_.group(Group::kExpert).size();
  if (const int64_t free = free_bytes(mesh_.device()); needed > free) {
    trouble_ = concat("its memory is not free beside that of other steps (", human_bytes(static_cast<double>(needed)), " needed, ",
                      human_bytes(static_cast<double>(free)), " free)");
    return;
  }
  for (MicroBatch& input : inputs_) {
    input.tokens = at::empty_like(input.tokens, input.tokens.options().device(mesh_.device()).pinned_memory(false));
    input.targets = at::empty_like(input.tokens);
  }
  StepTerms terms = *terms_;
  terms.static_rows = true;
  auto recorded = std::make_unique<Recorded>();
  try {
    recorded->graph = std::make_unique<DeviceGraph>(
        mesh_.device(), [&] { recorded->sums.emplace(pimoe::accumulate_gradients(model_, reducer_, mesh_, inputs_, terms, {})); });
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    trouble_ = text.substr(0, text.find('\n'));
    return;
  }
  recorded_ = std::move(recorded);
}

StepSums StepGraph::replay(const std::vector<MicroBatch>& batches) {
  for (size_t index = 0; index < batches.size(); ++index) {
    inputs_[index].tokens.copy_(batches[index].tokens, /*non_blocking=*/true);
    inputs_[index].targets.copy_(batches[index].targets, /*non_blocking=*/true);
  }
  recorded_->graph->replay();
  return *recorded_->sums;
}

std::string StepGraph::take_trouble() {
  if (is_said_ || trouble_.empty()) return "";
  is_said_ = true;
  return concat("train.cuda_graphs: steps are not recorded: ", trouble_);
}

}  // namespace pimoe
