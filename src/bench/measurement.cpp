#include "bench/measurement.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

/// @param sorted  not empty  @param share  0 is the least, 1 the most
double percentile(const std::vector<double>& sorted, double share) {
  const double position = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (position - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

double seconds_between(const TimeMark& begin, const TimeMark& end) { return end.milliseconds_since(begin) / 1000; }

}  // namespace

Spread spread_of(std::vector<double> samples) {
  std::sort(samples.begin(), samples.end());
  return {percentile(samples, 0.5), percentile(samples, 0.1), percentile(samples, 0.9), static_cast<int64_t>(samples.size())};
}

int64_t repetitions_for(double seconds_each, const Effort& effort) {
  const double wanted = std::ceil(effort.seconds / std::max(seconds_each, 1e-9));
  return static_cast<int64_t>(std::clamp(wanted, static_cast<double>(effort.least), static_cast<double>(effort.most)));
}

/// One run of the work, and when it was.
class Repetition {
 public:
  Repetition(const ProcessMesh& mesh, Clock clock, const Work& work) {
    const c10::Device clock_of = clock == Clock::kDevice ? mesh.device() : c10::Device(c10::DeviceType::CPU);
    mesh.control().barrier();
    begin_ = TimeMark::now(clock_of);
    work(parts_);
    end_ = TimeMark::now(clock_of);
  }

  double seconds() const { return seconds_between(begin_, end_); }

  /// Names of the parts, each once.
  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Parts::Marked& marked : parts_.marked_) {
      if (std::find(names.begin(), names.end(), marked.name) == names.end()) names.push_back(marked.name);
    }
    return names;
  }

  double seconds_of(const std::string& name) const {
    double sum = 0.0;
    for (const Parts::Marked& marked : parts_.marked_) {
      if (marked.name == name) sum += seconds_between(marked.begin, marked.end);
    }
    return sum;
  }

 private:
  Parts parts_;
  TimeMark begin_, end_;
};

const TimedPart& Measurement::part(const std::string& name) const {
  for (const TimedPart& part : parts) {
    if (part.name == name) return part;
  }
  throw Error(concat("nothing measured has a part '", name, "'"));
}

namespace {

/// Brings together what the ranks measured. @param own  this rank's samples
TimedPart agreed_part(const ProcessMesh& mesh, const std::string& name, const std::vector<double>& own) {
  TimedPart part{.name = name, .seconds = {}, .rank_medians = std::vector<double>(static_cast<size_t>(mesh.size()))};
  at::Tensor medians = at::zeros({mesh.size()}, at::kDouble);
  mesh.control().all_gather(medians, at::tensor({spread_of(own).median}, at::kDouble));
  std::copy_n(medians.const_data_ptr<double>(), medians.numel(), part.rank_medians.begin());
  at::Tensor slowest = at::tensor(own, at::kDouble);
  mesh.control().all_reduce(slowest, ReduceOp::kMax);
  const double* first = slowest.const_data_ptr<double>();
  part.seconds = spread_of({first, first + slowest.numel()});
  return part;
}

}  // namespace

Measurement measure(const ProcessMesh& mesh, Clock clock, const Effort& effort, const Work& work) {
  at::Tensor each = at::zeros({1}, at::kDouble);
  for (int64_t warm_up = 0; warm_up < effort.warm_ups; ++warm_up) {
    const Repetition repetition(mesh, clock, work);
    synchronize(mesh.device());
    each.fill_(repetition.seconds());
  }
  mesh.control().all_reduce(each, ReduceOp::kMax);

  std::vector<Repetition> repetitions;
  const int64_t count = repetitions_for(each.item<double>(), effort);
  for (int64_t index = 0; index < count; ++index) repetitions.emplace_back(mesh, clock, work);
  synchronize(mesh.device());

  const auto seconds_of = [&](const auto& taken) {
    std::vector<double> samples;
    for (const Repetition& repetition : repetitions) samples.push_back(taken(repetition));
    return samples;
  };
  Measurement measured;
  measured.seconds = agreed_part(mesh, "", seconds_of([](const Repetition& one) { return one.seconds(); })).seconds;
  for (const std::string& name : repetitions.front().names()) {
    measured.parts.push_back(agreed_part(mesh, name, seconds_of([&](const Repetition& one) { return one.seconds_of(name); })));
  }
  return measured;
}

}  // namespace pimoe
