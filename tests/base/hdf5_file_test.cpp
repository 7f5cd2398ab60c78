#include "base/hdf5_file.h"
#include "base/hdf5_image.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <numeric>
#include <thread>

#include "base/errors.h"
#include "base/text.h"

namespace pimoe {
namespace {

const std::vector<ElementType> kTypes = {ElementType::kFloat64, ElementType::kFloat32, ElementType::kFloat16, ElementType::kBfloat16,
                                         ElementType::kInt64,   ElementType::kInt32,   ElementType::kUint8,   ElementType::kInt8};

/// Bytes of every value, a different run of them for each `salt`.
std::vector<uint8_t> some_bytes(int64_t count, int salt) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(i * 7 + i / 256 + static_cast<size_t>(salt));
  return bytes;
}

Image image_of(const std::vector<float>& values, const Hdf5Attributes& attributes = {}) {
  Hdf5Writer writer;
  writer.add("values", ElementType::kFloat32, values.data(), static_cast<int64_t>(values.size()), attributes);
  return bytes_of(writer.finish());
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error";
  return "";
}

TEST(ElementTypes, NamesAndTypesUndoEachOther) {
  for (const ElementType type : kTypes) EXPECT_EQ(element_type(element_name(type)), type);
  EXPECT_EQ(element_bytes(ElementType::kFloat64), 8);
  EXPECT_EQ(element_bytes(ElementType::kBfloat16), 2);
  EXPECT_EQ(element_bytes(ElementType::kUint8), 1);
  EXPECT_STREQ(element_name(ElementType::kFloat16), "float16");
  EXPECT_THROW(element_type("float8"), Error);
  EXPECT_THROW(element_type(""), Error);
}

TEST(Hdf5File, EveryTypeComesBackBitForBit) {
  constexpr int64_t kCount = 1000;
  Hdf5Writer writer;
  for (size_t i = 0; i < kTypes.size(); ++i) {
    const auto bytes = some_bytes(kCount * element_bytes(kTypes[i]), static_cast<int>(i));
    writer.add(concat("group/", element_name(kTypes[i])), kTypes[i], bytes.data(), kCount);
  }
  const Hdf5Image image = writer.finish();
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  for (size_t i = 0; i < kTypes.size(); ++i) {
    const std::string name = concat("group/", element_name(kTypes[i]));
    const Hdf5Reader::Dataset dataset = reader.describe(name);
    EXPECT_EQ(dataset.type, kTypes[i]);
    EXPECT_EQ(dataset.count, kCount);
    std::vector<uint8_t> bytes(static_cast<size_t>(kCount * element_bytes(kTypes[i])));
    reader.read(name, 0, kCount, bytes.data());
    EXPECT_EQ(bytes, some_bytes(kCount * element_bytes(kTypes[i]), static_cast<int>(i))) << name;
  }
}

TEST(Hdf5File, NamesAreSortedAndFull) {
  Hdf5Writer writer;
  const float value = 1;
  for (const char* name : {"master/layers.1.norm", "embedding", "master/layers.0.norm", "moment/first/x"}) {
    writer.add(name, ElementType::kFloat32, &value, 1);
  }
  const Hdf5Image image = writer.finish();
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  EXPECT_EQ(reader.names(), (std::vector<std::string>{"embedding", "master/layers.0.norm", "master/layers.1.norm", "moment/first/x"}));
}

TEST(Hdf5File, FileWithoutDatasetsIsValid) {
  const Hdf5Image image = Hdf5Writer().finish();
  EXPECT_TRUE(Hdf5Reader(image.data(), image.size(), "test.h5").names().empty());
}

TEST(Hdf5File, EmptyDatasetIsValid) {
  const Image image = image_of({});
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  EXPECT_EQ(reader.describe("values").count, 0);
  reader.read("values", 0, 0, nullptr);
}

// A chunk is 1 MiB: 262,144 float32. Sizes around one and two of them, stretches that begin and end inside and at their borders.
TEST(Hdf5File, AnyStretchOfAChunkedDatasetIsRead) {
  constexpr int64_t kChunk = 262'144;
  for (const int64_t count : {int64_t{1}, kChunk - 1, kChunk, kChunk + 1, 2 * kChunk + 5}) {
    std::vector<float> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), 0.0f);
    const Image image = image_of(values);
    const Hdf5Reader reader(image.data(), image.size(), "test.h5");
    for (const int64_t begin : {int64_t{0}, count / 2, kChunk - 1, kChunk, count - 1, count}) {
      for (const int64_t length : {int64_t{0}, int64_t{1}, int64_t{3}, count}) {
        if (begin > count || length > count - begin) continue;
        std::vector<float> read(static_cast<size_t>(length) + 1, -1.0f);
        reader.read("values", begin, length, read.data());
        EXPECT_EQ(read.back(), -1.0f) << "wrote past its end";
        read.pop_back();
        const auto first = values.begin() + begin;
        EXPECT_EQ(read, std::vector<float>(first, first + length)) << "count " << count << ", begin " << begin << ", length " << length;
      }
    }
  }
}

TEST(Hdf5File, ReadingJumpsBetweenDatasets) {
  Hdf5Writer writer;
  const std::vector<int32_t> one = {10, 11, 12};
  const std::vector<int32_t> two = {20, 21, 22};
  writer.add("one", ElementType::kInt32, one.data(), 3);
  writer.add("two", ElementType::kInt32, two.data(), 3);
  const Hdf5Image image = writer.finish();
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  std::vector<int32_t> seen(4);
  for (int i = 0; i < 2; ++i) {
    reader.read("one", i, 1, &seen[static_cast<size_t>(2 * i)]);
    reader.read("two", i + 1, 1, &seen[static_cast<size_t>(2 * i + 1)]);
  }
  EXPECT_EQ(seen, (std::vector<int32_t>{10, 21, 11, 22}));
}

TEST(Hdf5File, ReadingOutsideADatasetIsRefused) {
  const Image image = image_of({1, 2, 3});
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  float out[4];
  EXPECT_EQ(message_of([&] { reader.read("values", 2, 2, out); }), "test.h5: dataset values: 2 elements from 2 on do not lie inside its 3");
  EXPECT_THROW(reader.read("values", -1, 1, out), Error);
  EXPECT_THROW(reader.read("values", 0, -1, out), Error);
  EXPECT_THROW(reader.read("values", INT64_MAX, 1, out), Error);
}

TEST(Hdf5File, MissingNamesAreNamed) {
  const Image image = image_of({1});
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  EXPECT_EQ(message_of([&] { reader.describe("absent"); }), "test.h5: there is no dataset absent");
  EXPECT_EQ(message_of([&] { reader.text("absent"); }), "test.h5: text absent is missing");
}

TEST(Hdf5File, AttributesComeBack) {
  const Hdf5Attributes attributes = {{"global_shape", {8, 512, 256}}, {"offset", {}}, {"range", {INT64_MIN, INT64_MAX}}};
  const Image image = image_of({1, 2}, attributes);
  EXPECT_EQ(Hdf5Reader(image.data(), image.size(), "test.h5").describe("values").attributes, attributes);
}

TEST(Hdf5File, TextsComeBack) {
  const std::vector<std::string> texts = {"", "step 100", "Zürich 日本", "a\nb\n", std::string(60'000, 'x')};
  Hdf5Writer writer;
  for (size_t i = 0; i < texts.size(); ++i) writer.set_text(concat("text", i), texts[i]);
  const Hdf5Image image = writer.finish();
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(reader.text(concat("text", i)), texts[i]);
}

TEST(Hdf5File, TextThatCannotBeStoredIsRefused) {
  Hdf5Writer writer;
  EXPECT_NE(message_of([&] { writer.set_text("zero", std::string("a\0b", 3)); }).find("zero byte"), std::string::npos);
  EXPECT_NE(message_of([&] { writer.set_text("long", std::string(70'000, 'x')); }).find("70000 bytes"), std::string::npos);
}

TEST(Hdf5File, NameIsTakenOnce) {
  Hdf5Writer writer;
  const float value = 1;
  writer.add("group/values", ElementType::kFloat32, &value, 1);
  EXPECT_NE(message_of([&] { writer.add("group/values", ElementType::kFloat32, &value, 1); }).find("dataset group/values"),
            std::string::npos);
  EXPECT_THROW(writer.add("group", ElementType::kFloat32, &value, 1), Error);
  EXPECT_THROW(writer.add("group/values/below", ElementType::kFloat32, &value, 1), Error);
}

TEST(Hdf5File, NameMustBeAPlainPath) {
  Hdf5Writer writer;
  const float value = 1;
  for (const std::string& name : {std::string(), std::string("/a"), std::string("a/"), std::string("a//b"), std::string("./a"),
                                  std::string("a/../b"), std::string("a\0b", 3)}) {
    EXPECT_THROW(writer.add(name, ElementType::kFloat32, &value, 1), Error) << "'" << name << "'";
  }
}

TEST(Hdf5File, SameContentIsTheSameBytes) {
  const auto build = [](size_t dirt) {
    // What an earlier owner left in memory must not show in the padding of the file.
    { const std::vector<uint8_t> dirty(3 << 20, static_cast<uint8_t>(dirt)); }
    Hdf5Writer writer;
    const auto bytes = some_bytes(4 * 300'001, 3);
    writer.add("master/layers.0.norm", ElementType::kFloat32, bytes.data(), 300'001, {{"shape", {300'001}}});
    writer.add("master/empty", ElementType::kBfloat16, nullptr, 0);
    writer.set_text("format", "1");
    return bytes_of(writer.finish());
  };
  const Image first = build(0x55);
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // HDF5's time stamps count seconds
  EXPECT_TRUE(first == build(0xAA));
}

TEST(Hdf5File, ImageIsNotMuchLargerThanItsContent) {
  const std::vector<float> values(1 << 20, 1.5f);
  EXPECT_LT(image_of(values).size(), values.size() * sizeof(float) + 64 * 1024);
}

TEST(Hdf5File, SeveralWritersAndReadersLiveSideBySide) {
  const Image one = image_of({1});
  const Image two = image_of({2});
  Hdf5Writer first_writer;
  Hdf5Writer second_writer;
  const Hdf5Reader first(one.data(), one.size(), "same-name.h5");
  const Hdf5Reader second(two.data(), two.size(), "same-name.h5");
  float value = 0;
  first.read("values", 0, 1, &value);
  EXPECT_EQ(value, 1.0f);
  second.read("values", 0, 1, &value);
  EXPECT_EQ(value, 2.0f);
}

TEST(Hdf5File, ReaderWorksOnTheCallersBytes) {
  const std::vector<float> values(1000, 1.0f);
  Image image = image_of(values);
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  // A reader that had copied the image would not notice.
  std::fill(image.begin(), image.end(), std::byte{0});
  float out = 0;
  EXPECT_THROW(reader.read("values", 0, 1, &out), Error);
}

TEST(Hdf5File, ChangedElementIsNoticedByItsChecksum) {
  const std::vector<float> values(1000, 1.5f);
  Image image = image_of(values);
  const std::vector<std::byte> pattern(reinterpret_cast<const std::byte*>(values.data()),
                                       reinterpret_cast<const std::byte*>(values.data() + values.size()));
  const auto place = std::search(image.begin(), image.end(), pattern.begin(), pattern.end());
  ASSERT_NE(place, image.end());
  place[40] ^= std::byte{1};
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  std::vector<float> out(1000);
  const std::string message = message_of([&] { reader.read("values", 0, 1000, out.data()); });
  EXPECT_NE(message.find("test.h5: dataset values"), std::string::npos) << message;
  EXPECT_NE(message.find("checksum"), std::string::npos) << message;
}

TEST(Hdf5File, WhatIsNotHdf5IsRefusedWithItsNameAndHdf5sReason) {
  const std::string text = "this is a text of no particular format, and longer than a superblock would have to be";
  ::testing::internal::CaptureStderr();
  const std::string message = message_of([&] { Hdf5Reader(reinterpret_cast<const std::byte*>(text.data()), text.size(), "notes.txt"); });
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "") << "HDF5 printed its own errors";
  EXPECT_EQ(message.find("notes.txt: it is not an HDF5 file: "), 0u) << message;
  EXPECT_THROW(Hdf5Reader(nullptr, 0, "empty"), Error);
}

TEST(Hdf5File, TruncatedImageIsRefused) {
  const Image image = image_of(std::vector<float>(100'000, 1.0f));
  for (const size_t size : {size_t{8}, size_t{100}, image.size() / 2, image.size() - 1}) {
    EXPECT_THROW(Hdf5Reader(image.data(), size, "short.h5"), Error) << size << " bytes of " << image.size();
  }
}

TEST(Hdf5File, WriterIsUsedUpByFinish) {
  Hdf5Writer writer;
  writer.finish();
  const float value = 1;
  EXPECT_THROW(writer.add("values", ElementType::kFloat32, &value, 1), Error);
  EXPECT_THROW(writer.finish(), Error);
}

}  // namespace
}  // namespace pimoe
