#include "parallel/process_mesh.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <string>

namespace pimoe {
namespace {

std::string refusal(int64_t asked, int64_t experts, int64_t ranks) {
  try {
    choose_expert_parallel(asked, experts, ranks, ranks);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "";
}

TEST(ExpertParallel, AutoTakesTheLargestDivisorOfTheNodesRanksThatDividesTheExperts) {
  struct Row {
    int64_t experts, ranks, node_ranks;
    int expected;
  };
  const Row table[] = {{8, 4, 4, 4}, {6, 4, 4, 2}, {7, 4, 4, 1}, {64, 16, 8, 8}, {60, 16, 8, 4},
                       {3, 6, 6, 3}, {2, 6, 6, 2}, {8, 6, 3, 1}, {0, 4, 4, 1}};
  for (const Row& row : table) {
    EXPECT_EQ(choose_expert_parallel(0, row.experts, row.ranks, row.node_ranks), row.expected)
        << row.experts << " experts, " << row.ranks << " ranks, " << row.node_ranks << " a node";
  }
}

TEST(ExpertParallel, TakesWhatIsAskedWhereItFits) {
  EXPECT_EQ(choose_expert_parallel(4, 8, 16, 2), 4);  // wider than a node: slow, but what was asked
  EXPECT_EQ(choose_expert_parallel(1, 7, 3, 3), 1);
  EXPECT_EQ(choose_expert_parallel(1, 0, 3, 3), 1);
}

TEST(ExpertParallel, RefusalNamesTheRuleAndWhatWouldWork) {
  EXPECT_EQ(refusal(3, 6, 4),
            "mesh.expert_parallel (3) must divide the 4 ranks. Nearest that works: expert_parallel 1, 2, or 3 or 6 ranks");
  EXPECT_EQ(refusal(2, 0, 4), "mesh.expert_parallel (2) must be 1 or auto: the model has no experts (model.moe.experts 0)");
}

TEST(ProcessMesh, OfOneRankHasEveryGroup) {
  const auto mesh = single_mesh(cpu_mesh(), 8);
  EXPECT_EQ(mesh->expert_parallel(), 1);
  EXPECT_EQ(mesh->transport(), Transport::kMpi);
  EXPECT_TRUE(mesh->device().is_cpu());
  for (const Group group : {Group::kWorld, Group::kBatch, Group::kDense, Group::kExpert, Group::kExpertReplica}) {
    EXPECT_EQ(mesh->group(group).size(), 1);
    EXPECT_EQ(mesh->group(group).rank(), 0);
  }
  EXPECT_EQ(mesh->gradient_group(Group::kExpertReplica).size(), 1);
  EXPECT_THROW(mesh->gradient_group(Group::kExpert), ShapeError);
}

TEST(ProcessMesh, RefusesNcclOnTheHost) {
  MeshConfig config = cpu_mesh();
  config.transport = Transport::kNccl;
  EXPECT_THROW(single_mesh(config), ConfigError);
}

TEST(MeshConfig, ReadsItsKeysAndRefusesZeroRanks) {
  MeshConfig config;
  const auto fields = [&](FieldVisitor& visit) { visit.nested("mesh", config); };
  load_fields("mesh: {expert_parallel: 4, transport: mpi, device: cpu}", "test.yaml", {}, fields);
  EXPECT_EQ(config.expert_parallel, 4);
  EXPECT_EQ(config.transport, Transport::kMpi);
  EXPECT_EQ(config.device, DeviceChoice::kCpu);
  load_fields("mesh: {expert_parallel: auto}", "test.yaml", {}, fields);
  EXPECT_EQ(config.expert_parallel, 0);
  EXPECT_THROW(load_fields("mesh: {expert_parallel: -1}", "test.yaml", {}, fields), ConfigError);
}

}  // namespace
}  // namespace pimoe
