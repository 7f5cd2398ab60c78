/// A checkpoint's model forward and backward, and some steps of training, on one rank in float32, from and to raw files, so that another program
/// can compare.
///
///     whole_model CHECKPOINT CASE_FOLDER
///
/// Files are little-endian, row-major, without a header; the type is the suffix. Read are case.yaml (sequences B, length S, generate, steps, batch
/// G, learning_rate), tokens.i64 [B, S] and, with steps, samples.i64 [steps, G, S + 1]; written are
///
///     logits.f32 [B, S, V]      loss.f32: the mean cross-entropy of every position's successor      grad.NAME.f32: of that loss
///     generated.i64             `generate` tokens each that follow the first sequence, the first two thirds of the second and the first third of
///                               the third, in one batch, the likeliest one each time
///     losses.f32                of each step of training, without balance losses, at a constant learning rate

#include "base/config_fields.h"
#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/training_state.h"
#include "model/generation.h"
#include "parallel/parameter_buckets.h"
#include "support/ranks.h"
#include "train/learner.h"
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
  int64_t steps = 0;
  int64_t batch = 1;
  double learning_rate = 1e-3;

  void fields(FieldVisitor& visit) {
    visit.integer("sequences", sequences, {.at_least = 1}, "in all");
    visit.integer("length", length, {.at_least = 2}, "of each");
    visit.integer("generate", generate, {.at_least = 0}, "tokens");
    visit.integer("steps", steps, {.at_least = 0}, "of training");
    visit.integer("batch", batch, {.at_least = 1}, "sequences of a step");
    visit.number("learning_rate", learning_rate, {.above = 0}, "of training");
  }
};

void write_tensor(const fs::path& path, const at::Tensor& tensor) {
  const at::Tensor dense = tensor.detach().contiguous();
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(dense.const_data_ptr()), static_cast<std::streamsize>(dense.nbytes()));
  file.close();
  if (!file) throw Error(concat(path.string(), " could not be written"));
}

at::Tensor read_tokens(const fs::path& path, at::IntArrayRef shape) {
  at::Tensor tokens = at::empty(shape, at::kLong);
  const std::vector<std::byte> bytes = read_regular_bytes(path);
  if (bytes.size() != tokens.nbytes()) throw DataError(path.string() + " is of another size than case.yaml says");
  std::memcpy(tokens.mutable_data_ptr(), bytes.data(), bytes.size());
  return tokens;
}

/// Three micro-steps a step, or fewer, as a run makes them.
std::vector<MicroBatch> micro_batches(const at::Tensor& samples) {
  const int64_t length = samples.size(1) - 1;
  const StepPlan plan(samples.size(0), 1, (samples.size(0) + 2) / 3);
  std::vector<MicroBatch> batches;
  int64_t first = 0;
  for (int64_t micro_step = 0; micro_step < plan.micro_steps(); ++micro_step) {
    const int64_t count = plan.micro_step_sequences(micro_step);
    MicroBatch batch;
    batch.tokens = samples.narrow(0, first, count).narrow(1, 0, length).contiguous();
    batch.targets = samples.narrow(0, first, count).narrow(1, 1, length).contiguous();
    batch.micro_step = micro_step;
    batch.first_sequence = first;
    batch.global_sequences = count;
    batch.is_last = micro_step + 1 == plan.micro_steps();
    batches.push_back(std::move(batch));
    first += count;
  }
  return batches;
}

void train(const fs::path& checkpoint, const fs::path& folder, const ModelCase& given, TrainConfig config, const ProcessMesh& mesh) {
  config.model.moe.balance.switch_loss = config.model.moe.balance.z_loss = 0;
  Learner learner(config, at::kFloat, {}, mesh);
  Snapshot wanted;
  wanted.pieces = learner.state_pieces();
  restore_snapshot(checkpoint, wanted);
  learner.optimizer().publish();
  const at::Tensor samples = read_tokens(folder / "samples.i64", {given.steps, given.batch, given.length + 1});
  std::vector<float> losses;
  for (int64_t step = 0; step < given.steps; ++step) {
    const StepTerms terms = learner.begin_step(given.batch * given.length);
    const StepSums sums = learner.accumulate_gradients(micro_batches(samples[step]), terms, {});
    losses.push_back(static_cast<float>(learner.update(sums).loss));
  }
  write_tensor(folder / "losses.f32", at::tensor(losses));
}

void run(const fs::path& checkpoint, const fs::path& folder) {
  ModelCase given;
  const fs::path file = folder / "case.yaml";
  load_fields(read_file(file), file.string(), {}, [&](FieldVisitor& visit) { given.fields(visit); });
  const at::Tensor tokens = read_tokens(folder / "tokens.i64", {given.sequences, given.length});
  TrainConfig config = parse_train_config(read_manifest(checkpoint).config, "manifest.json");
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

  if (given.steps > 0) {
    config.optimizer.learning_rate = given.learning_rate;
    config.optimizer.schedule = Schedule::kConstant;
    config.optimizer.warmup_steps = 0;
    train(checkpoint, folder, given, config, *mesh);
  }
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
