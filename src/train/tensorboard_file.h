#pragma once

/// TensorBoard's event files: records of
///
///     u64 length | u32 masked crc32c of the length | data | u32 masked crc32c of the data        (little-endian)
///     data = protobuf Event {1: wall_time double, 2: step int64, 3: file_version, 5: summary {1: value {1: tag, 2: simple_value float}}, 7: session_log {1: status}}
///
/// written by hand, because the eight fields that a curve takes are no reason for a protobuf compiler in everybody's build.

#include "train/growing_file.h"
#include "train/scalars.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace pimoe {

/// @returns the CRC-32C (Castagnoli) of the bytes: crc32c("123456789") is 0xe3069283.
uint32_t crc32c(std::string_view bytes);

/// @returns a record of `data` with its length and checks.
std::string event_record(std::string_view data);

/// An Event as protobuf. @param wall_time  seconds since 1970
std::string version_event(double wall_time);
std::string scalar_event(double wall_time, int64_t step, const Scalars& scalars);
/// A process begins with `step`: TensorBoard drops what it has read of that step and later ones, which are now done again.
std::string start_event(double wall_time, int64_t step);

/// The event file of one process, in a folder with those of the processes before it. TensorBoard reads them in the order of their names, so that
/// this one's sorts behind theirs even where a clock was set back or two began within a second.
class TensorboardFile {
 public:
  /// Opens the file. @param first_step  that this process does: earlier files' records of it and later ones no longer count
  TensorboardFile(const std::filesystem::path& folder, int64_t first_step);

  /// One write of about 10 bytes and its name for each scalar. @returns as GrowingFile::append
  std::string append(int64_t step, const Scalars& scalars);
  /// The run went back, and does `step` next. @returns as append
  std::string begin_again(int64_t step);
  /// Writes what could not be written before. @returns as append
  std::string flush() { return file_.flush(); }

 private:
  GrowingFile file_;
};

}  // namespace pimoe
