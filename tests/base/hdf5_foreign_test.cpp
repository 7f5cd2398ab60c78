/// Files that another program could hand to Hdf5Reader, made with HDF5 itself, and what such a program makes of ours.

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstdint>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "base/errors.h"
#include "base/hdf5_file.h"
#include "base/hdf5_image.h"

namespace pimoe {
namespace {

void add_text(hid_t object, const char* name, const std::string& value) {
  const hid_t type = H5Tcopy(H5T_C_S1);
  H5Tset_size(type, value.size());
  const hid_t space = H5Screate(H5S_SCALAR);
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  H5Awrite(attribute, type, value.data());
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

/// @returns the image of a file to which `fill` has added what it wants.
Image image_with(const std::function<void(hid_t file)>& fill) {
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fapl_core(access, 4096, false);
  const hid_t file = H5Fcreate("foreign", H5F_ACC_EXCL, H5P_DEFAULT, access);
  fill(file);
  H5Fflush(file, H5F_SCOPE_GLOBAL);
  Image image(static_cast<size_t>(H5Fget_file_image(file, nullptr, 0)));
  H5Fget_file_image(file, image.data(), image.size());
  H5Fclose(file);
  H5Pclose(access);
  return image;
}

/// Adds a dataset `values` of 4 float32, 1 to 4, with properties of the caller's; `dtype` empty adds no mark.
void add_dataset(hid_t file, const std::string& dtype, const std::function<void(hid_t creation)>& set_properties, int dimensions = 1) {
  const hsize_t lengths[2] = {4, 1};
  const hid_t space = H5Screate_simple(dimensions, lengths, nullptr);
  const hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  set_properties(creation);
  const hid_t dataset = H5Dcreate2(file, "values", H5T_IEEE_F32LE, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  if (!dtype.empty()) add_text(dataset, "dtype", dtype);
  if (H5Pget_layout(creation) != H5D_VIRTUAL && H5Pget_external_count(creation) == 0) {
    const float values[4] = {1, 2, 3, 4};
    H5Dwrite(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  }
  H5Dclose(dataset);
  H5Pclose(creation);
  H5Sclose(space);
}

void no_properties(hid_t) {}

/// @returns why the reader refuses the image.
std::string refusal_of(const Image& image) {
  try {
    const Hdf5Reader reader(image.data(), image.size(), "foreign.h5");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(OurHdf5File, OtherProgramsReadItsNumbers) {
  const uint16_t halves[3] = {0x3C00, 0xC100, 0x7BFF};  // 1, -2.5 and the largest float16
  const int64_t integer = INT64_MIN;
  Hdf5Writer writer;
  writer.add("halves", ElementType::kFloat16, halves, 3);
  writer.add("bits", ElementType::kBfloat16, halves, 3);
  writer.add("integer", ElementType::kInt64, &integer, 1);
  std::vector<float> many((1 << 19) + 77);  // two chunks and a part of one: their checksums are ours
  std::iota(many.begin(), many.end(), -1e5f);
  writer.add("many", ElementType::kFloat32, many.data(), static_cast<int64_t>(many.size()));
  Image image = bytes_of(writer.finish());

  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fapl_core(access, 4096, false);
  H5Pset_file_image(access, image.data(), image.size());
  const hid_t file = H5Fopen("ours", H5F_ACC_RDONLY, access);
  ASSERT_GE(file, 0);
  const auto read = [file](const char* name, hid_t type, void* out) {
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    EXPECT_GE(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out), 0) << name;
    H5Dclose(dataset);
  };
  std::vector<double> numbers(3);
  read("halves", H5T_NATIVE_DOUBLE, numbers.data());
  EXPECT_EQ(numbers, (std::vector<double>{1.0, -2.5, 65504.0}));
  std::vector<uint16_t> bits(3);
  read("bits", H5T_NATIVE_USHORT, bits.data());
  EXPECT_EQ(bits, std::vector<uint16_t>(halves, halves + 3));
  int64_t seen = 0;
  read("integer", H5T_NATIVE_INT64, &seen);
  EXPECT_EQ(seen, integer);
  std::vector<float> read_back(many.size());
  read("many", H5T_NATIVE_FLOAT, read_back.data());
  EXPECT_EQ(read_back, many);
  H5Fclose(file);
  H5Pclose(access);
}

TEST(ForeignHdf5File, PlainContiguousDatasetIsRead) {
  const Image image = image_with([](hid_t file) { add_dataset(file, "float32", no_properties); });
  const Hdf5Reader reader(image.data(), image.size(), "foreign.h5");
  std::vector<float> values(4);
  reader.read("values", 0, 4, values.data());
  EXPECT_EQ(values, (std::vector<float>{1, 2, 3, 4}));
}

TEST(ForeignHdf5File, ShuffleAndFletcherAreRead) {
  const Image image = image_with([](hid_t file) {
    add_dataset(file, "float32", [](hid_t creation) {
      const hsize_t chunk = 3;
      H5Pset_chunk(creation, 1, &chunk);
      H5Pset_shuffle(creation);
      H5Pset_fletcher32(creation);
    });
  });
  const Hdf5Reader reader(image.data(), image.size(), "foreign.h5");
  std::vector<float> values(2);
  reader.read("values", 2, 2, values.data());
  EXPECT_EQ(values, (std::vector<float>{3, 4}));
}

TEST(ForeignHdf5File, OtherFiltersAreRefused) {
  const auto filtered = [](const std::function<void(hid_t)>& set_filter) {
    return refusal_of(image_with([&](hid_t file) {
      add_dataset(file, "float32", [&](hid_t creation) {
        const hsize_t chunk = 4;
        H5Pset_chunk(creation, 1, &chunk);
        set_filter(creation);
      });
    }));
  };
  EXPECT_EQ(filtered([](hid_t creation) { H5Pset_scaleoffset(creation, H5Z_SO_FLOAT_DSCALE, 2); }),
            "foreign.h5: dataset values uses filter 6; only fletcher32 and shuffle are read");
  // A filter that would be looked for among the plugins of this machine.
  EXPECT_EQ(filtered([](hid_t creation) { H5Pset_filter(creation, 32001, H5Z_FLAG_OPTIONAL, 0, nullptr); }),
            "foreign.h5: dataset values uses filter 32001; only fletcher32 and shuffle are read");
}

TEST(ForeignHdf5File, ExternalStorageIsRefused) {
  const Image image =
      image_with([](hid_t file) { add_dataset(file, "float32", [](hid_t creation) { H5Pset_external(creation, "/etc/passwd", 0, 16); }); });
  EXPECT_EQ(refusal_of(image), "foreign.h5: dataset values has external storage: its elements are in other files");
}

TEST(ForeignHdf5File, VirtualLayoutIsRefused) {
  const Image image = image_with([](hid_t file) {
    add_dataset(file, "float32", [](hid_t creation) {
      const hsize_t length = 4;
      const hid_t space = H5Screate_simple(1, &length, nullptr);
      H5Pset_virtual(creation, space, "other.h5", "values", space);
      H5Sclose(space);
    });
  });
  EXPECT_EQ(refusal_of(image), "foreign.h5: dataset values has a virtual layout: its elements are in other files");
}

TEST(ForeignHdf5File, SoftAndExternalLinksAreRefused) {
  const Image external =
      image_with([](hid_t file) { H5Lcreate_external("other.h5", "values", file, "elsewhere", H5P_DEFAULT, H5P_DEFAULT); });
  // A group with an external link has another layout: HDF5 would have to parse it to tell the link's name.
  EXPECT_EQ(refusal_of(external),
            "foreign.h5: the root group has a message of kind 2 at byte 800: soft and external links, and what newer formats than HDF5's "
            "default have, are not read");
  const Image soft = image_with([](hid_t file) { H5Lcreate_soft("/values", file, "alias", H5P_DEFAULT, H5P_DEFAULT); });
  EXPECT_EQ(refusal_of(soft), "foreign.h5: alias is a soft or external link; only plain datasets are read");
}

TEST(ForeignHdf5File, LinksThatGoInACircleEnd) {
  const Image image = image_with([](hid_t file) {
    const hid_t group = H5Gcreate2(file, "group", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Lcreate_hard(file, "/", group, "root", H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(group);
    add_dataset(file, "float32", no_properties);
  });
  const Hdf5Reader reader(image.data(), image.size(), "foreign.h5");
  EXPECT_EQ(reader.describe("values").count, 4);
}

TEST(ForeignHdf5File, MarkMustBeThereAndMustAgreeWithTheNumbers) {
  const auto marked = [](const char* dtype) {
    return refusal_of(image_with([dtype](hid_t file) { add_dataset(file, dtype, no_properties); }));
  };
  EXPECT_EQ(marked("float32"), "");
  EXPECT_EQ(marked(""), "foreign.h5: dataset values has no attribute dtype");
  EXPECT_EQ(marked("int32"), "foreign.h5: dataset values is marked as int32 and holds numbers of another format");
  EXPECT_EQ(marked("bfloat16"), "foreign.h5: dataset values is marked as bfloat16 and holds numbers of another format");
  EXPECT_EQ(marked("complex"), "foreign.h5: dataset values: dtype 'complex' is none of our number formats (float32, bfloat16, ...)");
}

TEST(ForeignHdf5File, DatasetMustHaveOneDimension) {
  const Image image = image_with([](hid_t file) { add_dataset(file, "float32", no_properties, /*dimensions=*/2); });
  EXPECT_EQ(refusal_of(image), "foreign.h5: dataset values does not have exactly one dimension");
}

TEST(ForeignHdf5File, AttributesThatAreNoIntegerListsAreAnotherProgramsNotes) {
  const Image image = image_with([](hid_t file) {
    add_dataset(file, "float32", no_properties);
    const hid_t dataset = H5Dopen2(file, "values", H5P_DEFAULT);
    add_text(dataset, "note", "hello");
    const hsize_t length = 2;
    const hid_t list = H5Screate_simple(1, &length, nullptr);
    H5Aclose(H5Acreate2(dataset, "floats", H5T_IEEE_F64LE, list, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(list);
    const hid_t scalar = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(dataset, "integer", H5T_STD_I64LE, scalar, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(scalar);
    H5Dclose(dataset);
  });
  EXPECT_TRUE(Hdf5Reader(image.data(), image.size(), "foreign.h5").describe("values").attributes.empty());
}

}  // namespace
}  // namespace pimoe
