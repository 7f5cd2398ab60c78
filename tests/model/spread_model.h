#pragma once

#include "model/model_fixture.h"

namespace pimoe {

/// A model of several ranks, small, whose experts 1, 2, 3 and 4 ranks can share out.
inline ModelConfig spread_model(MoeExchange exchange) {
  ModelConfig config = tiny_model();
  config.sequence_length = 7;
  config.vocabulary = 29;
  config.moe.experts = 12;
  config.moe.exchange = exchange;
  return config;
}

/// Weights of the same initial values as a model on one rank has, as this rank holds them.
struct SpreadModel {
  SpreadModel(const ModelConfig& config, int64_t expert_parallel)
      : mesh(world_mesh(cpu_mesh(expert_parallel), config.moe.common_divisor())),
        model(config, at::kDouble, *mesh),
        buckets(model.parameters(), *mesh, 1 << 20, /*trained=*/false) {
    draw_initial_values(model.parameters());
  }

  std::unique_ptr<ProcessMesh> mesh;
  Transformer model;
  ParameterBuckets buckets;
};

}  // namespace pimoe
