#include "base/track.h"

#include "base/text.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>

namespace pimoe {
namespace {

constexpr int kSubBits = 5;  ///< 32 steps in an octave
constexpr int64_t kSteps = int64_t{1} << kSubBits;

/// Below 32 ns each number has a place of its own; above, those that agree in their six highest bits share one.
size_t place_of(int64_t nanoseconds) {
  if (nanoseconds < kSteps) return static_cast<size_t>(nanoseconds);
  const int octave = std::bit_width(static_cast<uint64_t>(nanoseconds)) - 1 - kSubBits;
  return static_cast<size_t>((octave << kSubBits) + (nanoseconds >> octave));
}

/// @returns the middle of what shares the place
double middle_of(size_t place) {
  const auto number = static_cast<int64_t>(place);
  if (number < 2 * kSteps) return static_cast<double>(number);
  const int64_t octave = (number >> kSubBits) - 1;
  const int64_t least = (number - (octave << kSubBits)) << octave;
  return static_cast<double>(least) + static_cast<double>((int64_t{1} << octave) - 1) / 2;
}

constexpr double kSecond = 1e9;  ///< nanoseconds

/// The innermost scope of this thread: a guard of the thread, like ProgressOfThread.
thread_local Tracker::Scope* innermost = nullptr;

}  // namespace

void Tracker::Times::add(int64_t nanoseconds) {
  least = count == 0 ? nanoseconds : std::min(least, nanoseconds);
  most = std::max(most, nanoseconds);
  ++count;
  sum += nanoseconds;
  ++counts[place_of(nanoseconds)];
}

double Tracker::Times::percentile(double share) const {
  const double wanted = share * static_cast<double>(count);
  int64_t seen = 0;
  size_t place = 0;
  while (place + 1 < counts.size()) {
    seen += counts[place];
    if (static_cast<double>(seen) >= wanted && seen > 0) break;
    ++place;
  }
  return std::clamp(middle_of(place), static_cast<double>(least), static_cast<double>(most)) / kSecond;
}

Tracker::Scope::Scope(Tracker& tracker, std::string_view name) : tracker_(tracker), path_(name), around_(innermost) {
  const Scope* outer = around_;
  while (outer != nullptr && &outer->tracker_ != &tracker) outer = outer->around_;
  if (outer != nullptr) path_ = concat(outer->path_, "/", name);
  {
    const std::lock_guard lock(tracker.mutex_);
    times_ = &tracker.times_[path_];  // here and not at the end, where nothing may throw
  }
  innermost = this;
  begin_ = std::chrono::steady_clock::now();
}

Tracker::Scope::~Scope() {
  const auto taken = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - begin_);
  innermost = around_;
  const std::lock_guard lock(tracker_.mutex_);
  times_->add(std::max<int64_t>(0, taken.count()));
}

Tracker::Scope Tracker::track(std::string_view name) { return Scope(*this, name); }

std::vector<Tracker::Summary> Tracker::summaries() const {
  const std::lock_guard lock(mutex_);
  std::vector<Summary> all;
  for (const auto& [name, times] : times_) {
    if (times.count == 0) continue;
    all.push_back({.name = name,
                   .count = times.count,
                   .total = static_cast<double>(times.sum) / kSecond,
                   .mean = static_cast<double>(times.sum) / static_cast<double>(times.count) / kSecond,
                   .least = static_cast<double>(times.least) / kSecond,
                   .most = static_cast<double>(times.most) / kSecond,
                   .p50 = times.percentile(0.5),
                   .p95 = times.percentile(0.95),
                   .p99 = times.percentile(0.99)});
  }
  return all;
}

std::string Tracker::to_text() const {
  const std::vector<Summary> all = summaries();
  size_t width = 0;
  for (const Summary& each : all) width = std::max(width, each.name.size());
  std::string text;
  for (const Summary& each : all) {
    text += concat(each.name, std::string(width - each.name.size(), ' '), "  ", grouped(each.count), " x  mean ", time_text(each.mean),
                   "  p50 ", time_text(each.p50), "  p95 ", time_text(each.p95), "  p99 ", time_text(each.p99), "\n");
  }
  return text;
}

std::string Tracker::to_json() const {
  nlohmann::ordered_json document = nlohmann::ordered_json::object();
  for (const Summary& each : summaries()) {
    document[each.name] = {{"count", each.count},         {"total_seconds", each.total}, {"mean_seconds", each.mean},
                           {"least_seconds", each.least}, {"most_seconds", each.most},   {"p50_seconds", each.p50},
                           {"p95_seconds", each.p95},     {"p99_seconds", each.p99}};
  }
  return document.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace pimoe
