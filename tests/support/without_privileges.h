#pragma once

#include <sys/fsuid.h>
#include <unistd.h>

#include <filesystem>

namespace pimoe {

/// Lets this thread meet permissions as a user meets them, root too, for the life of the object: `folder` and what is in it become that user's.
class WithoutPrivileges {
 public:
  explicit WithoutPrivileges(const std::filesystem::path& folder) {
    if (::geteuid() != 0) return;
    const auto give = [](const std::filesystem::path& path) { static_cast<void>(::lchown(path.c_str(), kNobody, kNobody) == 0); };
    give(folder);
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) give(entry.path());
    ::setfsuid(kNobody);
  }
  ~WithoutPrivileges() {
    if (::geteuid() == 0) ::setfsuid(0);
  }
  WithoutPrivileges(const WithoutPrivileges&) = delete;
  WithoutPrivileges& operator=(const WithoutPrivileges&) = delete;

 private:
  static constexpr uid_t kNobody = 65534;
};

}  // namespace pimoe
