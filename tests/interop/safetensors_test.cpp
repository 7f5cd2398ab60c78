#include "interop/safetensors.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/strict_json.h"
#include "base/text.h"
#include "interop/safetensors_folder.h"
#include "support/temporary_folder.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include <cstring>

namespace pimoe {
namespace {

/// @returns what parsing says, "" if it is content
std::string refusal_of(const std::string& header, uint64_t data_bytes) {
  try {
    parse_safetensors_header(header, data_bytes, "m.safetensors");
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

std::string with_length(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file + header + data;
}

std::string open_refusal(const std::filesystem::path& path) {
  try {
    const SafetensorsFile file(path);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

std::string folder_refusal(const std::filesystem::path& path) {
  try {
    const SafetensorsFolder folder(path);
    return "";
  } catch (const DataError& error) {
    return error.what();
  }
}

TEST(SafetensorsHeader, GivesEachTensorsPlace) {
  const auto tensors = parse_safetensors_header(
      R"({"__metadata__": {"format": "pt", "a": "b"}, "b": {"dtype": "F32", "shape": [2, 1], "data_offsets": [2, 10]},)"
      R"( "a": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]}, "none": {"shape": [0, 3], "data_offsets": [10, 10], "dtype": "F8_E4M3"}}   )",
      10, "m.safetensors");
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors.at("a").numel(), 1);
  EXPECT_EQ(tensors.at("b").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(tensors.at("b").begin, 2u);
  EXPECT_EQ(tensors.at("none").numel(), 0);
}

TEST(SafetensorsHeader, RefusalsNameTheTensorAndTheRule) {
  const auto one = [](const std::string& fields) { return concat("{\"w\": {", fields, "}}"); };
  struct Case {
    std::string header;
    uint64_t data_bytes;
    std::string says;
  };
  const std::vector<Case> cases = {
      {"", 0, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"{", 0, "is not JSON"},
      {"{}}", 0, "is not JSON"},
      {"{\"w\": 1}", 0, "'w' is a number where an object belongs"},
      {"{\"w\": [1]}", 0, "'w' is a list where an object belongs"},
      {"{\"w\": \"x\"}", 0, "'w' is text where an object belongs"},
      {"{\"\": {}}", 0, "empty name"},
      {one(R"("dtype": "F32", "shape": [1])"), 4, "'w' has no data_offsets"},
      {one(R"("shape": [1], "data_offsets": [0, 4])"), 4, "'w' has no dtype"},
      {one(R"("dtype": "F32", "data_offsets": [0, 4])"), 4, "'w' has no shape"},
      {one(R"("dtype": "F4", "shape": [2], "data_offsets": [0, 1])"), 1, "the dtype 'F4', which is not known"},
      {one(R"("dtype": 3, "shape": [2], "data_offsets": [0, 1])"), 1, "has a number in dtype"},
      {one(R"("dtype": "F32", "shape": 1, "data_offsets": [0, 4])"), 4, "has a number in shape"},
      {one(R"("dtype": "F32", "shape": [1.5], "data_offsets": [0, 4])"), 4, "shape has 1.5"},
      {one(R"("dtype": "F32", "shape": [-1], "data_offsets": [0, 4])"), 4, "the number -1, which is negative"},
      {one(R"("dtype": "F32", "shape": [[1]], "data_offsets": [0, 4])"), 4, "has a list in shape"},
      {one(R"("dtype": "F32", "shape": [null], "data_offsets": [0, 4])"), 4, "has null in shape"},
      {one(R"("dtype": "F32", "shape": [{}], "data_offsets": [0, 4])"), 4, "an object where none belongs"},
      {one(R"("dtype": "F32", "shape": [18446744073709551615], "data_offsets": [0, 4])"), 4, "too large"},
      {one(R"("dtype": "F32", "shape": [99999999999999999999999], "data_offsets": [0, 4])"), 4, "no whole number that fits"},
      {one(R"("dtype": "F32", "shape": [4611686018427387904, 4], "data_offsets": [0, 0])"), 0, "a shape that is too large"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [0])"), 4, "data_offsets of 1 numbers"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [4, 0])"), 4, "end is before their begin"},
      {one(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 4])"), 4, "[2] in F32, which is 8 bytes, and has data_offsets of 4"},
      {one(R"("dtype": "F32", "shape": [2], "data_offsets": [0, 8])"), 4, "ends at byte 8 of the data, of which the file has 4"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [0, 4])"), 6, "bytes 4 to 5 of the data belong to no tensor"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [2, 6])"), 6, "bytes 0 to 1 of the data belong to no tensor"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [0, 4], "dtype": "F32")"), 4, "'w' has the key 'dtype' twice"},
      {one(R"("dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": "x")"), 4, "the key 'more', which the format does not know"},
      {R"({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})", 2,
       "'w' is there twice"},
      {R"({"v": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "w": {"dtype": "U8", "shape": [2], "data_offsets": [1, 3]}})", 3,
       "'w' begins at byte 1 of the data, inside 'v'"},
      {R"({"v": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]}})", 4,
       "bytes 2 to 2 of the data belong to no tensor"},
      {R"({"__metadata__": {"format": 1}})", 0, "has a number in format"},
      {R"({"__metadata__": {"a": "b", "a": "c"}})", 0, "has the key 'a' twice"},
      {R"({"__metadata__": {}, "__metadata__": {}})", 0, "is there twice"},
      {R"({"__metadata__": "x"})", 0, "is text where an object belongs"},
  };
  for (const Case& each : cases) {
    EXPECT_NE(refusal_of(each.header, each.data_bytes).find(each.says), std::string::npos)
        << each.header << "\n  says: " << refusal_of(each.header, each.data_bytes) << "\n  not:  " << each.says;
  }
}

TEST(SafetensorsFile, RefusesLengthsThatTheFileDoesNotHave) {
  const TemporaryFolder folder;
  EXPECT_NE(open_refusal(folder.write("short.safetensors", "abc")).find("has 3 bytes"), std::string::npos);
  std::string large = with_length("{}", "");
  const uint64_t length = 100'000'001;
  std::memcpy(large.data(), &length, sizeof(length));
  EXPECT_NE(open_refusal(folder.write("large.safetensors", large)).find("at most 100,000,000 are allowed"), std::string::npos);
  const uint64_t beyond = 3;
  std::memcpy(large.data(), &beyond, sizeof(beyond));
  EXPECT_NE(open_refusal(folder.write("beyond.safetensors", large)).find("its header has 3 bytes, and the file has 10"), std::string::npos);
  EXPECT_THROW(SafetensorsFile(folder / "missing.safetensors"), IoError);
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 4976698672\n";
  EXPECT_NE(open_refusal(folder.write("pointer.safetensors", pointer)).find("is a pointer of Git LFS"), std::string::npos);
  EXPECT_THROW(SafetensorsFile(folder.path()), IoError);
}

TEST(SafetensorsFile, ReadsWeightsWhereverTheyLieAndRefusesOtherNumbers) {
  const TemporaryFolder folder;
  // One byte in front: elements need not be aligned.
  const std::string header =
      R"({"i": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "w": {"dtype": "BF16", "shape": [3], "data_offsets": [1, 7]}})";
  const SafetensorsFile file(folder.write("a.safetensors", with_length(header, std::string("\x05\x80\x3f\x00\x40\x40\x40", 7))));
  EXPECT_TRUE(at::equal(file.read("w", 1, 2), (at::arange(2, 4)).to(at::kBFloat16)));
  EXPECT_THROW(file.read("i", 0, 1), DataError);
  EXPECT_THROW(file.read("w", 2, 2), ShapeError);
}

TEST(SafetensorsFolder, WhatIsWrittenIsReadWhateverTheShards) {
  for (const int64_t shard_bytes : {1, 30, 1000}) {
    const TemporaryFolder folder;
    const std::vector<SafetensorsTensor> tensors = {{"a", {2, 3}}, {"b", {5}}, {"c", {1, 1}}};
    const auto elements = [](size_t index, int64_t begin, int64_t count) {
      return at::arange(begin, begin + count).to(at::kFloat) + 100.0 * static_cast<double>(index);
    };
    const auto files = write_safetensors_folder(folder.path(), tensors, at::kFloat, shard_bytes, elements);
    EXPECT_EQ(files.size(), shard_bytes == 1 ? 4u : shard_bytes == 30 ? 3u : 1u);
    const SafetensorsFolder read(folder.path());
    EXPECT_EQ(read.bytes(), 48);
    EXPECT_EQ(read.entry("a").shape, (std::vector<int64_t>{2, 3}));
    EXPECT_TRUE(at::equal(read.read("b", 1, 3), elements(1, 1, 3)));
    const std::string first = read_file(folder / files[0]);
    uint64_t length = 0;
    std::memcpy(&length, first.data(), sizeof(length));
    EXPECT_EQ(length % 8, 0u);
  }
}

TEST(SafetensorsFolder, RefusesAnIndexThatIsNotWhatIsThere) {
  const std::string w = with_length(R"({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})", "x");
  const std::string both = with_length(
      R"({"v": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "w": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]}})", "xy");
  const auto with_index = [&](const std::string& index) {
    const TemporaryFolder folder;
    folder.write("a.safetensors", w);
    folder.write("b.safetensors", both);
    folder.write("model.safetensors.index.json", index);
    return folder_refusal(folder.path());
  };
  EXPECT_EQ(with_index(R"({"weight_map": {"w": "a.safetensors"}})"), "");
  EXPECT_NE(with_index("[]").find("no object"), std::string::npos);
  EXPECT_NE(with_index("{}").find("no weight_map"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map": {}})").find("is empty"), std::string::npos);
  for (const char* name : {"../a.safetensors", "sub/a.safetensors", "/etc/passwd", "..", "", ".safetensors", "a\\\\b.safetensors",
                           "a b.safetensors", "a.bin", "a\\u0000.safetensors", "a\\u001b.safetensors"}) {
    EXPECT_NE(with_index(concat(R"({"weight_map": {"w": ")", name, R"("}})")).find("plain name of a .safetensors file"), std::string::npos)
        << name;
  }
  EXPECT_NE(with_index(R"({"weight_map": {"w": 3}})").find("plain name"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}})").find("the key 'w' twice"), std::string::npos);
  EXPECT_NE(with_index(R"({"weight_map": {"x": "a.safetensors"}})").find("'x' is said to be in a.safetensors"), std::string::npos);
  const std::string not_there = with_index(R"({"weight_map": {"w": "a.safetensors", "x": "c.safetensors", "y": "c.safetensors"}})");
  EXPECT_NE(not_there.find("c.safetensors is not there, and model.safetensors.index.json has 'x' and 1 more in it"), std::string::npos)
      << not_there;
  EXPECT_NE(with_index(R"({"weight_map": {"w": "b.safetensors"}})").find("has 'v', which model.safetensors.index.json does not say"),
            std::string::npos);

  const TemporaryFolder folder;
  EXPECT_NE(folder_refusal(folder.path()).find("has neither"), std::string::npos);
  folder.write("a.safetensors", w);
  folder.write("model.safetensors", w);
  EXPECT_EQ(folder_refusal(folder.path()), "");
  folder.write("model.safetensors.index.json", R"({"weight_map": {"w": "a.safetensors"}})");
  EXPECT_NE(folder_refusal(folder.path()).find("has both"), std::string::npos);
}

TEST(StrictJson, RefusesWhatParsersLetPass) {
  const auto says = [](const std::string& text) {
    try {
      parse_strict_json(text, "c.json");
      return std::string();
    } catch (const DataError& error) {
      return std::string(error.what());
    }
  };
  EXPECT_EQ(says(R"({"a": [{"a": 1}, {"a": 1}]})"), "");
  EXPECT_NE(says(R"({"a": {"b": 1, "b": 2}})").find("the key 'b' twice"), std::string::npos);
  EXPECT_NE(says("3").find("no object"), std::string::npos);
  EXPECT_NE(says("version https://git-lfs.github.com/spec/v1\nsize 3\n").find("is a pointer of Git LFS"), std::string::npos);
  EXPECT_NE(says("{").find("is not JSON"), std::string::npos);
  EXPECT_NE(says(concat("{\"a\": ", std::string(100'000, '['))).find("deeper than 32"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
