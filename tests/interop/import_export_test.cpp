#include "base/errors.h"
#include "checkpoint/checkpoint_reader.h"
#include "checkpoint/training_state.h"
#include "checkpoint/verification.h"
#include "interop/hf_checkpoint.h"
#include "interop/hf_export.h"
#include "interop/hf_fixture.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <set>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

std::string import_refusal(const fs::path& folder) {
  try {
    const HfImport imported(folder, 0);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

/// @returns the elements of a tensor as they lie in the file
std::string bytes_of(const SafetensorsFolder& folder, const std::string& tensor) {
  const at::Tensor values = folder.read(tensor, 0, folder.entry(tensor).numel());
  return {static_cast<const char*>(values.const_data_ptr()), values.nbytes()};
}

TEST(HfImport, EveryElementGoesToItsPlaceAndBackToTheSameBytes) {
  for (const HfFamily family : kHfFamilies) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      const TemporaryFolder folder;
      HfJson config = tiny_config(family);
      if (family == HfFamily::kQwen3) config["tie_word_embeddings"] = true;
      if (family == HfFamily::kQwen3Moe) config["mlp_only_layers"] = {0};
      const fs::path hf = write_tiny_model(folder, "hf", config, dtype);
      folder.write("hf/tokenizer.json", "{\"a\": 1}");
      Logger log;
      const HfImport imported(hf, 0);
      EXPECT_EQ(imported.dtype(), dtype);
      EXPECT_TRUE(imported.remarks().empty());
      const fs::path checkpoint = folder / "step-00000000";
      write_imported(imported, checkpoint, "model: {}\n", 1234, log);
      EXPECT_EQ(verify_checkpoint(checkpoint, /*full=*/true), "");

      fs::create_directories(folder / "back");
      HfExportOptions options;
      options.dtype = dtype;
      options.shard_bytes = 500;
      options.companions = hf;
      const HfExportFacts facts = export_to_hf(checkpoint, imported.hf().model, folder / "back", options, log);
      EXPECT_EQ(facts.family, family);
      EXPECT_EQ(facts.parameters, imported.parameters());
      const SafetensorsFolder before(hf);
      const SafetensorsFolder after(folder / "back");
      EXPECT_EQ(before.names(), after.names());
      EXPECT_GT(after.files(), 1u);
      for (const std::string& name : before.names()) {
        EXPECT_EQ(before.entry(name).dtype, after.entry(name).dtype) << name;
        EXPECT_EQ(before.entry(name).shape, after.entry(name).shape) << name;
        EXPECT_EQ(bytes_of(before, name), bytes_of(after, name)) << name;
      }
      EXPECT_EQ(read_file(folder / "back/tokenizer.json"), "{\"a\": 1}");
      EXPECT_EQ(import_refusal(folder / "back"), "");
    }
  }
}

// A norm and a bias of routers in float64 among weights in bfloat16: thirds, which float32 rounds.
TEST(HfImport, KeepsTheFewWeightsThatAreInFloat64) {
  const TemporaryFolder folder;
  const HfJson config = tiny_config(HfFamily::kDeepseekV3);
  const HfModel model = model_of_config(config, "config.json", 0);
  const std::set<std::string> exact = {"model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias"};
  for (const std::string& of_float64 : exact) {
    const fs::path hf = folder.write(of_float64 + "/config.json", config.dump()).parent_path();
    std::vector<SafetensorsTensor> tensors;
    weight_plans(
        model.family, model.model, [](const std::string&) { return false; },
        [&](const HfPart& part) {
          tensors.push_back({part.name, part.shape, part.name == of_float64 ? at::kDouble : part.wide ? at::kFloat : at::kBFloat16});
        });
    write_safetensors_folder(hf, tensors, at::kBFloat16, 1 << 30, [&](size_t index, int64_t begin, int64_t count) {
      return at::arange(begin, begin + count).add(1).to(at::kDouble).div(3).to(*tensors[index].dtype);
    });
    Logger log;
    const HfImport imported(hf, 0);
    EXPECT_EQ(imported.dtype(), at::kBFloat16);
    ASSERT_FALSE(imported.remarks().empty());
    EXPECT_NE(imported.remarks().back().find("weights in F64 are kept exactly in an imported checkpoint"), std::string::npos);
    write_imported(imported, folder / of_float64 / "step-00000000", "model: {}\n", 1234, log);
    fs::create_directories(folder / of_float64 / "back");
    HfExportOptions options;
    options.dtype = at::kDouble;
    options.companions = hf;
    export_to_hf(folder / of_float64 / "step-00000000", imported.hf().model, folder / of_float64 / "back", options, log);
    const SafetensorsFolder before(hf);
    const SafetensorsFolder after(folder / of_float64 / "back");
    EXPECT_EQ(bytes_of(before, of_float64), bytes_of(after, of_float64));
    for (const std::string& name : before.names()) {
      const int64_t count = before.entry(name).numel();
      EXPECT_EQ(after.entry(name).dtype, "F64") << name;
      EXPECT_TRUE(at::equal(before.read(name, 0, count).to(at::kDouble), after.read(name, 0, count))) << name;
    }
  }
}

// Two experts of width 1 in a model of width 2: gate_up is gate, up, gate, up.
TEST(HfImport, PutsGateAboveUpExpertByExpert) {
  const TemporaryFolder folder;
  HfJson config = tiny_config(HfFamily::kMixtral);
  config.update({{"hidden_size", 2}, {"num_attention_heads", 1}, {"head_dim", 2}, {"num_local_experts", 2}, {"intermediate_size", 1}});
  config["num_hidden_layers"] = 1;
  const fs::path hf = write_tiny_model(folder, "hf", config);
  Logger log;
  write_imported(HfImport(hf, 0), folder / "step-00000000", "", 1234, log);
  const SafetensorsFolder source(hf);
  const std::string experts = "model.layers.0.block_sparse_moe.experts.";
  std::vector<at::Tensor> rows;
  for (const char* name : {"0.w1", "0.w3", "1.w1", "1.w3"}) rows.push_back(source.read(concat(experts, name, ".weight"), 0, 2));
  CheckpointReader reader(folder / "step-00000000");
  for (int64_t row = 0; row < 4; ++row) {
    EXPECT_TRUE(at::equal(reader.read("master/layers.0.moe.experts.gate_up.weight", 2 * row, 2 * row + 2), rows[static_cast<size_t>(row)]));
  }
  EXPECT_TRUE(
      at::equal(reader.read("master/layers.0.attention.qkv.weight", 8, 12), source.read("model.layers.0.self_attn.v_proj.weight", 0, 4)));
  EXPECT_EQ(reader.tensors().at("state/layers.0.moe.router.bias").shape, (std::vector<int64_t>{2}));
  EXPECT_FALSE(reader.read("exp_avg/head.weight", 0, 46).any().item<bool>());
  EXPECT_EQ(reader.manifest().counters.at(state_counter::kOptimizerSteps), 0);
}

TEST(HfImport, ReadsMergedExpertsAsTheyLie) {
  for (const HfFamily family : {HfFamily::kMixtral, HfFamily::kQwen3Moe}) {
    const TemporaryFolder folder;
    const HfJson config = tiny_config(family);
    const HfModel hf = model_of_config(config, "config.json", 0);
    const fs::path merged = folder.write("merged/config.json", config.dump()).parent_path();
    std::vector<SafetensorsTensor> tensors;
    const auto is_merged_name = [](const std::string& name) { return name.ends_with("mlp.gate.weight") || name.ends_with("_proj"); };
    weight_plans(hf.family, hf.model, is_merged_name, [&](const HfPart& part) { tensors.push_back({part.name, part.shape}); });
    const auto ones = [](size_t, int64_t, int64_t count) { return at::arange(1, count + 1).to(at::kFloat); };
    write_safetensors_folder(merged, tensors, at::kFloat, 1 << 30, ones);
    const SafetensorsFolder source(merged);
    ASSERT_TRUE(source.has("model.layers.1.mlp.experts.gate_up_proj"));
    Logger log;
    write_imported(HfImport(merged, 0), folder / "step-00000000", "", 1234, log);
    CheckpointReader reader(folder / "step-00000000");
    const int64_t count = source.entry("model.layers.1.mlp.experts.gate_up_proj").numel();
    EXPECT_TRUE(at::equal(reader.read("master/layers.1.moe.experts.gate_up.weight", 0, count),
                          source.read("model.layers.1.mlp.experts.gate_up_proj", 0, count)));
  }
}

TEST(HfImport, RefusesTensorsThatAreMissingTooManyOrOfAnotherShape) {
  const TemporaryFolder folder;
  const HfJson config = tiny_config(HfFamily::kQwen3Moe);
  const auto weights_of = [&](const std::string& name, const HfJson& of) {
    const fs::path path = folder.write(name + "/config.json", config.dump()).parent_path();
    write_tiny_weights(path, of);
    return import_refusal(path);
  };
  HfJson other = config;
  other["num_hidden_layers"] = 1;
  EXPECT_NE(weights_of("fewer", other).find("has no tensor model.layers.1."), std::string::npos);
  other = config;
  other["num_hidden_layers"] = 3;
  EXPECT_NE(weights_of("more", other).find("for which a qwen3_moe as config.json describes it has no place"), std::string::npos);
  other = config;
  other["head_dim"] = 6;
  EXPECT_NE(weights_of("wider", other).find("q_proj.weight is [12, 8], and by config.json must be [8, 8]"), std::string::npos);
  other = config;
  other["model_type"] = "mixtral";
  other["architectures"] = {"MixtralForCausalLM"};
  other["num_local_experts"] = 4;
  EXPECT_NE(weights_of("family", other).find("has no tensor"), std::string::npos);
}

TEST(HfImport, LeavesOutLayersThatPredictFurtherTokensAndSaysSo) {
  const TemporaryFolder folder;
  HfJson config = tiny_config(HfFamily::kDeepseekV3);
  config["num_hidden_layers"] = 3;
  const fs::path hf = write_tiny_model(folder, "hf", config);
  config["num_hidden_layers"] = 2;
  folder.write("hf/config.json", config.dump());
  EXPECT_NE(import_refusal(hf).find("for which a deepseek_v3 as config.json describes it has no place"), std::string::npos);
  config["num_nextn_predict_layers"] = 1;
  folder.write("hf/config.json", config.dump());
  const HfImport imported(hf, 0);
  ASSERT_EQ(imported.remarks().size(), 1u);
  EXPECT_EQ(imported.remarks()[0].find("num_nextn_predict_layers (1): the layers that predict further tokens are left out"), 0u);
}

TEST(HfImport, ARouterOfDeepseekKeepsItsBias) {
  const TemporaryFolder folder;
  const fs::path hf = write_tiny_model(folder, "hf", tiny_config(HfFamily::kDeepseekV3), at::kBFloat16);
  Logger log;
  write_imported(HfImport(hf, 0), folder / "step-00000000", "", 1234, log);
  CheckpointReader reader(folder / "step-00000000");
  const at::Tensor bias = reader.read("state/layers.1.moe.router.bias", 0, 4);
  EXPECT_TRUE(at::equal(bias, SafetensorsFolder(hf).read("model.layers.1.mlp.gate.e_score_correction_bias", 0, 4)));
  EXPECT_TRUE(bias.any().item<bool>());
  EXPECT_FALSE(reader.tensors().contains("exp_avg/layers.1.moe.router.bias"));
}

TEST(HfImport, ATiedHeadMayBeThereAndMustBeTheEmbedding) {
  const TemporaryFolder folder;
  HfJson config = tiny_config(HfFamily::kLlama);
  const fs::path hf = write_tiny_model(folder, "hf", config);
  config["tie_word_embeddings"] = true;
  folder.write("hf/config.json", config.dump());
  EXPECT_NE(import_refusal(hf).find("lm_head.weight is not the embedding"), std::string::npos);
}

TEST(HfImport, RefusesNumbersThatAreNotFinite) {
  const TemporaryFolder folder;
  const HfJson config = tiny_config(HfFamily::kLlama);
  const HfModel hf = model_of_config(config, "config.json", 0);
  const fs::path path = folder.write("hf/config.json", config.dump()).parent_path();
  std::vector<SafetensorsTensor> tensors;
  weight_plans(
      hf.family, hf.model, [](const std::string&) { return false; },
      [&](const HfPart& part) {
        tensors.push_back({part.name, part.shape});
      });
  write_safetensors_folder(path, tensors, at::kFloat, 1 << 30, [&](size_t index, int64_t, int64_t count) {
    return at::arange(count).to(at::kFloat).div(tensors[index].name == "model.norm.weight" ? 0.0 : 1.0);
  });
  Logger log;
  try {
    write_imported(HfImport(path, 0), folder / "step-00000000", "", 1234, log);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("model.norm.weight has numbers that are not finite"), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(folder / "step-00000000"));
}

// Qwen's families with experts may say that no layer has any.
TEST(HfExport, AFamilyOfExpertsWithoutAnyBecomesTheDenseOne) {
  const TemporaryFolder folder;
  for (const auto& [family, dense] : {std::pair(HfFamily::kQwen3Moe, "qwen3"), std::pair(HfFamily::kQwen2Moe, "qwen2")}) {
    HfJson config = tiny_config(family);
    config["mlp_only_layers"] = {0, 1};
    const fs::path hf = write_tiny_model(folder, dense, config);
    Logger log;
    const HfImport imported(hf, 0);
    const fs::path step = folder / concat(dense, "-run") / "step-00000000";
    write_imported(imported, step, "", 1234, log);
    const fs::path out = folder / concat(dense, "-out");
    fs::create_directories(out);
    HfExportOptions options;
    options.companions = hf;
    options.dtype = at::kFloat;
    export_to_hf(step, imported.hf().model, out, options, log);
    const HfJson written = HfJson::parse(read_file(out / "config.json"));
    EXPECT_EQ(written["model_type"], dense);
    EXPECT_EQ(written["eos_token_id"], 2);
    EXPECT_FALSE(written.contains("num_experts")) << written;
    EXPECT_FALSE(written.contains("mlp_only_layers")) << written;
    EXPECT_EQ(import_refusal(out), "");
    const SafetensorsFolder before(hf), after(out);
    EXPECT_EQ(before.names(), after.names());
    EXPECT_EQ(bytes_of(before, "model.layers.1.mlp.up_proj.weight"), bytes_of(after, "model.layers.1.mlp.up_proj.weight"));
  }
}

TEST(HfExport, RefusesACheckpointOfAnotherModel) {
  const TemporaryFolder folder;
  const fs::path hf = write_tiny_model(folder, "hf", tiny_config(HfFamily::kQwen3Moe));
  Logger log;
  const HfImport imported(hf, 0);
  write_imported(imported, folder / "step-00000000", "", 1234, log);
  ModelConfig other = imported.hf().model;
  other.vocabulary = 24;
  fs::create_directories(folder / "out");
  EXPECT_THROW(export_to_hf(folder / "step-00000000", other, folder / "out", {}, log), CheckpointError);
}

}  // namespace
}  // namespace pimoe
