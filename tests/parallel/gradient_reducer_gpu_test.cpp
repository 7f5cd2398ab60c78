#include "parallel/gradient_reducer.h"

#include "base/errors.h"
#include "parallel/nccl_communicator.h"
#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

TEST(NcclGroupOfOne, CommunicatesNothingAndRefusesHostTensors) {
  const auto one = make_nccl_communicator(test_session().self(), 0);
  at::Tensor values = at::arange(6, at::TensorOptions().device(c10::DeviceType::CUDA).dtype(at::kFloat));
  at::Tensor shard = at::zeros_like(values);
  one->all_reduce(values);
  one->reduce_scatter(shard, values);
  EXPECT_TRUE(shard.equal(values));
  EXPECT_EQ(one->all_to_all(values, {6}, {6}).data_ptr(), values.data_ptr());
  one->barrier();
  EXPECT_EQ(one->split(0, 0, "part")->name(), "part group of 1");
  at::Tensor host = at::zeros({6});
  EXPECT_THROW(one->all_reduce(host), ShapeError);
  EXPECT_THROW(one->all_gather(host, host), ShapeError);
}

TEST(GradientReducer, OnOneGpuAddsUpMicroStepsAndZeroesWhatIsMissing) {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  const auto mesh = single_mesh(config);
  EXPECT_EQ(mesh->transport(), Transport::kNccl);
  ParameterList list;
  for (const char* name : {"a", "b", "c"}) {
    Parameter parameter;
    parameter.name = name;
    parameter.box = Box::whole({1000});
    parameter.dtype = at::kBFloat16;
    list.declare(std::move(parameter));
  }
  ParameterBuckets buckets(list, *mesh, 4000, true);
  GradientReducer reducer(buckets, *mesh);
  for (int step = 0; step < 3; ++step) {
    reducer.begin_step();
    for (int micro_step = 0; micro_step < 2; ++micro_step) {
      reducer.begin_backward(micro_step == 1);
      (list[0].value.sum() * 2 + list[2].value.sum() * 3).backward();
    }
    reducer.finish();
    EXPECT_TRUE(buckets.buckets()[0].gradients.narrow(0, 0, 1000).eq(4).all().item<bool>());
    EXPECT_TRUE(buckets.buckets()[1].gradients.eq(0).all().item<bool>());
    EXPECT_TRUE(buckets.buckets()[2].gradients.narrow(0, 0, 1000).eq(6).all().item<bool>());
  }
}

// Two backward passes in the step's last micro-step, as the rounds of a rank's budget make: the second comes after the first part's arrival.
TEST(GradientReducer, OnOneGpuAGradientMayComeInParts) {
  MeshConfig config;
  config.device = DeviceChoice::kCuda;
  const auto mesh = single_mesh(config);
  ParameterList list;
  for (const char* name : {"a", "b"}) {
    Parameter parameter;
    parameter.name = name;
    parameter.box = Box::whole({1000});
    parameter.gradient_in_parts = parameter.name == "b";
    list.declare(std::move(parameter));
  }
  ParameterBuckets buckets(list, *mesh, 4000, true);
  GradientReducer reducer(buckets, *mesh);
  reducer.begin_step();
  reducer.begin_backward(true);
  (list[1].value.sum() * 2).backward();
  (list[1].value.sum() * 3 + list[0].value.sum()).backward();
  reducer.finish();
  EXPECT_TRUE(buckets.buckets()[0].gradients.narrow(0, 0, 1000).eq(1).all().item<bool>());
  EXPECT_TRUE(buckets.buckets()[1].gradients.narrow(0, 0, 1000).eq(5).all().item<bool>());
}

}  // namespace
}  // namespace pimoe
