#include "interop/upcycle.h"
#include "base/errors.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/training_state.h"
#include "interop/hf_checkpoint.h"
#include "interop/hf_export.h"
#include "interop/hf_fixture.h"
#include "model/transformer.h"
#include "parallel/parameter_buckets.h"
#include "support/ranks.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

/// Scores of some tokens by what an import has written.
at::Tensor logits_of(const HfImport& imported, const fs::path& checkpoint) {
  const at::NoGradGuard no_gradients;
  Logger log;
  write_imported(imported, checkpoint, "", 1234, log);
  const ModelConfig& config = imported.model();
  const auto mesh = single_mesh(cpu_mesh(), config.moe.common_divisor());
  Transformer model(config, at::kDouble, *mesh);
  const ParameterBuckets buckets(model.parameters(), *mesh, 1 << 20, /*trained=*/false);
  Snapshot wanted;
  for (const auto& parameter : model.parameters()) {
    const int64_t count = parameter->box.numel();
    wanted.pieces.push_back({state_kind::kMaster, {parameter->name, parameter->box, 0, count}, parameter->value.view({count})});
  }
  restore_snapshot(checkpoint, wanted);
  at::manual_seed(5);
  const at::Tensor tokens = at::randint(config.vocabulary, {4, 16}, at::kLong);
  return model.logits(tokens, {0, tokens.numel()});
}

class Upcycle : public testing::Test {
 protected:
  explicit Upcycle(HfFamily family = HfFamily::kLlama) : hf_(write_tiny_model(folder_, "hf", tiny_config(family), at::kBFloat16)) {}

  at::Tensor dense() { return logits_of(HfImport(hf_, 0), folder_ / "dense"); }
  double change(const std::string& how) {
    const HfImport imported(hf_, 0, parse_upcycling(how));
    const at::Tensor expected = dense();
    fs::remove_all(folder_ / "dense");
    const at::Tensor logits = logits_of(imported, folder_ / "sparse");
    fs::remove_all(folder_ / "sparse");
    return ((logits - expected).abs().max() / expected.abs().max()).item<double>();
  }
  std::string refusal(const std::string& how) {
    try {
      const HfImport imported(hf_, 0, parse_upcycling(how));
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }

  TemporaryFolder folder_;
  fs::path hf_;
};

TEST_F(Upcycle, CopiesComputeWhatTheDenseModelDoes) {
  EXPECT_LT(change("experts=4,choices=2"), 1e-12);
  EXPECT_LT(change("experts=3,choices=3"), 1e-12);
  EXPECT_LT(change("experts=8,choices=1,dense_layers=1"), 1e-12);
}

TEST_F(Upcycle, PartsOfCopiesComputeWhatTheDenseModelDoes) {
  EXPECT_LT(change("experts=4,choices=2,split=2"), 1e-12);
  EXPECT_LT(change("experts=5,choices=3,split=4"), 1e-12);
  EXPECT_LT(change("experts=2,choices=1,split=12,dense_layers=1"), 1e-12);  // each expert of width 1
}

TEST_F(Upcycle, NoiseMovesCopiesApart) {
  const double little = change("experts=4,choices=2,noise=0.001");
  const double more = change("experts=4,choices=2,noise=0.1");
  EXPECT_GT(little, 1e-7);
  EXPECT_LT(little, 1e-2);
  EXPECT_GT(more, 10 * little);
}

// A model of width 8 and hidden width 12 into 2 copies of 3 parts of width 4: expert 4 is part 1 of copy 1.
TEST_F(Upcycle, AnExpertIsRowsOfGateAndUpAndColumnsOfDown) {
  const HfImport imported(hf_, 0, parse_upcycling("experts=2,choices=1,split=3"));
  EXPECT_EQ(imported.model().moe.experts, 6);
  EXPECT_EQ(imported.model().moe.choices, 3);
  EXPECT_EQ(imported.model().moe.expert_width, 4);
  Logger log;
  write_imported(imported, folder_ / "sparse", "", 1234, log);
  CheckpointReader reader(folder_ / "sparse");
  const SafetensorsFolder source(hf_);
  const auto matrix = [&](const char* name) {
    const std::string tensor = concat("model.layers.1.mlp.", name, "_proj.weight");
    return source.read(tensor, 0, 96).to(at::kFloat).view(source.entry(tensor).shape);
  };
  const at::Tensor expert = reader.read("master/layers.1.moe.experts.gate_up.weight", 4 * 64, 5 * 64).view({8, 8});
  EXPECT_TRUE(at::equal(expert.narrow(0, 0, 4), matrix("gate").narrow(0, 4, 4)));
  EXPECT_TRUE(at::equal(expert.narrow(0, 4, 4), matrix("up").narrow(0, 4, 4)));
  const at::Tensor down = reader.read("master/layers.1.moe.experts.down.weight", 4 * 32, 5 * 32).view({8, 4});
  EXPECT_TRUE(at::equal(down, matrix("down").narrow(1, 4, 4) * 3));
  const at::Tensor router = reader.read("master/layers.1.moe.router.weight", 0, 48).view({2, 3, 8});
  EXPECT_TRUE(at::equal(router.select(1, 0), router.select(1, 2))) << "rows are equal within a copy";
  EXPECT_FALSE(at::equal(router[0], router[1]));
}

TEST_F(Upcycle, IsExportedAsAFamilyWithExperts) {
  const HfImport imported(hf_, 0, parse_upcycling("experts=4,choices=2,split=2"));
  Logger log;
  write_imported(imported, folder_ / "sparse", "", 1234, log);
  fs::create_directories(folder_ / "out");
  fs::create_directories(folder_ / "companions");
  folder_.write("companions/config.json", config_of_any_family(tiny_config(HfFamily::kLlama)).dump());
  HfExportOptions options;
  options.dtype = at::kFloat;
  options.companions = folder_ / "companions";
  EXPECT_EQ(export_to_hf(folder_ / "sparse", imported.model(), folder_ / "out", options, log).family, HfFamily::kMixtral);
  const HfImport again(folder_ / "out", 0);
  EXPECT_EQ(again.model().moe.experts, 8);
  EXPECT_EQ(read_strict_json(folder_ / "out/config.json", 1 << 20)["eos_token_id"], 2);
}

TEST_F(Upcycle, NamesWhatDoesNotFit) {
  EXPECT_NE(refusal("experts=4,choice=2").find("choices"), std::string::npos) << "the nearest key";
  EXPECT_NE(refusal("experts=four").find("experts"), std::string::npos);
  EXPECT_NE(refusal("experts=2,choices=3").find("--upcycle choices (3) must be at most experts (2)"), std::string::npos);
  EXPECT_NE(refusal("split=5").find("--upcycle split (5) must divide the feed-forward networks' width (12)"), std::string::npos);
  EXPECT_NE(refusal("experts=512,split=4").find("--upcycle split (4) times experts (512)"), std::string::npos);
  EXPECT_NE(refusal("dense_layers=2").find("--upcycle dense_layers (2) must be below the model's layers (2)"), std::string::npos);
}

class UpcycleOfExperts : public Upcycle {
 protected:
  UpcycleOfExperts() : Upcycle(HfFamily::kMixtral) {}
};

TEST_F(UpcycleOfExperts, IsRefused) { EXPECT_NE(refusal("experts=4").find("--upcycle is for dense models"), std::string::npos); }

}  // namespace
}  // namespace pimoe
