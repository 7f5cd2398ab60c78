#include "checkpoint/damage.h"

#include "base/file_io.h"
#include "base/hdf5_file.h"
#include "checkpoint/tiny_checkpoint.h"

#include <gtest/gtest.h>

#include <regex>

namespace pimoe {
namespace {

/// A tiny checkpoint, and the bytes of its first file.
class PlaceOfDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    save_snapshot(checkpoint_, tiny_snapshot(100));
    manifest_ = read_manifest(checkpoint_);
    original_ = read_text(path());
  }
  const StoredFile& file() const { return manifest_.files.front(); }
  std::filesystem::path path() const { return checkpoint_ / file().name; }

  /// @returns what is said of the file with other bytes in it
  std::string said_of(const std::string& bytes) const {
    write_text(path(), bytes);
    return place_of_damage(checkpoint_, manifest_, file());
  }
  /// @returns the datasets that HDF5, which has checksums of its own, cannot read
  std::vector<std::string> unreadable() const {
    const MappedFile map(path());
    const Hdf5Reader reader(map.data(), map.size(), file().name);
    std::vector<std::string> found;
    for (const std::string& name : reader.names()) {
      const auto about = reader.describe(name);
      std::vector<std::byte> elements(static_cast<size_t>(about.count * element_bytes(about.type)));
      try {
        reader.read(name, 0, about.count, elements.data());
      } catch (const Error&) {
        found.push_back(name);
      }
    }
    return found;
  }

  TemporaryFolder folder_;
  std::filesystem::path checkpoint_ = folder_.path() / "step-00000100";
  Manifest manifest_;
  std::string original_;
};

TEST_F(PlaceOfDamage, NamesTheDatasetAndBytesAroundEveryChangedByte) {
  const std::regex one_place("bytes ([0-9,]+) to ([0-9,]+) of it, in (.*)");
  const auto number = [](std::string digits) {
    std::erase(digits, ',');
    return std::stoull(digits);
  };
  size_t in_elements = 0;
  for (size_t at = 0; at < original_.size(); ++at) {
    std::string changed = original_;
    changed[at] = static_cast<char>(~changed[at]);
    const std::string said = said_of(changed);
    std::smatch match;
    if (!std::regex_match(said, match, one_place)) {
      EXPECT_EQ(said.find("outside of the tensors' elements"), 0u) << "byte " << at << ": " << said;
      continue;
    }
    const bool is_around = number(match[1]) <= at && at <= number(match[2]);
    in_elements += is_around ? 1 : 0;
    if (is_around && in_elements % 10 != 0) continue;
    // Where the place of a chunk is what was changed, its bytes are looked for elsewhere; zeros there have the right checksum for HDF5, too.
    const std::vector<std::string> found = unreadable();
    const bool is_named = found == std::vector<std::string>{match[3]} || (!is_around && found.empty());
    EXPECT_TRUE(is_named) << "byte " << at << ": " << said;
  }
  size_t bytes = 0;  // each dataset is one chunk, and its checksum
  for (const StoredPiece& stored : manifest_.pieces) bytes += static_cast<size_t>(stored.piece.numel() * element_bytes(stored.type)) + 4;
  EXPECT_EQ(in_elements, bytes);
}

TEST_F(PlaceOfDamage, FindsWhatChecksumsOfChunksCannotSee) {
  // fletcher32 takes 0xFFFF for 0x0000.
  const StoredPiece* stored = nullptr;
  for (const StoredPiece& each : manifest_.pieces) {
    if (each.type == ElementType::kFloat32) stored = &each;
  }
  ASSERT_NE(stored, nullptr);
  std::string changed = original_;
  for (size_t at = original_.find(std::string(2, '\0')); at + 1 < original_.size(); at = original_.find(std::string(2, '\0'), at + 1)) {
    changed = original_;
    changed.replace(at, 2, "\xFF\xFF");
    if (const std::string said = said_of(changed); said.find(" of it, in ") != std::string::npos && unreadable().empty()) {
      SUCCEED() << said;
      return;
    }
  }
  ADD_FAILURE() << "no two bytes of zeros in elements were found to be changed without HDF5 noticing, and named";
}

TEST_F(PlaceOfDamage, SaysNothingOfAFileOfAnotherSize) {
  EXPECT_EQ(said_of(original_ + " "), "");
  std::filesystem::remove(path());
  EXPECT_EQ(place_of_damage(checkpoint_, manifest_, file()), "");
}

}  // namespace
}  // namespace pimoe
