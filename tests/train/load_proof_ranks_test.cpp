#include "train/load_proof.h"

#include "base/errors.h"
#include "train/learner.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/roll.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

/// A model of the world's layout, and what a checkpoint of it would say of its loss.
struct Proved {
  explicit Proved(at::ScalarType dtype) : mesh(sub_mesh(test_session().world()->size(), config.mesh, config.model.moe.experts)) {
    learner = std::make_unique<Learner>(config, dtype, LossScaler(), *mesh);
    learner->optimizer().initialize(3);
    add_load_proof(saved, learner->model(), *mesh);
  }
  LoadProof prove() const { return prove_loaded(saved, config, learner->model(), config, *mesh); }
  const Parameter& parameter(const std::string& end) {
    for (const Parameter* found = nullptr; const auto& each : learner->model().parameters()) {
      if (each->name.ends_with(end)) found = each.get();
      if (found) return *found;
    }
    throw ShapeError("no parameter's name ends with " + end);
  }

  SharedFolder folder;
  TrainConfig config = tiny_config(folder, "run");
  std::unique_ptr<ProcessMesh> mesh;
  std::unique_ptr<Learner> learner;
  Snapshot saved;
};

TEST(LoadProof, HoldsForTheModelThatWasSaved) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    const LoadProof proof = Proved(dtype).prove();
    EXPECT_NE(proof.said.find("proved: "), std::string::npos) << proof.said;
    EXPECT_NE(proof.said.find("apart by 0"), std::string::npos) << proof.said;
    EXPECT_FALSE(proof.suspicious);
  }
}

// What digests cannot see: every byte is right, and a tensor is in another's place, on one rank.
TEST(LoadProof, FindsExpertsInEachOthersPlaces) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    Proved proved(dtype);
    const Parameter& down = proved.parameter("experts.down.weight");
    if (proved.mesh->rank() == 0) {
      const at::NoGradGuard no_gradients;
      at::Tensor weight = down.value;
      weight.copy_(at::roll(weight.detach(), 1, 0));
    }
    try {
      const LoadProof proof = proved.prove();
      EXPECT_EQ(dtype, at::kBFloat16) << proof.said;  // too coarse to refuse so small a change of an untrained model
      EXPECT_TRUE(proof.suspicious) << proof.said;
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find("the loaded model is not the one that was saved"), std::string::npos) << error.what();
    }
  }
}

TEST(LoadProof, SaysWhyItDoesNotCompare) {
  Proved proved(at::kDouble);
  TrainConfig before = proved.config;
  TrainConfig other = proved.config;
  before.model.moe.capacity_factor = 1.5;
  other.model.moe.capacity_factor = 1.5000001;  // may drop one slot less of a million
  EXPECT_NE(prove_loaded(proved.saved, before, proved.learner->model(), other, *proved.mesh).said.find("capacity or rank limits"),
            std::string::npos);
  proved.saved.numbers.clear();
  EXPECT_NE(proved.prove().said.find("holds no loss"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
