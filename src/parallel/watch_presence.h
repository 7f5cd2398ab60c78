#pragma once

#include <array>
#include <cstdint>

namespace pimoe {

/// What a rank calls itself.
struct RankName {
  int32_t rank = 0;
  int32_t pid = 0;
  std::array<char, 64> host = {};
  uint64_t machine = 0;  ///< of one boot of one machine and its process numbers, which a container has of its own; 0: unknown
  uint64_t started = 0;  ///< when the process began, in the system's ticks: its number may be another's one day; 0: unknown
};

/// @returns this process' name as rank `rank`
RankName own_name(int rank);

/// What the system says of a rank's process.
enum class Presence : uint8_t {
  kUnknown,  ///< it cannot be asked: the process is another machine's, or another container's
  kGone,
  kThere,
  kStopped,  ///< there, and stopped by a signal or a debugger
};

/// @param self  whose machine `name` may be on
/// @cost some system calls
Presence presence_of(const RankName& name, const RankName& self);

}  // namespace pimoe
