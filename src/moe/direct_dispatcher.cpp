#include "moe/direct_dispatcher.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

namespace pimoe {
namespace {

/// What both ways need, in the only form that an autograd context stores.
struct Trip : torch::CustomClassHolder {
  Trip(const Communicator& communicator, DirectExchange& exchange, const DirectRoute& of_plan)
      : group(communicator), direct(exchange), route(of_plan) {}

  at::Tensor spread(const at::Tensor& rows) const { return direct.spread(rows.contiguous(), route.wanted); }
  at::Tensor sum_back(const at::Tensor& rows) const { return direct.sum_back(rows.contiguous(), route.wanted, route.tokens); }
  /// REQUIRES that the device has made the plan's counts: called after there is work for it.
  void count_sent(const at::Tensor& row, bool back) const {
    if (!route.counts) return;  // nobody on the host knows
    group.count_direct((back ? route.received() : route.sent()) * row.size(1) * static_cast<int64_t>(row.element_size()));
  }

  const Communicator& group;
  DirectExchange& direct;
  DirectRoute route;
};

const Trip& trip_of(torch::autograd::AutogradContext* context) {
  const auto capsule = context->saved_data["trip"].toCapsule();
  return static_cast<const Trip&>(*capsule);
}

/// Every rank's [M, K], those of ranks with fewer tokens filled up with `filler`.
at::Tensor gathered(const at::Tensor& of_tokens, int64_t most, const at::Scalar& filler, const Communicator& group) {
  at::Tensor own = of_tokens.contiguous();
  if (own.size(0) < most) {
    own = at::full({most, of_tokens.size(1)}, filler, of_tokens.options().requires_grad(false));
    own.narrow(0, 0, of_tokens.size(0)).copy_(of_tokens);
  }
  at::Tensor all = at::empty({group.size() * most, of_tokens.size(1)}, own.options());
  group.all_gather(all, own);
  return all;
}

class SendTokens : public torch::autograd::Function<SendTokens> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& tokens,
                                                const at::Tensor& weights, const c10::intrusive_ptr<Trip>& trip) {
    context->saved_data["trip"] = c10::IValue::make_capsule(trip);
    return {trip->spread(tokens), gathered(weights, trip->route.wanted.size(1), 0, trip->group)};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const Trip& trip = trip_of(context);
    trip.count_sent(gradients[0], /*back=*/true);
    at::Tensor of_tokens = trip.sum_back(gradients[0]);
    // Each slot's expert is on one rank: the others have zeros for it.
    at::Tensor of_weights = at::empty({trip.route.wanted.size(1), gradients[1].size(1)}, gradients[1].options());
    trip.group.reduce_scatter(of_weights, gradients[1].contiguous());
    return {of_tokens, of_weights.narrow(0, 0, trip.route.tokens), at::Tensor()};
  }
};

class BringBack : public torch::autograd::Function<BringBack> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& results, const c10::intrusive_ptr<Trip>& trip) {
    context->saved_data["trip"] = c10::IValue::make_capsule(trip);
    return trip->sum_back(results);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, torch::autograd::variable_list gradients) {
    const Trip& trip = trip_of(context);
    trip.count_sent(gradients[0], /*back=*/false);
    return {trip.spread(gradients[0]), at::Tensor()};
  }
};

}  // namespace

DirectDispatcher::DirectDispatcher(const ExpertPlacement& placement, const Communicator& group, DirectExchange& direct)
    : ExchangeDispatcher(placement, group, /*by_token=*/true), group_(group), direct_(direct) {}

DispatchPlan DirectDispatcher::plan(const at::Tensor& experts, const PlanTerms& terms) const {
  const int64_t most_tokens = terms.most_tokens;
  const int64_t ranks = group_.size();
  DispatchPlan plan;
  plan.order = order_of(experts);
  const at::Tensor all = gathered(experts, most_tokens, -1, group_);  // [P M, K]
  const at::Tensor wanted = placement().ranks_of(all);
  DirectRoute route;
  route.tokens = experts.size(0);
  route.wanted = wanted.view({ranks, most_tokens, experts.size(1)});
  plan.by_token = order_here(all);
  plan.ends = plan.by_token->counts.cumsum(0).to(at::kInt);

  route.most_rows = all.size(0) * std::min(experts.size(1), placement().local());
  if (terms.static_rows) {
    plan.direct = std::move(route);
    return plan;
  }
  // [P, P]: tokens of each rank for each
  const at::Tensor pairs = ranks_of_tokens(wanted).view({ranks, most_tokens, ranks}).sum(1);
  const at::Tensor mine = pairs.select(0, group_.rank());
  const at::Tensor for_me = pairs.select(1, group_.rank());
  const at::Tensor kept = mine.narrow(0, group_.rank(), 1);
  route.counts.emplace(at::cat({plan.by_token->counts.sum(0, true), mine.sum(0, true) - kept, for_me.sum(0, true) - kept}));
  plan.direct = std::move(route);
  return plan;
}

ArrivedTokens DirectDispatcher::dispatch_tokens(const at::Tensor& tokens, const at::Tensor& weights, const DispatchPlan& plan) const {
  const auto trip = c10::make_intrusive<Trip>(group_, direct_, plan.direct);
  const auto arrived = SendTokens::apply(tokens, weights, trip);
  trip->count_sent(tokens, /*back=*/false);
  return {arrived[0], arrived[1], plan.direct.rows()};
}

at::Tensor DirectDispatcher::combine_tokens(const at::Tensor& results, const DispatchPlan& plan) const {
  const auto trip = c10::make_intrusive<Trip>(group_, direct_, plan.direct);
  trip->count_sent(results, /*back=*/true);
  return BringBack::apply(results, trip);
}

}  // namespace pimoe
