#include "base/hdf5_structure.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "base/errors.h"
#include "base/hdf5_file.h"
#include "base/hdf5_image.h"
#include "base/text.h"

namespace pimoe {
namespace {

/// @returns why the structure is refused, or "".
std::string trouble_of(const Image& image) {
  try {
    check_hdf5_structure(image.data(), image.size(), "test.h5");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

Image small_image() {
  Hdf5Writer writer;
  const float values[4] = {1, 2, 3, 4};
  writer.set_text("format", "some text");
  writer.add("master/norm", ElementType::kFloat32, values, 4, {{"range", {0, 4}}});
  return bytes_of(writer.finish());
}

/// @returns the place of `signature`, the `index`-th of its kind.
size_t place_of(const Image& image, const char* signature, int index = 0) {
  size_t at = 0;
  while (std::memcmp(image.data() + at, signature, 4) != 0 || index-- > 0) ++at;
  return at;
}

void put(Image& image, size_t at, uint64_t value, size_t bytes = 8) { std::memcpy(image.data() + at, &value, bytes); }

void read_all(const Image& image) {
  const Hdf5Reader reader(image.data(), image.size(), "test.h5");
  for (const std::string& name : reader.names()) {
    const auto dataset = reader.describe(name);
    std::vector<std::byte> elements(static_cast<size_t>(dataset.count * element_bytes(dataset.type)));
    reader.read(name, 0, dataset.count, elements.data());
  }
}

// Groups' trees have a second level from 128 members on, chunks' trees from 64 chunks (64 MiB) on.
TEST(Hdf5Structure, TreesOfSeveralLevelsAreWalked) {
  Hdf5Writer writer;
  for (int i = 0; i < 1500; ++i) {
    const auto value = static_cast<float>(i);
    writer.add(concat("master/layers.", i, ".norm"), ElementType::kFloat32, &value, 1);
  }
  const std::vector<uint8_t> large((size_t{70} << 20) + 3, 7);
  writer.add("large", ElementType::kUint8, large.data(), static_cast<int64_t>(large.size()));
  const Image image = bytes_of(writer.finish());
  EXPECT_EQ(trouble_of(image), "");
  EXPECT_EQ(Hdf5Reader(image.data(), image.size(), "test.h5").names().size(), 1501u);
}

TEST(Hdf5Structure, TreeThatIsItsOwnChildIsRefused) {
  Image image = small_image();
  const size_t tree = place_of(image, "TREE");
  put(image, tree + 32, tree);
  EXPECT_NE(trouble_of(image).find("must not overlap"), std::string::npos) << trouble_of(image);
}

TEST(Hdf5Structure, TwoDatasetsOnTheSameElementsAreRefused) {
  Hdf5Writer writer;
  const float value = 1;
  writer.add("one", ElementType::kFloat32, &value, 1);
  writer.add("two", ElementType::kFloat32, &value, 1);
  Image image = bytes_of(writer.finish());
  constexpr size_t kChild = 48;
  const size_t first = place_of(image, "TREE", 1);
  const size_t second = place_of(image, "TREE", 2);
  std::memcpy(image.data() + second + kChild, image.data() + first + kChild, 8);
  EXPECT_NE(trouble_of(image).find("a chunk of 8 bytes must not overlap another structure"), std::string::npos) << trouble_of(image);
}

TEST(Hdf5Structure, FreeListThatGoesInACircleIsRefused) {
  Image image = small_image();
  const size_t names = place_of(image, "HEAP") + 32;
  put(image, names + 16, 16);  // the free block behind the one name
  EXPECT_NE(trouble_of(image).find("a free block"), std::string::npos) << trouble_of(image);
}

// HDF5 remembers an object that it has visited only where the object says that there is more than one way to it.
TEST(Hdf5Structure, LinkThatAnObjectDoesNotKnowOfIsRefused) {
  Image image = small_image();
  constexpr size_t kRootHeader = 96;
  const size_t only_member_of_master = place_of(image, "SNOD", 1) + 8;
  put(image, only_member_of_master + 8, kRootHeader);
  EXPECT_EQ(trouble_of(image), "test.h5: damaged at byte 100: links to an object (1) must be 2");
}

TEST(Hdf5Structure, ChunkThatIsNotThereIsRefused) {
  Image image = small_image();
  put(image, place_of(image, "TREE", 2) + 6, 0, 2);
  EXPECT_NE(trouble_of(image).find("master/norm has 0 chunks of the 1 of its 4 elements"), std::string::npos) << trouble_of(image);
}

TEST(Hdf5Structure, FileThatWasCutSaysHowLongItWas) {
  Image image = small_image();
  const size_t whole = image.size();
  image.pop_back();
  EXPECT_EQ(trouble_of(image), concat("test.h5: it has ", whole - 1, " bytes and was written with ", whole, ": it was cut"));
}

// What the check lets through must not crash HDF5: each byte of a file in turn, with its lowest and highest bit flipped, all bits set, and none.
TEST(Hdf5Structure, FileWithAnyByteChangedIsRefusedOrRead) {
  Image image = small_image();
  int refused = 0;
  for (std::byte& byte : image) {
    const std::byte good = byte;
    for (const std::byte bad : {good ^ std::byte{1}, good ^ std::byte{0x80}, std::byte{0xFF}, std::byte{0}}) {
      byte = bad;
      try {
        read_all(image);
      } catch (const Error&) {
        ++refused;
      }
    }
    byte = good;
  }
  EXPECT_GT(refused, 1000);
  EXPECT_NO_THROW(read_all(image));
}

}  // namespace
}  // namespace pimoe
