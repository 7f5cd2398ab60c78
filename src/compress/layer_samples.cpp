#include "compress/layer_samples.h"

#include "compress/product_samples.h"
#include "model/transformer.h"
#include "train/gradient_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <string>

namespace pimoe {
namespace {

constexpr int64_t kTokens = 256;

}  // namespace

LayerSamples::LayerSamples(const LoadedModel& loaded, const TokenFile& corpus) {
  const ModelConfig& model = loaded.model->config();
  if (!model.moe.router_traits().has_scores) return;
  const std::vector<std::string> names = first_matrices_of_routers(model);
  std::map<std::string, at::Tensor> seen;
  {
    const MatrixWatch watch(loaded.model->parameters(), {names.begin(), names.end()},
                            [&](const Parameter& matrix, const at::Tensor& rows, const at::Tensor& /*ends*/) { seen[matrix.name] = rows; });
    length_ = compute_sequence(loaded, corpus, 0, kTokens);
  }
  for (const std::string& name : names) inputs_.push_back(seen.at(name).clone());
  outputs_ = outputs_of(loaded);
}

std::vector<at::Tensor> LayerSamples::outputs_of(const LoadedModel& loaded) const {
  const at::NoGradGuard no_gradients;
  BatchContext context = batch_context(0, loaded.mesh->group(Group::kExpert).size(), length_, *loaded.mesh);
  context.sequence_length = std::max<int64_t>(1, length_);
  std::vector<at::Tensor> outputs;
  for (const MoELayer* layer : loaded.model->moe_layers()) {
    std::optional<RoutingMemo> memo;
    outputs.push_back(layer->forward(inputs_[outputs.size()], context, memo).tokens);
  }
  return outputs;
}

void LayerSamples::add_errors(const LoadedModel& changed, std::vector<LayerChange>& layers) const {
  if (inputs_.empty()) return;
  const std::vector<at::Tensor> outputs = outputs_of(changed);
  const auto count = static_cast<int64_t>(outputs.size());
  at::Tensor squares = at::zeros({count, 2}, at::kDouble);
  for (int64_t index = 0; index < count; ++index) {
    const at::Tensor before = outputs_[static_cast<size_t>(index)].to(at::kDouble);
    squares[index][0] = (outputs[static_cast<size_t>(index)].to(at::kDouble) - before).square().sum().cpu();
    squares[index][1] = before.square().sum().cpu();
  }
  changed.mesh->control().all_reduce(squares);
  const auto first_moe = static_cast<int64_t>(layers.size()) - count;
  for (int64_t index = 0; index < count; ++index) {
    const double whole = squares[index][1].item<double>();
    if (whole > 0) layers.at(static_cast<size_t>(first_moe + index)).output_error = std::sqrt(squares[index][0].item<double>() / whole);
  }
}

}  // namespace pimoe
