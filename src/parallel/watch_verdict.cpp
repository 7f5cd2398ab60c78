#include "parallel/watch_verdict.h"

#include "base/text.h"

#include <algorithm>
#include <map>

namespace pimoe {
namespace {

constexpr double kErrorGrace = 1.0;  // seconds: an error that strikes all ranks is told once
constexpr size_t kMostNamed = 4;
constexpr double kQuietShare = 0.25;  // of the limit, some heartbeats' time: who is silent for so long may be stopped

using Link = RankView::Link;
using Kind = Verdict::Kind;

const Progress& progress_of(const RankView& rank, ProgressSlot slot) { return rank.slots[static_cast<size_t>(slot)].last.progress; }

template <class Is>
std::vector<int> ranks_that(const std::vector<RankView>& ranks, const Is& is) {
  std::vector<int> found;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (is(ranks[rank])) found.push_back(static_cast<int>(rank));
  }
  return found;
}

bool same_collective(const Progress& a, const Progress& b) {
  return a.group == b.group && a.sequence == b.sequence && a.collective == b.collective;
}

/// Whether the thread of a slot's last mark is known to have used no processor for about the limit.
bool is_asleep(const RankView::SlotView& view, double limit, double now) {
  return view.last.cpu_seconds > 0 && now - view.ran_at > 0.8 * limit;
}

/// Whether it computes between two collectives: one long layer, on a machine that is slow or busy, looks like this.
bool is_computing(const RankView::SlotView& view, double limit, double now) {
  return view.last.cpu_seconds > 0 && view.last.progress.inside == 0 && !is_asleep(view, limit, now);
}

/// Which of the ranks that have entered equally many collectives hold the others up.
Verdict among_equals(const std::vector<RankView>& ranks, const std::vector<int>& equals, ProgressSlot slot, double limit, double now) {
  const auto at = [&](int rank) -> const Progress& { return progress_of(ranks[static_cast<size_t>(rank)], slot); };
  if (at(equals.front()).inside != 0) {
    // Ranks of different groups may rightly be in different collectives; ranks of one group may not.
    std::vector<int> odd;
    for (const int rank : equals) {
      const auto joins = [&](int other) { return at(rank).group.has(other) || at(other).group.has(rank); };
      int with = 0;
      int against = 0;
      for (const int other : equals) {
        if (joins(other)) (same_collective(at(rank), at(other)) ? with : against) += 1;
      }
      if (against > 0 && with <= against) odd.push_back(rank);
    }
    if (!odd.empty()) return {Kind::kMismatch, odd, slot};
  }
  std::vector<int> asleep;
  for (const int rank : equals) {
    if (is_asleep(ranks[static_cast<size_t>(rank)].slots[static_cast<size_t>(slot)], limit, now)) asleep.push_back(rank);
  }
  if (!asleep.empty() && asleep.size() < equals.size()) return {Kind::kHung, asleep, slot};
  return {Kind::kTogether, equals, slot};
}

Verdict judge_slot(const std::vector<RankView>& ranks, ProgressSlot slot, double limit, double now) {
  const auto stood_still = [&](const RankView& rank) { return now - rank.slots[static_cast<size_t>(slot)].moved_at; };
  const auto allowance = [&](const RankView& rank) {
    const RankView::SlotView& view = rank.slots[static_cast<size_t>(slot)];
    return limit * (view.last.progress.patient != 0 || is_computing(view, limit, now) ? kPatience : 1.0);
  };
  const std::vector<int> awaited = ranks_that(ranks, [](const RankView& rank) { return rank.link == Link::kAwaited; });
  const std::vector<int> here = ranks_that(ranks, [](const RankView& rank) { return rank.link == Link::kOpen; });
  if (here.empty()) return {};

  uint64_t least = UINT64_MAX;
  for (const int rank : here) least = std::min(least, progress_of(ranks[static_cast<size_t>(rank)], slot).position());
  std::vector<int> hindmost;
  std::vector<int> stuck;
  bool others_wait = false;
  for (const int number : here) {
    const RankView& rank = ranks[static_cast<size_t>(number)];
    const Progress& progress = progress_of(rank, slot);
    if (progress.position() != least) {
      others_wait = others_wait || (stood_still(rank) > limit && progress.phase[0] != 0);
      continue;
    }
    if (progress.phase[0] == 0) return {};  // its slot is idle: the other slot has to say why
    hindmost.push_back(number);
    if (stood_still(rank) > allowance(rank)) stuck.push_back(number);
  }
  if (slot == ProgressSlot::kTraining) {
    for (const RankView& rank : ranks) others_wait = others_wait || (rank.link == Link::kGoodbye && now - rank.heard_at > limit);
  }
  if (stuck.empty()) return {};
  // Of whom nothing is heard either it is not known that it is alive: it is heard again soon, or stopped.
  const auto is_quiet = [&](int rank) { return now - ranks[static_cast<size_t>(rank)].heard_at > kQuietShare * limit; };
  if (std::any_of(stuck.begin(), stuck.end(), is_quiet)) return {};
  if (others_wait) {
    const bool inside = progress_of(ranks[static_cast<size_t>(stuck.front())], slot).inside != 0;
    if (!inside || hindmost.size() == 1) return {Kind::kHung, stuck, slot};
    if (stuck.size() < hindmost.size()) return {};  // who came first into a collective stands there longest, and is not the one that sleeps
    const Verdict verdict = among_equals(ranks, stuck, slot, limit, now);
    return verdict.kind == Kind::kTogether ? Verdict{Kind::kHung, stuck, slot} : verdict;
  }
  // Nobody is behind: all stand in a collective, or all compute.
  if (!awaited.empty() || stuck.size() < here.size()) return {};
  const Verdict verdict = among_equals(ranks, stuck, slot, limit, now);
  const bool inside = progress_of(ranks[static_cast<size_t>(here.front())], slot).inside != 0;
  if (inside && verdict.kind != Kind::kTogether) return verdict;
  const auto is_long = [&](int rank) { return stood_still(ranks[static_cast<size_t>(rank)]) > kPatience * limit; };
  return std::all_of(stuck.begin(), stuck.end(), is_long) ? verdict : Verdict{};
}

/// "3, 5-7"
std::string ranks_text(const std::vector<int>& ranks) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin < ranks.size();) {
    size_t end = begin + 1;
    while (end < ranks.size() && ranks[end] == ranks[end - 1] + 1) ++end;
    parts.push_back(end - begin < 3 ? std::to_string(ranks[begin]) : concat(ranks[begin], "-", ranks[end - 1]));
    if (end - begin == 2) parts.push_back(std::to_string(ranks[end - 1]));
    begin = end;
  }
  return join(parts, ", ");
}

std::string collective_text(const Progress& progress) {
  return concat(progress.collective.data(), " ", progress.sequence, " of the ", progress.group.name.data(), " group of ",
                progress.group.size);
}

/// What is known of the culprits is what they said last, up to a heartbeat ago: of one that fell silent early, that it was at the start.
bool is_silent(const Verdict& verdict) {
  return verdict.kind == Kind::kDead || verdict.kind == Kind::kLost || verdict.kind == Kind::kStopped;
}

bool has_culprit(const Verdict& verdict, int rank) {
  return std::find(verdict.culprits.begin(), verdict.culprits.end(), rank) != verdict.culprits.end();
}

/// Who waits for the culprits, by the collective in which they do.
std::string waiting_text(const Verdict& verdict, const std::vector<RankView>& ranks) {
  const Progress& last_heard = progress_of(ranks[static_cast<size_t>(verdict.culprits.front())], verdict.slot);
  std::map<std::string, std::vector<int>> waiting;
  for (size_t number = 0; number < ranks.size(); ++number) {
    const int rank = static_cast<int>(number);
    if (ranks[number].link != Link::kOpen || !ranks[number].error.empty()) continue;
    if (has_culprit(verdict, rank) || ranks[number].cut_at > 0.0) continue;
    const Progress& progress = progress_of(ranks[number], verdict.slot);
    if (progress.inside == 0) continue;
    const bool is_further = is_silent(verdict) && progress.step > last_heard.step;
    waiting[concat(collective_text(progress), is_further ? concat(", at step ", progress.step) : "")].push_back(rank);
  }
  std::vector<std::string> parts;
  for (const auto& [where, who] : waiting) {
    if (parts.size() == kMostNamed) {
      parts.push_back(concat(waiting.size() - kMostNamed, " more collectives"));
      break;
    }
    parts.push_back(concat("rank", who.size() == 1 ? " " : "s ", ranks_text(who), " in ", where));
  }
  return parts.empty() ? "no rank waits in a collective yet" : concat("waiting: ", join(parts, "; "));
}

/// What is known of a process whose connection closed, for a sentence about it.
std::string presence_text(const RankView& rank, double now) {
  const std::string closed = concat("its connection closed ", fixed(now - rank.cut_at, 1), " s ago and is not made again");
  switch (rank.presence) {
    case Presence::kStopped: return concat(closed, "; the process is there, stopped by a signal or a debugger");
    case Presence::kThere: return concat(closed, "; the process is there");
    case Presence::kGone: return "the process is gone";
    default:
      return concat(closed,
                    ", and its machine cannot be asked from here: the process is gone, or it, its machine or its network stands still");
  }
}

/// Ranks beside the culprits of which something is amiss too: that are gone, or cut off. "" where there are none.
std::string others_text(const Verdict& verdict, const std::vector<RankView>& ranks) {
  std::string text;
  const auto add = [&](const char* what, Presence process) {
    std::vector<std::string> named;
    for (const int rank : ranks_that(ranks, [&](const RankView& view) { return view.is_cut(process); })) {
      if (has_culprit(verdict, rank)) continue;
      if (named.size() == kMostNamed) {
        named.emplace_back("...");
        break;
      }
      named.push_back(describe(ranks[static_cast<size_t>(rank)].name));
    }
    if (!named.empty()) text += concat(what, join(named, ", "), ". ");
  };
  add("gone as well: ", Presence::kGone);
  add("cut off as well: ", Presence::kUnknown);
  add("cut off as well, and there: ", Presence::kThere);
  add("cut off as well, and stopped: ", Presence::kStopped);
  return text;
}

}  // namespace

void RankView::hear(const std::array<SlotBeat, kProgressSlots>& beats, double now) {
  if (link == Link::kGoodbye) return;
  for (size_t slot = 0; slot < kProgressSlots; ++slot) {
    SlotView& view = slots[slot];
    const bool first = link == Link::kAwaited;
    const bool moved = first || beats[slot].progress.moves != view.last.progress.moves;
    if (moved) view.moved_at = now;
    if (moved || beats[slot].cpu_seconds != view.last.cpu_seconds) view.ran_at = now;
    view.last = beats[slot];
    view.last.progress.end_texts();
  }
  if (link == Link::kAwaited) link = Link::kOpen;
  heard_at = now;
}

Verdict judge(const std::vector<RankView>& ranks, double limit, double now) {
  const auto cut_for = [&](int rank) { return now - ranks[static_cast<size_t>(rank)].cut_at; };
  const auto cut = [&](Presence process) { return ranks_that(ranks, [&](const RankView& rank) { return rank.is_cut(process); }); };
  if (std::vector<int> dead = cut(Presence::kGone); !dead.empty()) {
    const bool all_are_known = std::any_of(dead.begin(), dead.end(), [&](int rank) { return cut_for(rank) >= kGatherSeconds; });
    return all_are_known ? Verdict{Kind::kDead, std::move(dead)} : Verdict{};
  }
  // What the others throw, or wait for, because it is gone would be told in its place.
  if (std::vector<int> lost = cut(Presence::kUnknown); !lost.empty()) {
    if (std::none_of(lost.begin(), lost.end(), [&](int rank) { return cut_for(rank) >= kReturnSeconds; })) return {};
    std::erase_if(lost, [&](int rank) { return cut_for(rank) < kReturnSeconds - kGatherSeconds; });
    return {Kind::kLost, std::move(lost)};
  }
  std::vector<int> leaving = ranks_that(ranks, [](const RankView& rank) { return !rank.error.empty(); });
  if (!leaving.empty()) {
    if (leaving.size() == ranks.size()) return {Kind::kErrorOfAll, std::move(leaving)};
    const auto earlier = [&](int a, int b) { return ranks[static_cast<size_t>(a)].error_at < ranks[static_cast<size_t>(b)].error_at; };
    const RankView& first = ranks[static_cast<size_t>(*std::min_element(leaving.begin(), leaving.end(), earlier))];
    if (now - first.error_at < kErrorGrace) return {};
    // What others threw because the first one was gone is no cause.
    return {Kind::kError, ranks_that(ranks, [&](const RankView& rank) { return rank.error == first.error; })};
  }
  std::vector<int> silent =
      ranks_that(ranks, [&](const RankView& rank) { return rank.link == Link::kOpen && now - rank.heard_at > limit; });
  if (!silent.empty()) return {Kind::kStopped, std::move(silent)};
  for (const ProgressSlot slot : {ProgressSlot::kTraining, ProgressSlot::kWriter}) {
    Verdict verdict = judge_slot(ranks, slot, limit, now);
    if (verdict.kind != Kind::kFine) return verdict;
  }
  return {};
}

std::string describe(const Progress& progress) {
  if (progress.moves == 0) return "its start, before the first heartbeat";
  if (progress.phase[0] == 0) return "nothing to do";
  const std::string_view phase = progress.phase.data();
  std::string text = progress.step >= 0 ? concat("step ", progress.step, ", ", phase)
                                        : concat("the start", phase == "step" ? "" : ", ", phase == "step" ? "" : phase);
  if (progress.layer >= 0) text += concat(", layer ", progress.layer);
  if (progress.collective[0] != 0) text += concat(progress.inside != 0 ? ", in " : ", after ", collective_text(progress));
  return text;
}

std::string describe(const RankName& name) { return concat("rank ", name.rank, " (", name.host.data(), ", process ", name.pid, ")"); }

std::string explain(const Verdict& verdict, const std::vector<RankView>& ranks, double limit, double now) {
  const RankView& first = ranks[static_cast<size_t>(verdict.culprits.front())];
  if (verdict.kind == Kind::kErrorOfAll) return first.error;
  const auto slot = static_cast<size_t>(verdict.slot);
  std::vector<std::string> named;
  for (const int rank : verdict.culprits) {
    if (named.size() == kMostNamed) {
      named.push_back(concat(verdict.culprits.size() - kMostNamed, " more: ranks ", ranks_text(verdict.culprits)));
      break;
    }
    const RankView& view = ranks[static_cast<size_t>(rank)];
    const char* const at = is_silent(verdict) ? ", last heard of at " : ", at ";
    named.push_back(concat(describe(view.name), verdict.slot == ProgressSlot::kWriter ? ", the thread that saves" : "", at,
                           describe(view.failed_at.moves > 0 ? view.failed_at : view.slots[slot].last.progress)));
    const Progress& beside = progress_of(view, ProgressSlot::kWriter);
    if (verdict.slot == ProgressSlot::kTraining && beside.phase[0] != 0) named.back() += concat(" (beside it ", describe(beside), ")");
    if (verdict.kind == Kind::kStopped && view.cut_at > 0.0) named.back() += concat(" (", presence_text(view, now), ")");
  }
  const std::string who = join(named, "; ");
  const double still = now - first.slots[slot].moved_at;
  std::string what;
  switch (verdict.kind) {
    case Kind::kDead:
      what = concat("dead: ", who, verdict.culprits.size() == 1 ? ": the process is gone" : ": the processes are gone");
      break;
    case Kind::kLost: what = concat("lost: ", who, ": ", presence_text(first, now)); break;
    case Kind::kStopped:
      what = concat("stopped: ", who, ": no heartbeat for ", fixed(now - first.heard_at, 1), " s (run.hang_limit ", limit,
                    "): the process, its machine or its network stands still");
      break;
    case Kind::kMismatch:
      what = concat("mismatch: ", who, ": in another collective than the rest of its group for ", fixed(still, 1), " s");
      break;
    case Kind::kTogether:
      what = concat("hung: all ranks stand at the same point for ", fixed(still, 1), " s (run.hang_limit ", limit, "): ", who);
      break;
    case Kind::kError: what = concat("failed: ", who, ": ", first.error); break;
    default: what = concat("hung: ", who, ": alive, but without progress for ", fixed(still, 1), " s (run.hang_limit ", limit, ")"); break;
  }
  return concat(what, ". ", others_text(verdict, ranks), waiting_text(verdict, ranks));
}

}  // namespace pimoe
