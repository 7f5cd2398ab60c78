/// Layers whose matrices are int8, against the same layers with what those integers stand for.

#include "moe/layer_fixture.h"
#include "moe/matrix.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

namespace pimoe {
namespace {

/// Every shape of network that a layer may have.
MoeConfig layer_of_all_kinds() {
  MoeConfig config;
  config.choices = 3;
  config.expert_width = 10;
  config.shared_width = 7;
  config.shared_gate = true;
  config.groups = {{.name = "plain", .count = 12, .activation = Activation::kSwiglu, .layers = 2, .width = 10},
                   {.name = "deep", .count = 12, .activation = Activation::kGelu, .layers = 3, .width = 9}};
  config.experts = 24;
  return config;
}

/// The same weights twice: as a layer of int8 matrices, and as one of the float64 numbers that they stand for.
struct Pair {
  Pair(const MoeConfig& moe, int64_t width, const ProcessMesh& mesh, const QuantizationConfig& quantization)
      : plain(moe, width, mesh, /*seed=*/5),
        quantized(parameters, "moe", moe, width, 1, at::kDouble, {0.5, 0.5}, mesh, quantization),
        buckets(parameters, mesh, 1 << 20, /*trained=*/false) {
    const at::NoGradGuard no_gradients;
    for (const auto& parameter : parameters) {
      if (is_scale(parameter->name)) continue;
      at::Tensor& value = plain.parameters.at(parameter->name).value;
      if (parameter->dtype != at::kChar) {
        parameter->value.copy_(value);
        continue;
      }
      const Int8Numbers numbers = int8_numbers(value.detach());
      parameter->value.copy_(numbers.numbers);
      parameters.at(parameter->name + kScaleSuffix).value.copy_(numbers.scales);
      if (quantization.kind == QuantizationKind::kStatic) parameters.at(parameter->name + kInputScaleSuffix).value.fill_(8.0 / 127);
      value.copy_(from_int8(numbers));
    }
  }

  LayerFixture plain;
  ParameterList parameters;
  MoELayer quantized;
  ParameterBuckets buckets;
};

struct Outputs {
  at::Tensor plain, quantized;
};

Outputs compute(Pair& pair, const ProcessMesh& mesh, int64_t width) {
  const at::NoGradGuard no_gradients;
  at::manual_seed(static_cast<uint64_t>(mesh.rank()) + 3);
  const at::Tensor tokens = at::randn({mesh.rank() == 1 ? 0 : 40, width}, at::kDouble);  // a rank without tokens takes part
  const BatchContext context(0, 40);
  std::optional<RoutingMemo> memo, other;
  const at::Tensor plain = pair.plain.layer.forward(tokens, context, memo).tokens;
  return {plain, pair.quantized.forward(tokens, context, other).tokens};
}

double relative_error(const Outputs& outputs) {
  if (outputs.plain.numel() == 0) return 0.0;
  return ((outputs.quantized - outputs.plain).norm() / outputs.plain.norm()).item<double>();
}

TEST(QuantizedLayer, WithInt8WeightsIsTheLayerOfWhatTheyStandFor) {
  for (const MoeExchange exchange : {MoeExchange::kRows, MoeExchange::kTokens}) {
    for (const MoeMemory memory : {MoeMemory::kFast, MoeMemory::kLean}) {
      MoeConfig moe = layer_of_all_kinds();
      if (exchange == MoeExchange::kTokens) moe.groups.clear();
      moe.exchange = exchange;
      moe.memory = memory;
      const auto mesh = world_mesh(cpu_mesh(), moe.common_divisor());
      Pair pair(moe, 11, *mesh, {.kind = QuantizationKind::kWeightOnly});
      EXPECT_LE(relative_error(compute(pair, *mesh, 11)), 1e-5);
    }
  }
}

TEST(QuantizedLayer, WithInt8RowsIsNearIt) {
  for (const QuantizationKind kind : {QuantizationKind::kDynamic, QuantizationKind::kStatic}) {
    const MoeConfig moe = layer_of_all_kinds();
    const auto mesh = world_mesh(cpu_mesh(), moe.common_divisor());
    Pair pair(moe, 11, *mesh, {.kind = kind});
    const Outputs outputs = compute(pair, *mesh, 11);
    const double error = relative_error(outputs);
    // Fixed scales are 1 here: numbers of size 1 are rounded to whole ones, off by 0.29 of their size in the mean.
    EXPECT_LE(error, kind == QuantizationKind::kDynamic ? 0.03 : 0.45);
    EXPECT_TRUE(error > 1e-6 || outputs.plain.numel() == 0) << "rows were not rounded";
  }
}

TEST(QuantizedLayer, PartsThatAreLeftOutStayAsTheyAre) {
  const MoeConfig moe = layer_of_all_kinds();
  const auto mesh = world_mesh(cpu_mesh(), moe.common_divisor());
  const auto int8_names = [&](const QuantizationConfig& quantization) {
    ParameterList parameters;
    const MoELayer layer(parameters, "moe", moe, 11, 1, at::kDouble, {}, *mesh, quantization);
    std::set<std::string> names;
    for (const auto& parameter : parameters) {
      if (parameter->dtype == at::kChar) names.insert(parameter->name);
    }
    return names;
  };
  EXPECT_EQ(int8_names({.kind = QuantizationKind::kNone}), std::set<std::string>{});
  EXPECT_EQ(int8_names({.kind = QuantizationKind::kDynamic, .experts = false}),
            (std::set<std::string>{"moe.shared.gate_up.weight", "moe.shared.down.weight"}));
  EXPECT_EQ(int8_names({.kind = QuantizationKind::kDynamic, .experts = false, .dense = false, .router = true}),
            std::set<std::string>{"moe.router.weight"});
}

TEST(MatrixWatch, SeesWhatEveryExpertMultipliesAndChangesNothing) {
  const MoeConfig moe = layer_of_all_kinds();
  const auto mesh = world_mesh(cpu_mesh(), moe.common_divisor());
  LayerFixture fixture(moe, 11, *mesh, 5);
  const at::NoGradGuard no_gradients;
  const at::Tensor tokens = at::randn({30, 11}, at::kDouble);
  std::optional<RoutingMemo> memo, other;
  const at::Tensor unwatched = fixture.layer.forward(tokens, {0, 30}, memo).tokens;
  int64_t rows_seen = 0;
  Parameter& matrix = fixture.parameters.at("moe.experts.plain.gate_up.weight");
  matrix.watch = [&](const at::Tensor& rows, const at::Tensor& ends) {
    EXPECT_EQ(ends.numel(), matrix.box.shape[0]);
    rows_seen += ends[-1].item<int64_t>();
    EXPECT_EQ(rows.size(1), 11);
  };
  const at::Tensor watched = fixture.layer.forward(tokens, {0, 30}, other).tokens;
  EXPECT_TRUE(at::allclose(watched, unwatched, 1e-12, 1e-12));
  at::Tensor all = at::tensor({rows_seen}, at::kLong);
  mesh->control().all_reduce(all);
  EXPECT_GT(all.item<int64_t>(), 0);
  EXPECT_LE(all.item<int64_t>(), 30 * 3 * mesh->size());
}

}  // namespace
}  // namespace pimoe
