#include "train/load_proof.h"

#include "base/errors.h"
#include "base/number_text.h"
#include "base/random.h"
#include "base/text.h"
#include "checkpoint/training_state.h"
#include "train/gradient_step.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <tuple>

namespace pimoe {
namespace {

constexpr int64_t kMostTokens = 256;

double proof_loss(const Transformer& model, const ProcessMesh& mesh) {
  const at::NoGradGuard no_gradients;
  const Communicator& group = mesh.group(Group::kExpert);
  const int64_t length = std::min(model.config().sequence_length, kMostTokens);
  const int64_t sequences = group.rank() == 0 ? 1 : 0;
  const at::Tensor ids = at::empty({sequences, length + 1}, at::kLong);
  const uint64_t key = named_key(0, "load proof");
  for (int64_t at = 0; at < ids.numel(); ++at) {
    ids.mutable_data_ptr<int64_t>()[at] =
        static_cast<int64_t>(random_bits(key, static_cast<uint64_t>(at)) % static_cast<uint64_t>(model.config().vocabulary));
  }
  const at::Tensor tokens = ids.narrow(1, 0, length).contiguous().to(mesh.device());
  const at::Tensor targets = ids.narrow(1, 1, length).contiguous().to(mesh.device());
  const BatchContext context = batch_context(0, group.size(), length, mesh);
  at::Tensor sum = model.forward(tokens, targets, context).cross_entropy_sum.to(at::kDouble).view({1});
  group.all_reduce(sum);
  return sum.item<double>() / static_cast<double>(length);
}

/// Of the loss. float32 and half precision round differently from one kind of device to the next: what is more than a kernel's order of sums explains,
/// and less than that, is for a person to judge.
struct Tolerance {
  double suspicious;
  double wrong;
};
Tolerance tolerance(int64_t element_bytes) {
  return element_bytes >= 8 ? Tolerance{1e-9, 1e-9} : element_bytes == 4 ? Tolerance{1e-5, 1e-4} : Tolerance{2e-4, 3e-2};
}

/// Why the loss may be another one; "" if it may not.
std::string excuse(const Snapshot& saved, const MoeConfig& before, const MoeConfig& now, const ProcessMesh& mesh) {
  if (!saved.numbers.contains(state_number::kProofLoss)) return "the checkpoint holds no loss to compare with";
  const auto limits = [](const MoeConfig& moe) {
    return std::tuple(moe.capacity_factor, moe.capacity_drop, moe.rank_budget, moe.rank_overflow);
  };
  if (limits(before) != limits(now)) return "capacity or rank limits are not what they were";
  const bool same_layout = saved.counters.at(state_counter::kProofRanks) == mesh.size() &&
                           saved.counters.at(state_counter::kProofExpertParallel) == static_cast<int64_t>(mesh.expert_parallel());
  if (now.may_drop() && !same_layout) return "what experts take goes by ranks, and the layout is another one";
  return "";
}

}  // namespace

void add_load_proof(Snapshot& snapshot, const Transformer& model, const ProcessMesh& mesh) {
  const double loss = proof_loss(model, mesh);
  if (!std::isfinite(loss)) return;  // nothing can be proved by it, and JSON has no such number
  snapshot.numbers[state_number::kProofLoss] = loss;
  snapshot.counters[state_counter::kProofBytes] = static_cast<int64_t>(c10::elementSize(model.dtype()));
  snapshot.counters[state_counter::kProofRanks] = mesh.size();
  snapshot.counters[state_counter::kProofExpertParallel] = mesh.expert_parallel();
}

LoadProof prove_loaded(const Snapshot& saved, const TrainConfig& before, const Transformer& model, const TrainConfig& config,
                       const ProcessMesh& mesh) {
  if (const std::string why = excuse(saved, before.model.moe, config.model.moe, mesh); !why.empty()) {
    return {concat("the loss of the loaded model was not compared with the saved one: ", why), false};
  }
  const double was = saved.numbers.at(state_number::kProofLoss);
  const double is = proof_loss(model, mesh);
  const double apart = std::abs(is - was);
  const int64_t bytes = std::min(saved.counters.at(state_counter::kProofBytes), static_cast<int64_t>(c10::elementSize(model.dtype())));
  const Tolerance of_loss = tolerance(bytes);
  const double allowed = of_loss.wrong * std::abs(was);
  const std::string trouble = apart <= allowed
                                  ? ""
                                  : concat("the loaded model is not the one that was saved: of the same sequence it has the loss ",
                                           shortest(is), ", and had ", shortest(was), " (", scientific(allowed, 1), " apart is allowed)");
  if (const std::string agreed = mesh.control().agree(trouble); !agreed.empty()) throw CheckpointError(agreed);
  const std::string facts = concat(fixed(is, 6), ", apart by ", scientific(apart, 1));
  const std::string doubt = mesh.control().agree(apart > of_loss.suspicious * std::abs(was) ? facts : "");
  if (doubt.empty()) return {concat("proved: the loaded model has the loss that it had when it was saved (", facts, ")"), false};
  return {
      concat(
          "the loss of the loaded model is close to the saved one's, but further from it than rounding explains on devices of one kind (",
          doubt, "): expected where precision or device have changed; elsewhere compare the coming losses with those of before"),
      true};
}

}  // namespace pimoe
