#include "base/hdf5_size.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

#include "base/text.h"

namespace pimoe {
namespace {

struct Shape {
  int datasets = 1;
  int groups = 1;
  int64_t count = 1;
  ElementType type = ElementType::kFloat32;
  size_t dimensions = 2;
  size_t name_length = 30;
};

struct Sizes {
  int64_t foretold = 0;
  int64_t real = 0;
};

Sizes sizes_of(const Shape& shape) {
  const std::vector<char> elements(static_cast<size_t>(shape.count * element_bytes(shape.type)) + 1);
  const std::vector<int64_t> box(shape.dimensions, 3);
  Hdf5Writer writer;
  writer.set_text("format", "pimoe checkpoint 1");
  Hdf5Size size;
  for (int i = 0; i < shape.datasets; ++i) {
    std::string name = concat(i * 7919 % shape.datasets, ".");  // in no order
    name.resize(std::max(name.size(), shape.name_length), 'x');
    const std::string path = concat("kind", i % shape.groups, "/", name);
    const Hdf5Attributes attributes = {{"global_shape", box}, {"box_offset", box}, {"box_shape", box}, {"range", {0, shape.count}}};
    writer.add(path, shape.type, elements.data(), shape.count, attributes);
    size.add(path, shape.type, shape.count, attributes);
  }
  return {size.bytes(), static_cast<int64_t>(writer.finish().size())};
}

void expect_close(const Shape& shape) {
  const auto [foretold, real] = sizes_of(shape);
  const std::string which = concat(shape.datasets, " of ", shape.count, " ", element_name(shape.type), ", ", shape.groups, " groups, ",
                                   shape.dimensions, " dimensions, names of ", shape.name_length);
  EXPECT_GE(foretold, real) << which;
  EXPECT_LE(foretold, real + 8192 + 256 * shape.datasets) << which;
}

TEST(Hdf5Size, IsNeverTooSmallAndCloseWhateverIsInTheFile) {
  for (const int datasets : {1, 2, 3, 9, 17, 100, 400}) {
    for (const int64_t count : {0, 1, 100, 511, 512, 800, 5000}) {
      for (const ElementType type : {ElementType::kFloat32, ElementType::kBfloat16, ElementType::kFloat64, ElementType::kUint8}) {
        expect_close({.datasets = datasets, .groups = 1 + datasets % 4, .count = count, .type = type});
      }
    }
    for (const size_t length : {1, 12, 80, 100}) expect_close({.datasets = datasets, .groups = 3, .count = 7, .name_length = length});
    for (const size_t dimensions : {0, 1, 3, 6}) expect_close({.datasets = datasets, .count = 7, .dimensions = dimensions});
  }
}

TEST(Hdf5Size, IsNeverTooSmallWhereChunksOfManySizesShareBlocks) {
  std::mt19937 random(1);
  const std::vector<char> elements(8 * 2000);
  for (int round = 0; round < 300; ++round) {
    Hdf5Writer writer;
    Hdf5Size size;
    const int datasets = 1 + static_cast<int>(random() % 100);
    for (int i = 0; i < datasets; ++i) {
      const int64_t count = random() % (random() % 4 == 0 ? 2000 : 300);
      const ElementType type = std::array{ElementType::kFloat64, ElementType::kFloat32, ElementType::kBfloat16}[random() % 3];
      writer.add(concat("kind", i % 3, "/layers.", i), type, elements.data(), count);
      size.add(concat("kind", i % 3, "/layers.", i), type, count);
    }
    const auto real = static_cast<int64_t>(writer.finish().size());
    ASSERT_GE(size.bytes(), real) << "round " << round;
    ASSERT_LE(size.bytes(), real + 8192 + 256 * datasets) << "round " << round;
  }
}

// The last chunk of a dataset is filled up, and the tree of chunks splits at 65.
TEST(Hdf5Size, CountsWholeChunksAndTheirTree) {
  for (const int64_t mebibytes : {1, 2, 64, 65, 130}) {
    for (const int64_t beyond : {-1, 0, 1}) {
      expect_close({.datasets = 1, .count = (mebibytes << 20) + beyond, .type = ElementType::kUint8});
    }
  }
  expect_close({.datasets = 20, .groups = 3, .count = 300'000});
  const Sizes one_more = sizes_of({.count = (1 << 18) + 1});
  EXPECT_GT(one_more.real, 2 << 20);
}

}  // namespace
}  // namespace pimoe
