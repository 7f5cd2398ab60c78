#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "moe/make_dispatcher.h"
#include "parallel/precision.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/topk.h>

#include <tuple>

namespace pimoe {
namespace {

/// A rank's micro-batch on its way to random experts and back, without the experts.
class RoundTrip {
 public:
  explicit RoundTrip(const Bench& bench)
      : mesh_(bench.mesh()),
        dispatcher_(make_dispatcher(placement_of(bench), mesh_.group(Group::kExpert), bench.config().model.moe,
                                    {mesh_.device(), bench.config().model.width * static_cast<int64_t>(c10::elementSize(bench.dtype()))})) {
    const TrainConfig& config = bench.config();
    const int64_t tokens = config.train.micro_batch * config.model.sequence_length;
    const auto options = at::TensorOptions().device(mesh_.device());
    const auto random = [&] { return at::randn({tokens, config.model.width}, options).to(bench.dtype()); };
    tokens_ = random().requires_grad_(true);
    gradient_ = random();
    experts_ = std::get<1>(at::topk(at::rand({tokens, config.model.moe.experts}, options), config.model.moe.choices)).to(at::kInt);
    weights_ = at::rand(experts_.sizes(), options.dtype(at_least_float32(bench.dtype()))).requires_grad_(true);
  }

  void forward(Parts& parts) const {
    const at::NoGradGuard no_gradients;
    const TimeMark begin = now();
    const DispatchPlan plan = dispatcher_->plan(experts_, {.most_tokens = tokens_.size(0)});
    const TimeMark planned = now();
    const at::Tensor rows = there(plan);
    const TimeMark dispatched = now();
    back(rows, plan);
    parts.add("plan", begin, planned);
    parts.add("dispatch", planned, dispatched);
    parts.add("combine", dispatched, now());
  }

  void forward_and_backward(Parts& parts) {
    const TimeMark begin = now();
    const DispatchPlan plan = dispatcher_->plan(experts_, {.most_tokens = tokens_.size(0)});
    const at::Tensor combined = back(there(plan), plan);
    const TimeMark middle = now();
    combined.backward(gradient_);
    parts.add("forward", begin, middle);
    parts.add("backward", middle, now());
    tokens_.mutable_grad().reset();
    weights_.mutable_grad().reset();
  }

 private:
  static ExpertPlacement placement_of(const Bench& bench) {
    const Communicator& group = bench.mesh().group(Group::kExpert);
    return {bench.config().model.moe.expert_groups(), group.size(), group.rank(), bench.mesh().device()};
  }
  at::Tensor there(const DispatchPlan& plan) const {
    return plan.by_token ? dispatcher_->dispatch_tokens(tokens_, weights_, plan).tokens : dispatcher_->dispatch(tokens_, plan);
  }
  at::Tensor back(const at::Tensor& rows, const DispatchPlan& plan) const {
    return plan.by_token ? dispatcher_->combine_tokens(rows, plan) : dispatcher_->combine(rows, weights_, plan);
  }
  TimeMark now() const { return TimeMark::now(mesh_.device()); }

  const ProcessMesh& mesh_;
  std::unique_ptr<Dispatcher> dispatcher_;
  at::Tensor tokens_;    ///< [T, D]
  at::Tensor gradient_;  ///< [T, D]
  at::Tensor experts_;   ///< [T, K]
  at::Tensor weights_;   ///< [T, K]
};

void measure_trip(Bench& bench, const std::string& name, const Work& work) {
  const Communicator& group = bench.mesh().group(Group::kExpert);
  const Measurement measured = bench.measure(Clock::kDevice, work);
  const int64_t bytes_before = group.sent_bytes();
  const int64_t messages_before = group.sent_messages();
  const int64_t collectives_before = group.collectives();
  Parts ignored;
  work(ignored);
  const int64_t sent = bench.most(group.sent_bytes() - bytes_before);
  const double rate = static_cast<double>(sent) / measured.seconds.median;
  BenchRow row{.suite = "dispatch", .name = name, .seconds = measured.seconds};
  row.values["ranks_of_the_group"] = group.size();
  row.values["sent_bytes_of_a_rank"] = sent;
  row.values["sent_messages_of_a_rank"] = bench.most(group.sent_messages() - messages_before);
  row.values["collectives_of_a_rank"] = bench.most(group.collectives() - collectives_before);
  row.values["gigabytes_per_second"] = rate / 1e9;
  for (const TimedPart& part : measured.parts) put_seconds(row.values, part.seconds, part.name + "_");
  row.summary =
      group.size() == 1 ? "nothing crosses: one rank in the group" : concat(bytes_text(sent), " sent by a rank, ", si_text(rate, "B/s"));
  row.details = {parts_text(measured.parts)};
  bench.add(std::move(row));
}

}  // namespace

void run_dispatch_suite(Bench& bench) {
  RoundTrip trip(bench);
  measure_trip(bench, "forward", [&](Parts& parts) { trip.forward(parts); });
  measure_trip(bench, "forward and backward", [&](Parts& parts) { trip.forward_and_backward(parts); });
}

}  // namespace pimoe
