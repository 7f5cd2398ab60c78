#pragma once

/// What this process is doing, for whoever watches it from another thread: its step, phase and layer, and the collective that it is in.
///
/// The record is the process' and not a thread's, because backward may run on threads of autograd's; a thread that works beside training
/// has a slot of its own. Marks are relaxed atomic stores: no lock, no allocation, no system call, 5 to 20 ns each. A reader may see
/// half of a mark that is being made; what stands still, which is what a watchdog asks for, it sees whole.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace pimoe {

/// Who works: training, the thread that writes checkpoints beside it, and threads that work ahead for training, of which nobody is told: who waits
/// for one of them says so itself.
enum class ProgressSlot : uint8_t { kTraining, kWriter, kAhead };
constexpr size_t kProgressSlots = 2;  ///< that are told of

/// The ranks of a communicator: `size` ranks of the world from `first` on, `stride` apart; stride 0: no such row, members unknown.
struct ProgressGroup {
  std::array<char, 32> name = {};  ///< "dense", "expert"; ends with a 0
  int32_t first = 0;
  int32_t stride = 0;
  int32_t size = 0;
  int32_t padding = 0;

  /// @param text   cut to what fits
  /// @param ranks  of the world, in the group's order; not empty
  static ProgressGroup of(std::string_view text, const std::vector<int>& ranks);
  bool has(int rank) const;  ///< false where members are unknown
  bool operator==(const ProgressGroup&) const = default;
};

/// A copy of one slot. Plain bytes: it travels to rank 0 as it is.
struct Progress {
  uint64_t moves = 0;                    ///< marks made: a slot whose moves stand still does not move
  uint64_t calls = 0;                    ///< collectives entered, in all groups: every rank makes the same ones in the same order
  uint64_t sequence = 0;                 ///< of the last collective entered, in its group, from 1 on
  int64_t step = -1;                     ///< being worked on, from 1 on; -1: not yet known
  std::array<char, 16> phase = {};       ///< "forward"; "" where a slot has nothing to do
  std::array<char, 16> collective = {};  ///< the last one entered; "" before the first
  ProgressGroup group;                   ///< of that collective
  int32_t layer = -1;                    ///< -1: none
  int32_t thread = 0;                    ///< the system's number of the thread that made the last mark
  uint8_t inside = 0;                    ///< whether the collective has been entered and not left
  uint8_t patient = 0;                   ///< whether it does what may take long without a mark (PatientOperation)
  std::array<uint8_t, 6> padding = {};

  /// What came over a network may lack the ends of its texts.
  void end_texts() { phase.back() = collective.back() = group.name.back() = 0; }
  /// Orders ranks: 2 n - 1 inside the n-th collective, 2 n after it.
  uint64_t position() const { return 2 * calls - (inside != 0 ? 1 : 0); }
};

Progress read_progress(ProgressSlot slot);

/// @returns what a slot of this process said when the latest exception left the innermost mark: by the time that it is caught, all marks around it
/// are gone. Moves 0: there was none.
Progress progress_at_exception();

/// Something moved: for loops that may take long between other marks.
void progress_tick();
void progress_step(int64_t step);
void progress_layer(int64_t layer);  ///< -1: none

/// Where this thread's marks go: for a thread that it starts to work for it.
ProgressSlot progress_slot();

/// This thread's marks go to `slot` for the life of the object; others' go to kTraining.
class ProgressOfThread {
 public:
  explicit ProgressOfThread(ProgressSlot slot);
  ~ProgressOfThread();
  ProgressOfThread(const ProgressOfThread&) = delete;
  ProgressOfThread& operator=(const ProgressOfThread&) = delete;
};

/// A part of a step, or of the run. The one around it goes on afterwards. `name` is a literal of at most 15 characters.
class ProgressPhase {
 public:
  explicit ProgressPhase(const char* name);
  ~ProgressPhase();
  ProgressPhase(const ProgressPhase&) = delete;
  ProgressPhase& operator=(const ProgressPhase&) = delete;

 private:
  const char* before_;
};

/// What may take long without a mark and is no hang: building a model, a system call on a file. May be nested.
class PatientOperation {
 public:
  PatientOperation();
  ~PatientOperation();
  PatientOperation(const PatientOperation&) = delete;
  PatientOperation& operator=(const PatientOperation&) = delete;
};

/// A communicator's name for itself, and how many collectives it has begun.
struct ProgressCounter {
  ProgressGroup group;
  mutable std::atomic<uint64_t> entered = 0;
};

/// Inside a collective. One within another (a barrier of NCCL's on its host group) counts too.
class ProgressCollective {
 public:
  /// @param name  a literal of at most 15 characters
  ProgressCollective(const char* name, const ProgressCounter& counter);
  ~ProgressCollective();
  ProgressCollective(const ProgressCollective&) = delete;
  ProgressCollective& operator=(const ProgressCollective&) = delete;

 private:
  bool was_inside_;
};

}  // namespace pimoe
