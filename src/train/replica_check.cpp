#include "train/replica_check.h"

#include "base/host.h"
#include "base/text.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>

#include <algorithm>
#include <utility>

namespace pimoe {
namespace {

constexpr size_t kMostNamed = 5;  // tensors of a rank

/// The same memory as whole numbers.
at::Tensor bits_of(const at::Tensor& values) {
  switch (values.element_size()) {
    case 2: return values.view(at::kShort);
    case 4: return values.view(at::kInt);
    default: return values.view(at::kLong);
  }
}

at::Tensor bit_sum(const at::Tensor& values) { return at::sum(bits_of(values), at::kLong); }

/// A stretch of a bucket that lies in one parameter and in one rank's slice.
struct Segment {
  int64_t begin = 0;
  int64_t end = 0;
  size_t entry = 0;
  int64_t owner = 0;
};

std::vector<Segment> segments_of(const Bucket& bucket, int64_t ranks) {
  const int64_t slice = bucket.padded_numel / ranks;
  std::vector<Segment> segments;
  for (size_t entry = 0; entry < bucket.entries.size(); ++entry) {
    const int64_t last = entry + 1 < bucket.entries.size() ? bucket.entries[entry + 1].begin : bucket.numel;
    for (int64_t begin = bucket.entries[entry].begin; begin < last;) {
      const int64_t end = std::min(last, (begin / slice + 1) * slice);
      segments.push_back({begin, end, entry, begin / slice});
      begin = end;
    }
  }
  return segments;
}

/// @returns [ranks, sums.numel()] on the host
at::Tensor gathered(const at::Tensor& sums, const Communicator& group) {
  at::Tensor all = at::empty({group.size() * sums.numel()}, sums.options());
  group.all_gather(all, sums);
  return all.view({group.size(), sums.numel()}).cpu();
}

/// Whether this rank's value is not what most copies have. Of two that differ both are odd, unless `truth` is known to be right.
bool is_odd(const at::Tensor& column, int64_t mine, bool truth_is_known, int64_t truth) {
  const auto* values = column.const_data_ptr<int64_t>();
  const auto copies = column.numel();
  const int64_t own = values[mine];
  if (truth_is_known) return own != values[truth];
  const auto like_mine = std::count(values, values + copies, own);
  return 2 * like_mine <= copies && like_mine < copies;
}

}  // namespace

ReplicaCheck::ReplicaCheck(const ParameterBuckets& buckets, Optimizer& optimizer, std::map<std::string, at::Tensor> biases,
                           const ProcessMesh& mesh)
    : buckets_(buckets), optimizer_(optimizer), biases_(std::move(biases)), mesh_(mesh) {}

std::string ReplicaCheck::trouble() const {
  optimizer_.compare_state();
  std::vector<std::string> odd = odd_weights();
  for (const std::vector<std::string>& more : {odd_biases(), optimizer_.changed_state()}) odd.insert(odd.end(), more.begin(), more.end());
  const size_t count = odd.size();
  if (count > kMostNamed) {
    odd.resize(kMostNamed);
    odd.push_back(concat("and ", count - kMostNamed, " more"));
  }
  std::string all;
  const std::vector<std::string> findings =
      mesh_.control().all_gather_text(odd.empty() ? "" : concat("(", host_name(), "): ", join(odd, ", ")));
  for (size_t rank = 0; rank < findings.size(); ++rank) {
    if (!findings[rank].empty()) all += concat(all.empty() ? "" : "; ", "rank ", rank, " ", findings[rank]);
  }
  return all;
}

std::vector<std::string> ReplicaCheck::odd_weights() const {
  std::vector<std::string> odd;
  for (size_t index = 0; index < buckets_.buckets().size(); ++index) {
    const Bucket& bucket = buckets_.buckets()[index];
    const Communicator& group = mesh_.group(bucket.group);
    const std::vector<Segment> segments = segments_of(bucket, group.size());
    if (segments.empty()) continue;
    std::vector<at::Tensor> sums;
    for (const Segment& segment : segments) sums.push_back(bit_sum(bucket.weights.narrow(0, segment.begin, segment.end - segment.begin)));
    // A last column says whether the owner's weights are what its master says.
    const bool is_own_right = optimizer_.weights_follow_master(index);
    sums.push_back(at::full({}, static_cast<int64_t>(is_own_right ? 1 : 0), sums[0].options()));
    const at::Tensor rows = gathered(at::stack(sums), group);
    const bool has_masters = optimizer_.keeps_master_apart(index);
    for (size_t column = 0; column < segments.size(); ++column) {
      const Segment& segment = segments[column];
      const bool owner_is_right = has_masters && rows[segment.owner][static_cast<int64_t>(segments.size())].item<int64_t>() != 0;
      const at::Tensor values = rows.select(1, static_cast<int64_t>(column)).contiguous();
      if (!is_odd(values, group.rank(), owner_is_right, segment.owner)) continue;
      const std::string& name = bucket.entries[segment.entry].parameter->name;
      if (odd.empty() || odd.back() != name) odd.push_back(name);
    }
    if (!is_own_right) odd.push_back(concat("master weights or weights of ", bucket.entries[0].parameter->name, " and its neighbours"));
  }
  return odd;
}

std::vector<std::string> ReplicaCheck::odd_biases() const {
  std::vector<std::string> odd;
  if (biases_.empty()) return odd;
  std::vector<at::Tensor> sums;
  for (const auto& [name, bias] : biases_) sums.push_back(bit_sum(bias));
  const Communicator& group = mesh_.group(Group::kWorld);
  const at::Tensor rows = gathered(at::stack(sums), group);
  int64_t column = 0;
  for (const auto& [name, bias] : biases_) {
    if (is_odd(rows.select(1, column++).contiguous(), group.rank(), false, 0)) odd.push_back(name);
  }
  return odd;
}

}  // namespace pimoe
