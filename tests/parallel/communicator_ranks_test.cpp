#include "parallel/communicator.h"

#include "base/errors.h"
#include "support/ranks.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace pimoe {
namespace {

const std::vector<at::ScalarType> kEveryDtype = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong,
                                                 at::kInt,   at::kShort,  at::kByte,     at::kBool};
const std::vector<at::ScalarType> kReducible = {at::kFloat, at::kDouble, at::kLong, at::kInt};

/// Every rank draws what all ranks send, so that the expected result needs no communication.
class Draws {
 public:
  explicit Draws(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  at::Tensor tensor(std::vector<int64_t> shape, at::ScalarType dtype) {
    at::Tensor values = at::zeros(shape, at::kLong);
    int64_t* data = values.data_ptr<int64_t>();
    for (int64_t index = 0; index < values.numel(); ++index) data[index] = between(0, 100);
    return values.to(dtype);
  }

 private:
  std::mt19937_64 engine_;
};

/// A new seed in each run, the same on every rank.
uint64_t common_seed(const HostCommunicator& world) { return std::stoull(world.broadcast_text(std::to_string(std::random_device()()), 0)); }

TEST(AllReduce, SumsMaximaAndMinimaOfEveryReducibleDtype) {
  const auto world = test_session().world();
  const int64_t ranks = world->size();
  for (const at::ScalarType dtype : kReducible) {
    at::Tensor sum = at::tensor({world->rank() + 1, 10 * world->rank(), -1}, dtype);
    at::Tensor most = sum.clone();
    at::Tensor least = sum.clone();
    world->all_reduce(sum);
    world->all_reduce(most, ReduceOp::kMax);
    world->all_reduce(least, ReduceOp::kMin);
    EXPECT_TRUE(sum.equal(at::tensor({ranks * (ranks + 1) / 2, 5 * ranks * (ranks - 1), -ranks}, dtype))) << dtype;
    EXPECT_TRUE(most.equal(at::tensor({ranks, 10 * (ranks - 1), int64_t{-1}}, dtype))) << dtype;
    EXPECT_TRUE(least.equal(at::tensor({1, 0, -1}, dtype))) << dtype;
  }
}

// Both ways of all_reduce, both sides of their border and of the windows of the large one; lengths that the ranks do not divide.
TEST(AllReduce, HasTheBitsOfALoopOverTheRanksAtEveryLength) {
  const auto world = test_session().world();
  const uint64_t seed = common_seed(*world);
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  const int64_t part = (1 << 20) / 4;
  for (const int64_t length :
       {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{4096}, int64_t{4097}, part * world->size() - 1, part * world->size() + 1}) {
    at::Tensor expected;
    at::Tensor own;
    for (int rank = 0; rank < world->size(); ++rank) {
      at::Tensor values = at::zeros({length});
      for (int64_t index = 0; index < length; ++index) values.data_ptr<float>()[index] = normal(engine);
      if (rank == world->rank()) own = values.clone();
      expected = rank == 0 ? values : expected + values;
    }
    world->all_reduce(own);
    EXPECT_TRUE(own.equal(expected)) << length << " elements";
  }
}

TEST(ReduceScatter, AndAllGatherHaveTheBitsOfAllReduceInPlaceOrNot) {
  const auto world = test_session().world();
  const uint64_t seed = common_seed(*world) + static_cast<uint64_t>(world->rank());
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  for (const int64_t length : {int64_t{0}, int64_t{1}, int64_t{5000}, int64_t{(1 << 20) / 4 + 3}}) {
    at::Tensor full = at::zeros({length * world->size()});
    for (int64_t index = 0; index < full.numel(); ++index) full.data_ptr<float>()[index] = normal(engine);
    at::Tensor summed = full.clone();
    world->all_reduce(summed);

    at::Tensor shard = at::zeros({length});
    world->reduce_scatter(shard, full);
    EXPECT_TRUE(shard.equal(summed.narrow(0, world->rank() * length, length))) << length;
    at::Tensor part = full.narrow(0, world->rank() * length, length);
    world->reduce_scatter(part, full);
    EXPECT_TRUE(part.equal(shard)) << length;

    at::Tensor gathered = at::zeros_like(full);
    world->all_gather(gathered, shard);
    EXPECT_TRUE(gathered.equal(summed)) << length;
    world->all_gather(full, part);
    EXPECT_TRUE(full.equal(summed)) << length;
  }
}

TEST(ReduceScatter, SumsEveryReducibleDtype) {
  const auto world = test_session().world();
  for (const at::ScalarType dtype : kReducible) {
    const at::Tensor full = at::arange(3 * world->size(), dtype);
    at::Tensor shard = at::zeros({3}, dtype);
    world->reduce_scatter(shard, full);
    EXPECT_TRUE(shard.equal(full.narrow(0, 3 * world->rank(), 3) * world->size())) << dtype;
  }
}

TEST(Broadcast, CarriesEveryDtypeFromEveryRoot) {
  const auto world = test_session().world();
  Draws draws(5);
  for (const at::ScalarType dtype : kEveryDtype) {
    for (int root = 0; root < world->size(); ++root) {
      const at::Tensor sent = draws.tensor({3, 2}, dtype);
      at::Tensor tensor = world->rank() == root ? sent.clone() : at::zeros({3, 2}, dtype);
      world->broadcast(tensor, root);
      EXPECT_TRUE(tensor.equal(sent)) << dtype << " from " << root;
    }
  }
  at::Tensor nothing = at::zeros({0});
  world->broadcast(nothing, 0);
}

TEST(AllGather, CarriesEveryDtypeInRankOrder) {
  const auto world = test_session().world();
  Draws draws(6);
  for (const at::ScalarType dtype : kEveryDtype) {
    const at::Tensor expected = draws.tensor({world->size(), 3}, dtype);
    at::Tensor gathered = at::zeros({world->size(), 3}, dtype);
    world->all_gather(gathered, expected[world->rank()]);
    EXPECT_TRUE(gathered.equal(expected)) << dtype;
  }
}

/// Random counts with many zeros, drawn alike on every rank; compared with what every rank would have sent.
void check_all_to_all(const Communicator& group, Draws& draws, at::ScalarType dtype, const std::vector<int64_t>& row_shape) {
  const int ranks = group.size();
  std::vector<std::vector<int64_t>> counts(static_cast<size_t>(ranks), std::vector<int64_t>(static_cast<size_t>(ranks)));  // [from][to]
  std::vector<at::Tensor> sent;
  for (auto& row : counts) {
    for (int64_t& count : row) count = std::max<int64_t>(0, draws.between(-3, 5));
    std::vector<int64_t> shape = {std::accumulate(row.begin(), row.end(), int64_t{0})};
    shape.insert(shape.end(), row_shape.begin(), row_shape.end());
    sent.push_back(draws.tensor(shape, dtype));
  }
  const auto self = static_cast<size_t>(group.rank());
  std::vector<int64_t> received_counts;
  for (const auto& row : counts) received_counts.push_back(row[self]);
  const at::Tensor received = group.all_to_all(sent[self], counts[self], received_counts);
  int64_t at_row = 0;
  for (size_t from = 0; from < sent.size(); ++from) {
    const int64_t begin = std::accumulate(counts[from].begin(), counts[from].begin() + static_cast<int64_t>(self), int64_t{0});
    const int64_t count = counts[from][self];
    EXPECT_TRUE(received.narrow(0, at_row, count).equal(sent[from].narrow(0, begin, count))) << dtype << " from rank " << from;
    at_row += count;
  }
  EXPECT_EQ(received.size(0), at_row);
}

TEST(AllToAll, DeliversRandomRaggedRowsOfEveryDtype) {
  const auto world = test_session().world();
  const uint64_t seed = common_seed(*world);
  SCOPED_TRACE("seed " + std::to_string(seed));
  Draws draws(seed);
  for (int round = 0; round < 20; ++round) {
    for (const at::ScalarType dtype : kEveryDtype) check_all_to_all(*world, draws, dtype, {4});
    check_all_to_all(*world, draws, at::kFloat, {});
    check_all_to_all(*world, draws, at::kFloat, {2, 3});
    check_all_to_all(*world, draws, at::kFloat, {0});
  }
}

TEST(AllToAll, NoRowsAnywhereIsOrdinary) {
  const auto world = test_session().world();
  const std::vector<int64_t> zeros(static_cast<size_t>(world->size()), 0);
  EXPECT_EQ(world->all_to_all(at::zeros({0, 4}), zeros, zeros).sizes().vec(), (std::vector<int64_t>{0, 4}));
}

TEST(AllToAll, GivesTheResultNoGradient) {
  const auto world = test_session().world();
  const std::vector<int64_t> ones(static_cast<size_t>(world->size()), 1);
  const at::Tensor rows = at::zeros({world->size(), 2}).set_requires_grad(true);
  EXPECT_FALSE(world->all_to_all(rows, ones, ones).requires_grad());
}

// Longer than one message: the limit is a parameter, so that a few bytes show what two gigabytes would.
TEST(Messages, LongerOnesAreCutAndArriveWhole) {
  const auto world = test_session().world(/*message_bytes=*/10);
  Draws draws(11);
  for (int round = 0; round < 5; ++round) check_all_to_all(*world, draws, at::kFloat, {3});
  const at::Tensor expected = draws.tensor({world->size(), 7}, at::kFloat);
  at::Tensor gathered = at::zeros({world->size(), 7});
  world->all_gather(gathered, expected[world->rank()]);
  EXPECT_TRUE(gathered.equal(expected));
  at::Tensor in_place = at::zeros({world->size(), 7});
  in_place[world->rank()].copy_(expected[world->rank()]);
  world->all_gather(in_place, in_place[world->rank()]);
  EXPECT_TRUE(in_place.equal(expected));
  at::Tensor sent = world->rank() == 0 ? expected.clone() : at::zeros_like(expected);
  world->broadcast(sent, 0);
  EXPECT_TRUE(sent.equal(expected));
  at::Tensor sum = at::full({6000}, world->rank() + 1.0f);
  world->all_reduce(sum);
  EXPECT_TRUE(sum.equal(at::full({6000}, world->size() * (world->size() + 1) / 2.0f)));
  EXPECT_EQ(world->broadcast_text("longer than ten bytes", 0), "longer than ten bytes");
}

TEST(AllToAll, CountsThatDisagreeAreAnErrorNotAHang) {
  const auto world = test_session().world();
  if (world->size() == 1) {
    EXPECT_THROW(world->all_to_all(at::zeros({2}), {2}, {3}), ShapeError);
    return;
  }
  for (const int64_t expected : {0, 1, 3}) {  // where rank 0 sends 2 to the last rank
    const auto group = world->split_host(0, world->rank(), "exchange");
    const auto ranks = static_cast<size_t>(group->size());
    std::vector<int64_t> send(ranks, 0);
    std::vector<int64_t> receive(ranks, 0);
    if (group->rank() == 0) send.back() = 2;
    const bool last = group->rank() == group->size() - 1;
    if (last) receive[0] = expected;
    const at::Tensor rows = at::zeros({group->rank() == 0 ? 2 : 0, 8});
    std::string message;
    try {
      group->all_to_all(rows, send, receive);
    } catch (const CommError& error) {
      message = error.what();
    }
    EXPECT_EQ(message.empty(), !last) << message;
    if (last) {
      EXPECT_NE(message.find("all_to_all in exchange group of " + std::to_string(group->size())), std::string::npos) << message;
      EXPECT_NE(message.find("rank 0"), std::string::npos) << message;
    }
    world->barrier();
  }
}

TEST(Split, GroupsRanksByColorInTheOrderOfTheirKeys) {
  const auto world = test_session().world();
  const auto reversed = world->split_host(0, -world->rank(), "reversed");
  EXPECT_EQ(reversed->rank(), world->size() - 1 - world->rank());
  EXPECT_EQ(reversed->name(), "reversed group of " + std::to_string(world->size()));
  const auto parity = world->split(world->rank() % 2, world->rank(), "parity");
  EXPECT_EQ(parity->size(), (world->size() + 1 - world->rank() % 2) / 2);
  EXPECT_EQ(parity->rank(), world->rank() / 2);
  at::Tensor sum = at::full({1}, world->rank(), at::kLong);
  parity->all_reduce(sum);
  int64_t expected = 0;
  for (int rank = world->rank() % 2; rank < world->size(); rank += 2) expected += rank;
  EXPECT_EQ(sum.item<int64_t>(), expected);
}

TEST(Text, IsGatheredAndBroadcastAtAnyLength) {
  const auto world = test_session().world();
  const auto short_messages = test_session().world(/*message_bytes=*/2);
  const auto text_of = [](int rank) { return rank == 1 ? std::string() : std::string(static_cast<size_t>(rank) * 3 + 1, 'a'); };
  for (const HostCommunicator* group : {world.get(), short_messages.get()}) {
    const std::vector<std::string> texts = group->all_gather_text(text_of(world->rank()));
    ASSERT_EQ(texts.size(), static_cast<size_t>(world->size()));
    for (int rank = 0; rank < world->size(); ++rank) EXPECT_EQ(texts[static_cast<size_t>(rank)], text_of(rank));
  }
  const int root = world->size() - 1;
  const std::string with_zero("a\0b", 3);
  EXPECT_EQ(world->broadcast_text(world->rank() == root ? with_zero : "something longer", root), with_zero);
  EXPECT_EQ(world->broadcast_text(world->rank() == root ? "" : "x", root), "");
}

TEST(Agree, TellsEveryRankOfTheLowestThatFailed) {
  const auto world = test_session().world();
  EXPECT_EQ(world->agree(""), "");
  const int last = world->size() - 1;
  EXPECT_EQ(world->agree(world->rank() == last ? "disk full" : ""), "rank " + std::to_string(last) + ": disk full");
  EXPECT_EQ(world->agree("trouble " + std::to_string(world->rank())), "rank 0: trouble 0");
}

TEST(Barrier, ReturnsOnlyOnceEveryRankHasEntered) {
  const auto world = test_session().world();
  const auto other = world->split_host(0, world->rank(), "other");
  for (int round = 0; round < 10; ++round) {
    world->barrier();
    other->barrier();
  }
  at::Tensor entered = at::full({1}, 1, at::kLong);
  world->all_reduce(entered);
  EXPECT_EQ(entered.item<int64_t>(), world->size());
}

}  // namespace
}  // namespace pimoe
