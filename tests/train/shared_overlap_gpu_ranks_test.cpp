/// The shared expert computes on a stream of its own while tokens travel: steps are those of one stream, whatever carries the tokens.

#include "train/small_gpu_run.h"

namespace pimoe {
namespace {

class SharedOverlap : public ::testing::TestWithParam<MoeExchange> {
 protected:
  SharedOverlap() {
    MeshConfig config;
    config.device = DeviceChoice::kCuda;
    config.expert_parallel = test_session().world()->size();
    mesh_ = world_mesh(config, 8);
  }

  TrainConfig config(bool overlaps) const {
    TrainConfig config = small_config(CudaGraphs::kOff);
    config.model.width = 256;  // large enough for the streams to meet
    config.model.sequence_length = 512;
    config.model.moe.shared_width = 1024;
    config.model.moe.shared_gate = true;
    config.model.moe.shared_overlap = overlaps;
    config.model.moe.exchange = GetParam();
    return config;
  }

  std::unique_ptr<ProcessMesh> mesh_;
};

// Without rounding nothing is left of the order in which gradients are added: what differs would be read too early, or overwritten.
TEST_P(SharedOverlap, MakesTheSameStepsAsOneStream) {
  SmallRun beside(config(true), *mesh_, at::kDouble);
  SmallRun one_stream(config(false), *mesh_, at::kDouble);
  for (int step = 0; step < 10; ++step) {
    const StepRecord overlapped = beside.step();
    const StepRecord usual = one_stream.step();
    EXPECT_NEAR(overlapped.loss, usual.loss, 1e-9) << "step " << usual.step;
    EXPECT_NEAR(overlapped.gradient_norm, usual.gradient_norm, 1e-8) << "step " << usual.step;
  }
}

TEST_P(SharedOverlap, MakesTheSameStepsAgainToTheBit) {
  SmallRun first(config(true), *mesh_);
  SmallRun second(config(true), *mesh_);
  for (int step = 0; step < 20; ++step) expect_the_same(first.step(), second.step());
}

INSTANTIATE_TEST_SUITE_P(Exchanges, SharedOverlap, ::testing::Values(MoeExchange::kAuto, MoeExchange::kTokens, MoeExchange::kRows));

}  // namespace
}  // namespace pimoe
