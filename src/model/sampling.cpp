#include "model/sampling.h"

#include "base/errors.h"
#include "base/text.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace pimoe {
namespace {

// Below it scores over the temperature need not be finite; long before that no score but the largest has a chance.
constexpr double kLeastTemperature = 1e-30;

struct Candidate {
  double probability;
  int32_t token;
};

bool is_likelier(const Candidate& one, const Candidate& other) {
  return one.probability > other.probability || (one.probability == other.probability && one.token < other.token);
}

using Candidates = std::vector<Candidate>::iterator;

double sum_of(Candidates begin, Candidates end) {
  return std::accumulate(begin, end, 0.0, [](double sum, const Candidate& each) { return sum + each.probability; });
}

/// Finds the candidate at which the probabilities, summed from the likeliest down, have `reached` what is sought, or the last; all that are likelier are
/// before it then, in no order. As a selection by rank, it looks only into the part where what is sought must be. REQUIRES one
template <class Reached>
Candidates select_by_sum(Candidates begin, Candidates end, const Reached& reached) {
  double before = 0.0;  // of those that are likelier than all in [begin, end)
  while (end - begin > 1) {
    const Candidates cut = begin + (end - begin + 3) / 4;  // most of the probability is with few
    std::nth_element(begin, cut, end, is_likelier);
    const double sum = before + sum_of(begin, cut);
    if (reached(sum)) {
      end = cut;
    } else {
      before = sum;
      begin = cut;
    }
  }
  return begin;
}

}  // namespace

at::Tensor penalised(const at::Tensor& logits, const std::vector<int64_t>& seen, double penalty) {
  if (penalty == 1.0) return logits;
  at::Tensor result = logits.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
  double* scores = result.mutable_data_ptr<double>();
  std::vector<bool> done(static_cast<size_t>(result.numel()));
  for (const int64_t id : seen) {
    if (id < 0 || id >= result.numel()) throw ShapeError(concat("penalised: id ", id, " must be in [0, ", result.numel(), ")"));
    if (done[static_cast<size_t>(id)]) continue;
    done[static_cast<size_t>(id)] = true;
    scores[id] = scores[id] > 0 ? scores[id] / penalty : scores[id] * penalty;
  }
  return result;
}

bool SamplingOptions::is_plainly_greedy() const { return temperature < kLeastTemperature && repetition_penalty == 1.0; }

int32_t sample_token(const at::Tensor& logits, const SamplingOptions& options, double draw) {
  if (options.temperature < kLeastTemperature) return static_cast<int32_t>(logits.argmax().item<int64_t>());
  const at::Tensor probabilities = at::softmax(logits.to(at::kDouble) / options.temperature, 0);
  const double* values = probabilities.const_data_ptr<double>();
  std::vector<Candidate> candidates(static_cast<size_t>(probabilities.numel()));
  for (size_t token = 0; token < candidates.size(); ++token) candidates[token] = {values[token], static_cast<int32_t>(token)};
  const Candidates begin = candidates.begin();
  Candidates end = candidates.end();
  if (options.top_k > 0 && options.top_k < end - begin) {
    std::nth_element(begin, begin + options.top_k, end, is_likelier);
    end = begin + options.top_k;
  }
  double kept = sum_of(begin, end);
  if (options.top_p < 1) {
    end = select_by_sum(begin, end, [least = options.top_p * kept](double sum) { return sum >= least; }) + 1;
    kept = sum_of(begin, end);
  }
  return select_by_sum(begin, end, [sought = draw * kept](double sum) { return sum > sought; })->token;
}

}  // namespace pimoe
