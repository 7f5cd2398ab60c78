#include "app/loaded_model.h"

#include "base/text.h"
#include "checkpoint/manifest.h"

namespace pimoe {

LoadedModel::LoadedModel(const std::filesystem::path& checkpoint, const MpiSession& session, Logger& log) {
  const std::filesystem::path folder = find_checkpoint(checkpoint);
  config = parse_train_config(read_manifest(folder).config, (folder / "manifest.json").string());
  MeshConfig alone = config.mesh;
  alone.expert_parallel = 1;
  alone.transport = Transport::kAuto;
  mesh = std::make_unique<ProcessMesh>(alone, session.self(), session.self(), config.model.moe.experts);
  model = std::make_unique<Transformer>(config.model, compute_dtype(config.train.precision, mesh->device()), *mesh);
  buckets = std::make_unique<ParameterBuckets>(model->parameters(), *mesh, int64_t{64} << 20, /*trained=*/false);

  Snapshot wanted;
  for (const auto& parameter : model->parameters()) {
    const int64_t count = parameter->box.numel();
    wanted.pieces.push_back({"master", {parameter->name, parameter->box, 0, count}, parameter->value.view({count})});
  }
  for (MoELayer* layer : model->moe_layers()) {
    at::Tensor& bias = layer->router().bias();
    wanted.pieces.push_back({"state", {layer->router().name() + ".bias", Box::whole({bias.numel()}), 0, bias.numel()}, bias});
  }
  restore_snapshot(folder, wanted);
  log.info(concat("loaded ", folder.string(), ": step ", wanted.step));
}

}  // namespace pimoe
