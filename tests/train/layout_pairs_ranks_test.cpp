/// A run that changes its layout at a checkpoint: every ordered pair of the layouts that fit into this job; in jobs of up to four ranks those pairs that
/// no smaller job has, unless PIMOE_ALL_CASES is set. With 8 ranks these are the 16 layouts of 1, 2, 3, 4, 6 and 8 ranks with each expert_parallel that
/// divides them:
///     mpirun -n 8 build/tests/train_ranks_test --ranks=8 --gtest_filter='LayoutPairs.*'

#include "base/text.h"
#include "checkpoint/comparison.h"
#include "checkpoint/step_folders.h"
#include "train/router_state.h"
#include "train/tiny_run.h"

#include <gtest/gtest.h>

#include <cstdlib>

namespace pimoe {
namespace {

constexpr int64_t kCut = 2;
constexpr int64_t kMore = 10;

struct Layout {
  int ranks;
  int64_t expert_parallel;
  std::string name() const { return concat(ranks, "x", expert_parallel); }
};

std::vector<Layout> layouts_up_to(int ranks) {
  std::vector<Layout> layouts;
  for (const int count : {1, 2, 3, 4, 6, 8}) {
    for (int64_t shards = 1; shards <= count && count <= ranks; ++shards) {
      if (count % shards == 0) layouts.push_back({count, shards});
    }
  }
  return layouts;
}

TrainConfig config_of(const SharedFolder& folder, const Layout& layout, const std::string& run) {
  TrainConfig config = tiny_config(folder, run);
  config.model.layers = 2;
  config.model.moe.experts = 24;
  config.model.moe.balance.bias_rate = 0.01;
  config.mesh.expert_parallel = layout.expert_parallel;
  config.optimizer.schedule = Schedule::kConstant;
  config.train.micro_batch = 7;
  config.train.steps = kCut;
  return config;
}

/// Trains on the first ranks of the job; the others wait.
void train(const TrainConfig& config, const Layout& layout) {
  const auto world = test_session().world();
  const auto mesh = sub_mesh(layout.ranks, config.mesh, config.model.moe.experts);
  if (world->rank() < layout.ranks) {
    Logger log(1);
    Trainer(config, *mesh, log, nullptr).run();
  }
  world->patient_barrier();
}

/// Loads `checkpoint` under `layout`, and saves what was loaded into `folder`. @returns the new checkpoint
std::filesystem::path load_and_save(const std::filesystem::path& checkpoint, const Layout& layout, const TrainConfig& config,
                                    const std::filesystem::path& folder) {
  const auto world = test_session().world();
  const auto mesh = sub_mesh(layout.ranks, config.mesh, config.model.moe.experts);
  if (world->rank() < layout.ranks) {
    Logger log(1);
    Learner learner(config, at::kDouble, LossScaler(), *mesh);
    CheckpointStore store(folder, config.checkpoint, *mesh, log);
    Snapshot state;
    state.pieces = learner.optimizer().state();
    for (MoELayer* layer : learner.moe_layers()) state.pieces.push_back(router_bias_state(*layer));
    store.restore(checkpoint, state);
    store.save(state);
  }
  world->patient_barrier();
  return folder / step_name(kCut);
}

std::vector<double> losses_of(const TrainConfig& config) {
  std::vector<double> losses;
  for (const auto& record : records_of(config)) losses.push_back(record.at("loss"));
  return losses;
}

std::vector<std::string> digests_of(const std::filesystem::path& checkpoint) {
  std::vector<std::string> digests;
  for (const StoredPiece& stored : read_manifest(checkpoint).pieces) digests.push_back(stored.tensor() + " " + stored.sha256);
  return digests;
}

class LayoutPairs : public testing::Test {
 protected:
  void SetUp() override {
    layouts_ = layouts_up_to(world_->size());
    for (const Layout& layout : layouts_) {
      const TrainConfig config = config_of(folder_, layout, "from-" + layout.name());
      train(config, layout);
      checkpoints_.push_back(find_checkpoint(config.run.directory));
    }
  }

  /// Whether this job is the one that tries a pair.
  bool is_tried(size_t from, size_t to) const {
    const int ranks = world_->size();
    return ranks > 4 || std::getenv("PIMOE_ALL_CASES") != nullptr || std::max(layouts_[from].ranks, layouts_[to].ranks) == ranks;
  }

  SharedFolder folder_;
  std::unique_ptr<HostCommunicator> world_ = test_session().world();
  std::vector<Layout> layouts_;
  std::vector<std::filesystem::path> checkpoints_;  ///< of step kCut, one for each layout
};

TEST_F(LayoutPairs, EachLoadsWhatTheOtherSavedAndTheWayBackReturnsTheSameBits) {
  int pairs = 0;
  for (size_t from = 0; from < layouts_.size(); ++from) {
    for (size_t to = 0; to < layouts_.size(); ++to) {
      if (!is_tried(from, to)) continue;
      SCOPED_TRACE(concat(layouts_[from].name(), " to ", layouts_[to].name()));
      const std::filesystem::path place = folder_.path() / "pair";
      const TrainConfig config = config_of(folder_, layouts_[to], "to");
      const auto there = load_and_save(checkpoints_[from], layouts_[to], config, place / "there");
      const auto back = load_and_save(there, layouts_[from], config_of(folder_, layouts_[from], "back"), place / "back");
      if (world_->rank() == 0) {
        EXPECT_TRUE(compare_checkpoints(checkpoints_[from], there).same());
        EXPECT_EQ(read_manifest(there).ranks, layouts_[to].ranks);
        EXPECT_EQ(read_manifest(there).expert_parallel, layouts_[to].expert_parallel);
        EXPECT_EQ(digests_of(back), digests_of(checkpoints_[from]));
        std::filesystem::remove_all(place);
      }
      world_->patient_barrier();
      ++pairs;
    }
  }
  EXPECT_GT(pairs, 0);
  if (world_->rank() == 0) std::cout << pairs << " pairs of " << layouts_.size() << " layouts\n";
}

TEST_F(LayoutPairs, TrainOnWithTheSameLosses) {
  const size_t pairs = layouts_.size() * layouts_.size();
  const size_t stride = std::max<size_t>(1, pairs / 32);
  std::vector<std::vector<double>> undisturbed;
  for (const Layout& layout : layouts_) {
    TrainConfig config = config_of(folder_, layout, "from-" + layout.name());
    config.train.steps = kCut + kMore;
    config.checkpoint.resume = "auto";
    config.checkpoint.keep = 3;
    train(config, layout);
    undisturbed.push_back(losses_of(config));
    ASSERT_EQ(undisturbed.back().size(), static_cast<size_t>(kCut + kMore));
  }
  for (size_t pair = stride / 2; pair < pairs; pair += stride) {
    const size_t from = pair / layouts_.size();
    const size_t to = (pair * 7 + from) % layouts_.size();
    if (!is_tried(from, to)) continue;
    SCOPED_TRACE(concat(layouts_[from].name(), " to ", layouts_[to].name()));
    TrainConfig config = config_of(folder_, layouts_[to], concat("pair-", pair));
    config.train.steps = kCut + kMore;
    config.checkpoint.resume = checkpoints_[from].string();
    config.checkpoint.at_end = false;
    train(config, layouts_[to]);
    const std::vector<double> losses = losses_of(config);
    ASSERT_EQ(losses.size(), static_cast<size_t>(kMore));
    for (size_t step = 0; step < losses.size(); ++step) {
      EXPECT_NEAR(losses[step], undisturbed[from][step + kCut], 1e-9 * losses[step]) << "step " << step + 1 + kCut;
    }
  }
}

}  // namespace
}  // namespace pimoe
