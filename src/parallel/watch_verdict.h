#pragma once

#include "base/progress.h"

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace pimoe {

/// So many times the limit may pass without a mark in what may take long (PatientOperation), in a thread that computes, and where all ranks stand
/// at one point and none is more to blame than another: one long transfer, one long kernel.
constexpr double kPatience = 10.0;

/// What a rank calls itself.
struct RankName {
  int32_t rank = 0;
  int32_t pid = 0;
  std::array<char, 64> host = {};
};

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
    kLost,     ///< its connection closed without a goodbye and did not come back: its process is gone
  };
  struct SlotView {
    SlotBeat last;
    double moved_at = 0.0;  ///< when its marks last grew
    double ran_at = 0.0;    ///< when its thread last had used the processor since then
  };

  RankName name;
  Link link = Link::kAwaited;
  double heard_at = 0.0;
  double cut_at = 0.0;  ///< when its connection closed without a goodbye: whether it comes back is not known yet; 0: it is there
  std::array<SlotView, kProgressSlots> slots = {};
  std::string error;   ///< by which it leaves; "": none
  Progress failed_at;  ///< where it was thrown; moves 0: unknown
  double error_at = 0.0;
  int exit_code = 0;  ///< of that error

  /// Takes in a heartbeat.
  void hear(const std::array<SlotBeat, kProgressSlots>& beats, double now);
};

/// What the table of all ranks means.
struct Verdict {
  enum class Kind : uint8_t {
    kFine,
    kDead,      ///< the culprits' processes are gone
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
/// Dead ranks first, at once; nothing while it is not known whether one is dead (`cut_at`); then errors, a second after the first of them (or when all
/// ranks have one); then ranks without a heartbeat for `limit`; then, for each slot, ranks without a mark. There the culprits are those furthest behind
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
