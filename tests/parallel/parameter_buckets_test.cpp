#include "parallel/parameter_buckets.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

namespace pimoe {
namespace {

Parameter make(const std::string& name, std::vector<int64_t> shape, Group copies = Group::kDense, at::ScalarType dtype = at::kFloat,
               bool decay = true) {
  Parameter parameter;
  parameter.name = name;
  parameter.box = Box::whole(std::move(shape));
  parameter.copies = copies;
  parameter.dtype = dtype;
  parameter.decay = decay;
  return parameter;
}

/// "a@0 b@128 | c@0": entries and their first elements, bucket by bucket.
std::string layout(const ParameterBuckets& buckets) {
  std::string text;
  for (const Bucket& bucket : buckets.buckets()) {
    if (!text.empty()) text += "| ";
    for (const Bucket::Entry& entry : bucket.entries) text += entry.parameter->name + "@" + std::to_string(entry.begin) + " ";
  }
  return text;
}

TEST(ParameterList, RefusesANameTwiceAndNamesTheNearest) {
  ParameterList list;
  Parameter& first = list.declare(make("head.weight", {4}));
  for (int index = 0; index < 100; ++index) list.declare(make("layer" + std::to_string(index), {1}));
  EXPECT_EQ(&list.at("head.weight"), &first);  // addresses stay valid
  EXPECT_EQ(&list[0], &first);
  EXPECT_THROW(list.declare(make("head.weight", {4})), ShapeError);
  EXPECT_EQ(list.size(), 101u);
  try {
    list.at("head.wieght");
    FAIL();
  } catch (const ShapeError& error) {
    EXPECT_STREQ(error.what(), "there is no parameter head.wieght; the nearest is head.weight");
  }
}

TEST(ParameterBuckets, EntriesBeginAtMultiplesOf64InTheOrderOfDeclaration) {
  ParameterList list;
  list.declare(make("a", {4}));
  list.declare(make("b", {65}));
  list.declare(make("c", {8, 8}));
  list.declare(make("d", {1}));
  const auto mesh = single_mesh();
  const ParameterBuckets buckets(list, *mesh, 1 << 20, true);
  EXPECT_EQ(layout(buckets), "a@0 b@64 c@192 d@256 ");
  const Bucket& bucket = buckets.buckets()[0];
  EXPECT_EQ(bucket.numel, 257);
  EXPECT_EQ(bucket.padded_numel, 320);
  EXPECT_EQ(bucket.slice_begin, 0);
  EXPECT_EQ(bucket.slice_end, 320);
}

TEST(ParameterBuckets, KeepsGroupsDtypesAndDecayApart) {
  ParameterList list;
  list.declare(make("dense", {64}));
  list.declare(make("norm", {64}, Group::kDense, at::kFloat, /*decay=*/false));
  list.declare(make("expert", {64}, Group::kExpertReplica));
  list.declare(make("half", {64}, Group::kDense, at::kBFloat16));
  list.declare(make("dense2", {64}));
  list.declare(make("expert2", {64}, Group::kExpertReplica));
  const auto mesh = single_mesh();
  const ParameterBuckets buckets(list, *mesh, 1 << 20, true);
  EXPECT_EQ(layout(buckets), "dense@0 dense2@64 | norm@0 | expert@0 expert2@64 | half@0 ");
  EXPECT_FALSE(buckets.buckets()[1].decay);
  EXPECT_EQ(buckets.buckets()[2].group, Group::kExpertReplica);
  EXPECT_EQ(buckets.buckets()[3].weights.scalar_type(), at::kBFloat16);
  EXPECT_EQ(buckets.buckets()[3].gradients.scalar_type(), at::kFloat);
}

TEST(ParameterBuckets, ClosesABucketBeforeItsGradientsPassTheLimit) {
  ParameterList list;
  list.declare(make("a", {64}));
  list.declare(make("b", {64}));     // 512 bytes with a: fits exactly
  list.declare(make("c", {1}));      // one element too many
  list.declare(make("big", {500}));  // larger than a bucket: one of its own
  list.declare(make("e", {64}));
  const auto mesh = single_mesh();
  EXPECT_EQ(layout(ParameterBuckets(list, *mesh, 512, true)), "a@0 b@64 | c@0 | big@0 | e@0 ");
}

TEST(ParameterBuckets, GradientsOfFloat64AreFloat64AndCountEightBytes) {
  ParameterList list;
  list.declare(make("a", {64}, Group::kDense, at::kDouble));
  list.declare(make("b", {64}, Group::kDense, at::kDouble));
  const auto mesh = single_mesh();
  const ParameterBuckets buckets(list, *mesh, 512, true);
  EXPECT_EQ(layout(buckets), "a@0 | b@0 ");
  EXPECT_EQ(buckets.buckets()[0].gradients.scalar_type(), at::kDouble);
}

TEST(ParameterBuckets, ValuesAreLeavesThatViewTheFlatWeights) {
  ParameterList list;
  Parameter& a = list.declare(make("a", {2, 3}));
  Parameter& b = list.declare(make("b", {5}));
  const auto mesh = single_mesh();
  ParameterBuckets buckets(list, *mesh, 1 << 20, true);
  buckets.buckets()[0].weights.fill_(1);
  buckets.buckets()[0].weights.narrow(0, 64, 5).fill_(2);
  EXPECT_EQ(a.value.sizes().vec(), (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(a.value.detach().sum().item<double>(), 6);
  EXPECT_EQ(b.value.detach().sum().item<double>(), 10);
  EXPECT_TRUE(a.value.is_leaf());
  EXPECT_TRUE(a.value.requires_grad());
}

TEST(ParameterBuckets, WithoutTrainingThereAreNoGradients) {
  ParameterList list;
  Parameter& a = list.declare(make("a", {2}));
  const auto mesh = single_mesh();
  const ParameterBuckets buckets(list, *mesh, 1 << 20, false);
  EXPECT_FALSE(buckets.buckets()[0].gradients.defined());
  EXPECT_FALSE(a.value.requires_grad());
}

// a [4] at 0, b [65] at 64, c [64] at 192; padded to 256: two slices of 128.
TEST(Bucket, SlicePiecesNameWhatLiesInTheSlice) {
  ParameterList list;
  list.declare(make("a", {4}));
  list.declare(make("b", {65}));
  list.declare(make("c", {64}));
  const auto mesh = single_mesh();
  ParameterBuckets buckets(list, *mesh, 1 << 20, true);
  Bucket bucket = buckets.buckets()[0];
  bucket.slice_begin = 0;
  bucket.slice_end = 128;
  const std::vector<std::pair<Piece, int64_t>> first = {{Piece{"a", Box::whole({4}), 0, 4}, 0}, {Piece{"b", Box::whole({65}), 0, 64}, 64}};
  EXPECT_EQ(bucket.slice_pieces(), first);
  bucket.slice_begin = 128;
  bucket.slice_end = 256;
  const std::vector<std::pair<Piece, int64_t>> second = {{Piece{"b", Box::whole({65}), 64, 65}, 0},
                                                         {Piece{"c", Box::whole({64}), 0, 64}, 64}};
  EXPECT_EQ(bucket.slice_pieces(), second);
  bucket.slice_begin = 4;
  bucket.slice_end = 64;
  EXPECT_TRUE(bucket.slice_pieces().empty());
}

std::vector<double> initial(const Parameter& parameter, const Piece& piece, uint64_t seed = 7) {
  std::vector<double> values(static_cast<size_t>(piece.numel()));
  initial_values(parameter, piece, seed, values.data());
  return values;
}

TEST(InitialValues, DoNotDependOnHowTheTensorIsCut) {
  const Parameter parameter = make("experts", {6, 4, 3});
  const std::vector<double> whole = initial(parameter, {"experts", Box::whole({6, 4, 3}), 0, 72});
  for (int64_t first = 0; first < 6; first += 2) {  // three ranks hold two experts each, and each slice is cut at element 5
    const Box box = Box::rows({6, 4, 3}, first, 2);
    std::vector<double> part = initial(parameter, {"experts", box, 0, 5});
    const std::vector<double> rest = initial(parameter, {"experts", box, 5, 24});
    part.insert(part.end(), rest.begin(), rest.end());
    EXPECT_EQ(part, std::vector<double>(whole.begin() + first * 12, whole.begin() + (first + 2) * 12));
  }
  // A block cut along dimension 1: rows 1 and 2 of each expert.
  const Box middle{{6, 4, 3}, {0, 1, 0}, {6, 2, 3}};
  const std::vector<double> block = initial(parameter, {"experts", middle, 0, 36});
  for (size_t expert = 0; expert < 6; ++expert) {
    for (size_t element = 0; element < 6; ++element) EXPECT_EQ(block[expert * 6 + element], whole[expert * 12 + 3 + element]);
  }
}

TEST(InitialValues, DifferByNameAndSeedAndHaveTheScaleAsked) {
  Parameter parameter = make("a", {100, 100});
  parameter.initializer.scale = 0.5;
  const Piece piece{"a", parameter.box, 0, 10000};
  const std::vector<double> values = initial(parameter, piece);
  double sum = 0;
  double squares = 0;
  for (const double value : values) {
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / 1e4, 0, 0.02);  // four standard errors
  EXPECT_NEAR(std::sqrt(squares / 1e4), 0.5, 0.02);
  EXPECT_NE(initial(parameter, piece, 8), values);
  parameter.name = "b";
  EXPECT_NE(initial(parameter, piece), values);
}

TEST(InitialValues, AConstantIsTheScale) {
  Parameter parameter = make("norm", {3});
  parameter.initializer = {Initializer::Kind::kConstant, 1.0};
  EXPECT_EQ(initial(parameter, {"norm", parameter.box, 1, 3}), (std::vector<double>{1, 1}));
}

}  // namespace
}  // namespace pimoe
