#include "compress/prune.h"

#include "base/text.h"
#include "base/work_progress.h"
#include "checkpoint/training_state.h"
#include "compress/checkpoint_parts.h"
#include "compress/expert_merging.h"
#include "train/data_facts.h"

#include <map>

namespace pimoe {
namespace {

std::string master(const std::string& name) { return concat(state_kind::kMaster, "/", name); }

/// Numbers and counters of a run that has not taken a step.
void begin_afresh(Manifest& manifest, const Manifest& before) {
  manifest.numbers = {{state_number::kLossScale, 1.0}};
  for (const char* counter : {state_counter::kTokensSeen, state_counter::kOptimizerSteps, state_counter::kSkippedInARow,
                              state_counter::kNotFiniteInARow, state_counter::kLossScaleDynamic, state_counter::kLossScaleGoodSteps}) {
    manifest.counters[counter] = 0;
  }
  for (const auto& [name, value] : before.counters) {
    if (name == state_counter::kNextSample || is_data_fact(name)) manifest.counters[name] = value;
  }
}

/// One expert's matrix out of that of all, as it is stored.
at::Tensor read_expert(CheckpointReader& reader, const std::string& matrix, const std::vector<int64_t>& shape, int64_t index) {
  const int64_t elements = shape[1] * shape[2];
  return reader.read(master(matrix), index * elements, (index + 1) * elements).view({shape[1], shape[2]});
}

/// A matrix of experts, as it was and as it becomes.
struct ExpertMatrix {
  const LayerRecipe* recipe = nullptr;
  ExpertGroup before, after;
  int64_t matrix = 0;
};

/// What of a model is made by recipes; all else is copied.
struct MadeTensors {
  MadeTensors(const TrainConfig& before, const TrainConfig& config, const std::vector<LayerPlan>& plans) {
    const std::vector<std::string> layers = moe_layer_names(config.model.router_names());
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      for (const char* name : {".router.weight", ".router.logit_bias", ".router.bias"})
        routers[layers[layer] + name] = &plans[layer].recipe;
      const std::vector<ExpertGroup> was = expert_groups_of(layers[layer], before.model.moe);
      const std::vector<ExpertGroup> is = expert_groups_of(layers[layer], config.model.moe);
      for (size_t group = 0; group < is.size(); ++group) {
        const std::vector<std::string> names = is[group].matrices();
        for (size_t matrix = 0; matrix < names.size(); ++matrix) {
          matrices[names[matrix]] = {&plans[layer].recipe, was[group], is[group], static_cast<int64_t>(matrix)};
        }
      }
    }
  }

  std::map<std::string, ExpertMatrix> matrices;
  std::map<std::string, const LayerRecipe*> routers;  ///< with a row for each expert
};

void add_made_matrix(CheckpointReader& reader, const Parameter& parameter, const ExpertMatrix& made,
                     const std::vector<int64_t>& shape_before, CheckpointParts& parts) {
  const auto read = [&](int64_t expert) { return read_expert(reader, parameter.name, shape_before, expert - made.before.first); };
  int64_t begin = 0;
  for (int64_t index = 0; index < made.after.shape.count; ++index) {
    const auto& sources = made.recipe->experts[static_cast<size_t>(made.after.first + index)];
    const at::Tensor values = made_matrix(sources, made.before, made.matrix, read);
    parts.add(state_kind::kMaster, parameter.name, parameter.box.global, begin, values);
    begin += values.numel();
    parts.may_write();
  }
}

void add_made_rows(CheckpointReader& reader, const std::string& tensor, const std::vector<int64_t>& shape, const LayerRecipe& recipe,
                   CheckpointParts& parts) {
  const at::Tensor rows = made_rows(recipe, reader.read(tensor, 0, Box::whole(shape).global_numel()).view(shape));
  const size_t slash = tensor.find('/');
  parts.add(tensor.substr(0, slash), tensor.substr(slash + 1), rows.sizes().vec(), 0, rows);
  parts.may_write();
}

}  // namespace

std::vector<LayerPlan> plan_pruning(const std::filesystem::path& from, PruneKind kind, const ModelConfig& before, const ModelConfig& after,
                                    const std::vector<LayerImportance>& importance, const std::vector<at::Tensor>& layer_inputs,
                                    Logger& log) {
  const std::vector<std::string> layers = moe_layer_names(before.router_names());
  const std::vector<ExpertCell> cells = kind == PruneKind::kChannels ? std::vector<ExpertCell>() : cells_of(before.moe, after.moe);
  CheckpointReader reader(from);
  const auto tensors = reader.tensors();
  WorkProgress progress("comparing experts", WorkUnit::kCount, log);
  std::vector<LayerPlan> plans;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    switch (kind) {
      case PruneKind::kExperts: plans.push_back(plan_experts(importance[layer], cells)); break;
      case PruneKind::kChannels: plans.push_back(plan_channels(importance[layer], before.moe, after.moe)); break;
      case PruneKind::kMerge: {
        progress.at(static_cast<int64_t>(layer), static_cast<int64_t>(layers.size()), "layers");
        std::map<std::string, int64_t> first;  // by matrix, of the experts that have it
        for (const ExpertGroup& group : expert_groups_of(layers[layer], before.moe)) {
          for (const std::string& matrix : group.matrices()) first[matrix] = group.first;
        }
        const ExpertReader read = [&](const std::string& matrix, int64_t expert) {
          const auto found = tensors.find(master(matrix));
          if (found == tensors.end()) reader.read(master(matrix), 0, 1);  // says that it is missing, and what is nearest
          return read_expert(reader, matrix, found->second.shape, expert - first.at(matrix));
        };
        plans.push_back(plan_merging(layers[layer], before.moe, cells, importance[layer], layer_inputs[layer], read));
        break;
      }
    }
  }
  return plans;
}

void write_pruned(const std::filesystem::path& from, const std::filesystem::path& to, const TrainConfig& before, const TrainConfig& config,
                  const ProcessMesh& mesh, const std::vector<LayerPlan>& plans, Logger& log) {
  CheckpointReader reader(from);
  Manifest manifest;
  manifest.config = to_yaml(config);
  begin_afresh(manifest, reader.manifest());
  const std::unique_ptr<Transformer> model = declared_model(config.model, mesh);
  const MadeTensors made(before, config, plans);
  const auto tensors = reader.tensors();
  WorkProgress progress(concat("writing ", to.string()), WorkUnit::kCount, log);
  write_from_checkpoint(to, std::move(manifest), [&](CheckpointParts& parts) {
    int64_t done = 0;
    at::ScalarType dtype = at::kFloat;
    // Masters first: who wants the weights alone reads a third of the files.
    for (const auto& parameter : model->parameters()) {
      progress.at(done++, static_cast<int64_t>(model->parameters().size()), "tensors");
      const std::string tensor = master(parameter->name);
      const auto found = tensors.find(tensor);
      if (found == tensors.end()) {
        reader.read(tensor, 0, 1);  // says that it is missing, and what is nearest
        continue;
      }
      const std::vector<int64_t>& shape = found->second.shape;
      dtype = scalar_type_of(found->second.type);
      if (const auto matrix = made.matrices.find(parameter->name); matrix != made.matrices.end()) {
        add_made_matrix(reader, *parameter, matrix->second, shape, parts);
      } else if (const auto router = made.routers.find(parameter->name); router != made.routers.end()) {
        add_made_rows(reader, tensor, shape, *router->second, parts);
      } else {
        parts.add_copy(reader, tensor, shape);
      }
    }
    for (const auto& [tensor, facts] : tensors) {
      const std::string kind = concat(state_kind::kState, "/");
      if (!tensor.starts_with(kind)) continue;
      if (const auto router = made.routers.find(tensor.substr(kind.size())); router != made.routers.end()) {
        add_made_rows(reader, tensor, facts.shape, *router->second, parts);
      } else {
        parts.add_copy(reader, tensor, facts.shape);
      }
    }
    for (const char* kind : {state_kind::kFirstMoment, state_kind::kSecondMoment}) {
      for (const auto& parameter : model->parameters()) parts.add_zeros(kind, parameter->name, parameter->box.global, dtype);
    }
  });
}

}  // namespace pimoe
