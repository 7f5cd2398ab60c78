#include "parallel/process_mesh.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace pimoe {
namespace {

/// World ranks of a group, in its order: "0 2".
std::string members(const ProcessMesh& mesh, const Communicator& group) {
  at::Tensor ranks = at::zeros({group.size()}, at::kLong);
  group.all_gather(ranks, at::full({1}, mesh.rank(), at::kLong));
  std::string text;
  for (int index = 0; index < group.size(); ++index) text += (index == 0 ? "" : " ") + std::to_string(ranks[index].item<int64_t>());
  return text;
}

struct Layout {
  int ranks;
  int expert_parallel;
  std::vector<std::string> expert;   ///< of each rank
  std::vector<std::string> replica;  ///< of each rank
};

const std::vector<Layout> kLayouts = {
    {1, 1, {"0"}, {"0"}},
    {2, 1, {"0", "1"}, {"0 1", "0 1"}},
    {2, 2, {"0 1", "0 1"}, {"0", "1"}},
    {3, 1, {"0", "1", "2"}, {"0 1 2", "0 1 2", "0 1 2"}},
    {3, 3, {"0 1 2", "0 1 2", "0 1 2"}, {"0", "1", "2"}},
    {4, 1, {"0", "1", "2", "3"}, {"0 1 2 3", "0 1 2 3", "0 1 2 3", "0 1 2 3"}},
    {4, 2, {"0 1", "0 1", "2 3", "2 3"}, {"0 2", "1 3", "0 2", "1 3"}},
    {4, 4, {"0 1 2 3", "0 1 2 3", "0 1 2 3", "0 1 2 3"}, {"0", "1", "2", "3"}},
};

TEST(ProcessMesh, LaysOutTheGroupsOfEveryExpertParallelWidth) {
  const int world_size = test_session().world()->size();
  int seen = 0;
  for (const Layout& layout : kLayouts) {
    if (layout.ranks != world_size) continue;
    ++seen;
    const auto mesh = world_mesh(cpu_mesh(layout.expert_parallel), 12);
    const auto rank = static_cast<size_t>(mesh->rank());
    EXPECT_EQ(mesh->expert_parallel(), layout.expert_parallel);
    EXPECT_EQ(members(*mesh, mesh->group(Group::kExpert)), layout.expert[rank]);
    EXPECT_EQ(members(*mesh, mesh->group(Group::kExpertReplica)), layout.replica[rank]);
    EXPECT_EQ(members(*mesh, mesh->gradient_group(Group::kExpertReplica)), layout.replica[rank]);
    for (const Group group : {Group::kWorld, Group::kBatch, Group::kDense}) EXPECT_EQ(mesh->group(group).size(), world_size);
    EXPECT_EQ(mesh->gradient_group(Group::kDense).size(), world_size);
    EXPECT_NE(&mesh->gradient_group(Group::kDense), &mesh->group(Group::kDense));
  }
  EXPECT_GT(seen, 0);
}

TEST(ProcessMesh, AutoSpreadsTheExpertsOverTheNode) {
  const auto mesh = world_mesh(cpu_mesh(), 12);
  EXPECT_EQ(mesh->node_size(), mesh->size());  // this job runs on one machine
  EXPECT_EQ(mesh->node_rank(), mesh->rank());
  EXPECT_EQ(mesh->expert_parallel(), mesh->size());
}

TEST(ProcessMesh, RefusesAWidthThatDoesNotDivideTheRanksOnEveryRank) { EXPECT_THROW(world_mesh(cpu_mesh(5), 10), ConfigError); }

TEST(SubMesh, CutsTheWorldIntoMeshesOfTheWidthAsked) {
  const auto world = test_session().world();
  for (int ranks = 1; ranks <= world->size(); ++ranks) {
    const auto mesh = sub_mesh(ranks, cpu_mesh(), 12);
    const bool left_over = world->rank() >= world->size() / ranks * ranks;
    ASSERT_EQ(mesh == nullptr, left_over);
    if (left_over) continue;
    EXPECT_EQ(mesh->size(), ranks);
    EXPECT_EQ(mesh->rank(), world->rank() % ranks);
    at::Tensor sum = at::full({1}, world->rank(), at::kLong);
    mesh->group(Group::kWorld).all_reduce(sum);
    const int64_t first = world->rank() / ranks * ranks;
    EXPECT_EQ(sum.item<int64_t>(), ranks * first + ranks * (ranks - 1) / 2);
  }
}

}  // namespace
}  // namespace pimoe
