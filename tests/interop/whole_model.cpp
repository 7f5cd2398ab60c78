/// A checkpoint's model forward and backward on one rank in float32, from and to raw files, so that another program can compare.
///
///     whole_model CHECKPOINT CASE_FOLDER
///
/// Files are little-endian, row-major, without a header; the type is the suffix. Read are case.yaml (sequences B, length S, generate) and
/// tokens.i64 [B, S]; written are
///
///     logits.f32 [B, S, V]      loss.f32: the mean cross-entropy of every position's successor      grad.NAME.f32: of that loss
///     generated.i64             `generate` tokens each that follow the first sequence, the first two thirds of the second and the first third of
///                               the third, in one batch, the likeliest one each time

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/training_state.h"
#include "model/generation.h"
#include "parallel/parameter_buckets.h"
#include "support/ranks.h"
#include "train/router_state.h"
#include "train/train_config.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

struct ModelCase {
  int64_t sequences = 1;
  int64_t length = 1;
  int64_t generate = 0;

  void fields(FieldVisitor& visit) {
    visit.integer("sequences", sequences, {.at_least = 1}, "in all");
    visit.integer("length", length, {.at_least = 2}, "of each");
    visit.integer("generate", generate, {.at_least = 0}, "tokens");
  }
};

void write_tensor(const fs::path& path, const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().contiguous();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(dense.const_data_ptr()), static_cast<std::streamsize>(dense.nbytes()));
  file.close();
  if (!file) throw Error(concat(path.string(), " could not be written"));
}

void run(const fs::path& checkpoint, const fs::path& folder) {
  ModelCase given;
  const fs::path file = folder / "case.yaml";
  load_fields(read_file(file), file.string(), {}, [&](FieldVisitor& visit) { given.fields(visit); });
  at::Tensor tokens = at::empty({given.sequences, given.length}, at::kLong);
  const std::vector<std::byte> bytes = read_regular_bytes(folder / "tokens.i64");
  if (bytes.size() != tokens.nbytes()) throw DataError("tokens.i64 is of another size than case.yaml says");
  std::memcpy(tokens.mutable_data_ptr(), bytes.data(), bytes.size());

  const TrainConfig config = parse_train_config(read_manifest(checkpoint).config, "manifest.json");
  const auto mesh = single_mesh(cpu_mesh(), config.model.moe.common_divisor());
  Transformer model(config.model, at::kFloat, *mesh);
  const ParameterBuckets buckets(model.parameters(), *mesh, ParameterBuckets::kBucketBytes, /*trained=*/true);
  Snapshot wanted;
  for (const auto& parameter : model.parameters()) {
    const int64_t count = parameter->box.numel();
    wanted.pieces.push_back({state_kind::kMaster, {parameter->name, parameter->box, 0, count}, parameter->value.detach().view({count})});
  }
  for (MoELayer* layer : model.moe_layers()) wanted.pieces.push_back(router_bias_state(*layer));
  restore_snapshot(checkpoint, wanted);

  const BatchContext context(0, tokens.numel());
  {
    const at::NoGradGuard no_gradients;
    write_tensor(folder / "logits.f32", model.logits(tokens, context));
    std::vector<std::vector<int32_t>> prompts;
    for (int64_t row = 0; row < std::min<int64_t>(3, given.sequences); ++row) {
      prompts.emplace_back();
      for (int64_t i = 0; i < given.length * (3 - row) / 3; ++i) prompts.back().push_back(tokens[row][i].item<int32_t>());
    }
    GenerationOptions generation;
    generation.sampling.tokens = given.generate;
    generation.sampling.temperature = 0;
    std::vector<int64_t> added;
    for (const Continuation& each : continue_prompts(model, prompts, *mesh, generation)) {
      added.insert(added.end(), each.tokens.begin(), each.tokens.end());
    }
    write_tensor(folder / "generated.i64", at::tensor(added));
  }
  at::Tensor targets = at::full({given.sequences, given.length}, -1, at::kLong);
  targets.slice(1, 0, given.length - 1).copy_(tokens.slice(1, 1));
  const at::Tensor loss =
      model.forward(tokens, targets, context).cross_entropy_sum / static_cast<double>(given.sequences * (given.length - 1));
  write_tensor(folder / "loss.f32", loss.to(at::kFloat));
  loss.backward();
  for (const auto& parameter : model.parameters()) {
    const at::Tensor& gradient = parameter->value.grad();
    write_tensor(folder / ("grad." + parameter->name + ".f32"), gradient.defined() ? gradient : at::zeros_like(parameter->value));
  }
}

}  // namespace
}  // namespace pimoe

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: whole_model CHECKPOINT CASE_FOLDER\n");
    return 64;
  }
  try {
    pimoe::run(argv[1], argv[2]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "whole_model: %s: %s\n", argv[2], error.what());
    return 1;
  }
  return 0;
}
