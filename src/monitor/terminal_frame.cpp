#include "monitor/terminal_frame.h"

#include "base/text.h"
#include "base/utf8.h"
#include "base/work_progress.h"
#include "monitor/record_values.h"
#include "monitor/run_files.h"
#include "monitor/run_state.h"
#include "monitor/terminal_line.h"
#include "train/run_events.h"

#include <algorithm>
#include <cmath>

namespace pimoe {
namespace {

using Json = nlohmann::json;

constexpr int kLeastColumns = 40;
constexpr int kMostEventLines = 5;

std::string text_or_dash(double value, int decimals) { return std::isfinite(value) ? fixed(value, decimals) : "-"; }

std::vector<double> all(const std::vector<Json>& records, const char* key) {
  std::vector<double> values;
  for (const Json& record : records) values.push_back(number_in(record, key));
  return values;
}

struct StateText {
  Ink ink = Ink::kPlain;
  std::string detail;
};

StateText text_of(RunState state, const RunStatus& status) {
  switch (state) {
    case RunState::kEmpty: return {Ink::kWarn, ""};
    case RunState::kRunning: return {Ink::kGood, ""};
    case RunState::kSilent: return {Ink::kBad, concat("no step for ", human_duration(status.silence))};
    case RunState::kStopped: return {Ink::kWarn, "saved; it goes on when it is started again"};
    case RunState::kComplete: return {Ink::kGood, ""};
  }
  return {};
}

/// "save of step 300 in progress, 12s" or "last save: step 200, 3m 10s ago".
std::pair<std::string, Ink> save_text(const RunStatus& status) {
  for (auto event = status.events.rbegin(); event != status.events.rend(); ++event) {
    const std::string kind = (*event)["event"];
    const double age = status.now - (*event)["time"].get<double>();
    const std::string step = grouped((*event)["step"].get<int64_t>());
    if (kind == run_event::kSave) return {concat("save of step ", step, " in progress, ", human_duration(age)), Ink::kWarn};
    if (kind == run_event::kSaved) return {concat("last save: step ", step, ", ", human_duration(age), " ago"), Ink::kPlain};
    if (kind == run_event::kSaveFailed) return {concat("save of step ", step, " FAILED ", human_duration(age), " ago"), Ink::kBad};
    if (begins_process(*event)) break;  // a save that a process before had begun is over
  }
  return {"no save by this process yet", Ink::kDim};
}

/// Newest first: lines of events.jsonl but saves, skipped steps and alarms.
std::vector<std::pair<std::string, Ink>> happened(const RunStatus& status, size_t most) {
  struct Found {
    int64_t step;
    std::string text;
    Ink ink;
  };
  std::vector<Found> found;
  for (const Json& event : status.events) {
    const std::string kind = event["event"];
    if (kind == run_event::kSave || kind == run_event::kSaved) continue;
    const bool is_bad = kind == run_event::kSaveFailed || kind == run_event::kRolledBack || kind == run_event::kAlertFired ||
                        kind == run_event::kStoppedByAlert;
    const std::string more = event_text(event);
    std::string name = kind;
    std::replace(name.begin(), name.end(), '_', ' ');
    found.push_back({event["step"], concat(name, more.empty() ? "" : ": ", more), is_bad ? Ink::kBad : Ink::kPlain});
  }
  for (const Json& record : status.records) {
    const auto skipped = record.find("skipped");
    if (skipped != record.end() && *skipped == true) {
      const std::string because = text_in(record, "skipped_because");
      found.push_back({record["step"], concat("skipped", because.empty() ? "" : ": ", because), Ink::kWarn});
    }
    const auto alarms = record.find("alarms");
    if (alarms == record.end() || !alarms->is_array()) continue;
    for (const Json& alarm : *alarms) {
      if (alarm.is_string()) found.push_back({record["step"], without_step(alarm.get<std::string>(), record["step"]), Ink::kBad});
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step < b.step; });
  std::vector<std::pair<std::string, Ink>> lines;
  for (auto each = found.rbegin(); each != found.rend() && lines.size() < most; ++each) {
    lines.emplace_back(printable(concat("step ", grouped(each->step), "  ", each->text)), each->ink);
  }
  return lines;
}

class Frame {
 public:
  Frame(const RunStatus& status, TerminalSize size, bool colours) : status_(status), size_(size), colours_(colours) {
    size_.columns = std::max(size_.columns, kLeastColumns);
  }

  std::string draw() {
    head();
    if (status_.records.empty()) {
      line().add(printable(status_.note), Ink::kDim);
      push();
    } else {
      progress();
      numbers();
      phases();
      push();
      const auto events = happened(status_, kMostEventLines);
      const int for_events = events.empty() ? 0 : static_cast<int>(events.size()) + 2;
      layers(size_.rows - static_cast<int>(lines_.size()) - for_events);
      tell(events);
    }
    std::string text;
    lines_.resize(std::min(lines_.size(), static_cast<size_t>(std::max(1, size_.rows))));
    for (const std::string& each : lines_) text += each + "\n";
    return text;
  }

 private:
  TerminalLine& line() { return line_; }
  void push() {
    lines_.push_back(line_.take());
    line_ = TerminalLine(size_.columns, colours_);
  }

  void head() {
    const RunState state = status_.state();
    const auto [ink, detail] = text_of(state, status_);
    // A long name must not push out what the run does.
    TerminalLine name(size_.columns - width_of(state_word(state)) - 2, false);
    line().add(name.add(printable(status_.name)).take(), Ink::kBold).add("  ").add(state_word(state), ink);
    if (!detail.empty()) line().add("  " + detail, ink);
    for (auto event = status_.events.rbegin(); event != status_.events.rend(); ++event) {
      if (!begins_process(*event)) continue;
      const std::string device = text_in(*event, "device");
      line().add(printable(concat("  ", event_text(*event), device.empty() ? "" : ", ", device)), Ink::kDim);
      break;
    }
    push();
    for (const std::string& hang : status_.hangs) {
      line().add(concat("the watchdog ended the job: see hang/", printable(hang)), Ink::kBad);
      push();
    }
  }

  void progress() {
    const int64_t step = status_.records.back()["step"];
    const double seconds_left = status_.seconds_left();
    const std::string left = std::isfinite(seconds_left) ? concat("  left ", human_duration(seconds_left)) : "";
    const std::string count =
        status_.steps > 0 ? concat("step ", grouped(step), "/", grouped(status_.steps)) : concat("step ", grouped(step));
    const double share = status_.steps > 0 ? static_cast<double>(step) / static_cast<double>(status_.steps) : 0.0;
    line().add(count);
    if (status_.steps > 0) {
      const std::string percent = concat(" ", percent_text(share));
      const int width = std::min(60, line().left() - width_of(left) - width_of(percent) - 4);
      if (width >= 8) line().add("  ").add(WorkProgress::bar(share, width), Ink::kGood);
      line().add(percent).add(left);
    }
    push();
  }

  /// A title of eight columns, what is said, and the curve of the newest records in what is left of the line.
  void curve(const char* title, const std::string& said, const char* key) {
    std::string name = title;
    name.resize(9, ' ');
    std::string text = said;
    constexpr int kSaid = 40;
    if (width_of(text) < kSaid) text.append(static_cast<size_t>(kSaid - width_of(text)), ' ');
    line().add(name, Ink::kDim).add(text);
    if (line().left() >= 12) line().add(" ").add(sparkline(all(status_.records, key), line().left()), Ink::kGood);
    push();
  }

  void numbers() {
    const Json& last = status_.records.back();
    std::string validation;
    for (auto record = status_.records.rbegin(); record != status_.records.rend() && validation.empty(); ++record) {
      const double value = number_in(*record, "validation_loss");
      if (std::isfinite(value)) validation = concat("  val ", fixed(value, 4), " (step ", grouped((*record)["step"].get<int64_t>()), ")");
    }
    curve("loss", concat(text_or_dash(number_in(last, "loss"), 4), validation), "loss");
    const double rate = number_in(last, "learning_rate");
    curve("norm", concat(text_or_dash(number_in(last, "grad_norm"), 3), "  lr ", std::isfinite(rate) ? scientific(rate, 1) : "-"),
          "grad_norm");
    const double speed = status_.recent("tokens_per_second");
    const double mfu = status_.recent("mfu");
    const double memory = number_in(last, "memory_bytes");
    curve("speed",
          concat(std::isfinite(speed) ? grouped(static_cast<int64_t>(speed)) : "-", " tok/s",
                 std::isfinite(mfu) ? concat("  ", percent_text(mfu), " MFU") : "",
                 std::isfinite(memory) ? concat("  ", human_bytes(memory)) : ""),
          "tokens_per_second");
  }

  void phases() {
    const double step = status_.recent("step_seconds");
    const double dispatch = status_.recent("moe/dispatch_ms");
    line().add("step     ", Ink::kDim).add(std::isfinite(step) ? time_text(step) : "-");
    if (const double forward = status_.recent("forward_ms"); std::isfinite(forward)) {
      line().add(concat("  forward ", time_text(forward / 1000), ", backward ", time_text(status_.recent("backward_ms") / 1000),
                        ", gradients ", time_text(status_.recent("gradients_ms") / 1000)));
    }
    push();
    if (std::isfinite(dispatch)) {
      line().add("MoE      ", Ink::kDim);
      line().add(concat("dispatch ", time_text(dispatch / 1000), ", experts ", time_text(status_.recent("moe/experts_ms") / 1000),
                        ", combine ", time_text(status_.recent("moe/combine_ms") / 1000)));
      line().add(" (forward)", Ink::kDim);
      push();
    }
    const auto [save, ink] = save_text(status_);
    line().add("save     ", Ink::kDim).add(save, ink);
    push();
  }

  /// MaxVio of each layer as a bar, in as many columns as it takes for `rows`; the worst ones where that is not enough.
  void layers(int rows) {
    const Json& last = status_.records.back();
    const std::vector<double> maxvio = numbers_in(last, "moe/maxvio_layers", 0.0);
    if (maxvio.empty() || rows < 2) return;
    const std::vector<double> dead = numbers_in(last, "moe/dead_experts_layers", 0.0);
    const std::vector<double> names = numbers_in(last, "moe/layers", 0.0);
    std::vector<size_t> shown(maxvio.size());
    for (size_t index = 0; index < shown.size(); ++index) shown[index] = index;
    constexpr int kLeastCell = 26;
    const int most_columns = std::max(1, size_.columns / kLeastCell);
    const size_t room = static_cast<size_t>(most_columns) * static_cast<size_t>(rows - 1);
    const bool is_cut = shown.size() > room;
    if (is_cut) {
      std::stable_sort(shown.begin(), shown.end(), [&](size_t a, size_t b) { return maxvio[a] > maxvio[b]; });
      shown.resize(room);
    }
    double dead_in_all = 0;
    for (const double count : dead) dead_in_all += count;
    line()
        .add("MaxVio   ", Ink::kDim)
        .add(concat("mean ", text_or_dash(number_in(last, "moe/maxvio"), 2), ", worst ",
                    text_or_dash(number_in(last, "moe/maxvio_worst"), 2)));
    line().add(dead_in_all > 0 ? concat("; ", counted(static_cast<int64_t>(dead_in_all), "dead expert")) : "; no dead expert",
               dead_in_all > 0 ? Ink::kBad : Ink::kPlain);
    if (is_cut) line().add(concat("; the ", shown.size(), " worst of ", maxvio.size(), " layers"), Ink::kDim);
    push();
    const auto down = static_cast<size_t>(rows - 1);
    const size_t across = (shown.size() + down - 1) / down;
    const size_t height = (shown.size() + across - 1) / across;
    const int cell = size_.columns / static_cast<int>(across);
    const double most = std::max(1.0, *std::max_element(maxvio.begin(), maxvio.end()));
    for (size_t row = 0; row < height; ++row) {
      for (size_t column = 0; column < across; ++column) {
        const size_t at = column * height + row;
        if (at >= shown.size()) continue;
        draw_layer(names.size() == maxvio.size() ? static_cast<int64_t>(names[shown[at]]) : static_cast<int64_t>(shown[at]),
                   maxvio[shown[at]], most, shown[at] < dead.size() ? static_cast<int64_t>(dead[shown[at]]) : 0, std::min(cell, 60));
        if (cell > 60) line().add(std::string(static_cast<size_t>(cell - 60), ' '));
      }
      push();
    }
  }

  void draw_layer(int64_t layer, double maxvio, double most, int64_t dead, int cell) {
    std::string name = concat(layer);
    name.insert(0, 3 - std::min<size_t>(3, name.size()), ' ');
    const std::string value = concat(" ", fixed(maxvio, 2));
    const std::string died = dead > 0 ? concat(" ", dead, "†") : "";
    const int width = std::max(1, cell - 5 - width_of(value) - 6);
    const int full = std::clamp(static_cast<int>(std::lround(maxvio / most * width)), maxvio > 0 ? 1 : 0, width);
    std::string bar;
    for (int at = 0; at < full; ++at) bar += "█";
    line()
        .add(name + " ", Ink::kDim)
        .add(bar, maxvio < 0.5 ? Ink::kGood
                  : maxvio < 2 ? Ink::kWarn
                               : Ink::kBad)
        .add(value)
        .add(died, Ink::kBad);
    const int used = width_of(name) + 1 + full + width_of(value) + width_of(died);
    line().add(std::string(static_cast<size_t>(std::max(0, cell - used)), ' '));
  }

  void tell(const std::vector<std::pair<std::string, Ink>>& events) {
    if (events.empty() || size_.rows < static_cast<int>(lines_.size()) + 3) return;
    push();
    line().add("events, newest first", Ink::kDim);
    push();
    for (const auto& [text, ink] : events) {
      line().add(text, ink);
      push();
    }
  }

  const RunStatus& status_;
  TerminalSize size_;
  bool colours_;
  TerminalLine line_{size_.columns, colours_};
  std::vector<std::string> lines_;
};

}  // namespace

std::string to_frame(const RunStatus& status, TerminalSize size, bool colours) { return Frame(status, size, colours).draw(); }

}  // namespace pimoe
