#include "train/replica_check.h"

#include "base/text.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

void flip_bit(const at::Tensor& values, int64_t element, int bit) {
  auto* bytes = static_cast<uint8_t*>(values.data_ptr()) + element * values.element_size();
  bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
}

/// Dense and expert parameters of a run in `dtype`, an optimizer with state, router biases.
class Replicas {
 public:
  explicit Replicas(at::ScalarType dtype, int64_t expert_parallel = 1)
      : mesh_(world_mesh({.expert_parallel = expert_parallel, .device = DeviceChoice::kCpu}, 12)) {
    const int64_t local = 12 / expert_parallel;
    parameters_.declare(parameter("dense", Box::whole({37, 11}), Group::kDense, dtype));
    parameters_.declare(parameter("norm", Box::whole({5}), Group::kDense, at::kFloat));
    parameters_.declare(
        parameter("experts", Box::rows({12, 7, 3}, mesh_->rank() % expert_parallel * local, local), Group::kExpertReplica, dtype));
    buckets_.emplace(parameters_, *mesh_, ParameterBuckets::kBucketBytes, /*trained=*/true);
    optimizer_.emplace(*buckets_, OptimizerConfig{}, *mesh_);
    optimizer_->initialize(7);
    for (Bucket& bucket : buckets_->buckets()) bucket.gradients.fill_(0.5);
    step();
    check_.emplace(*buckets_, *optimizer_, std::map<std::string, at::Tensor>{{"router.bias", bias_}}, *mesh_);
  }

  void step() { optimizer_->step(0.01, optimizer_->gradient_norm(1.0), 1.0); }

  const ProcessMesh& mesh() const { return *mesh_; }
  ReplicaCheck& check() { return *check_; }
  Optimizer& optimizer() { return *optimizer_; }
  at::Tensor& weight(const std::string& name) { return parameters_.at(name).value; }
  at::Tensor& bias() { return bias_; }

  at::Tensor state(const std::string& kind, const std::string& name) const {
    for (const StatePiece& state : optimizer_->state()) {
      if (state.kind == kind && state.piece.name == name && state.piece.numel() > 0) return state.values;
    }
    return {};
  }

 private:
  static Parameter parameter(const std::string& name, Box box, Group copies, at::ScalarType dtype) {
    return {.name = name, .box = std::move(box), .copies = copies, .dtype = dtype, .decay = true, .initializer = {}, .value = {}};
  }

  std::unique_ptr<ProcessMesh> mesh_;
  ParameterList parameters_;
  std::optional<ParameterBuckets> buckets_;
  std::optional<Optimizer> optimizer_;
  at::Tensor bias_ = at::zeros({12}, at::kDouble);
  std::optional<ReplicaCheck> check_;
};

class ReplicaChecks : public testing::TestWithParam<at::ScalarType> {
 protected:
  int ranks() const { return test_session().size(); }
};

TEST_P(ReplicaChecks, SaysNothingOfWhatIsRight) {
  for (int64_t parallel : {1, 2, 3, 4}) {
    if (ranks() % parallel != 0) continue;
    Replicas replicas(GetParam(), parallel);
    EXPECT_EQ(replicas.check().trouble(), "");
    EXPECT_EQ(replicas.check().trouble(), "");
    for (int step = 0; step < 3; ++step) replicas.step();
    EXPECT_FALSE(replicas.optimizer().found_change());
    EXPECT_EQ(replicas.check().trouble(), "");
  }
}

// Any bit of any element of a copy that its rank does not own.
TEST_P(ReplicaChecks, NamesTheRankAndTheWeightWhereACopyHasChanged) {
  if (ranks() == 1) GTEST_SUCCEED() << "one rank has no copy to compare with";
  for (const int bit : {0, 6, 15}) {
    Replicas replicas(GetParam());
    const bool apart = GetParam() == at::kBFloat16;
    if (replicas.mesh().rank() == 0) flip_bit(replicas.weight("dense"), 406, bit);  // the last element: the last rank's slice
    const std::string trouble = replicas.check().trouble();
    if (ranks() == 1) continue;
    EXPECT_EQ(trouble.find("rank 0 ("), 0U) << trouble;
    EXPECT_NE(trouble.find("): dense"), std::string::npos) << trouble;
    EXPECT_EQ(trouble.find("experts"), std::string::npos) << trouble;
    // Two copies without a master apart: no one can tell which is right.
    if (apart || ranks() > 2) {
      EXPECT_EQ(trouble.find("rank 1 "), std::string::npos) << trouble;
    }
    replicas.optimizer().publish();
    EXPECT_EQ(replicas.check().trouble(), "") << "gathered anew";
  }
}

// Found by the check, or by an update that comes before it, until all is set anew.
TEST_P(ReplicaChecks, FindsAndNamesAMasterOrMomentThatChanged) {
  for (const bool by_update : {false, true}) {
    for (const char* kind : {"exp_avg", "exp_avg_sq", "master"}) {
      for (const char* name : {"dense", "norm", "experts"}) {
        SCOPED_TRACE(concat(kind, " of ", name, by_update ? " by the update" : " by the check"));
        Replicas replicas(GetParam());
        replicas.step();
        const at::Tensor values = replicas.state(kind, name);
        const bool mine = replicas.mesh().rank() == replicas.mesh().size() - 1 && values.defined();
        at::Tensor flipped = at::tensor({static_cast<int64_t>(mine)}, at::kLong);
        replicas.mesh().control().all_reduce(flipped, ReduceOp::kMax);
        if (mine) flip_bit(values, values.numel() / 2, 3);
        if (by_update) {
          replicas.step();
          EXPECT_EQ(replicas.optimizer().found_change(), mine);
          replicas.step();
        }
        const std::string trouble = replicas.check().trouble();
        if (flipped.item<int64_t>() == 0) {
          EXPECT_EQ(trouble, "");
          continue;
        }
        EXPECT_NE(trouble.find(concat("rank ", ranks() - 1, " (")), std::string::npos) << trouble;
        EXPECT_NE(trouble.find(concat(kind, " of ", name)), std::string::npos) << trouble;
        for (const char* other : {"dense", "norm", "experts"}) {
          if (std::string(other) != name) {
            EXPECT_EQ(trouble.find(concat(" of ", other)), std::string::npos) << trouble;
          }
        }
        replicas.optimizer().publish();
        EXPECT_FALSE(replicas.optimizer().found_change());
        EXPECT_EQ(replicas.check().trouble().find(concat(kind, " of ")), std::string::npos) << "taken for right";
      }
    }
  }
}

TEST_P(ReplicaChecks, NamesARouterBias) {
  Replicas replicas(GetParam());
  if (replicas.mesh().rank() == replicas.mesh().size() - 1) flip_bit(replicas.bias(), 11, 1);
  const std::string trouble = replicas.check().trouble();
  if (ranks() == 1) {
    EXPECT_EQ(trouble, "");
  } else {
    EXPECT_NE(trouble.find(concat("rank ", ranks() - 1, " (")), std::string::npos) << trouble;
    EXPECT_NE(trouble.find("): router.bias"), std::string::npos) << trouble;
  }
}

INSTANTIATE_TEST_SUITE_P(Dtypes, ReplicaChecks, testing::Values(at::kFloat, at::kBFloat16, at::kDouble));

}  // namespace
}  // namespace pimoe
