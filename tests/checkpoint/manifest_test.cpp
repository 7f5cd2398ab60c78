#include "checkpoint/manifest.h"

#include "base/digest.h"
#include "base/errors.h"
#include "checkpoint/tiny_checkpoint.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace pimoe {
namespace {

Manifest example() {
  Manifest manifest;
  manifest.step = 100;
  manifest.ranks = 2;
  manifest.expert_parallel = 2;
  manifest.config = "run: {seed: 1234}\n# \"quoted\", \\ and \xc3\xa9\n";
  manifest.numbers = {{"loss_scale", 65536.0}, {"tokens_seen", 0.1 + 0.2}};
  manifest.counters = {{"next_sample", 1600}};
  const std::string digest(64, 'a');
  manifest.files = {{"rank-0000-of-0002-part-000.h5", 4096, digest}, {"rank-0001-of-0002-part-000.h5", 4096, digest}};
  manifest.pieces = {{"rank-0000-of-0002-part-000.h5",
                      "master/experts",
                      "master",
                      {"experts", Box::rows({4, 3}, 0, 2), 1, 6},
                      ElementType::kFloat32,
                      digest},
                     {"rank-0001-of-0002-part-000.h5",
                      "master/experts",
                      "master",
                      {"experts", Box::rows({4, 3}, 2, 2), 0, 6},
                      ElementType::kFloat32,
                      digest}};
  return manifest;
}

/// The text of a manifest in which `from` is replaced, with a digest that fits again.
std::string with(const std::string& from, const std::string& to) {
  std::string text = to_json(example());
  const size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return signed_again(text.replace(place, from.size(), to));
}

std::string refusal(const std::string& text) {
  try {
    parse_manifest(text, "m.json");
    return "accepted";
  } catch (const CheckpointError& error) {
    return error.what();
  }
}

TEST(Manifest, RoundTripGivesTheSameText) {
  const std::string text = to_json(example());
  EXPECT_EQ(to_json(parse_manifest(text, "m.json")), text);
}

TEST(Manifest, RoundTripKeepsEveryBitOfEveryNumber) {
  using Limits = std::numeric_limits<double>;
  Manifest manifest = example();
  const std::vector<double> values = {
      0.0, -0.0, 0.1, -1.0 / 3, Limits::max(), Limits::denorm_min(), Limits::infinity(), -Limits::infinity(), 1e-300};
  for (size_t i = 0; i < values.size(); ++i) manifest.numbers["n" + std::to_string(i)] = values[i];
  manifest.numbers["nan"] = Limits::quiet_NaN();
  manifest.counters = {{"low", INT64_MIN}, {"high", INT64_MAX}, {"a \"key\"\n", -1}};
  const Manifest read = parse_manifest(to_json(manifest), "m.json");
  for (size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::bit_cast<uint64_t>(read.numbers.at("n" + std::to_string(i))), std::bit_cast<uint64_t>(values[i])) << values[i];
  }
  EXPECT_TRUE(std::isnan(read.numbers.at("nan")));
  EXPECT_EQ(read.counters, manifest.counters);
  EXPECT_EQ(read.config, manifest.config);
}

TEST(Manifest, EndsInTheDigestOfWhatStandsBefore) {
  const std::string text = to_json(example());
  const size_t end = text.rfind(",\n\"sha256\": \"");
  EXPECT_EQ(text.substr(end), ",\n\"sha256\": \"" + sha256(text.data(), end) + "\"}\n");
}

TEST(Manifest, RefusesEveryChangedByte) {
  const std::string text = to_json(example());
  for (size_t at = 0; at < text.size(); ++at) {
    for (const int flip : {1, 0x20, 0x80}) {
      std::string changed = text;
      changed[at] = static_cast<char>(changed[at] ^ flip);
      EXPECT_THROW(parse_manifest(changed, "m.json"), CheckpointError) << "byte " << at;
    }
  }
}

TEST(Manifest, RefusesEveryTruncation) {
  const std::string text = to_json(example());
  for (size_t length = 0; length < text.size(); ++length) {
    EXPECT_THROW(parse_manifest(text.substr(0, length), "m.json"), CheckpointError) << "first " << length << " bytes";
  }
}

TEST(Manifest, NamesWhatIsWrongWithASignedOne) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {with("\"format_version\": 1", "\"format_version\": 2"),
       "m.json: format_version (2) must be 1 for this version of PiMoE: a newer one wrote it, and can go on from it"},
      {with("\"format_version\": 1", "\"format_version\": 0"), "m.json: format_version (0) must be 1"},
      {with("\"step\": 100", "\"step\": -1"), "m.json: step (-1) must be at least 0"},
      {with("\"step\": 100", "\"step\": 1e2"), "m.json: step must be a 64-bit integer"},
      {with("\"step\": 100", "\"step\": 9223372036854775808"), "m.json: step must be a 64-bit integer"},
      {with("\"step\": 100,\n", ""), "m.json: has no step"},
      {with("\"1p+16\"", "65536"), "m.json: numbers.loss_scale: must be a number as hexadecimal text"},
      {with("\"1p+16\"", "\"1p+16x\""), "m.json: numbers.loss_scale: '1p+16x' is not a number as hexadecimal text"},
      {with("\"name\":\"rank-0000", "\"name\":\"../rank-0000"), "m.json: '../rank-0000-of-0002-part-000.h5' is not a plain file name"},
      {with("\"name\":\"rank-0001", "\"name\":\"rank-0000"), "m.json: lists rank-0000-of-0002-part-000.h5 twice"},
      {with("\"bytes\":4096", "\"bytes\":19"),
       "m.json: master/experts does not fit into rank-0000-of-0002-part-000.h5 with the datasets before it"},
      {with("\"bytes\":4096", "\"bytes\":\"4096\""), "m.json: files[0]: bytes must be a 64-bit integer"},
      {with("\"file\":\"rank-0001", "\"file\":\"rank-0007"),
       "m.json: master/experts is in rank-0007-of-0002-part-000.h5, which is not among the files"},
      {with("\"dataset\":\"master/", "\"dataset\":\"other/"), "m.json: dataset other/experts cannot hold master/experts"},
      {with("\"type\":\"float32\"", "\"type\":\"float31\""),
       "m.json: pieces[0]: type 'float31' is not a number format that this version reads"},
      {with("\"range\":[1,6]", "\"range\":[1,7]"),
       "m.json: pieces[0]: master/experts: elements [1, 7) do not lie inside a box of 6 elements"},
      {with("\"range\":[1,6]", "\"range\":[6]"), "m.json: pieces[0]: range must be [begin, end]"},
      {with("\"box_offset\":[0,0]", "\"box_offset\":[3,0]"),
       "m.json: pieces[0]: master/experts: the box of shape [2, 3] at [3, 0] does not lie inside a tensor of shape [4, 3]"},
      {with("\"global_shape\":[4,3]", "\"global_shape\":[4611686018427387904,3]"),
       "m.json: pieces[0]: master/experts: the box of shape [2, 3] at [0, 0] does not lie inside a tensor of shape [4611686018427387904, "
       "3]"},
      {with("aaaa\"}", "aaaA\"}"), "m.json: files[0]: sha256 must be 64 hexadecimal digits"},
  };
  for (const auto& [text, message] : table) EXPECT_EQ(refusal(text), message);
}

TEST(Manifest, SignedNonsenseIsRefusedOrReadsBackTheSame) {
  constexpr unsigned kSeed = 20240731;
  std::mt19937 random(kSeed);
  const std::string text = to_json(example());
  const std::string alphabet = "0123456789-.eE\"\\{}[],: anulltrf/@\n\t\xff\xc3";
  int accepted = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::string changed = text;
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const size_t at = random() % (changed.size() - 80);
      switch (random() % 4) {
        case 0: changed[at] = alphabet[random() % alphabet.size()]; break;
        case 1: changed.erase(at, 1 + random() % 8); break;
        case 2: changed.insert(at, 1, alphabet[random() % alphabet.size()]); break;
        default: changed.insert(at, changed.substr(random() % (changed.size() - 80), random() % 60)); break;
      }
    }
    changed = signed_again(changed);
    try {
      const std::string read = to_json(parse_manifest(changed, "m.json"));
      EXPECT_EQ(to_json(parse_manifest(read, "m.json")), read) << "seed " << kSeed << ", trial " << trial << "\n" << changed;
      ++accepted;
    } catch (const CheckpointError&) {
    }
  }
  EXPECT_GT(accepted, 100) << "the edits are too wild to reach what follows the JSON parser";
}

TEST(Manifest, SaysThatATextIsNotUtf8) {
  Manifest manifest = example();
  manifest.config = "\xff";
  EXPECT_THROW(to_json(manifest), CheckpointError);
}

TEST(Manifest, DeepNestingIsRefusedWithoutACrash) {
  EXPECT_THROW(parse_manifest(signed_again(std::string(1 << 20, '[') + ",\n\"sha256\": \""), "m.json"), CheckpointError);
}

TEST(Manifest, ListsOfPiecesTravelAsText) {
  const std::vector<StoredPiece> read = parse_pieces(pieces_to_json(example().pieces));
  ASSERT_EQ(read.size(), 2U);
  EXPECT_EQ(read[1].tensor(), "master/experts");
  EXPECT_EQ(read[1].piece, example().pieces[1].piece);
  EXPECT_TRUE(parse_pieces(pieces_to_json({})).empty());
}

}  // namespace
}  // namespace pimoe
