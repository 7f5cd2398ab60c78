#pragma once

#include "base/progress.h"
#include "parallel/watch_presence.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// So many times the limit may pass without a mark in what may take long (PatientOperation), in a thread that computes, and where all ranks stand
/// at one point and none is more to blame than another: one long transfer, one long kernel.
constexpr double kPatience = 10.0;

/// Seconds that a rank whose connection closed has to make it again, where nobody can tell whether its process is there.
constexpr double kReturnSeconds = 2.0;
/// Seconds after the end of the first rank in which others that ended with it come to light. Less than the launcher takes to end the rest.
constexpr double kGatherSeconds = 0.25;

/// What a heartbeat says of one slot.
struct SlotBeat {
  Progress progress;
  double cpu_seconds = 0.0;  ///< that the thread of its last mark has used; 0: unknown
};

/// What rank 0 knows of a rank. Times are seconds of any one clock.
struct RankView {
  enum class Link : uint8_t {
    kAwaited,  ///< has not been heard yet
    kOpen,
    kGoodbye,  ///< said that it leaves in good order
  };
  struct SlotView {
    SlotBeat last;
    double moved_at = 0.0;  ///< when its marks last grew
    double ran_at = 0.0;    ///< when its thread last had used the processor since then
  };

  RankName name;
  Link link = Link::kAwaited;
  double heard_at = 0.0;
  double cut_at = 0.0;                     ///< when its connection closed without a goodbye; 0: it is there
  Presence presence = Presence::kUnknown;  ///< of its process, since its connection closed
  std::array<SlotView, kProgressSlots> slots = {};
  std::string error;   ///< by which it leaves; "": none
  Progress failed_at;  ///< where it was thrown; moves 0: unknown
  double error_at = 0.0;
  int exit_code = 0;  ///< of that error

  /// Takes in a heartbeat.
  void hear(const std::array<SlotBeat, kProgressSlots>& beats, double now);
  /// Whether its connection closed, it did not come back, and its process is what the last look at it says.
  bool is_cut(Presence process) const { return link == Link::kOpen && cut_at > 0.0 && presence == process; }
};

/// What the table of all ranks means.
struct Verdict {
  enum class Kind : uint8_t {
    kFine,
    kDead,      ///< the culprits' processes are gone, for certain
    kLost,      ///< the culprits' connections closed and did not come back; what became of their processes nobody can tell
    kStopped,   ///< no heartbeat of the culprits for the limit: stopped, or their machine or network is
    kHung,      ///< heartbeats, but no mark for the limit, and others wait
    kMismatch,  ///< ranks wait for each other in different collectives
    kTogether,  ///< all ranks stand at one point, none more than another
    kError,     ///< the culprits leave by an exception
    kErrorOfAll,
  };
  Kind kind = Kind::kFine;
  std::vector<int> culprits;
  ProgressSlot slot = ProgressSlot::kTraining;  ///< where they stand
};

/// @param ranks  of the world, in order
/// @param limit  seconds: run.hang_limit
///
/// Dead ranks first, as soon as those that died with the first are known (kGatherSeconds); then ranks whose connection closed and which cannot be asked,
/// after kReturnSeconds, and nothing until then: one may be dead. Where the process is known to be there, it is judged by its heartbeats as all are.
/// Then errors, a second after the first of them (or when all ranks have one); then ranks without a heartbeat for `limit`; then, for each slot, ranks without a mark. There the culprits are those furthest behind
/// by the number of collectives entered (Progress::position), once they have stood still for `limit`, kPatience times that within a PatientOperation or
/// where their thread uses the processor outside of a collective, while some rank further on has stood still for `limit` too. Where all stand at one
/// point in a collective, they are those whose thread does not run while others' do (waiting ranks poll), or those in another collective than most. A
/// slot that is idle, or a rank that is still awaited, is no culprit.
/// A slow rank makes marks, and is none.
Verdict judge(const std::vector<RankView>& ranks, double limit, double now);

/// @returns "step 12, backward, layer 3, in all_reduce 812 of the dense group of 4": a slot's last record
std::string describe(const Progress& progress);
/// @returns "rank 3 (node07, process 4711)"
std::string describe(const RankName& name);

/// @returns one sentence or two that name culprits, where they stand, and who waits for them.
std::string explain(const Verdict& verdict, const std::vector<RankView>& ranks, double limit, double now);

}  // namespace pimoe
