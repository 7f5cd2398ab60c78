#pragma once

/// One MoE layer against the loop of reference_layer.h: output, losses, counts and every gradient, on any mesh.

#include "moe/balance.h"
#include "moe/layer_fixture.h"

#include <gtest/gtest.h>

#include <random>
#include <sstream>

namespace pimoe {

struct LayerCase {
  MoeConfig config;
  int64_t width = 5;
  int64_t sequence_length = 1;
  bool static_rows = false;
  std::vector<int64_t> sequences;  ///< of each rank
  uint64_t seed = 1;
  at::Tensor bias;  ///< [E], or undefined for zeros
  double tolerance = 1e-10;
};

inline std::string describe(const LayerCase& given) {
  MoeConfig config = given.config;
  std::ostringstream text;
  text << "seed " << given.seed << ", S " << given.sequence_length << ", sequences of the ranks";
  for (const int64_t count : given.sequences) text << " " << count;
  for (const std::string& line : split(print_fields([&](FieldVisitor& visit) { config.fields(visit); }), '\n')) {
    text << "; " << line.substr(0, line.find("  #"));
  }
  for (const ExpertGroupConfig& group : config.groups) {
    text << "; group of " << group.count << " activation " << static_cast<int>(group.activation) << " layers " << group.layers << " width "
         << group.width;
  }
  return text.str();
}

/// Every rank of `mesh` calls; each has its own sequences.
inline void expect_equal_to_loop(const LayerCase& given, const ProcessMesh& mesh) {
  SCOPED_TRACE(describe(given));
  const int64_t length = given.sequence_length;
  const MoeConfig& config = given.config;
  LayerFixture fixture(config, given.width, mesh, given.seed);
  const at::Tensor bias = given.bias.defined() ? given.bias : at::zeros({config.experts}, at::kDouble);
  fixture.layer.router().bias().copy_(bias);

  const int64_t total = length * std::accumulate(given.sequences.begin(), given.sequences.end(), int64_t{0});
  const int64_t most = length * *std::max_element(given.sequences.begin(), given.sequences.end());
  const auto range_of = [&](int rank) {
    return std::pair{length * std::accumulate(given.sequences.begin(), given.sequences.begin() + rank, int64_t{0}),
                     length * given.sequences[rank]};
  };
  const auto [first, count] = range_of(mesh.rank());
  at::manual_seed(given.seed);
  const at::Tensor input = at::randn({total, given.width}, at::kDouble);
  const at::Tensor gradient = at::randn({total, given.width}, at::kDouble);
  const BalanceConfig coefficients{.switch_loss = 0.7, .sequence_loss = config.balance.sequence_loss, .z_loss = 0.3};

  const at::Tensor ours = input.narrow(0, first, count).clone().requires_grad_(true);
  std::optional<RoutingMemo> memo;
  BatchContext context(first, most);
  context.sequence_length = length;
  context.static_rows = given.static_rows && fixture.layer.has_static_rows();
  const MoEOutput output = fixture.layer.forward(ours, context, memo);
  const double tokens = static_cast<double>(std::max<int64_t>(1, total));
  const BalanceTerms terms = balance_terms({output.record}, coefficients, tokens, {}, mesh.group(Group::kBatch));
  ((output.tokens * gradient.narrow(0, first, count)).sum() + terms.loss).backward();
  at::Tensor dropped = output.record.dropped.reshape({1}).clone();
  mesh.group(Group::kBatch).all_reduce(dropped);

  // The loop, over all ranks' tokens; capacity is a matter of each rank.
  if (total == 0) return;
  const at::Tensor theirs = input.clone().requires_grad_(true);
  const ReferenceOutput losses = reference_moe(theirs, fixture.weights, bias, config, length, 0);
  at::Tensor loss = 0.7 * losses.switch_loss + 0.3 * losses.z_loss + coefficients.sequence_loss * losses.sequence_loss;
  at::Tensor expected;
  int64_t expected_dropped = 0;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const auto [begin, own] = range_of(rank);
    if (own == 0) continue;
    MoeConfig of_rank = config;
    if (config.capacity_pad) of_rank.capacity_factor *= static_cast<double>(most) / static_cast<double>(own);  // all pad to one capacity
    const ReferenceOutput part = reference_moe(theirs.narrow(0, begin, own), fixture.weights, bias, of_rank, length, begin);
    loss = loss + (part.tokens * gradient.narrow(0, begin, own)).sum();
    expected_dropped += part.dropped;
    if (rank == mesh.rank()) expected = part.tokens;
  }
  loss.backward();

  EXPECT_LT(count > 0 ? relative_difference(output.tokens, expected) : 0.0, given.tolerance);
  EXPECT_EQ(dropped.item<int64_t>(), expected_dropped);
  for (int64_t expert = 0; expert < config.experts; ++expert) EXPECT_EQ(terms.load[0][expert].item<int64_t>(), losses.load[expert]);
  at::Tensor parts =
      terms.parts.select(1, 0).contiguous();  // BalanceConfig::rules(): the Switch loss, the z-loss, the sequence loss if it is on
  mesh.group(Group::kBatch).all_reduce(parts);
  EXPECT_NEAR(parts[0].item<double>(), losses.switch_loss.item<double>(), given.tolerance);
  EXPECT_NEAR(parts[1].item<double>(), losses.z_loss.item<double>(), given.tolerance * 100);
  if (coefficients.sequence_loss > 0) {
    EXPECT_NEAR(parts[2].item<double>(), losses.sequence_loss.item<double>(), given.tolerance);
  }

  if (count > 0) {
    const at::Tensor difference = ours.grad() - theirs.grad().narrow(0, first, count);
    EXPECT_LT(difference.abs().max().item<double>(), 10 * given.tolerance * std::max(1e-2, theirs.grad().abs().max().item<double>()));
  }
  // Dense gradients add up over all ranks, expert gradients over the replicas of an expert: never an average.
  for (const auto& parameter : fixture.parameters) {
    const at::Tensor whole = fixture.whole.at(parameter->name).grad();
    at::Tensor sum = parameter->value.grad().defined() ? parameter->value.grad().clone() : at::zeros_like(parameter->value);
    mesh.group(parameter->copies).all_reduce(sum);
    const at::Tensor wanted = !whole.defined() ? at::zeros_like(sum)
                              : parameter->copies == Group::kExpertReplica
                                  ? whole.narrow(0, parameter->box.offset[0], parameter->box.shape[0])
                                  : whole;
    const double scale = std::max(1e-9, whole.defined() ? whole.abs().max().item<double>() : 0.0);
    EXPECT_LT((sum - wanted).abs().max().item<double>() / scale, 10 * given.tolerance) << parameter->name;
  }
}

/// A random layer: any router, limits, memory and shapes of experts. @param divisor  of every group's experts
inline LayerCase random_layer(std::mt19937& random, int ranks, int64_t divisor) {
  const auto pick = [&](auto... options) {
    const std::common_type_t<decltype(options)...> all[] = {options...};
    return all[random() % sizeof...(options)];
  };
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  LayerCase made;
  made.seed = random();
  MoeConfig& config = made.config;
  config.expert_width = 1 + below(6);
  if (random() % 3 == 0) {
    const int64_t groups = 2 + below(2);
    config.experts = 0;
    for (int64_t index = 0; index < groups; ++index) {
      ExpertGroupConfig group{.name = concat("g", index), .count = divisor * (1 + below(2))};
      group.activation = pick(Activation::kSwiglu, Activation::kGeglu, Activation::kGelu, Activation::kRelu, Activation::kRelu2,
                              Activation::kSilu, Activation::kTanh);
      group.layers = 2 + below(3);
      group.width = below(2) * (1 + below(5));
      config.experts += group.count;
      config.groups.push_back(group);
    }
  } else {
    config.experts = divisor * (1 + below(4));
  }
  config.choices = 1 + below(config.experts);
  RouterConfig& router = config.router;
  router.kind = pick(RouterKind::kSoftmax, RouterKind::kSoftmax, RouterKind::kSigmoid, RouterKind::kExpertChoice, RouterKind::kUniform);
  router.pre_softmax = random() % 2 == 0;
  router.renormalize = random() % 2 == 0;
  router.route_scale = pick(1.0, 2.5);
  router.temperature = pick(1.0, 0.7);
  router.projection = pick(0, 0, 3);
  router.linear_bias = random() % 3 == 0;
  const bool chooses = router.kind == RouterKind::kSoftmax || router.kind == RouterKind::kSigmoid;
  if (chooses && config.experts % 2 == 0 && config.experts > 2 && random() % 2 == 0) {
    router.groups = 2;
    router.group_choices = config.choices <= config.experts / 2 ? 1 : 2;
    router.group_score = pick(GroupScore::kSum, GroupScore::kMax);
    router.group_top = pick(0, 1);
  }
  config.balance.sequence_loss = pick(0.0, 0.2);
  if (router.kind != RouterKind::kExpertChoice && random() % 3 == 0) {
    config.capacity_factor = pick(0.3, 1.0, 1.25);
    config.capacity_drop = pick(CapacityDrop::kGate, CapacityDrop::kPosition);
    config.capacity_pad = random() % 2 == 0;
  }
  if (!config.capacity_pad && random() % 3 == 0) config.rank_budget = pick(1.0, 1.5);  // in chunks: exact
  config.memory = pick(MoeMemory::kFast, MoeMemory::kBalanced, MoeMemory::kLean);
  config.checks = pick(MoeValidate::kOff, MoeValidate::kCheap, MoeValidate::kFull);
  const bool may_send_tokens =
      config.groups.empty() && !config.capacity_pad && config.checks != MoeValidate::kFull && router.kind != RouterKind::kExpertChoice;
  if (may_send_tokens) {
    constexpr MoeExchange kinds[] = {MoeExchange::kAuto, MoeExchange::kRows, MoeExchange::kTokens, MoeExchange::kDirect};
    config.exchange = kinds[random() % 4];
    made.static_rows = random() % 2 == 0;
  }
  if (random() % 4 == 0) config.shared_width = 3;
  config.shared_gate = random() % 2 == 0;
  if (random() % 4 == 0) config.fallback_width = 2;
  made.width = config.exchange == MoeExchange::kDirect ? 2 * (1 + below(3)) : 1 + below(6);  // rows of 16 bytes
  made.sequence_length = 1 + below(4);
  for (int rank = 0; rank < ranks; ++rank) made.sequences.push_back(below(3) * below(4));  // often none
  if (chooses && random() % 2 == 0) {
    made.bias = at::zeros({config.experts}, at::kDouble);
    made.bias[below(config.experts)] = pick(-10.0, 10.0);  // never, or always
  }
  return made;
}

}  // namespace pimoe
