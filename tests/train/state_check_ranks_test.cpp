#include "base/errors.h"
#include "base/text.h"
#include "checkpoint/step_folders.h"
#include "train/tiny_run.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <csignal>
#include <functional>
#include <limits>

namespace pimoe {
namespace {

/// What happens on this rank while a step's gradients are computed. @returns what they are multiplied by
using Event = std::function<double(const Trainer& trainer, int64_t step, bool last_rank)>;

/// Trains. @returns the message with which the run ended; "" where it went well
std::string train(const TrainConfig& config, const Event& event) {
  const auto world = test_session().world();
  const auto mesh = sub_mesh(world->size(), config.mesh, config.model.moe.experts);
  Logger log(1);
  const StopRequest stop;
  std::string message;
  try {
    Trainer trainer(config, *mesh, log, &stop);
    trainer.model().parameters().at("final_norm.weight").value.register_hook([&](const at::Tensor& gradient) {
      return gradient * event(trainer, trainer.step() + 1, mesh->rank() == mesh->size() - 1);
    });
    trainer.run();
  } catch (const Error& error) {
    message = error.what();
  }
  world->patient_barrier();
  return message;
}

constexpr double kInfinite = std::numeric_limits<double>::infinity();

double nothing(const Trainer&, int64_t, bool) { return 1.0; }

/// Flips one bit of the state's `which`-th piece of this kind. @returns its name
std::string flip(const Trainer& trainer, const std::string& kind, size_t which, int bit) {
  std::vector<StatePiece> pieces;
  for (const StatePiece& piece : trainer.optimizer().state()) {
    if (piece.kind == kind && piece.piece.numel() > 0) pieces.push_back(piece);
  }
  const StatePiece& piece = pieces[which % pieces.size()];
  auto* bytes = static_cast<uint8_t*>(piece.values.data_ptr()) + piece.piece.numel() / 2 * piece.values.element_size();
  bytes[bit / 8] ^= static_cast<uint8_t>(1U << (bit % 8));
  return concat(kind, " of ", piece.piece.name);
}

struct Layout {
  Precision precision;
  bool experts_apart;  ///< each rank has experts of its own, where the ranks divide them
};

class StateCheck : public testing::TestWithParam<Layout> {
 protected:
  TrainConfig config_of(const SharedFolder& folder, const std::string& run) const {
    TrainConfig config = tiny_config(folder, run);
    const int64_t ranks = test_session().size();
    config.mesh.expert_parallel = GetParam().experts_apart && config.model.moe.experts % ranks == 0 ? ranks : 1;
    config.train.precision = GetParam().precision;
    config.train.steps = 6;
    config.checkpoint.every_steps = 2;
    config.checkpoint.resume = "auto";
    return config;
  }
};

TEST_P(StateCheck, FindsOneFlippedBitInTheNextUpdateWhicheverStepThatIs) {
  const SharedFolder folder;
  size_t which = 0;
  for (const char* kind : {"master", "exp_avg", "exp_avg_sq"}) {
    for (const int64_t step : {1, 2, 3, 6}) {
      SCOPED_TRACE(concat(kind, ", step ", step));
      std::string name;
      const TrainConfig config = config_of(folder, concat(kind, step));
      const std::string message = train(config, [&](const Trainer& trainer, int64_t now, bool last_rank) {
        if (now == step && last_rank) name = flip(trainer, kind, which, 3);
        return 1.0;
      });
      which += 5;
      EXPECT_NE(
          message.find(concat("memory changed by itself before the update of step ", step, ": rank ", test_session().size() - 1, " (")),
          std::string::npos)
          << message;
      EXPECT_NE(message.find(name), std::string::npos) << message << " lacks " << name;
      const auto saved = list_steps(config.run.directory / "checkpoints");
      EXPECT_TRUE(saved.empty() || saved.back().step < step) << "of what was found nothing is saved";
    }
  }
}

TEST_P(StateCheck, FindsOneFlippedBitInTheFirstUpdateAfterALoad) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  ASSERT_EQ(train(config, nothing), "");
  config.train.steps = 8;
  const std::string message = train(config, [](const Trainer& trainer, int64_t step, bool last_rank) {
    if (step == 7 && last_rank) flip(trainer, "exp_avg", 3, 3);
    return 1.0;
  });
  EXPECT_NE(message.find("before the update of step 7: rank "), std::string::npos) << message;
}

// A skipped step reads and writes no state: what flips in it is the next update's to find, or the save's that comes before.
TEST_P(StateCheck, FindsWhatFlippedInASkippedStep) {
  const SharedFolder folder;
  const auto flips = [](const Trainer& trainer, int64_t step, bool last_rank) {
    if (step == 3 && last_rank) flip(trainer, "exp_avg_sq", 2, 3);
    return step == 3 || step == 4 ? kInfinite : 1.0;
  };
  const std::string by_update = train(config_of(folder, "update"), flips);
  EXPECT_NE(by_update.find("before the update of step 5: rank "), std::string::npos) << by_update;

  const TrainConfig config = config_of(folder, "save");
  const std::string by_save = train(config, [&](const Trainer& trainer, int64_t step, bool last_rank) {
    const double factor = flips(trainer, step, last_rank);
    if (step == 3) raise(SIGUSR1);
    return factor;
  });
  EXPECT_NE(by_save.find("after the update of step 3: rank "), std::string::npos) << by_save;
  EXPECT_EQ(list_steps(config.run.directory / "checkpoints").back().step, 2);
}

TEST_P(StateCheck, FindsNothingInARunThatSkipsStepsIsResumedAndRollsBack) {
  const SharedFolder folder;
  TrainConfig config = config_of(folder, "run");
  config.train.verify_every = 3;
  EXPECT_EQ(train(config, [](const Trainer&, int64_t step, bool) { return step == 2 || step == 5 ? kInfinite : 1.0; }), "");
  config.train.steps = 20;
  int64_t bad = 10;  // and then it rolls back to step 8
  EXPECT_EQ(train(config, [&](const Trainer&, int64_t step, bool) { return step > 8 && bad-- > 0 ? kInfinite : 1.0; }), "");
}

INSTANTIATE_TEST_SUITE_P(Layouts, StateCheck,
                         testing::Values(Layout{Precision::kFloat64, false}, Layout{Precision::kFloat32, true},
                                         Layout{Precision::kBfloat16, true}, Layout{Precision::kBfloat16, false}));

}  // namespace
}  // namespace pimoe
