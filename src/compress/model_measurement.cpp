#include "compress/model_measurement.h"

#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/manifest.h"
#include "checkpoint/training_state.h"
#include "model/decode_graphs.h"
#include "model/generation.h"
#include "moe/matrix.h"
#include "ops/kept_layouts.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <optional>
#include <vector>

namespace pimoe {
namespace {

constexpr int64_t kDecoded = 32;  ///< tokens of a sequence that are computed one by one
constexpr int kRepeats = 3;       ///< the fastest counts: others may use the machine too

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }

 private:
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

/// As `generate` and `serve` compute. Every rank has a sequence of its own, all together; the slowest rank's time counts.
ModelSpeed measure_speed(const LoadedModel& loaded, const TokenFile& corpus) {
  const at::NoGradGuard no_gradients;
  const Transformer& model = *loaded.model;
  const ModelConfig& config = model.config();
  if (routes_by_batch(config.moe)) return {};  // no token can be computed behind others
  const int64_t decoded = std::min(kDecoded, config.sequence_length / 2);
  const int64_t prompt = std::min(config.sequence_length, corpus.token_count()) - decoded;
  if (prompt < 1 || decoded < 1) return {};
  const at::Tensor ids = at::empty({prompt + decoded}, at::kLong);
  corpus.read(0, prompt + decoded, ids.mutable_data_ptr<int64_t>());
  corpus.require_ids_below(config.vocabulary, 0, ids.const_data_ptr<int64_t>(), prompt + decoded);
  const at::Tensor tokens = ids.to(loaded.mesh->device());
  const auto slowest = [&](double seconds) {
    at::Tensor time = at::tensor({seconds}, at::kDouble);
    loaded.mesh->control().all_reduce(time, ReduceOp::kMax);
    return time.item<double>();
  };
  const int64_t pages = KeyValueCache::pages_for(prompt + decoded);
  KeyValueCache cache(config, model.dtype(), loaded.mesh->device(), pages);
  std::vector<int64_t> all_pages(static_cast<size_t>(pages));
  std::iota(all_pages.begin(), all_pages.end(), 0);
  KeptLayouts layouts(model.weights());
  const KeptLayouts::Use use(layouts);
  DecodeGraphs graphs(model, cache, *loaded.mesh, 1);
  const auto extend = [&](int64_t first, int64_t count) {
    const std::vector<CachedPart> parts = {CachedPart{{.pages = all_pages, .first = first, .count = count}}};
    const int64_t* const id = ids.const_data_ptr<int64_t>() + first;
    if (const std::optional<at::Tensor> scores = graphs.replay({id, id + count}, parts)) return scores->cpu();
    return model.extend(tokens.narrow(0, first, count), parts, cache, count).cpu();
  };
  double prefill = std::numeric_limits<double>::infinity(), decode = prefill;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    loaded.mesh->control().barrier();
    const Stopwatch of_prompt;
    extend(0, prompt);
    prefill = std::min(prefill, slowest(of_prompt.seconds()));
    const Stopwatch of_others;
    for (int64_t at = prompt; at < prompt + decoded; ++at) extend(at, 1);
    decode = std::min(decode, slowest(of_others.seconds()));
  }
  const auto ranks = static_cast<double>(loaded.mesh->size());
  return {.prefill = ranks * static_cast<double>(prompt) / prefill, .decode = ranks * static_cast<double>(decoded) / decode};
}

}  // namespace

ModelMeasurement measure_model(const LoadedModel& loaded, const TokenFile& corpus, const ValidationPlan& plan, const std::string& what,
                               Logger& log) {
  const ValidationPart part(corpus, loaded.model->config().sequence_length, plan);
  ModelMeasurement result;
  result.tokens = part.targets;
  std::vector<std::vector<at::Tensor>> experts;
  const auto see = [&](const Prediction& prediction) {
    experts.resize(prediction.routing.size());
    result.loads.resize(prediction.routing.size());
    for (size_t layer = 0; layer < prediction.routing.size(); ++layer) {
      const RoutingRecord& routing = prediction.routing[layer];
      experts[layer].push_back(std::get<0>(at::sort(routing.experts.cpu(), 1)));
      at::Tensor& load = result.loads[layer];
      load = load.defined() ? load + routing.load.cpu() : routing.load.cpu().clone();
    }
  };
  WorkProgress progress(concat("measuring ", what), WorkUnit::kCount, log);
  const auto watch = [&](int64_t done, int64_t all) {
    progress.at(done, all, "micro-steps");
    return false;
  };
  result.cross_entropy = cross_entropy_of(*loaded.model, corpus, plan, *loaded.mesh, watch, see).value();
  for (const std::vector<at::Tensor>& parts : experts) result.experts.push_back(at::cat(parts));
  for (at::Tensor& load : result.loads) loaded.mesh->control().all_reduce(load);
  result.speed = measure_speed(loaded, corpus);
  return result;
}

std::vector<LayerChange> compare_layers(const LoadedModel& loaded, const ModelMeasurement& before, const ModelMeasurement& after) {
  const ModelConfig& config = loaded.model->config();
  std::vector<LayerChange> layers(static_cast<size_t>(config.layers));
  const auto first_moe = static_cast<size_t>(config.layers - config.moe_layers());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    LayerChange& change = layers[layer];
    change.layer = static_cast<int64_t>(layer);
    if (layer < first_moe) continue;
    const size_t index = layer - first_moe;
    const auto [unchanged, all] = unchanged_rows(before.experts[index], after.experts[index]);
    at::Tensor sums = at::tensor({unchanged, all}, at::kLong);
    loaded.mesh->control().all_reduce(sums);
    change.agreement = sums[0].item<double>() / std::max(1.0, sums[1].item<double>());
    change.used_before = used_share(before.loads[index]);
    change.used_after = used_share(after.loads[index]);
  }
  return layers;
}

ModelSize size_of(const std::filesystem::path& checkpoint, const ModelConfig& model) {
  ModelSize size;
  size.experts = model.moe.experts * model.moe_layers();
  for (const StoredPiece& stored : read_manifest(checkpoint).pieces) {
    if (stored.kind != state_kind::kMaster) continue;
    const int64_t bytes = stored.piece.numel() * element_bytes(stored.type);
    size.bytes += bytes;
    if (is_expert_tensor(stored.piece.name)) size.expert_bytes += bytes;
    if (!is_scale(stored.piece.name)) size.parameters += stored.piece.numel();
  }
  return size;
}

}  // namespace pimoe
