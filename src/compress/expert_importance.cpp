#include "compress/expert_importance.h"

#include "base/errors.h"
#include "base/text.h"
#include "compress/calibration_pass.h"
#include "compress/expert_recipe.h"
#include "data/sample_reader.h"
#include "ops/grouped_product.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace pimoe {
namespace {

constexpr int64_t kSampledSequences = 8;
constexpr int64_t kTokensOfSequence = 32;

}  // namespace

ExpertImportance::ExpertImportance(ParameterList& parameters, const MoeConfig& moe, const std::vector<std::string>& layers)
    : moe_(moe), layers_(layers.size()) {
  if (moe.memory != MoeMemory::kLean) throw ShapeError("importance of experts: gates are with the rows under model.moe.memory: lean alone");
  std::set<std::string> names;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const std::vector<ExpertGroup> groups = expert_groups_of(layers[layer], moe);
    for (size_t group = 0; group < groups.size(); ++group) {
      const std::vector<std::string> matrices = groups[group].matrices();
      for (size_t matrix = 1; matrix < matrices.size(); ++matrix) {
        const Parameter& parameter = parameters.at(matrices[matrix]);
        const int64_t count = parameter.box.shape[0];
        const auto zeros = [&](at::IntArrayRef sizes, at::ScalarType dtype) {
          return at::zeros(sizes, at::TensorOptions().dtype(dtype).device(parameter.value.device()));
        };
        Consumer& consumer = consumers_[matrices[matrix]];
        consumer = {.layer = layer,
                    .group = group,
                    .hidden = matrix - 1,
                    .first = groups[group].first + parameter.box.offset[0],
                    .is_last = matrix + 1 == matrices.size(),
                    .matrix = &parameter,
                    .sizes = zeros({count, parameter.box.shape[2]}, at::kDouble),
                    .outputs = zeros({count}, at::kDouble),
                    .loads = zeros({count}, at::kLong)};
        names.insert(matrices[matrix]);
      }
    }
  }
  watch_.emplace(parameters, names, [this](const Parameter& matrix, const at::Tensor& rows, const at::Tensor& ends) {
    see(consumers_.at(matrix.name), rows, ends);
  });
}

void ExpertImportance::see(Consumer& consumer, const at::Tensor& rows, const at::Tensor& ends) {
  const at::NoGradGuard no_gradients;
  at::Tensor norms;
  if (consumer.is_last) {
    const at::Tensor outputs = grouped_linear_layer(rows, consumer.matrix->value, ends);
    norms = outputs.to(at_least_float32(outputs.scalar_type())).square().sum(1).sqrt();
  }
  const at::Tensor host = ends.cpu();
  int64_t begin = 0;
  for (int64_t expert = 0; expert < ends.numel(); ++expert) {
    const int64_t count = host.const_data_ptr<int32_t>()[expert] - begin;
    if (count > 0) {
      consumer.sizes.select(0, expert).add_(rows.narrow(0, begin, count).to(at::kDouble).abs().sum(0));
      if (consumer.is_last) {
        const at::Tensor norm = norms.narrow(0, begin, count);
        consumer.outputs.select(0, expert).add_(norm.to(at::kDouble).sum());
        consumer.loads.select(0, expert).add_((norm > 0).sum());
      }
    }
    begin += count;
  }
}

std::vector<LayerImportance> ExpertImportance::over(const Communicator& ranks) const {
  std::vector<LayerImportance> layers(layers_);
  const std::vector<ExpertGroup> groups = expert_groups_of("", moe_);
  for (LayerImportance& layer : layers) {
    layer.loads = at::zeros({moe_.experts}, at::kLong);
    layer.experts = at::zeros({moe_.experts}, at::kDouble);
    for (const ExpertGroup& group : groups) {
      layer.channels.emplace_back(static_cast<size_t>(group.hidden_layers()));
      for (at::Tensor& channels : layer.channels.back()) channels = at::zeros({group.shape.count, group.shape.width}, at::kDouble);
    }
  }
  for (const auto& [name, consumer] : consumers_) {
    LayerImportance& layer = layers[consumer.layer];
    const int64_t count = consumer.sizes.size(0);
    const at::Tensor columns = consumer.matrix->value.detach().to(at::kDouble).square().sum(1).sqrt();
    layer.channels[consumer.group][consumer.hidden]
        .narrow(0, consumer.first - groups[consumer.group].first, count)
        .copy_(consumer.sizes * columns);
    if (!consumer.is_last) continue;
    layer.experts.narrow(0, consumer.first, count).copy_(consumer.outputs);
    layer.loads.narrow(0, consumer.first, count).copy_(consumer.loads);
  }
  // Copies of an expert each saw other rows: they are added up.
  for (LayerImportance& layer : layers) {
    ranks.all_reduce(layer.loads);
    ranks.all_reduce(layer.experts);
    for (std::vector<at::Tensor>& group : layer.channels) {
      for (at::Tensor& channels : group) ranks.all_reduce(channels);
    }
  }
  return layers;
}

MeasuredImportance::MeasuredImportance(const LoadedModel& loaded, const TokenFile& corpus, int64_t wanted, Logger& log) {
  const ModelConfig& model = loaded.model->config();
  const ExpertImportance importance(loaded.model->parameters(), model.moe, moe_layer_names(model.router_names()));
  samples = compute_samples(loaded, corpus, wanted, log);
  layers = importance.over(loaded.mesh->control());
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    if (layers[layer].experts.isfinite().all().item<bool>()) continue;
    throw CheckpointError(concat(loaded.folder.string(), ": experts of MoE layer ", layer, " give numbers that are not finite for ",
                                 corpus.prefix().string(), ": none is less important than another"));
  }
}

std::vector<at::Tensor> sampled_layer_inputs(const LoadedModel& loaded, const TokenFile& corpus, int64_t samples) {
  const at::NoGradGuard no_gradients;
  const ModelConfig& model = loaded.model->config();
  std::map<std::string, std::vector<at::Tensor>> seen;
  const std::vector<std::string> names = first_matrices_of_routers(model);
  const MatrixWatch watch(loaded.model->parameters(), {names.begin(), names.end()},
                          [&](const Parameter& matrix, const at::Tensor& rows, const at::Tensor& /*ends*/) {
                            const int64_t every = std::max<int64_t>(1, rows.size(0) / kTokensOfSequence);
                            seen[matrix.name].push_back(rows.slice(0, 0, std::nullopt, every).to(at::kCPU, at::kFloat));
                          });
  const int64_t all = SampleReader(corpus, model.sequence_length, 0, /*shuffle=*/false).samples_per_epoch();
  const int64_t within = std::min(samples, all);
  const int64_t sequences = std::min(kSampledSequences, within);
  for (int64_t index = 0; index < sequences; ++index) compute_sequence(loaded, corpus, index * within / sequences * model.sequence_length);
  std::vector<at::Tensor> inputs;
  for (const std::string& name : names) inputs.push_back(at::cat(seen[name]));
  return inputs;
}

}  // namespace pimoe
