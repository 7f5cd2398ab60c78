#pragma once

#include <filesystem>

namespace pimoe {

/// "a/b" of "a/b/"
std::filesystem::path without_slash(const std::filesystem::path& path);

/// A folder that is made under another name, and has its own once it is whole: nothing of it is left where that fails.
class NewFolder {
 public:
  /// @throws UsageError where there is something at `folder`, but an empty folder; IoError
  explicit NewFolder(const std::filesystem::path& folder);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  /// Where it is made: "a/b.unfinished"
  const std::filesystem::path& path() const { return temporary_; }
  /// Gives it its name. @throws IoError
  void publish();

 private:
  std::filesystem::path folder_;
  std::filesystem::path temporary_;
};

}  // namespace pimoe
