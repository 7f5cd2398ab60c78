#include "checkpoint/checkpoint_reader.h"

#include "base/errors.h"
#include "checkpoint/checkpoint_store.h"
#include "checkpoint/tiny_checkpoint.h"

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <random>

namespace pimoe {
namespace {

namespace fs = std::filesystem;

class Reading : public ::testing::Test {
 protected:
  void SetUp() override { save_snapshot(checkpoint_, tiny_snapshot(100), /*part_bytes=*/40); }

  std::string refusal(const StatePiece& wanted) {
    try {
      CheckpointReader(checkpoint_).fill({wanted});
      return "accepted";
    } catch (const CheckpointError& error) {
      return std::string(error.what()).substr(("checkpoint " + checkpoint_.string() + ": ").size());
    }
  }

  TemporaryFolder folder_;
  fs::path checkpoint_ = folder_.path() / "step-00000100";
};

TEST_F(Reading, FillsPiecesThatAreCutInAnotherWay) {
  Snapshot wanted = tiny_wanted();
  restore_snapshot(checkpoint_, wanted);
  for (const StatePiece& state : wanted.pieces) EXPECT_EQ(wrong_element(state), "");
  EXPECT_EQ(wanted.step, 100);
  EXPECT_EQ(wanted.numbers, tiny_snapshot(100).numbers);
  EXPECT_EQ(wanted.counters, tiny_snapshot(100).counters);
  EXPECT_EQ(wanted.config, tiny_snapshot(100).config);
}

TEST_F(Reading, FillsAnyBoxAndRange) {
  constexpr unsigned kSeed = 7;
  std::mt19937 random(kSeed);
  const auto below = [&](int64_t end) { return static_cast<int64_t>(random() % static_cast<uint64_t>(end)); };
  CheckpointReader reader(checkpoint_);
  for (int trial = 0; trial < 500; ++trial) {
    Box box = Box::whole({4, 2, 3});
    for (size_t d = 0; d < 3; ++d) {
      box.offset[d] = below(box.global[d]);
      box.shape[d] = 1 + below(box.global[d] - box.offset[d]);
    }
    const int64_t begin = below(box.numel());
    const int64_t end = begin + below(box.numel() - begin + 1);
    const StatePiece state = blank("master", {"layers.0.experts", box, begin, end}, at::kFloat);
    reader.fill({state});
    EXPECT_EQ(wrong_element(state), "") << "seed " << kSeed << ", trial " << trial;
  }
}

TEST_F(Reading, ConvertsBetweenFloatingPointFormats) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
    const StatePiece master = blank("master", {"layers.0.norm", Box::whole({6}), 0, 6}, dtype);
    const StatePiece moment = blank("exp_avg", {"layers.0.experts", Box::whole({4, 2, 3}), 3, 20}, dtype);
    const StatePiece bias = blank("state", {"layers.0.router_bias", Box::whole({4}), 0, 4}, dtype);
    CheckpointReader(checkpoint_).fill({master, moment, bias});
    for (const StatePiece& state : {master, moment, bias}) EXPECT_EQ(wrong_element(state), "") << c10::toString(dtype);
  }
}

TEST_F(Reading, FillsLeavesThatRequireAGradient) {
  const StatePiece state = blank("master", {"layers.0.norm", Box::whole({6}), 0, 6}, at::kFloat);
  state.values.requires_grad_(true);
  CheckpointReader(checkpoint_).fill({state});
  EXPECT_EQ(wrong_element(state), "");
}

TEST_F(Reading, RefusesToTurnWholeNumbersIntoOthers) {
  EXPECT_EQ(refusal(blank("state", {"calls", Box::whole({}), 0, 1}, at::kFloat)),
            "state/calls is int64, wanted is Float; only floating-point numbers are converted");
}

TEST_F(Reading, SuggestsTheNearestNameForATensorThatIsMissing) {
  EXPECT_EQ(refusal(blank("master", {"layers.0.nrom", Box::whole({6}), 0, 6}, at::kFloat)),
            "has no tensor master/layers.0.nrom; the nearest that it has is master/layers.0.norm");
}

TEST_F(Reading, NamesBothShapesWhenTheyDiffer) {
  EXPECT_EQ(refusal(blank("master", {"layers.0.norm", Box::whole({3, 2}), 0, 6}, at::kFloat)),
            "master/layers.0.norm has shape [6], wanted is [3, 2]");
}

TEST_F(Reading, RefusesElementsThatNoFileHolds) {
  const std::string text = read_text(checkpoint_ / "manifest.json");
  const size_t first = text.find("  {\"file\"");
  std::string changed = text;
  changed.erase(first, text.find('\n', first) + 1 - first);  // the first piece: master/layers.0.norm
  write_text(checkpoint_ / "manifest.json", signed_again(changed));
  EXPECT_EQ(refusal(blank("master", {"layers.0.norm", Box::whole({6}), 1, 6}, at::kFloat)),
            "has no tensor master/layers.0.norm; the nearest that it has is master/layers.0.experts");
  changed = text;
  const size_t range = changed.find("\"range\":[0,6]");
  changed.replace(range, 13, "\"range\":[2,6]");
  write_text(checkpoint_ / "manifest.json", signed_again(changed));
  EXPECT_EQ(refusal(blank("master", {"layers.0.norm", Box::whole({6}), 1, 5}, at::kFloat)),
            "master/layers.0.norm is not complete: elements [0, 1) of the wanted 4 are in no file");
}

// A manifest can say anything, and be signed: memory is taken for what files of the right sizes hold.
TEST_F(Reading, TakesNoMemoryForATensorThatItsFilesCannotHold) {
  constexpr int64_t kHuge = int64_t{1} << 50;
  const auto refusal_of_all = [&](const std::string& from, const std::string& to) {
    const std::string text = read_text(checkpoint_ / "manifest.json");
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    write_text(checkpoint_ / "manifest.json", signed_again(changed));
    std::string message = "accepted";
    try {
      CheckpointReader(checkpoint_).read("master/layers.0.norm", 0, kHuge);
    } catch (const CheckpointError& error) {
      message = std::string(error.what()).substr(("checkpoint " + checkpoint_.string() + ": ").size());
    }
    write_text(checkpoint_ / "manifest.json", text);
    return message;
  };
  EXPECT_EQ(refusal_of_all("\"global_shape\":[6]", concat("\"global_shape\":[", kHuge, "]")),
            "master/layers.0.norm is not complete: 1125899906842624 elements are wanted, and its pieces hold 6");
  const std::string bytes = concat("\"bytes\":", read_manifest(checkpoint_).files.front().bytes, ",");
  EXPECT_NE(refusal_of_all(bytes, "\"bytes\":4503599627370496,").find("the manifest says 4,503,599,627,370,496"), std::string::npos);
}

TEST_F(Reading, LeavesFilesAloneThatHoldNothingWanted) {
  for (const StoredFile& file : read_manifest(checkpoint_).files) {
    if (file.name != read_manifest(checkpoint_).pieces.front().file) fs::remove(checkpoint_ / file.name);
  }
  const StatePiece state = blank("master", {"layers.0.norm", Box::whole({6}), 0, 6}, at::kFloat);
  CheckpointReader(checkpoint_).fill({state});
  EXPECT_EQ(wrong_element(state), "");
}

TEST_F(Reading, ChecksTheDigestBeforeItOpensAFile) {
  const fs::path shard = checkpoint_ / read_manifest(checkpoint_).pieces.front().file;
  std::string bytes = read_text(shard);
  bytes[bytes.size() / 2] ^= 1;
  write_text(shard, bytes);
  EXPECT_NE(
      refusal(blank("master", {"layers.0.norm", Box::whole({6}), 0, 6}, at::kFloat)).find("is damaged: its bytes do not have the digest"),
      std::string::npos);
}

// What a newer version has one tensor more for: every checkpoint of before is read, and the tensor begins as it would in a new run.
TEST_F(Reading, LeavesOptionalPiecesThatNoFileHasAsTheyAreAndNamesThem) {
  Snapshot wanted = tiny_wanted();
  const Box box = Box::whole({6});
  for (const int64_t begin : {0, 3}) {  // one tensor in two pieces is told once
    wanted.pieces.push_back(blank("third_moment", {"layers.0.norm", box, begin, begin + 3}, at::kFloat));
    wanted.pieces.back().optional = true;
  }
  wanted.pieces[0].optional = true;  // it is there, and filled like any other
  EXPECT_EQ(restore_snapshot(checkpoint_, wanted), std::vector<std::string>{"third_moment/layers.0.norm"});
  for (size_t index = 0; index + 2 < wanted.pieces.size(); ++index) EXPECT_EQ(wrong_element(wanted.pieces[index]), "");
  EXPECT_TRUE(at::equal(wanted.pieces.back().values, at::full({3}, -1.0F)));
}

TEST_F(Reading, RefusesOptionalPiecesThatDoNotFitTheFiles) {
  StatePiece other_shape = blank("master", {"layers.0.norm", Box::whole({7}), 0, 7}, at::kFloat);
  other_shape.optional = true;
  EXPECT_EQ(refusal(other_shape), "master/layers.0.norm has shape [6], wanted is [7]");
}

TEST_F(Reading, WantsEveryNumberAndCounterThatItIsAskedFor) {
  Snapshot wanted = tiny_wanted();
  wanted.numbers["exponential_average"] = 0;
  EXPECT_THROW(restore_snapshot(checkpoint_, wanted), CheckpointError);
  wanted = tiny_wanted();
  wanted.counters["next_file"] = 0;
  EXPECT_THROW(restore_snapshot(checkpoint_, wanted), CheckpointError);
}

TEST_F(Reading, ListsTheLogicalTensors) {
  const auto tensors = CheckpointReader(checkpoint_).tensors();
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"exp_avg/layers.0.experts", "master/layers.0.experts", "master/layers.0.norm", "state/calls",
                                             "state/layers.0.router_bias"}));
  EXPECT_EQ(tensors.at("master/layers.0.experts").shape, (std::vector<int64_t>{4, 2, 3}));
  EXPECT_EQ(tensors.at("exp_avg/layers.0.experts").type, ElementType::kBfloat16);
}

}  // namespace
}  // namespace pimoe
