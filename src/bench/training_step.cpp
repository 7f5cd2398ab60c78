#include "bench/training_step.h"

#include "bench/bench.h"

#include <ATen/ops/randint.h>

#include <algorithm>
#include <numeric>

namespace pimoe {
namespace {

constexpr int64_t kSteps = 8;  ///< different ones: a model learns a single batch by heart, and routes it ever more alike

const char* name_of(StepPart part) {
  switch (part) {
    case StepPart::kForward: return "forward";
    case StepPart::kBackward: return "backward";
    case StepPart::kGradients: return "gradients";
  }
  return "";
}

/// The mesh's communicators, each once: groups of the same ranks share one.
std::vector<const Communicator*> communicators(const ProcessMesh& mesh) {
  std::vector<const Communicator*> all;
  for (const Communicator* each : {&mesh.group(Group::kDense), &mesh.group(Group::kExpert), &mesh.group(Group::kExpertReplica),
                                   &mesh.gradient_group(Group::kDense), &mesh.gradient_group(Group::kExpertReplica)}) {
    if (each->size() > 1 && std::find(all.begin(), all.end(), each) == all.end()) all.push_back(each);
  }
  return all;
}

GroupTraffic sent_so_far(const Communicator& group) {
  return {.group = group.name(), .bytes = group.sent_bytes(), .messages = group.sent_messages(), .collectives = group.collectives()};
}

}  // namespace

std::vector<MicroBatch> micro_batches_of(const TrainConfig& config, const ProcessMesh& mesh,
                                         const std::function<at::Tensor(int64_t first, int64_t count)>& rows) {
  const Communicator& group = mesh.group(Group::kBatch);
  const StepPlan plan(config.train.global_batch, group.size(), config.train.micro_batch);
  const int64_t length = config.model.sequence_length;
  std::vector<MicroBatch> batches;
  for (int64_t index = 0; index < plan.micro_steps(); ++index) {
    const auto [first, count] = plan.share(index, group.rank());
    const at::Tensor tokens = rows(first, count);
    batches.push_back({.tokens = pinned(tokens.narrow(1, 0, length).contiguous(), mesh.device()),
                       .targets = pinned(tokens.narrow(1, 1, length).contiguous(), mesh.device()),
                       .micro_step = index,
                       .first_sequence = first,
                       .global_sequences = plan.micro_step_sequences(index),
                       .is_last = index + 1 == plan.micro_steps()});
  }
  return batches;
}

TrainingStep::TrainingStep(const Bench& bench)
    : mesh_(bench.mesh()),
      tokens_(bench.config().train.global_batch * bench.config().model.sequence_length),
      learner_(bench.config(), bench.dtype(), LossScaler::for_float16(), mesh_) {
  learner_.optimizer().initialize(static_cast<uint64_t>(bench.config().run.seed));
  for (int64_t step = 0; step < kSteps; ++step) {
    steps_.push_back(micro_batches_of(bench.config(), mesh_, [&](int64_t, int64_t count) {
      return at::randint(bench.config().model.vocabulary, {count, bench.config().model.sequence_length + 1}, at::kLong);
    }));
  }
}

StepRecord TrainingStep::run(Parts& parts, const PredictionObserver& seen) {
  const std::vector<MicroBatch>& batches = steps_[static_cast<size_t>(learner_.step() % kSteps)];
  const StepTerms terms = learner_.begin_step(tokens_);
  const StepSums sums = learner_.accumulate_gradients(batches, terms, seen);
  const TimeMark summed = TimeMark::now(mesh_.device());
  StepRecord record = learner_.update(sums);
  const TimeMark updated = TimeMark::now(mesh_.device());
  synchronize(mesh_.device());  // as Trainer: the update's work was only enqueued
  for (const StepTime& time : sums.times()) parts.add(name_of(time.part), time.begin, time.end);
  parts.add("update", summed, updated);
  return record;
}

StepMeasurement measure_step(Bench& bench) {
  TrainingStep step(bench);
  StepRecord record;
  StepMeasurement result;
  std::vector<int64_t> skipped;
  result.measured = bench.measure(Clock::kHost, [&](Parts& parts) {
    record = step.run(parts);
    if (skipped.empty()) result.first_loss = record.loss;
    skipped.push_back(record.outcome == StepOutcome::kTaken ? 0 : 1);
  });
  result.skipped_steps = std::accumulate(skipped.end() - result.measured.seconds.repetitions, skipped.end(), int64_t{0});
  result.tokens = step.tokens();

  // One more, whose memory and bytes are its own; a replayed step (StepGraph) counts none.
  const std::vector<const Communicator*> groups = communicators(bench.mesh());
  std::vector<GroupTraffic> before;
  for (const Communicator* group : groups) before.push_back(sent_so_far(*group));
  forget_peak_memory(bench.mesh().device());
  Parts parts;
  record = step.run(parts, [](const MicroBatch&, const Prediction&) {});
  result.peak_bytes = bench.most(memory_use(bench.mesh().device()).peak_bytes);
  for (size_t index = 0; index < groups.size(); ++index) {
    const GroupTraffic after = sent_so_far(*groups[index]);
    result.traffic.push_back({.group = after.group,
                              .bytes = bench.total(after.bytes - before[index].bytes),
                              .messages = bench.total(after.messages - before[index].messages),
                              .collectives = bench.most(after.collectives - before[index].collectives)});
  }
  result.gpu = record_gpu(bench.mesh().device(), [&] {
    Parts unread;
    step.run(unread);
  });
  result.kept_bytes = bench.most(*record.activation_bytes);
  const ParameterBuckets& buckets = step.learner().buckets();
  result.state_bytes = bench.most(buckets.weight_bytes() + buckets.gradient_bytes() + step.learner().optimizer().state_bytes());
  if (record.routing) result.maxvio = *std::max_element(record.routing->maxvio.begin(), record.routing->maxvio.end());
  return result;
}

}  // namespace pimoe
