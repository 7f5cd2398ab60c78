#pragma once

/// What every target of this folder shares. A target is one function that reads an input as the program reads a file from a user or a disk: it
/// returns where the reader takes the input, or refuses it by the error that its header names. Everything else is a bug: another
/// exception, a sanitizer's report, a hang, memory out of proportion.
///
/// Built twice: by clang with libFuzzer (run.sh), and by the ordinary compiler with replay_main.cpp, where CTest replays corpus/<target>.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count);

namespace pimoe {

/// A folder below TMPDIR, for readers that want a file's name; it vanishes with its owner.
class ScratchFolder {
 public:
  ScratchFolder();
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

  /// Writes (or replaces) a file of the folder, not durably.
  void put(const std::string& name, const void* bytes, size_t count) const;

 private:
  std::filesystem::path path_;
};

/// Ends the process, which libFuzzer and CTest take for a crash, unless a property holds. NDEBUG does not turn it off.
void require(bool holds, const char* property, const std::string& detail = "");

}  // namespace pimoe
