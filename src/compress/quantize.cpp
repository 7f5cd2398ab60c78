#include "compress/quantize.h"

#include "base/errors.h"
#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/training_state.h"
#include "compress/checkpoint_parts.h"
#include "moe/matrix.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <utility>

namespace pimoe {
namespace {

std::vector<int64_t> without_last(std::vector<int64_t> shape) {
  shape.pop_back();
  return shape;
}

/// Channel by channel: the numbers of a chunk of channels, and beside them its scales.
void add_quantized(CheckpointReader& reader, const std::string& tensor, const Parameter& matrix, CheckpointParts& parts) {
  const std::vector<int64_t>& shape = matrix.box.global;
  const int64_t terms = shape.back();
  const int64_t channels = matrix.box.global_numel() / terms;
  const int64_t together = std::max<int64_t>(1, kElementsTogether / terms);
  for (int64_t first = 0; first < channels; first += together) {
    const int64_t count = std::min(together, channels - first);
    const at::Tensor values = reader.read(tensor, first * terms, (first + count) * terms).to(at::kFloat).view({count, terms});
    const Int8Numbers numbers = int8_numbers(values);
    if (!numbers.scales.isfinite().all().item<bool>()) {
      throw CheckpointError(concat(tensor, " has numbers that are not finite: there is no int8 of them"));
    }
    parts.add(state_kind::kMaster, matrix.name, shape, first * terms, numbers.numbers);
    parts.add(state_kind::kMaster, matrix.name + kScaleSuffix, without_last(shape), first, numbers.scales);
    parts.may_write();
  }
}

}  // namespace

std::set<std::string> quantized_matrices(const ModelConfig& model, const ProcessMesh& mesh) {
  std::set<std::string> names;
  const std::unique_ptr<Transformer> transformer = declared_model(model, mesh);
  for (const auto& parameter : transformer->parameters()) {
    if (parameter->dtype == at::kChar) names.insert(parameter->name);
  }
  return names;
}

void write_quantized(const std::filesystem::path& from, const std::filesystem::path& to, const TrainConfig& config, const ProcessMesh& mesh,
                     const std::map<std::string, at::Tensor>& input_scales, Logger& log) {
  CheckpointReader reader(from);
  Manifest manifest;
  manifest.step = reader.manifest().step;
  manifest.config = to_yaml(config);
  manifest.numbers = reader.manifest().numbers;
  manifest.numbers.erase(state_number::kProofLoss);  // it is another model
  manifest.counters = reader.manifest().counters;
  const std::unique_ptr<Transformer> transformer = declared_model(config.model, mesh);
  const auto tensors = reader.tensors();
  WorkProgress progress(concat("writing ", to.string()), WorkUnit::kCount, log);
  write_from_checkpoint(to, std::move(manifest), [&](CheckpointParts& parts) {
    int64_t done = 0;
    for (const auto& parameter : transformer->parameters()) {
      progress.at(done++, static_cast<int64_t>(transformer->parameters().size()), "tensors");
      const std::string tensor = concat(state_kind::kMaster, "/", parameter->name);
      if (parameter->dtype == at::kChar) {
        add_quantized(reader, tensor, *parameter, parts);
      } else if (const auto found = tensors.find(tensor); found != tensors.end()) {
        parts.add_copy(reader, tensor, found->second.shape);
      } else if (parameter->name.ends_with(kInputScaleSuffix)) {
        const std::string matrix = parameter->name.substr(0, parameter->name.size() - std::string(kInputScaleSuffix).size());
        parts.add(state_kind::kMaster, parameter->name, parameter->box.global, 0, input_scales.at(matrix));
      } else if (!is_scale(parameter->name)) {
        reader.read(tensor, 0, 1);  // says that it is missing, and what is nearest
      }
    }
    for (const auto& [name, tensor] : tensors) {
      if (name.starts_with(concat(state_kind::kState, "/"))) parts.add_copy(reader, name, tensor.shape);
    }
  });
}

}  // namespace pimoe
