#include "train/loaded_model.h"

#include "checkpoint/manifest.h"
#include "checkpoint/training_state.h"
#include "train/load_proof.h"
#include "train/router_state.h"

namespace pimoe {

LoadedModel::LoadedModel(const std::filesystem::path& checkpoint, const MpiSession& session) : folder(find_checkpoint(checkpoint)) {
  config = parse_train_config(read_manifest(folder).config, (folder / "manifest.json").string());
  mesh.reset(new ProcessMesh(one_rank_mesh(config.mesh, session, config.model.moe.common_divisor())));
  model = std::make_unique<Transformer>(config.model, compute_dtype(config.train.precision, mesh->device()), *mesh);
  buckets = std::make_unique<ParameterBuckets>(model->parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);

  Snapshot wanted;
  for (const auto& parameter : model->parameters()) {
    const int64_t count = parameter->box.numel();
    wanted.pieces.push_back({state_kind::kMaster, {parameter->name, parameter->box, 0, count}, parameter->value.view({count})});
  }
  for (MoELayer* layer : model->moe_layers()) wanted.pieces.push_back(router_bias_state(*layer));
  restore_snapshot(folder, wanted);
  for (MoELayer* layer : model->moe_layers()) layer->router().set_temperature(temperature_of(config, wanted.numbers));
  step = wanted.step;
  proof = prove_loaded(wanted, config, *model, config, *mesh).said;
}

}  // namespace pimoe
