#include "parallel/gradient_reducer.h"

#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace pimoe {
namespace {

Parameter make(const std::string& name, Box box, Group copies = Group::kDense) {
  Parameter parameter;
  parameter.name = name;
  parameter.box = std::move(box);
  parameter.copies = copies;
  return parameter;
}

/// Two dense weights and one of 12 experts, of which this rank holds its share.
void declare_all(ParameterList& list, const ProcessMesh& mesh) {
  const int64_t local = 12 / mesh.expert_parallel();
  list.declare(make("first", Box::whole({100})));
  list.declare(make("experts", Box::rows({12, 30}, mesh.group(Group::kExpert).rank() * local, local), Group::kExpertReplica));
  list.declare(make("last", Box::whole({7, 11})));
}

/// What the ranks' slices hold, put together: logical name -> elements, -1 where no rank owns one.
using Tensors = std::map<std::string, std::vector<double>>;

/// Adds this rank's slices to the whole picture and sums the pictures up. An element that two ranks own shows as a wrong number.
Tensors gather_slices(const ProcessMesh& mesh, const ParameterBuckets& buckets, bool gradients) {
  at::Tensor values = at::zeros({100 + 360 + 77}, at::kDouble);
  at::Tensor owners = at::zeros_like(values);
  const std::map<std::string, int64_t> begins = {{"first", 0}, {"experts", 100}, {"last", 460}};
  for (const Bucket& bucket : buckets.buckets()) {
    const at::Tensor slice = (gradients ? bucket.gradient_slice() : bucket.weight_slice()).to(at::kDouble);
    for (const auto& [piece, begin] : bucket.slice_pieces()) {
      for (const Run& run : runs_of(piece)) {
        const int64_t to = begins.at(piece.name) + run.global_begin;
        values.narrow(0, to, run.length).copy_(slice.narrow(0, begin + run.local_begin, run.length));
        owners.narrow(0, to, run.length).add_(1);
      }
    }
  }
  mesh.control().all_reduce(values);
  mesh.control().all_reduce(owners);
  EXPECT_EQ(owners.min().item<double>(), 1);
  EXPECT_EQ(owners.max().item<double>(), 1);
  Tensors result;
  for (const auto& [name, begin] : begins) {
    const int64_t size = name == "first" ? 100 : name == "experts" ? 360 : 77;
    const double* data = values.data_ptr<double>() + begin;
    result[name] = std::vector<double>(data, data + size);
  }
  return result;
}

/// The loss of a rank's micro-step is a weighted sum, so that the gradients are known: rank r adds (r + 1) * micro_step to every element
/// of `first`, ten times that to `last`, and (r + 1) * (expert + 1) to an expert in the first micro-step alone.
void run_step(const ProcessMesh& mesh, const ParameterList& list, GradientReducer& reducer) {
  const double rank = mesh.rank() + 1;
  reducer.begin_step();
  for (int micro_step = 1; micro_step <= 3; ++micro_step) {
    reducer.begin_backward(micro_step == 3);
    at::Tensor loss = list.at("first").value.sum() * (rank * micro_step);
    if (mesh.rank() == 0 || micro_step > 1) loss = loss + list.at("last").value.sum() * (10 * rank * micro_step);
    const Parameter& experts = list.at("experts");
    for (int64_t local = 0; micro_step == 1 && local < experts.box.shape[0]; ++local) {
      loss = loss + experts.value[local].sum() * (rank * static_cast<double>(experts.box.offset[0] + local + 1));
    }
    loss.backward();
  }
  reducer.finish();
}

TEST(GradientReducer, LeavesTheSumOverRanksInTheSliceThatOwnsIt) {
  const int ranks = test_session().world()->size();
  for (int expert_parallel = 1; expert_parallel <= ranks; ++expert_parallel) {
    if (ranks % expert_parallel != 0) continue;
    for (const int64_t bucket_bytes : {int64_t{64}, int64_t{1} << 20}) {
      const auto mesh = world_mesh(cpu_mesh(expert_parallel), 12);
      ParameterList list;
      declare_all(list, *mesh);
      ParameterBuckets buckets(list, *mesh, bucket_bytes, true);
      GradientReducer reducer(buckets, *mesh);
      for (int step = 0; step < 2; ++step) {
        run_step(*mesh, list, reducer);
        const Tensors sums = gather_slices(*mesh, buckets, /*gradients=*/true);
        double of_ranks = 0;  // sum of r + 1 over all ranks
        for (int rank = 0; rank < ranks; ++rank) of_ranks += rank + 1;
        for (const double value : sums.at("first")) EXPECT_EQ(value, of_ranks * 6);
        // The first micro-step reached `last` on rank 0 alone.
        for (const double value : sums.at("last")) EXPECT_EQ(value, 10 * (of_ranks * 5 + 1));
        for (size_t element = 0; element < 360; ++element) {
          const auto expert = static_cast<int>(element / 30);
          double of_replicas = 0;  // the ranks that hold this expert
          for (int rank = expert / (12 / expert_parallel); rank < ranks; rank += expert_parallel) of_replicas += rank + 1;
          ASSERT_EQ(sums.at("experts")[element], of_replicas * (expert + 1)) << "expert " << expert << " of " << expert_parallel;
        }
      }
    }
  }
}

TEST(ParameterBuckets, GatherWeightsGivesEveryRankWhatItsPeersOwn) {
  const auto mesh = world_mesh(cpu_mesh(), 12);
  ParameterList list;
  declare_all(list, *mesh);
  ParameterBuckets buckets(list, *mesh, 1 << 20, false);
  for (Bucket& bucket : buckets.buckets()) {
    bucket.weights.fill_(-1);
    for (const auto& [piece, begin] : bucket.slice_pieces()) {
      std::vector<double> values(static_cast<size_t>(piece.numel()));
      initial_values(list.at(piece.name), piece, 3, values.data());
      for (size_t index = 0; index < values.size(); ++index) {
        bucket.weight_slice()[begin + static_cast<int64_t>(index)].fill_(values[index]);
      }
    }
  }
  buckets.gather_weights(*mesh);
  for (const auto& parameter : list) {
    std::vector<double> expected(static_cast<size_t>(parameter->box.numel()));
    initial_values(*parameter, {parameter->name, parameter->box, 0, parameter->box.numel()}, 3, expected.data());
    const at::Tensor flat = parameter->value.view(-1);
    for (size_t index = 0; index < expected.size(); ++index) {
      ASSERT_EQ(flat.data_ptr<float>()[index], static_cast<float>(expected[index])) << parameter->name << " " << index;
    }
  }
}

// The order inside a bucket does not depend on the rank count; only the padding does.
TEST(ParameterBuckets, LayoutIsThatOfOneRankButForThePadding) {
  ParameterList here;
  ParameterList alone;
  for (ParameterList* list : {&here, &alone}) {
    list->declare(make("first", Box::whole({100})));
    list->declare(make("last", Box::whole({77})));
  }
  const auto mesh = world_mesh();
  const auto single = single_mesh();
  const ParameterBuckets many(here, *mesh, 1 << 20, true);
  const ParameterBuckets one(alone, *single, 1 << 20, true);
  EXPECT_EQ(many.buckets()[0].entries[1].begin, one.buckets()[0].entries[1].begin);
  EXPECT_EQ(many.buckets()[0].numel, one.buckets()[0].numel);
  EXPECT_EQ(many.buckets()[0].padded_numel % (64 * mesh->size()), 0);
  EXPECT_EQ(many.buckets()[0].slice_end - many.buckets()[0].slice_begin, many.buckets()[0].padded_numel / mesh->size());
}

}  // namespace
}  // namespace pimoe
