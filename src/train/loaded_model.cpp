#include "train/loaded_model.h"

#include "checkpoint/manifest.h"
#include "checkpoint/training_state.h"
#include "parallel/agreement.h"
#include "train/load_proof.h"
#include "train/router_state.h"
#include "train/seen_by_rank_0.h"

namespace pimoe {
namespace {

std::unique_ptr<ProcessMesh> mesh_for(MeshConfig config, int64_t experts, const MpiSession& session, ModelSpread spread) {
  if (spread == ModelSpread::kWhole) return std::unique_ptr<ProcessMesh>(new ProcessMesh(one_rank_mesh(config, session, experts)));
  config.expert_parallel = 0;
  config.transport = Transport::kAuto;
  return std::make_unique<ProcessMesh>(config, session.world(), session.node(), experts);
}

}  // namespace

LoadedModel::LoadedModel(const std::filesystem::path& checkpoint, const MpiSession& session, ModelSpread spread,
                         const std::function<void(TrainConfig&)>& change) {
  const std::unique_ptr<HostCommunicator> ranks = spread == ModelSpread::kShared ? session.world() : session.self();
  folder = seen_by_rank_0(*ranks, [&] { return find_checkpoint(checkpoint).string(); });
  const std::string yaml = seen_by_rank_0(*ranks, [&] { return read_manifest(folder).config; });
  const TrainConfig saved = parse_train_config(yaml, (folder / "manifest.json").string());
  config = saved;
  if (change) change(config);
  mesh = mesh_for(config.mesh, config.model.moe.common_divisor(), session, spread);
  model = std::make_unique<Transformer>(config.model, agreed_dtype(config.train.precision, *mesh), *mesh);

  Snapshot wanted;
  // What can go wrong on one rank alone, a file that only it cannot read or memory that only it lacks: the proof below is collective.
  do_together(*ranks, [&] {
    buckets = std::make_unique<ParameterBuckets>(model->parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/false);
    for (const auto& parameter : model->parameters()) {
      const int64_t count = parameter->box.numel();
      wanted.pieces.push_back({state_kind::kMaster, {parameter->name, parameter->box, 0, count}, parameter->value.view({count})});
    }
    for (MoELayer* layer : model->moe_layers()) wanted.pieces.push_back(router_bias_state(*layer));
    restore_snapshot(folder, wanted);
    for (MoELayer* layer : model->moe_layers()) require_finite_bias(*layer);
    for (MoELayer* layer : model->moe_layers()) layer->router().set_temperature(temperature_of(config, wanted.numbers));
  });
  step = wanted.step;
  proof = prove_loaded(wanted, saved, *model, config, *mesh).said;
}

}  // namespace pimoe
