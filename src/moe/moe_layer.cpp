#include "moe/moe_layer.h"

#include "moe/layer_checks.h"
#include "moe/make_dispatcher.h"
#include "moe/recompute.h"
#include "ops/row_moves.h"
#include "ops/trace_range.h"
#include "parallel/device.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

namespace pimoe {
namespace {

/// [T, K] bool: the slots that some plan takes to an expert.
at::Tensor travelling(const std::vector<DispatchPlan>& plans, const at::Tensor& experts) {
  at::Tensor travels = at::zeros_like(experts, experts.options().dtype(at::kBool));
  for (const DispatchPlan& plan : plans) travels = travels.logical_or(plan.order.positions.view_as(experts) >= 0);
  return travels;
}

}  // namespace

MoELayer::MoELayer(ParameterList& parameters, const std::string& name, const MoeConfig& config, int64_t width, int64_t vocabulary,
                   at::ScalarType dtype, InitialDeviation deviation, const ProcessMesh& mesh, const QuantizationConfig& quantization)
    : name_(name),
      config_(config),
      width_(width),
      dtype_(dtype),
      mesh_(mesh),
      router_(parameters, name + ".router", config, width, vocabulary, dtype, mesh.device(), deviation.inner,
              quantization.of(quantization.router)),
      placement_(config.expert_groups(), mesh.group(Group::kExpert).size(), mesh.group(Group::kExpert).rank(), mesh.device()),
      limits_(name, config, placement_, mesh.group(Group::kExpert)),
      dispatcher_(make_dispatcher(placement_, mesh.group(Group::kExpert), config,
                                  {mesh.device(), width * static_cast<int64_t>(c10::elementSize(dtype))})) {
  const std::vector<ExpertGroupConfig> groups = config.expert_groups();
  for (size_t index = 0; index < groups.size(); ++index) {
    const std::string bank = name + ".experts" + (groups[index].name.empty() ? "" : "." + groups[index].name);
    banks_.emplace_back(parameters, bank, groups[index], placement_.banks()[index], width, dtype, deviation,
                        quantization.of(quantization.experts));
    // Each round of a rank's budget is recomputed by a backward of its own.
    if (config.rank_budget > 0) banks_.back().expect_gradients_in_parts();
  }
  if (config.shared_width > 0) {
    shared_.emplace(parameters, name + ".shared", width, config.shared_width, config.shared_gate, dtype, deviation,
                    quantization.of(quantization.dense));
  }
  if (config.fallback_width > 0) {
    fallback_.emplace(parameters, name + ".fallback", width, config.fallback_width, dtype, deviation, quantization.of(quantization.dense));
  }
}

std::string MoELayer::recording_obstacle() const {
  if (dtype_ != at::kBFloat16) return "products of experts in another precision than bfloat16 wait for the host";
  if (!has_static_rows()) {
    return "experts are shared out over ranks (mesh.expert_parallel) without a direct exchange (model.moe.exchange): the host waits for "
           "counts";
  }
  if (config_.groups.size() > 1) return "experts of several shapes (model.moe.groups) wait for the host";
  if (config_.rank_budget > 0) return "model.moe.rank_budget makes as many rounds as a step needs";
  if (config_.checks != MoeValidate::kOff) return "model.moe.validate looks at numbers on the host";
  if (config_.router.jitter > 0) return "model.moe.router.jitter draws anew in each step";
  if (!config_.router.replay.empty()) return "model.moe.router.replay reads each step's decisions from a file";
  return "";
}

MoEOutput MoELayer::forward(const at::Tensor& tokens, const BatchContext& context, std::optional<RoutingMemo>& memo) const {
  if (config_.checks != MoeValidate::kOff) check_tokens(name_, tokens, context, {width_, dtype_, mesh_.device()});
  std::optional<TraceRange> range("router");
  const Routing routing = router_.route(tokens, context, memo ? memo->experts : at::Tensor());
  if (config_.checks != MoeValidate::kOff && !memo) check_expert_ids(name_, routing.experts, config_.experts, config_.checks);
  range.emplace("plan");
  if (!memo) memo = limit(tokens, routing, context);

  MoEOutput output{.tokens = {}, .record = record_of(routing, context, *memo)};
  range.reset();
  // Recorded steps (static_rows) have streams of their own.
  const bool overlaps =
      shared_ && config_.shared_overlap && tokens.is_cuda() && mesh_.group(Group::kExpert).size() > 1 && !context.static_rows;
  at::Tensor shared;
  const auto compute_shared = [&] {
    if (!shared_ || shared.defined()) return;
    const TraceRange of_shared("shared expert");
    shared = overlaps ? mesh_.side_stream().compute({tokens}, [&] { return shared_->forward(tokens); }) : shared_->forward(tokens);
  };
  const std::function<void()> meanwhile = overlaps ? std::function<void()>(compute_shared) : [] {};
  for (const DispatchPlan& plan : memo->plans) {
    const at::Tensor part = through_round(tokens, routing.weights, plan, memo->plans.size() > 1, meanwhile, output.record.phases);
    output.tokens = output.tokens.defined() ? output.tokens + part : part;
  }
  if (memo->unserved.defined()) output.tokens = served_by_others(tokens, output.tokens, *memo);
  compute_shared();
  if (overlaps) mesh_.side_stream().join();
  if (shared.defined()) output.tokens = output.tokens + shared;
  return output;
}

at::Tensor MoELayer::through_round(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan, bool one_of_several,
                                   const std::function<void()>& meanwhile, std::vector<PhaseMarks>& phases) const {
  const auto marks = std::make_shared<PhaseMarks>();
  // Several rounds bound what a rank holds at a time, which backward would undo if each kept its rows.
  const bool again = at::GradMode::is_enabled() && (config_.memory == MoeMemory::kLean || one_of_several);
  at::Tensor part;
  if (again && (tokens.requires_grad() || weights.requires_grad())) {
    const Region region = [this, plan, marks](const std::vector<at::Tensor>& inputs) -> std::vector<at::Tensor> {
      return {through_experts(
          inputs[0], inputs[1], plan, [] {}, *marks)};
    };
    part = recompute(region, {tokens, weights})[0];
  } else {
    part = through_experts(tokens, weights, plan, meanwhile, *marks);
  }
  phases.push_back(*marks);
  return part;
}

at::Tensor MoELayer::through_experts(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan,
                                     const std::function<void()>& meanwhile, PhaseMarks& marks) const {
  std::optional<TraceRange> range("dispatch");
  const auto next = [&](TimeMark& mark, const char* name) {
    mark = TimeMark::now(mesh_.device());
    range.reset();
    if (name != nullptr) range.emplace(name);
  };
  marks.begin = TimeMark::now(mesh_.device());
  if (banks_.size() == 1 && dispatcher_->stays_here(plan) && banks_[0].fuses_routing(tokens)) {
    next(marks.dispatched, "experts");
    at::Tensor output = banks_[0].from_tokens(tokens, weights, plan.order.slots.narrow(0, 0, plan.rows), plan.order.positions, plan.ends);
    next(marks.computed, nullptr);
    marks.combined = marks.computed;
    return output;
  }
  if (plan.by_token) {
    const ArrivedTokens arrived = dispatcher_->dispatch_tokens(tokens, weights, plan);
    meanwhile();
    next(marks.dispatched, "experts");
    const at::Tensor sums = compute_tokens(arrived, plan);
    next(marks.computed, "combine");
    at::Tensor output = dispatcher_->combine_tokens(sums, plan);
    next(marks.combined, nullptr);
    return output;
  }
  const bool weigh_late = config_.memory == MoeMemory::kFast;
  const at::Tensor rows = dispatcher_->dispatch(tokens, plan);
  // Otherwise the gates weigh the rows where they are computed, so that no result has to be kept for the gates' gradient.
  const at::Tensor row_weights = weigh_late ? at::Tensor() : dispatcher_->dispatch_slots(weights, plan);
  meanwhile();
  next(marks.dispatched, "experts");
  const at::Tensor results = compute_experts(rows, row_weights, plan);
  next(marks.computed, "combine");
  at::Tensor output = dispatcher_->combine(results, weigh_late ? weights : at::ones_like(weights.detach()), plan);
  next(marks.combined, nullptr);
  return output;
}

at::Tensor MoELayer::compute_tokens(const ArrivedTokens& arrived, const DispatchPlan& plan) const {
  const ExpertBank& bank = banks_[0];
  const at::Tensor& positions = plan.by_token->positions;
  const at::Tensor slots = plan.by_token->slots.narrow(0, 0, arrived.rows);
  if (config_.memory == MoeMemory::kFast || bank.fuses_routing(arrived.tokens)) {
    return bank.from_tokens(arrived.tokens, arrived.weights, slots, positions, plan.ends);
  }
  // As below: no result is kept for the gates' gradient.
  const at::Tensor rows = gather_rows(arrived.tokens, slots, positions, arrived.weights.size(1));
  const at::Tensor row_weights = gather_rows(arrived.weights.reshape({-1, 1}), slots, positions, 1);
  return combine_rows(bank.forward(rows, row_weights, plan.ends), at::ones_like(arrived.weights.detach()), positions);
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

RoutingMemo MoELayer::limit(const at::Tensor& tokens, const Routing& routing, const BatchContext& context) const {
  const at::NoGradGuard no_gradients;
  const int64_t capacity = limits_.capacity(tokens.size(0), context.most_tokens);
  const PlanTerms terms{
      .capacity = config_.capacity_pad ? capacity : 0, .most_tokens = context.most_tokens, .static_rows = context.static_rows};
  const auto plans_of = [&](const at::Tensor& experts) {
    std::vector<DispatchPlan> plans;
    for (const at::Tensor& round : limits_.within_budget(experts, routing.weights)) {
      plans.push_back(dispatcher_->plan(round, terms));
    }
    return plans;
  };

  RoutingMemo memo;
  memo.experts = routing.experts;
  // What fills up a row goes to no expert: it would cost products, and take others' places under a capacity.
  at::Tensor experts = routing.experts;
  if (context.counted.defined()) experts = kept_slots(experts, context.counted.unsqueeze(1).expand_as(experts));
  experts = limits_.within_capacity(experts, routing.weights, capacity);
  memo.plans = plans_of(experts);
  if (config_.checks == MoeValidate::kFull) {
    const at::Tensor wrong = nonfinite_slots(tokens, memo.plans, experts);
    at::Tensor any = wrong.any().to(at::kLong).reshape({1});
    mesh_.group(Group::kExpert).all_reduce(any, ReduceOp::kMax);
    if (any.item<int64_t>() != 0) {
      // Planned again without these slots: what is not finite then enters no product, forward or backward.
      memo.nonfinite = wrong;
      experts = kept_slots(experts, wrong.logical_not());
      memo.plans = plans_of(experts);
      memo.unserved = wrong.any(1);
    }
  }
  if (fallback_) {
    at::Tensor nowhere = travelling(memo.plans, experts).logical_not().all(1);
    if (context.counted.defined()) nowhere = nowhere.logical_and(context.counted);
    memo.unserved = memo.unserved.defined() ? memo.unserved.logical_or(nowhere) : nowhere;
  }
  return memo;
}

at::Tensor MoELayer::nonfinite_slots(const at::Tensor& tokens, const std::vector<DispatchPlan>& plans, const at::Tensor& experts) const {
  at::Tensor wrong = at::zeros_like(experts, experts.options().dtype(at::kBool));
  for (const DispatchPlan& plan : plans) {
    const at::Tensor results = compute_experts(dispatcher_->dispatch(tokens, plan), {}, plan);
    const at::Tensor flags = at::isfinite(results).all(1).logical_not().to(at_least_float32(results.scalar_type())).unsqueeze(1);
    const at::Tensor returned = dispatcher_->return_slots(flags, plan);
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
  if (context.counted.defined()) experts = kept_slots(experts, context.counted.unsqueeze(1).expand_as(experts));
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
