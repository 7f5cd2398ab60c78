#include "moe/moe_layer.h"

#include "base/errors.h"
#include "base/text.h"
#include "moe/capacity.h"
#include "moe/recompute.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_assert_async.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

namespace pimoe {
namespace {

/// The experts of the slots that stay, -1 elsewhere.
at::Tensor kept(const at::Tensor& experts, const at::Tensor& stays) { return at::where(stays, experts, at::full_like(experts, -1)); }

/// [T, K] bool: the slots that some plan takes to an expert.
at::Tensor travelling(const std::vector<DispatchPlan>& plans, const at::Tensor& experts) {
  at::Tensor travels = at::zeros_like(experts, experts.options().dtype(at::kBool));
  for (const DispatchPlan& plan : plans) travels = travels.logical_or(plan.order.positions.view_as(experts) >= 0);
  return travels;
}

}  // namespace

MoELayer::MoELayer(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, int64_t vocabulary,
                   at::ScalarType dtype, InitialDeviation deviation, const ProcessMesh& mesh)
    : name_(name),
      config_(config),
      width_(width),
      dtype_(dtype),
      mesh_(mesh),
      router_(parameters, name + ".router", config, width, vocabulary, dtype, mesh.device(), deviation.inner),
      placement_(config.expert_groups(), mesh.group(Group::kExpert).size(), mesh.group(Group::kExpert).rank()),
      dispatcher_(placement_, mesh.group(Group::kExpert), mesh.device()) {
  const std::vector<ExpertGroupConfig> groups = config.expert_groups();
  for (size_t index = 0; index < groups.size(); ++index) {
    const std::string bank = name + ".experts" + (groups[index].name.empty() ? "" : "." + groups[index].name);
    banks_.emplace_back(parameters, bank, groups[index], placement_.banks()[index], width, dtype, deviation);
    // Each round of a rank's budget is recomputed by a backward of its own.
    if (config.rank_budget > 0) banks_.back().expect_gradients_in_parts();
  }
  if (config.shared_width > 0) shared_.emplace(parameters, name + ".shared", width, config.shared_width, dtype, deviation);
  if (config.fallback_width > 0) fallback_.emplace(parameters, name + ".fallback", width, config.fallback_width, dtype, deviation);
}

MoEOutput MoELayer::forward(const at::Tensor& tokens, const BatchContext& context, std::optional<RoutingMemo>& memo) const {
  if (config_.checks != MoeValidate::kOff) check(tokens, context);
  const Routing routing = router_.route(tokens, context, memo ? memo->experts : at::Tensor());
  if (config_.checks != MoeValidate::kOff && !memo) check_ids(routing.experts);
  if (!memo) memo = decide(tokens, routing, context);

  // Several rounds bound what a rank holds at a time, which backward would undo if each kept its rows.
  const bool again = at::GradMode::is_enabled() && (config_.memory == MoeMemory::kLean || memo->plans.size() > 1);
  at::Tensor output;
  std::vector<PhaseMarks> phases;
  for (const DispatchPlan& plan : memo->plans) {
    at::Tensor part;
    const auto marks = std::make_shared<PhaseMarks>();
    if (again && (tokens.requires_grad() || routing.weights.requires_grad())) {
      const Region region = [this, plan, marks](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
        return {through_experts(inputs[0], inputs[1], plan, *marks)};
      };
      part = recompute(region, {tokens, routing.weights})[0];
    } else {
      part = through_experts(tokens, routing.weights, plan, *marks);
    }
    phases.push_back(*marks);
    output = output.defined() ? output + part : part;
  }
  if (memo->unserved.defined()) output = served_by_others(tokens, output, *memo);
  if (shared_) output = output + shared_->forward(tokens);
  RoutingRecord record = record_of(routing, context, *memo);
  record.phases = std::move(phases);
  return {output, std::move(record)};
}

void MoELayer::check(const at::Tensor& tokens, const BatchContext& context) const {
  if (tokens.dim() != 2 || tokens.size(1) != width_ || !tokens.is_contiguous() || tokens.device() != mesh_.device() ||
      tokens.scalar_type() != dtype_) {
    throw ShapeError(concat(name_, ": tokens ", tokens.sizes(), " of ", c10::toString(tokens.scalar_type()), " on ", tokens.device().str(),
                            " must be contiguous [T, ", width_, "] of ", c10::toString(dtype_), " on ", mesh_.device().str()));
  }
  const auto require = [&](const at::Tensor& of_tokens, const char* what, at::ScalarType dtype) {
    if (!of_tokens.defined() || (of_tokens.numel() == tokens.size(0) && of_tokens.scalar_type() == dtype)) return;
    throw ShapeError(concat(name_, ": BatchContext::", what, " ", of_tokens.sizes(), " of ", c10::toString(of_tokens.scalar_type()),
                            " must be ", tokens.size(0), " of ", c10::toString(dtype)));
  };
  require(context.token_ids, "token_ids", at::kLong);
  require(context.counted, "counted", at::kBool);
}

void MoELayer::check_ids(const at::Tensor& experts) const {
  if (experts.numel() == 0) return;
  if (config_.checks == MoeValidate::kCheap && experts.is_cuda()) {
    // The device looks, and nobody waits: what is wrong ends the run at its next synchronisation.
    at::_assert_async(experts.ge(-1).logical_and(experts.lt(config_.experts)).all(),
                      concat(name_, ": an expert is not in [-1, ", config_.experts, "): model.moe.validate=full says which"));
    return;
  }
  const auto least = experts.min().item<int32_t>();
  const auto most = experts.max().item<int32_t>();
  if (least < -1 || most >= config_.experts) {
    throw ShapeError(concat(name_, ": experts from ", least, " to ", most, " must be in [0, ", config_.experts, "), or -1 for none"));
  }
}

at::Tensor MoELayer::through_experts(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan,
                                     PhaseMarks& marks) const {
  const bool weigh_late = config_.memory == MoeMemory::kFast;
  marks.begin = TimeMark::now(mesh_.device());
  const at::Tensor rows = dispatcher_.dispatch(tokens, plan);
  // Otherwise the gates weigh the rows where they are computed, so that no result has to be kept for the gates' gradient.
  const at::Tensor row_weights = weigh_late ? at::Tensor() : dispatcher_.dispatch_slots(weights, plan);
  marks.dispatched = TimeMark::now(mesh_.device());
  const at::Tensor results = compute_experts(rows, row_weights, plan);
  marks.computed = TimeMark::now(mesh_.device());
  at::Tensor output = dispatcher_.combine(results, weigh_late ? weights : at::ones_like(weights.detach()), plan);
  marks.combined = TimeMark::now(mesh_.device());
  return output;
}

at::Tensor MoELayer::compute_experts(const at::Tensor& rows, const at::Tensor& row_weights, const DispatchPlan& plan) const {
  if (banks_.size() == 1) return banks_[0].forward(rows, row_weights, plan.ends);
  // Where each bank's rows lie has to be known on the host: a synchronisation that experts of one shape do without.
  const at::Tensor ends = plan.ends.cpu();
  const auto end_of = [&](int64_t expert) { return expert == 0 ? 0 : static_cast<int64_t>(ends.const_data_ptr<int32_t>()[expert - 1]); };
  std::vector<at::Tensor> results;
  for (size_t index = 0; index < banks_.size(); ++index) {
    const ExpertPlacement::Bank& bank = placement_.banks()[index];
    const int64_t begin = end_of(bank.begin);
    const int64_t count = end_of(bank.begin + bank.local) - begin;
    const at::Tensor weights = row_weights.defined() ? row_weights.narrow(0, begin, count) : at::Tensor();
    results.push_back(banks_[index].forward(rows.narrow(0, begin, count), weights, plan.ends.narrow(0, bank.begin, bank.local) - begin));
  }
  const int64_t unused = rows.size(0) - end_of(placement_.local());
  if (unused > 0) results.push_back(at::zeros({unused, rows.size(1)}, rows.options().requires_grad(false)));
  return at::cat(results);
}

RoutingMemo MoELayer::decide(const at::Tensor& tokens, const Routing& routing, const BatchContext& context) const {
  const at::NoGradGuard no_gradients;
  const int64_t most = capacity(tokens.size(0), context);
  const auto plans_of = [&](const at::Tensor& experts) {
    std::vector<DispatchPlan> plans;
    for (const at::Tensor& round : within_budget(experts, routing.weights)) {
      plans.push_back(dispatcher_.plan(round, config_.capacity_pad ? most : 0));
    }
    return plans;
  };

  RoutingMemo memo;
  memo.experts = routing.experts;
  at::Tensor experts = most > 0 ? within_capacity(routing.experts, routing.weights, most) : routing.experts;
  memo.plans = plans_of(experts);
  if (config_.checks == MoeValidate::kFull) {
    const at::Tensor wrong = nonfinite_slots(tokens, memo.plans, experts);
    at::Tensor any = wrong.any().to(at::kLong).reshape({1});
    mesh_.group(Group::kExpert).all_reduce(any, ReduceOp::kMax);
    if (any.item<int64_t>() != 0) {
      // Planned again without these slots: what is not finite then enters no product, forward or backward.
      memo.nonfinite = wrong;
      experts = kept(experts, wrong.logical_not());
      memo.plans = plans_of(experts);
      memo.unserved = wrong.any(1);
    }
  }
  if (fallback_) {
    const at::Tensor nowhere = travelling(memo.plans, experts).logical_not().all(1);
    memo.unserved = memo.unserved.defined() ? memo.unserved.logical_or(nowhere) : nowhere;
  }
  return memo;
}

int64_t MoELayer::capacity(int64_t tokens, const BatchContext& context) const {
  if (config_.capacity_factor == 0 || config_.router.kind == RouterKind::kExpertChoice) return 0;
  // Padded rows travel without counts, so that all ranks must mean the same number.
  if (tokens > context.most_tokens) {
    throw ShapeError(concat(name_, ": ", tokens, " tokens, and BatchContext::most_tokens is ", context.most_tokens));
  }
  return expert_capacity(config_, config_.capacity_pad ? context.most_tokens : tokens);
}

at::Tensor MoELayer::within_capacity(const at::Tensor& experts, const at::Tensor& weights, int64_t capacity) const {
  const at::Tensor limits = at::full({config_.experts}, capacity, experts.options().dtype(at::kLong));
  const at::Tensor priority = config_.capacity_drop == CapacityDrop::kGate ? weights.reshape({-1}) : at::Tensor();
  return kept(experts, within_limits(experts.reshape({-1}), priority, limits).view_as(experts));
}

std::vector<at::Tensor> MoELayer::within_budget(const at::Tensor& experts, const at::Tensor& weights) const {
  if (config_.rank_budget == 0) return {experts};
  const Communicator& group = mesh_.group(Group::kExpert);
  const int64_t ranks = group.size();
  // The rank that a slot goes to, and from every rank's counts how many rows each rank would get.
  const at::Tensor places = dispatcher_.places(experts).reshape({-1});
  const at::Tensor to = at::where(places >= 0, places.div(placement_.local(), "trunc"), places).to(at::kInt);
  const at::Tensor mine = order_by_expert(to, ranks).counts;
  at::Tensor all = at::empty({ranks * (ranks + 1)}, mine.options());
  group.all_gather(all, at::cat({mine, at::tensor({experts.numel()}, mine.options())}));
  // [source][destination] rows, and each source's slots in the last column.
  const at::Tensor host = all.view({ranks, ranks + 1}).cpu();
  const at::Tensor received = host.sum(0);
  const int64_t* to_rank = received.const_data_ptr<int64_t>();
  const int64_t budget = rows_within_budget(config_, to_rank[ranks], ranks);
  const int64_t fullest = *std::max_element(to_rank, to_rank + ranks);
  if (fullest <= budget) return {experts};

  if (config_.rank_overflow == RankOverflow::kDrop) {
    // Every source gives up the same share of what it has for a full rank.
    std::vector<int64_t> limits;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t count = host.const_data_ptr<int64_t>()[group.rank() * (ranks + 1) + rank];
      limits.push_back(to_rank[rank] <= budget ? count : count * budget / to_rank[rank]);
    }
    const at::Tensor stays = within_limits(to, weights.reshape({-1}), at::tensor(limits, mine.options()));
    return {kept(experts, stays.view_as(experts))};
  }
  // The rows for a rank in one order over all sources, in which each source's are spread evenly: slot p of c stands at (2p + 1) / 2c, of
  // equals the lower source's first. A round takes the next `budget` of them, never more.
  const at::Tensor destination = to.clamp_min(0).to(at::kLong);
  const at::Tensor odd = places_in_bins(to, ranks) * 2 + 1;
  const at::Tensor own = mine.index_select(0, destination).clamp_min(1);
  at::Tensor before = at::zeros_like(odd);
  for (int64_t source = 0; source < ranks; ++source) {
    const at::Tensor theirs = all.view({ranks, ranks + 1})[source].index_select(0, destination);
    // How many q have (2q + 1) / theirs below odd / own; or, for lower sources and this one's slots before it, not above.
    const int64_t strictly = source < group.rank() ? 0 : 1;
    before = before + ((odd * theirs - strictly).div(own, "floor") + 1).div(2, "floor").clamp_min(0);
  }
  const at::Tensor round_of = before.div(budget, "floor");
  const int64_t rounds = (fullest + budget - 1) / budget;
  std::vector<at::Tensor> parts;
  for (int64_t round = 0; round < rounds; ++round) {
    parts.push_back(kept(experts, (round_of == round).logical_and(to >= 0).view_as(experts)));
  }
  return parts;
}

at::Tensor MoELayer::nonfinite_slots(const at::Tensor& tokens, const std::vector<DispatchPlan>& plans, const at::Tensor& experts) const {
  at::Tensor wrong = at::zeros_like(experts, experts.options().dtype(at::kBool));
  for (const DispatchPlan& plan : plans) {
    const at::Tensor results = compute_experts(dispatcher_.dispatch(tokens, plan), {}, plan);
    const at::Tensor flags = at::isfinite(results).all(1).logical_not().to(at_least_float32(results.scalar_type())).unsqueeze(1);
    const at::Tensor returned = dispatcher_.return_slots(flags, plan);
    wrong = wrong.logical_or((returned != 0).view_as(experts));
  }
  return wrong;
}

at::Tensor MoELayer::served_by_others(const at::Tensor& tokens, const at::Tensor& output, const RoutingMemo& memo) const {
  const at::Tensor unserved = memo.unserved.unsqueeze(1);
  if (!fallback_) return output.masked_fill(unserved, 0);
  // A token that is not finite itself must not reach the fallback's weights either.
  const at::Tensor wanted = unserved.logical_and(at::isfinite(tokens).all(1, true));
  const at::Tensor others = fallback_->forward(at::where(wanted, tokens, at::zeros_like(tokens)));
  return at::where(unserved, at::where(wanted, others, at::zeros_like(others)), output);
}

RoutingRecord MoELayer::record_of(const Routing& routing, const BatchContext& context, const RoutingMemo& memo) const {
  const at::NoGradGuard no_gradients;
  at::Tensor experts = routing.experts;
  if (context.counted.defined()) experts = kept(experts, context.counted.unsqueeze(1).expand_as(experts));
  RoutingRecord record;
  static_cast<Routing&>(record) = routing;
  record.weights = routing.weights.detach();
  const bool all_travel = memo.plans.size() == 1 && config_.capacity_factor == 0 && config_.rank_budget == 0 && !memo.nonfinite.defined() &&
                          !context.counted.defined() && placement_.places().empty();
  record.load = all_travel ? memo.plans[0].order.counts : order_by_expert(experts.reshape({-1}).contiguous(), config_.experts).counts;
  const auto zero = record.load.new_zeros({});
  record.dropped = zero;
  if (!all_travel) {
    at::Tensor dropped = (experts >= 0).logical_and(travelling(memo.plans, experts).logical_not());
    if (memo.nonfinite.defined()) dropped = dropped.logical_and(memo.nonfinite.logical_not());
    record.dropped = dropped.sum();
  }
  const auto counted = [&](const at::Tensor& of_tokens) {
    return context.counted.defined() ? of_tokens.logical_and(of_tokens.dim() == 2 ? context.counted.unsqueeze(1) : context.counted)
                                     : of_tokens;
  };
  record.fallback = memo.unserved.defined() ? counted(memo.unserved).sum() : zero;
  record.nonfinite = memo.nonfinite.defined() ? counted(memo.nonfinite).sum() : zero;
  record.rows = zero;
  for (const DispatchPlan& plan : memo.plans) {
    if (plan.ends.numel() > 0) record.rows = record.rows + plan.ends.select(0, plan.ends.numel() - 1).to(at::kLong);
  }
  return record;
}

}  // namespace pimoe
