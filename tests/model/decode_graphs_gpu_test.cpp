#include "model/decode_graphs.h"

#include "model/model_fixture.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <vector>

namespace pimoe {
namespace {

ModelConfig served_model() {
  ModelConfig config = tiny_model();
  config.width = 128;
  config.heads = 4;
  config.kv_heads = 2;
  config.sequence_length = 700;
  config.vocabulary = 101;
  config.feed_forward_width = 128;
  config.moe.experts = 8;
  config.moe.expert_width = 128;
  config.moe.shared_width = 64;
  return config;
}

struct GpuModel {
  explicit GpuModel(const ModelConfig& config, at::ScalarType dtype = at::kBFloat16)
      : mesh([] {
          MeshConfig of_mesh;
          of_mesh.device = DeviceChoice::kCuda;
          return single_mesh(of_mesh);
        }()),
        model(config, dtype, *mesh),
        buckets(model.parameters(), *mesh, 1 << 20, /*trained=*/false) {
    draw_initial_values(model.parameters());
  }
  std::unique_ptr<ProcessMesh> mesh;
  Transformer model;
  ParameterBuckets buckets;
};

/// Texts that come and go, with as many pages as they can need.
struct Texts {
  Texts(int64_t count, int64_t room) : pages_of_text(KeyValueCache::pages_for(room)), lengths(static_cast<size_t>(count)) {}

  CachedPart part(size_t text, int64_t count) {
    CachedPart part;
    part.pages.resize(static_cast<size_t>(pages_of_text));
    std::iota(part.pages.begin(), part.pages.end(), static_cast<int64_t>(text) * pages_of_text);
    part.first = lengths[text];
    part.count = count;
    lengths[text] += count;
    return part;
  }
  int64_t pages_of_text;
  std::vector<int64_t> lengths;
};

TEST(DecodeGraphs, GiveTheSameBitsAsPassesThatAreNotRecorded) {
  const GpuModel fixture(served_model());
  const at::NoGradGuard no_gradients;
  const Transformer& model = fixture.model;
  const c10::Device device = fixture.mesh->device();
  constexpr int64_t kTexts = 5;
  Texts texts(kTexts, 700);
  KeyValueCache recorded_cache(model.config(), model.dtype(), device, kTexts * texts.pages_of_text);
  KeyValueCache usual_cache(model.config(), model.dtype(), device, kTexts * texts.pages_of_text);
  at::Tensor load = at::zeros({8}, at::TensorOptions().dtype(at::kLong).device(device));
  at::Tensor usual_load = at::zeros_like(load);
  DecodeGraphs graphs(model, recorded_cache, *fixture.mesh, kTexts, [load](const std::vector<RoutingRecord>& routing) {
    for (const RoutingRecord& record : routing) load.add_(record.load);
  });
  ASSERT_EQ(graphs.obstacle(), "");
  std::mt19937 random(3);
  int64_t replays = 0;
  for (int step = 0; step < 120; ++step) {
    std::vector<int64_t> tokens;
    std::vector<CachedPart> parts;
    for (size_t text = 0; text < kTexts; ++text) {
      if (random() % 4 == 0) continue;
      if (texts.lengths[text] > 660 || random() % 40 == 0) texts.lengths[text] = 0;  // another takes its place
      const int64_t count = texts.lengths[text] > 0 ? 1 : 1 + static_cast<int64_t>(random() % 600);
      parts.push_back(texts.part(text, count));
      for (int64_t at = 0; at < count; ++at) tokens.push_back(static_cast<int64_t>(random() % 101));
    }
    if (parts.empty()) continue;
    const auto most = static_cast<int64_t>(tokens.size());
    const at::Tensor ids = at::tensor(tokens, at::kLong).to(device);
    std::optional<at::Tensor> scores = graphs.replay(tokens, parts);
    replays += scores ? 1 : 0;
    std::vector<RoutingRecord> routing, usual_routing;
    if (!scores) {
      scores = model.extend(ids, parts, recorded_cache, most, &routing);
      for (const RoutingRecord& record : routing) load.add_(record.load);
    }
    const at::Tensor usual = model.extend(ids, parts, usual_cache, most, &usual_routing);
    for (const RoutingRecord& record : usual_routing) usual_load.add_(record.load);
    ASSERT_TRUE(at::equal(*scores, usual)) << "step " << step << ", " << parts.size() << " texts";
  }
  EXPECT_EQ(graphs.obstacle(), "");
  EXPECT_GT(graphs.recorded(), 3);
  EXPECT_GT(replays, 30);
  EXPECT_TRUE(at::equal(load, usual_load)) << load << usual_load;
}

TEST(DecodeGraphs, AreNotMadeOfWhatTheHostHasToSee) {
  const GpuModel fixture(served_model(), at::kFloat);
  const KeyValueCache cache(fixture.model.config(), at::kFloat, fixture.mesh->device(), 4);
  DecodeGraphs graphs(fixture.model, cache, *fixture.mesh, 2);
  EXPECT_NE(graphs.obstacle(), "");
  EXPECT_FALSE(graphs.replay({1}, {CachedPart{{.pages = {0}, .first = 0, .count = 1}}}));
}

}  // namespace
}  // namespace pimoe
