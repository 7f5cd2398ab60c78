#include "train/phase_times.h"

#include "base/text.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <numeric>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace pimoe {
namespace {

using Phase = std::pair<std::string, std::string>;  // phase, part

constexpr double kMillisecond = 1e6;  // in nanoseconds

bool is_step(const TraceEvent& event) { return event.kind == TraceEvent::Kind::kRange && event.name.rfind(kStepRange, 0) == 0; }

/// The innermost range that made a node.
class RangesOfNodes {
 public:
  explicit RangesOfNodes(const std::vector<NodesOfRange>& nodes) {
    for (const NodesOfRange& range : nodes) {
      if (range.end > range.first) of_thread_[range.thread].push_back({&range, nullptr});
    }
    for (auto& [thread, ranges] : of_thread_) {
      std::sort(ranges.begin(), ranges.end(), [](const Nested& a, const Nested& b) {
        return std::tuple(a.range->first, -a.range->end) <
               std::tuple(b.range->first, -b.range->end);  // an outer range before what it holds
      });
      const Nested* open = nullptr;
      for (Nested& nested : ranges) {
        while (open != nullptr && open->range->end <= nested.range->first) open = open->around;
        nested.around = open;
        open = &nested;
      }
    }
  }

  const NodesOfRange* find(uint64_t thread, int64_t sequence) const {
    const auto ranges = of_thread_.find(thread);
    if (sequence < 0 || ranges == of_thread_.end()) return nullptr;
    const auto after = std::upper_bound(ranges->second.begin(), ranges->second.end(), sequence,
                                        [](int64_t number, const Nested& nested) { return number < nested.range->first; });
    if (after == ranges->second.begin()) return nullptr;
    const Nested* nested = &*(after - 1);
    while (nested != nullptr && nested->range->end <= sequence) nested = nested->around;
    // A phase as a whole is no part of another.
    return nested == nullptr || nested->is_phase() ? nullptr : nested->range;
  }

 private:
  struct Nested {
    const NodesOfRange* range;
    const Nested* around;

    bool is_step() const { return range->name.rfind(kStepRange, 0) == 0; }
    bool is_phase() const { return is_step() || around == nullptr || around->is_step(); }
  };
  std::unordered_map<uint64_t, std::vector<Nested>> of_thread_;
};

}  // namespace

std::vector<PhaseTime> phase_times(std::vector<TraceEvent> events, const std::vector<NodesOfRange>& nodes) {
  const RangesOfNodes made_in(nodes);
  std::stable_sort(events.begin(), events.end(), [](const TraceEvent& a, const TraceEvent& b) {
    return std::tuple(a.begin, -a.end) < std::tuple(b.begin, -b.end);  // what holds an event before the event
  });

  std::vector<PhaseTime> times;
  std::map<Phase, size_t> index;
  const auto time_of = [&](const Phase& phase) -> PhaseTime& {
    const auto [place, is_new] = index.emplace(phase, times.size());
    if (is_new) times.push_back({phase.first, phase.second});
    return times[place->second];
  };

  struct Open {
    int64_t end;
    Phase phase;
  };
  const Phase nowhere;
  std::unordered_map<uint64_t, std::vector<Open>> stacks;  // of each thread
  std::unordered_map<uint64_t, Phase> launched_in;         // by correlation
  for (const TraceEvent& event : events) {
    if (event.kind == TraceEvent::Kind::kDevice) continue;
    std::vector<Open>& stack = stacks[event.thread];
    while (!stack.empty() && stack.back().end <= event.begin) stack.pop_back();
    const Phase around = stack.empty() ? nowhere : stack.back().phase;
    Phase phase = around;
    if (event.kind == TraceEvent::Kind::kRange && !is_step(event)) {
      phase = around.first.empty() ? Phase{event.name, ""} : Phase{around.first, event.name};
    } else if (event.kind == TraceEvent::Kind::kBackward) {
      if (around.first.empty()) phase.first = "backward";  // on a thread of autograd's
      if (const NodesOfRange* range = made_in.find(event.forward_thread, event.sequence)) phase.second = range->name;
    }
    const double duration = static_cast<double>(event.end - event.begin) / kMillisecond;
    // Time is the innermost event's.
    time_of(phase).host += duration;
    if (!stack.empty()) time_of(around).host -= duration;
    if (event.correlation != 0) launched_in[event.correlation] = phase;
    stack.push_back({event.end, std::move(phase)});
  }
  for (const TraceEvent& event : events) {
    if (event.kind != TraceEvent::Kind::kDevice) continue;
    const auto launched = launched_in.find(event.correlation);
    time_of(launched == launched_in.end() ? nowhere : launched->second).device +=
        static_cast<double>(event.end - event.begin) / kMillisecond;
  }

  // A phase's parts side by side, in the order of the phases' first events, and what nothing names last.
  std::vector<std::string> order;
  for (PhaseTime& time : times) {
    if (time.phase.empty()) time.phase = "other";
    if (std::find(order.begin(), order.end(), time.phase) == order.end()) order.push_back(time.phase);
  }
  const auto rank_of = [&](const PhaseTime& time) {
    return time.phase == "other" ? order.size() : static_cast<size_t>(std::find(order.begin(), order.end(), time.phase) - order.begin());
  };
  std::stable_sort(times.begin(), times.end(), [&](const PhaseTime& a, const PhaseTime& b) {
    return std::tuple(rank_of(a), a.part.empty()) < std::tuple(rank_of(b), b.part.empty());
  });
  return times;
}

double device_busy(const std::vector<TraceEvent>& events) {
  std::vector<std::pair<int64_t, int64_t>> spans;
  for (const TraceEvent& event : events) {
    if (event.kind == TraceEvent::Kind::kDevice) spans.emplace_back(event.begin, event.end);
  }
  std::sort(spans.begin(), spans.end());
  int64_t busy = 0;
  int64_t reached = 0;
  for (const auto& [begin, end] : spans) {
    busy += std::max<int64_t>(0, end - std::max(begin, reached));
    reached = std::max(reached, end);
  }
  return static_cast<double>(busy) / kMillisecond;
}

std::vector<std::string> phase_table(const std::vector<std::vector<PhaseTime>>& ranks, double steps) {
  constexpr size_t kMostColumns = 8;
  const bool on_device = std::any_of(ranks.begin(), ranks.end(), [](const std::vector<PhaseTime>& times) {
    return std::any_of(times.begin(), times.end(), [](const PhaseTime& time) { return time.device > 0; });
  });
  const auto value = [&](const PhaseTime& time) { return (on_device ? time.device : time.host) / steps; };

  // Rows in the order of the first rank that has them.
  std::vector<std::pair<std::string, std::vector<std::string>>> phases;
  for (const std::vector<PhaseTime>& times : ranks) {
    for (const PhaseTime& time : times) {
      auto phase = std::find_if(phases.begin(), phases.end(), [&](const auto& known) { return known.first == time.phase; });
      if (phase == phases.end()) phase = phases.insert(phases.end(), {time.phase, {}});
      if (std::find(phase->second.begin(), phase->second.end(), time.part) == phase->second.end()) phase->second.push_back(time.part);
    }
  }
  const auto other = std::find_if(phases.begin(), phases.end(), [](const auto& phase) { return phase.first == "other"; });
  if (other != phases.end()) std::rotate(other, other + 1, phases.end());

  const auto number = [](double milliseconds) {
    char text[32];
    std::snprintf(text, sizeof text, "%10.2f", milliseconds);
    return std::string(text);
  };
  const auto row = [&](const std::string& name, const std::function<bool(const PhaseTime&)>& is_of) {
    std::vector<double> sums;
    for (const std::vector<PhaseTime>& times : ranks) {
      double sum = 0;
      for (const PhaseTime& time : times) sum += is_of(time) ? value(time) : 0;
      sums.push_back(sum);
    }
    std::string line = name + std::string(22 - std::min<size_t>(21, name.size()), ' ');
    if (sums.size() <= kMostColumns) {
      for (const double sum : sums) line += number(sum);
      return line;
    }
    const auto [least, most] = std::minmax_element(sums.begin(), sums.end());
    const double mean = std::accumulate(sums.begin(), sums.end(), 0.0) / static_cast<double>(sums.size());
    return line + number(*least) + number(mean) + number(*most) + concat("   rank ", most - sums.begin());
  };

  std::vector<std::string> lines;
  std::string head = concat(on_device ? "ms a step on the GPU" : "ms a step", std::string(on_device ? 2 : 13, ' '));
  if (ranks.size() <= kMostColumns) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const std::string name = concat("rank ", rank);
      head += std::string(10 - name.size(), ' ') + name;
    }
  } else {
    head += "     least      mean      most   slowest";
  }
  lines.push_back(head);
  for (const auto& [phase, parts] : phases) {
    lines.push_back(row(phase, [&name = phase](const PhaseTime& time) { return time.phase == name; }));
    if (parts.size() == 1 && parts[0].empty()) continue;
    for (const std::string& part : parts) {
      lines.push_back(row("  " + (part.empty() ? "other" : part),
                          [&name = phase, &part](const PhaseTime& time) { return time.phase == name && time.part == part; }));
    }
  }
  lines.push_back(row("all", [](const PhaseTime&) { return true; }));
  return lines;
}

}  // namespace pimoe
