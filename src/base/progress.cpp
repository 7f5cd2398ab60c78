#include "base/progress.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <mutex>

namespace pimoe {
namespace {

constexpr size_t kGroupWords = sizeof(ProgressGroup) / sizeof(uint64_t);
using GroupWords = std::array<uint64_t, kGroupWords>;
static_assert(sizeof(GroupWords) == sizeof(ProgressGroup));
constexpr auto kRelaxed = std::memory_order_relaxed;

struct Slot {
  std::atomic<uint64_t> moves = 0;
  std::atomic<uint64_t> calls = 0;
  std::atomic<uint64_t> sequence = 0;
  std::atomic<int64_t> step = -1;
  std::atomic<const char*> phase = "";
  std::atomic<const char*> collective = "";
  std::array<std::atomic<uint64_t>, kGroupWords> group = {};
  std::atomic<int32_t> layer = -1;
  std::atomic<int32_t> thread = 0;
  std::atomic<int32_t> patience = 0;
  std::atomic<bool> inside = false;

  /// Last in every mark: who sees it sees what was stored before.
  void moved() {
    thread_local const int32_t number = ::gettid();
    thread.store(number, kRelaxed);
    moves.fetch_add(1, std::memory_order_release);
  }
};

std::array<Slot, kProgressSlots + 1> slots;  // what a process is doing is a fact about the process
thread_local Slot* own = &slots[0];

std::mutex unwound_mutex;  // taken where an exception passes alone
Progress unwound;
thread_local bool is_unwinding = false;  ///< the innermost mark has been left by the exception that is under way

template <size_t N>
void copy_text(std::array<char, N>& to, std::string_view text) {
  to = {};
  std::copy_n(text.begin(), std::min(text.size(), N - 1), to.begin());
}

}  // namespace

ProgressGroup ProgressGroup::of(std::string_view text, const std::vector<int>& ranks) {
  ProgressGroup group;
  copy_text(group.name, text);
  group.first = ranks[0];
  group.size = static_cast<int32_t>(ranks.size());
  group.stride = ranks.size() == 1 ? 1 : ranks[1] - ranks[0];
  for (size_t index = 0; index < ranks.size(); ++index) {
    if (ranks[index] != group.first + static_cast<int>(index) * group.stride) group.stride = 0;
  }
  return group;
}

bool ProgressGroup::has(int rank) const {
  if (stride <= 0 || rank < first) return false;
  return (rank - first) % stride == 0 && (rank - first) / stride < size;
}

Progress read_progress(ProgressSlot slot) {
  const Slot& from = slots[static_cast<size_t>(slot)];
  Progress copy;
  copy.moves = from.moves.load(std::memory_order_acquire);
  copy.calls = from.calls.load(kRelaxed);
  copy.sequence = from.sequence.load(kRelaxed);
  copy.step = from.step.load(kRelaxed);
  copy_text(copy.phase, from.phase.load(kRelaxed));
  copy_text(copy.collective, from.collective.load(kRelaxed));
  GroupWords words;
  for (size_t word = 0; word < kGroupWords; ++word) words[word] = from.group[word].load(kRelaxed);
  copy.group = std::bit_cast<ProgressGroup>(words);
  copy.layer = from.layer.load(kRelaxed);
  copy.thread = from.thread.load(kRelaxed);
  copy.inside = from.inside.load(kRelaxed) ? 1 : 0;
  copy.patient = from.patience.load(kRelaxed) > 0 ? 1 : 0;
  return copy;
}

Progress progress_at_exception() {
  const std::lock_guard lock(unwound_mutex);
  return unwound;
}

namespace {

/// At the end of each mark.
void note_exception() {
  if (std::uncaught_exceptions() == 0) {
    is_unwinding = false;
  } else if (!is_unwinding) {
    is_unwinding = true;
    const std::lock_guard lock(unwound_mutex);
    unwound = read_progress(progress_slot());
  }
}

}  // namespace

void progress_tick() { own->moved(); }

void progress_step(int64_t step) {
  own->step.store(step, kRelaxed);
  own->moved();
}

void progress_layer(int64_t layer) {
  own->layer.store(static_cast<int32_t>(layer), kRelaxed);
  own->moved();
}

ProgressSlot progress_slot() { return static_cast<ProgressSlot>(own - slots.data()); }

ProgressOfThread::ProgressOfThread(ProgressSlot slot) { own = &slots[static_cast<size_t>(slot)]; }
ProgressOfThread::~ProgressOfThread() { own = &slots[0]; }

ProgressPhase::ProgressPhase(const char* name) : before_(own->phase.exchange(name, kRelaxed)) {
  own->layer.store(-1, kRelaxed);
  is_unwinding = false;
  own->moved();
}

ProgressPhase::~ProgressPhase() {
  note_exception();
  own->phase.store(before_, kRelaxed);
  own->layer.store(-1, kRelaxed);
  own->moved();
}

PatientOperation::PatientOperation() {
  own->patience.fetch_add(1, kRelaxed);
  own->moved();
}

PatientOperation::~PatientOperation() {
  note_exception();
  own->patience.fetch_sub(1, kRelaxed);
  own->moved();
}

ProgressCollective::ProgressCollective(const char* name, const ProgressCounter& counter) : was_inside_(own->inside.load(kRelaxed)) {
  is_unwinding = false;
  const auto words = std::bit_cast<GroupWords>(counter.group);
  for (size_t word = 0; word < kGroupWords; ++word) own->group[word].store(words[word], kRelaxed);
  own->collective.store(name, kRelaxed);
  own->sequence.store(counter.entered.fetch_add(1, kRelaxed) + 1, kRelaxed);
  own->calls.fetch_add(1, kRelaxed);
  own->inside.store(true, kRelaxed);
  own->moved();
}

ProgressCollective::~ProgressCollective() {
  note_exception();
  own->inside.store(was_inside_, kRelaxed);
  own->moved();
}

}  // namespace pimoe
