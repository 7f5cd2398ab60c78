#include "parallel/gradient_reducer.h"

#include "base/errors.h"
#include "ops/gradient_sink.h"
#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>

namespace pimoe {
namespace {

/// Parameters a [3] and b [2] of one dtype on a mesh of one rank.
struct Fixture {
  explicit Fixture(at::ScalarType dtype = at::kFloat) : mesh(single_mesh()) {
    for (const auto& [name, size] : {std::pair<const char*, int64_t>{"a", 3}, {"b", 2}}) {
      Parameter parameter;
      parameter.name = name;
      parameter.box = Box::whole({size});
      parameter.dtype = dtype;
      list.declare(std::move(parameter));
    }
    buckets.emplace(list, *mesh, 1 << 20, true);
    bucket().weights.fill_(1);
    reducer.emplace(*buckets, *mesh);
  }
  /// A reducer that knows whether a parameter's gradient comes in parts.
  void announce_parts(size_t parameter, bool in_parts) {
    reducer.reset();
    list[parameter].gradient_in_parts = in_parts;
    reducer.emplace(*buckets, *mesh);
  }

  Bucket& bucket() { return buckets->buckets()[0]; }
  const at::Tensor& a() { return list[0].value; }
  const at::Tensor& b() { return list[1].value; }
  /// What the bucket holds for `a` (one value for all elements) and `b`, as "a b".
  std::string gradients() {
    const auto one_value = [&](int64_t begin, int64_t count) {
      const at::Tensor part = bucket().gradients.narrow(0, begin, count);
      EXPECT_EQ(part.min().item<double>(), part.max().item<double>());
      return std::to_string(part[0].item<double>()).substr(0, 5);
    };
    return one_value(0, 3) + " " + one_value(64, 2);
  }
  double gaps() {
    return bucket().gradients.narrow(0, 3, 61).abs().sum().item<double>() + bucket().gradients.narrow(0, 66, 62).abs().sum().item<double>();
  }

  std::unique_ptr<ProcessMesh> mesh;
  ParameterList list;
  std::optional<ParameterBuckets> buckets;
  std::optional<GradientReducer> reducer;
};

TEST(GradientReducer, AddsUpMicroStepsAndBeginsEachStepAfresh) {
  Fixture f;
  for (int step = 0; step < 2; ++step) {
    f.reducer->begin_step();
    f.reducer->begin_backward(false);
    (f.a().sum() * 2 + f.b().sum() * 3).backward();
    f.reducer->begin_backward(true);
    (f.a().sum() * 4 + f.b().sum() * 5).backward();
    f.reducer->finish();
    EXPECT_EQ(f.gradients(), "6.000 8.000") << "step " << step;
    EXPECT_EQ(f.gaps(), 0);
  }
}

TEST(GradientReducer, IsTheSinkOfItsParametersBesideWhatAutogradBrings) {
  Fixture f;
  GradientSink* const sink = gradient_sink_of(f.b());
  ASSERT_NE(sink, nullptr);
  EXPECT_THROW(sink->begin(), ShapeError) << "outside of a step";
  f.reducer->begin_step();
  for (int micro_step = 0; micro_step < 2; ++micro_step) {
    f.reducer->begin_backward(micro_step == 1);
    GradientSink::Room room = sink->begin();
    EXPECT_EQ(room.adds, micro_step == 1);
    room.adds ? room.sum.add_(7) : room.sum.fill_(7);
    sink->end();
    f.a().sum().backward();
  }
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "2.000 14.00");
}

// As of tied embeddings: the head's part by its sink, the lookup's by autograd.
TEST(GradientReducer, AGradientInPartsHasToBeAnnounced) {
  for (const bool announced : {true, false}) {
    Fixture f;
    f.announce_parts(1, announced);
    f.reducer->begin_step();
    f.reducer->begin_backward(true);
    GradientSink* const sink = gradient_sink_of(f.b());
    sink->begin().sum.fill_(7);
    sink->end();
    if (!announced) {
      EXPECT_THROW(f.b().sum().backward(), ShapeError);
      continue;
    }
    (f.a().sum() + f.b().sum()).backward();
    f.reducer->finish();
    EXPECT_EQ(f.gradients(), "1.000 8.000");
  }
}

TEST(GradientReducer, FreesTheGradientThatAutogradAccumulated) {
  Fixture f;
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  f.a().sum().backward();
  EXPECT_FALSE(f.a().grad().defined());
  f.reducer->finish();
}

TEST(GradientReducer, AParameterWithoutAGradientCountsAsZero) {
  Fixture f;
  f.bucket().gradients.narrow(0, 64, 2).fill_(9);  // what an earlier step left
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  (f.a().sum() * 2).backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "2.000 0.000");
}

TEST(GradientReducer, AParameterThatMissesOneMicroStepKeepsTheOthers) {
  Fixture f;
  f.reducer->begin_step();
  f.reducer->begin_backward(false);
  (f.a().sum() + f.b().sum() * 3).backward();
  f.reducer->begin_backward(true);
  f.a().sum().backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "2.000 3.000");
}

TEST(GradientReducer, AParameterUsedTwiceGetsTheSum) {
  Fixture f;
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  ((f.a() * 2).sum() + (f.a() * 5).sum() + f.b().sum()).backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "7.000 1.000");
}

// Recompute runs a backward of its own inside an outer one.
TEST(GradientReducer, TakesGradientsOfANestedBackward) {
  Fixture f;
  f.announce_parts(0, true);
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  const at::Tensor outer = f.a() * 2;
  outer.register_hook([&](const at::Tensor& /*gradient*/) {
    const at::AutoGradMode enabled(true);
    (f.b().sum() * 3 + f.a().sum() * 10).backward();
  });
  outer.sum().backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "12.00 3.000");
}

TEST(GradientReducer, KeepsSumsOfHalfPrecisionGradientsInFloat32) {
  Fixture f(at::kBFloat16);
  f.reducer->begin_step();
  for (int micro_step = 0; micro_step < 3; ++micro_step) {
    f.reducer->begin_backward(micro_step == 2);
    const double scale = micro_step == 0 ? 256.0 : 1.0;  // 256 + 1 is 256 in bfloat16
    ((f.a().sum() + f.b().sum()) * scale).backward();
  }
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "258.0 258.0");
}

TEST(GradientReducer, KeepsFloat64) {
  Fixture f(at::kDouble);
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  ((f.a().sum() + f.b().sum()) * (1.0 + 1e-12)).backward();
  f.reducer->finish();
  EXPECT_EQ(f.bucket().gradients[0].item<double>(), 1.0 + 1e-12);
}

TEST(GradientReducer, LeavesNoHookBehind) {
  Fixture f;
  f.reducer.reset();
  f.bucket().gradients.fill_(9);
  f.a().sum().backward();
  EXPECT_EQ(f.bucket().gradients.min().item<double>(), 9);
  EXPECT_TRUE(f.a().grad().defined());  // autograd's ordinary way again
  f.reducer.emplace(*f.buckets, *f.mesh);
}

TEST(GradientReducer, RefusesASecondOneOnTheSameParameters) {
  Fixture f;
  EXPECT_THROW(GradientReducer(*f.buckets, *f.mesh), ShapeError);
  f.reducer->begin_step();  // the first still works
  f.reducer->begin_backward(true);
  f.a().sum().backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "1.000 0.000");
}

TEST(GradientReducer, RefusesGradientsAndCallsOutsideOfAStep) {
  Fixture f;
  EXPECT_THROW(f.reducer->finish(), ShapeError);
  EXPECT_THROW(f.reducer->begin_backward(true), ShapeError);
  EXPECT_ANY_THROW(f.a().sum().backward());
}

TEST(GradientReducer, BeginsAfreshAfterAStepThatAnErrorLeft) {
  Fixture f;
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  (f.a().sum() * 50).backward();
  f.reducer->begin_step();
  f.reducer->begin_backward(true);
  (f.a().sum() + f.b().sum()).backward();
  f.reducer->finish();
  EXPECT_EQ(f.gradients(), "1.000 1.000");
}

}  // namespace
}  // namespace pimoe
