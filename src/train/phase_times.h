#pragma once

/// From a profile's events to a table of where a step's time went, by phase, part and rank.

#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// One event of a profile, whoever recorded it; times in nanoseconds.
struct TraceEvent {
  enum class Kind {
    kRange,      ///< a TraceRange
    kBackward,   ///< a node of autograd's graph, executed
    kOperation,  ///< of libtorch, or a call of CUDA's, on the host
    kDevice,     ///< a kernel, copy or fill on a GPU
  };
  Kind kind = Kind::kOperation;
  std::string name;
  uint64_t thread = 0;  ///< of the host
  int64_t begin = 0;
  int64_t end = 0;
  uint64_t forward_thread = 0;  ///< kBackward: where the node was made
  int64_t sequence = -1;        ///< kBackward: the node's number on that thread
  uint64_t correlation = 0;     ///< the same of a call of CUDA's and of what it launched; 0: neither
};

/// Nodes of autograd's graph that were made inside a range: numbers [first, end) of one thread.
struct NodesOfRange {
  std::string name;
  uint64_t thread = 0;
  int64_t first = 0;
  int64_t end = 0;
};

/// Where time went, milliseconds. A phase has parts where ranges lie inside of it; their times add up to the phase's.
struct PhaseTime {
  std::string phase;  ///< "forward"
  std::string part;   ///< "experts"; "": what no part of it names
  double host = 0;    ///< of the thread that it ran on
  double device = 0;  ///< sum over kernels; those of several streams may overlap
};

/// What a range's operations do in backward is counted for a part of the range's name in the phase "backward". Phases and parts are in the order of
/// their first event; what no range names is the phase "other".
/// @param events  of one rank, in any order; ranges that begin with kStepRange are no phases but the steps
/// @cost n log n
std::vector<PhaseTime> phase_times(std::vector<TraceEvent> events, const std::vector<NodesOfRange>& nodes);

/// How libtorch's tools know steps.
inline constexpr const char* kStepRange = "ProfilerStep#";

/// @returns milliseconds in which any device event was running
double device_busy(const std::vector<TraceEvent>& events);

/// Lines of a table: a row for each phase and part, milliseconds a step of each rank; of more than 8 ranks the least, mean and most, and which rank is
/// slowest. Device time where there is any.
/// @param ranks  phase_times of each
std::vector<std::string> phase_table(const std::vector<std::vector<PhaseTime>>& ranks, double steps);

}  // namespace pimoe
