#include "parallel/mpi_session.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

namespace pimoe {
namespace {

using Variables = std::map<std::string, std::string>;

Environment environment_of(const Variables& variables) {
  return [&variables](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

std::string slurm_says(int mpi_size, const Variables& variables) { return slurm_trouble(mpi_size, environment_of(variables)); }

int processes(const Variables& variables) { return launched_processes(environment_of(variables)); }

TEST(SlurmTrouble, RefusesTasksThatEachSeeThemselvesAlone) {
  EXPECT_EQ(slurm_says(1, {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}}),
            "srun started 4 tasks, but MPI sees 1: use srun --mpi=pmix, or mpirun inside the batch script");
}

TEST(SlurmTrouble, AllowsWhatIsInOrder) {
  EXPECT_EQ(slurm_says(1, {}), "");
  // A plain command in a batch script: tasks were asked for, but no step runs.
  EXPECT_EQ(slurm_says(1, {{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}), "");
  // One task of a larger allocation.
  EXPECT_EQ(slurm_says(1, {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "1"}}), "");
  // mpirun -n 1, whose daemon srun started.
  EXPECT_EQ(slurm_says(1, {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"OMPI_COMM_WORLD_SIZE", "1"}}), "");
  // srun with PMIx.
  EXPECT_EQ(slurm_says(4, {{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}}), "");
}

TEST(LaunchedProcesses, AreWhatTheNearestLauncherStarted) {
  EXPECT_EQ(processes({}), 1);
  EXPECT_EQ(processes({{"OMPI_COMM_WORLD_SIZE", "2"}}), 2);
  EXPECT_EQ(processes({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "2"}, {"SLURM_NTASKS", "4"}}), 4);
  // One task of a larger allocation; mpirun -n 1, whose daemon srun started; a plain command in a batch script.
  EXPECT_EQ(processes({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"SLURM_STEP_NUM_TASKS", "1"}}), 1);
  EXPECT_EQ(processes({{"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}, {"OMPI_COMM_WORLD_SIZE", "1"}}), 1);
  EXPECT_EQ(processes({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "4"}}), 1);
}

TEST(LauncherRank, ReadsTheLaunchersEnvironment) {
  EXPECT_EQ(MpiSession::launcher_rank(), 0);
  setenv("SLURM_PROCID", "3", 1);
  EXPECT_EQ(MpiSession::launcher_rank(), 0);  // a batch script has one, too
  setenv("SLURM_STEP_ID", "0", 1);
  EXPECT_EQ(MpiSession::launcher_rank(), 3);
  setenv("OMPI_COMM_WORLD_RANK", "2", 1);
  EXPECT_EQ(MpiSession::launcher_rank(), 2);
  for (const char* name : {"SLURM_PROCID", "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK"}) unsetenv(name);
}

TEST(MpiSession, IsRefusedTwiceInOneProcess) {
  test_session();
  int argc = 0;
  char** argv = nullptr;
  EXPECT_THROW(MpiSession(argc, argv), CommError);
}

TEST(GroupOfOne, CommunicatesNothingAndReturnsItsInput) {
  const auto one = test_session().self();
  EXPECT_EQ(one->size(), 1);
  at::Tensor values = at::arange(6, at::kFloat);
  at::Tensor shard = at::zeros({6});
  one->all_reduce(values);
  one->broadcast(values, 0);
  one->reduce_scatter(shard, values);
  EXPECT_TRUE(shard.equal(at::arange(6, at::kFloat)));
  at::Tensor gathered = at::zeros({6});
  one->all_gather(gathered, shard);
  EXPECT_TRUE(gathered.equal(shard));
  one->all_gather(gathered, gathered);  // in place
  EXPECT_EQ(one->all_to_all(values.view({3, 2}), {3}, {3}).data_ptr(), values.data_ptr());
  one->barrier();
  EXPECT_EQ(one->all_gather_text("a"), std::vector<std::string>{"a"});
  EXPECT_EQ(one->broadcast_text("b", 0), "b");
  EXPECT_EQ(one->agree(""), "");
  EXPECT_EQ(one->agree("no space"), "rank 0: no space");
}

TEST(GroupOfOne, RefusesTheSameTensorsAsALargerOne) {
  const auto one = test_session().self();
  at::Tensor turned = at::zeros({2, 3}).t();
  at::Tensor half = at::zeros({2}, at::kBFloat16);
  at::Tensor three = at::zeros({3});
  at::Tensor three_wide = at::zeros({3}, at::kDouble);
  at::Tensor two = at::zeros({2});
  at::Tensor nothing;
  EXPECT_THROW(one->all_reduce(turned), ShapeError);
  EXPECT_THROW(one->all_reduce(half), ShapeError);
  EXPECT_THROW(one->all_reduce(nothing), ShapeError);
  EXPECT_THROW(one->broadcast(turned, 0), ShapeError);
  EXPECT_THROW(one->all_gather(three, two), ShapeError);
  EXPECT_THROW(one->all_gather(three_wide, three), ShapeError);
  EXPECT_THROW(one->reduce_scatter(two, three), ShapeError);
  EXPECT_THROW(one->all_to_all(three, {2}, {2}), ShapeError);
  EXPECT_THROW(one->all_to_all(three, {3}, {2}), ShapeError);
  EXPECT_THROW(one->all_to_all(three, {3, 0}, {3, 0}), ShapeError);
  EXPECT_THROW(one->all_to_all(three, {-3}, {-3}), ShapeError);
  EXPECT_THROW(one->all_to_all(at::zeros({}), {1}, {1}), ShapeError);
}

TEST(GroupOfOne, RefusalNamesCollectiveGroupAndRank) {
  const auto one = test_session().self();
  at::Tensor half = at::zeros({2}, at::kBFloat16);
  try {
    one->all_reduce(half);
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(),
                 "all_reduce in self group of 1, rank 0: dtype BFloat16 is not reduced; it must be float32, float64, int64 or int32");
  }
}

}  // namespace
}  // namespace pimoe
