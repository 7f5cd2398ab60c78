#include "preflight/check_report.h"

#include "base/text.h"

#include <algorithm>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kColumn = 16;

std::string size(int64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

std::string right(const std::string& text, size_t width) { return std::string(width - std::min(width, text.size()), ' ') + text; }

/// A part of memory, by its name in the text and in JSON.
struct Part {
  const char* label;
  const char* key;
  int64_t (*bytes)(const MemoryForecast& memory);
};

constexpr Part kState[] = {
    {"weights", "weights", [](const MemoryForecast& m) { return m.weights; }},
    {"gradients", "gradients", [](const MemoryForecast& m) { return m.gradients; }},
    {"optimizer: masters, moments", "optimizer", [](const MemoryForecast& m) { return m.optimizer; }},
};
constexpr Part kKept[] = {
    {"residual stream", "stream", [](const MemoryForecast& m) { return m.activations.stream; }},
    {"norms", "norms", [](const MemoryForecast& m) { return m.activations.norms; }},
    {"attention", "attention", [](const MemoryForecast& m) { return m.activations.attention; }},
    {"dense feed-forward", "dense", [](const MemoryForecast& m) { return m.activations.dense; }},
    {"router", "router", [](const MemoryForecast& m) { return m.activations.router; }},
    {"dispatch: plans, rows, results", "dispatch", [](const MemoryForecast& m) { return m.activations.dispatch; }},
    {"experts", "experts", [](const MemoryForecast& m) { return m.activations.experts; }},
    {"shared, fallback", "others", [](const MemoryForecast& m) { return m.activations.others; }},
    {"cross-entropy", "loss", [](const MemoryForecast& m) { return m.activations.loss; }},
    {"token ids", "batch", [](const MemoryForecast& m) { return m.activations.batch; }},
};

template <class Value>
std::string line(const CheckReport& report, const std::string& label, const Value& value) {
  std::string text = "  " + label + std::string(36 - std::min<size_t>(36, label.size()), ' ');
  for (size_t column = 0; column < report.skews.size(); ++column) text += right(value(column), kColumn);
  return text + "\n";
}

std::string memory_table(const CheckReport& report) {
  const auto memory = [&](size_t column) -> const MemoryForecast& { return report.skews[column].memory; };
  const auto part_line = [&](const Part& part, const char* indent) {
    bool any = false;
    for (const CheckedSkew& skew : report.skews) any = any || part.bytes(skew.memory) > 0;
    return any ? line(report, concat(indent, part.label), [&](size_t column) { return size(part.bytes(memory(column))); }) : "";
  };
  std::string text = "memory of the fullest rank\n";
  text += line(report, "", [&](size_t column) { return report.skews[column].name; });
  for (const Part& part : kState) text += part_line(part, "");
  text += line(report, "kept for backward", [&](size_t column) { return size(memory(column).activations.kept()); });
  for (const Part& part : kKept) text += part_line(part, "  ");
  text += line(report, "on top for a moment in backward",
               [&](size_t column) { return size(memory(column).activations.peak() - memory(column).activations.kept()); });
  text += line(report, "  of a block", [&](size_t column) { return size(memory(column).activations.layer_workspace); });
  text += line(report, "  of the cross-entropy", [&](size_t column) { return size(memory(column).activations.loss_workspace); });
  text += line(report, report.device.is_gpu ? "context, libraries, NCCL (allowance)" : "libraries, kernels, heap (allowance)",
               [&](size_t column) { return size(report.overhead(column)); });
  if (!report.device.is_gpu) {  // on a GPU the host's memory holds it
    const bool beside = memory(0).saves_beside_training;
    text += line(report, beside ? "a save, beside training" : "a save, in the activations' place",
                 [&](size_t column) { return size(memory(column).snapshot); });
  }
  text += line(report, "at most", [&](size_t column) { return size(report.peak(column)); });
  if (report.limit_bytes > 0) text += line(report, "a rank has", [&](size_t) { return size(report.limit_bytes); });
  if (report.has_experts) {
    text += line(report, "rows of a layer's experts", [&](size_t column) { return grouped(report.skews[column].rows.all_rows()); });
  }
  bool rounds = false;
  for (const CheckedSkew& skew : report.skews) rounds = rounds || skew.rows.rounds > 1;
  if (rounds) text += line(report, "in rounds", [&](size_t column) { return grouped(report.skews[column].rows.rounds); });
  return text;
}

/// What to try where this takes the most; nothing where only another model or faster hardware would help.
std::string advice(const CheckReport& report, const TimedWork& work) {
  const Forecast& forecast = *report.forecast;
  if (work.limit == "host") return "a larger train.micro_batch gives the device more to do for each operation that the host starts";
  if (work.name == "exchange") {
    return forecast.expert_parallel() > 2 ? "a lower mesh.expert_parallel sends less, where memory allows it" : "";
  }
  if (work.name == "gradients over ranks" || work.name == "weights to ranks" || work.name == "update") {
    return "a larger train.global_batch makes it a smaller part of the step";
  }
  if (work.name == "sums of gradients" && forecast.micro_steps() > 1) return "a larger train.micro_batch sums less often";
  return "";
}

std::string mfu_text(const CheckReport& report) {
  if (report.rates.peak <= 0) return concat(fixed(report.time->megatron_flops / 1e9, 0), " GFLOP/s a rank");
  return concat(fixed(report.time->megatron_flops / 1e12, 0), " TFLOP/s a rank, MFU ",
                fixed(100 * report.time->megatron_flops / report.rates.peak, 1), " % (torchtitan's count ",
                fixed(100 * report.time->torchtitan_flops / report.rates.peak, 1), " %)");
}

std::string time_table(const CheckReport& report) {
  if (!report.time) {
    return concat("time is not foretold for ", report.device.name,
                  ": no rates are shipped; measure them where it will run, `pimoe bench ceilings ", report.config,
                  " --json FILE`, and give --ceilings FILE\n");
  }
  const StepTimeForecast& time = *report.time;
  std::string text = concat("time of a step at balance, foretold (rates ", report.rates.source, ")\n");
  const auto row = [&](const std::string& name, double seconds, const std::string& limit) {
    text += concat("  ", name, std::string(34 - std::min<size_t>(34, name.size()), ' '), right(time_text(seconds), 12),
                   right(percent_text(seconds / time.seconds), 9), "  ", limit, "\n");
  };
  for (const TimedWork& work : time.parts) row(work.name, work.seconds, work.limit);
  row("all", time.seconds, time.hidden_seconds > 0 ? concat("and ", time_text(time.hidden_seconds), " of sums behind backward") : "");
  text += concat(grouped(static_cast<int64_t>(time.tokens_per_second)), " tokens/s, ", mfu_text(report), "\n");
  const std::string help = advice(report, time.bottleneck());
  return text +
         concat("most takes: ", time.bottleneck().name, ", limited by ", time.bottleneck().limit, help.empty() ? "" : "; " + help, "\n");
}

std::string sweep_table(const CheckReport& report) {
  constexpr size_t kShown = 12;
  if (report.sweep.empty()) return "no layout fits\n";
  std::string text = concat("layouts that fit, fastest first",
                            report.sweep.size() > kShown ? concat(" (", kShown, " of ", report.sweep.size(), ")") : "", "\n");
  for (size_t i = 0; i < std::min(kShown, report.sweep.size()); ++i) {
    const SweptLayout& layout = report.sweep[i];
    const std::string keys = join(layout.changes, " ");
    text +=
        concat("  ", keys, std::string(70 - std::min<size_t>(70, keys.size()), ' '),
               right(grouped(static_cast<int64_t>(layout.time.tokens_per_second)), 12), " tokens/s", right(size(layout.peak), 11), "\n");
  }
  return text;
}

std::string blend_table(const std::vector<BlendFacts>& blend) {
  size_t width = 0;
  for (const BlendFacts& each : blend) width = std::max(width, each.prefix.size());
  std::string text = "blend of data.train over the run\n";
  for (const BlendFacts& each : blend) {
    text +=
        concat("  ", each.prefix, std::string(width - each.prefix.size(), ' '), right(fixed(100 * each.share, 2), 9), " % of the samples",
               right(grouped(each.samples_per_epoch), 14), " are an epoch", right(fixed(each.epochs, 2), 9), " epochs\n");
  }
  return text + "\n";
}

std::string verdict(const CheckReport& report) {
  if (!report.forecast) return "";
  if (!report.disk_fits()) {
    return concat("DOES NOT FIT on the disk: checkpoints take ", size(report.disk_bytes), ", ", size(report.found.folder.free_bytes),
                  " are free. Other run.directory, lower checkpoint.keep, or checkpoint.every_steps=0\n");
  }
  const CheckedSkew& judged = report.skews[report.judged];
  if (report.limit_bytes == 0) return "no limit is known: --memory SIZE, or a --device with memory of its own, sets one\n";
  if (report.memory_fits()) {
    return concat("fits ", report.any_skew ? concat("at any skew; most is needed ", judged.name) : judged.name, ": ",
                  size(report.limit_bytes - report.peak(report.judged)), " are left\n");
  }
  std::string text = concat("DOES NOT FIT ", judged.name, ": ", size(report.peak(report.judged) - report.limit_bytes), " too much");
  if (report.judged > 0 && report.peak(0) <= report.limit_bytes) text += concat("; it fits at balance");
  text += report.remedies.empty() ? "\n" : ". What helps, each alone:\n";
  for (const Remedy& remedy : report.remedies) {
    const bool fits = remedy.peak <= report.limit_bytes;
    text += concat("  ", remedy.change, std::string(30 - std::min<size_t>(30, remedy.change.size()), ' '), right(size(remedy.bytes), 10),
                   " less", fits ? ": fits" : "", "\n");
  }
  return text;
}

Json to_json(const CheckReport& report, size_t column) {
  const CheckedSkew& skew = report.skews[column];
  const ActivationBytes& activations = skew.memory.activations;
  Json kept = {{"all", activations.kept()}};
  for (const Part& part : kKept) kept[part.key] = part.bytes(skew.memory);
  Json json;
  for (const Part& part : kState) json[part.key] = part.bytes(skew.memory);
  json["kept_for_backward"] = kept;
  json["workspace"] = {{"block", activations.layer_workspace}, {"cross_entropy", activations.loss_workspace}};
  json["snapshot"] = skew.memory.snapshot;
  json["training"] = skew.memory.state() + activations.peak() + report.overhead(column);  // while nothing is saved
  json["peak"] = report.peak(column);
  json["rows"] = skew.rows.all_rows();
  json["rounds"] = skew.rows.rounds;
  return json;
}

}  // namespace

ExitCode CheckReport::exit_code() const {
  for (const ExitCode code : {ExitCode::kBadConfig, ExitCode::kBadData}) {
    for (const Trouble& trouble : found.troubles) {
      if (trouble.code == code) return code;
    }
  }
  if (!found.troubles.empty()) return found.troubles.front().code;
  return memory_fits() && disk_fits() ? ExitCode::kDone : ExitCode::kCheckSaysNo;
}

std::string to_text(const CheckReport& report) {
  std::string text = concat(report.config, " on ", counted(report.ranks, "rank"), ", ", report.device.name);
  if (report.forecast) {
    const Forecast& forecast = *report.forecast;
    text +=
        concat(", ", report.precision, "; experts shared out over ", forecast.expert_parallel(), "; ",
               counted(forecast.micro_steps(), "micro-step"), " of at most ", counted(forecast.sequences_at_once(), "sequence"), " a rank");
  }
  text += "\n\n";
  if (report.forecast) {
    text += memory_table(report) + "\n";
    const TrafficForecast traffic = report.forecast->traffic();
    text += concat("a rank sends in each step, at balance: ", size(traffic.all()), " (experts' exchange ", size(traffic.rows),
                   ", gradients ", size(traffic.gradients), ", weights ", size(traffic.weights), ")\n");
    text += concat("a checkpoint: ", size(report.forecast->checkpoint_bytes()), "; while it is written a rank's host holds ",
                   size(report.skews[0].memory.snapshot), " of it");
    text += report.saves == 0 ? "; the run writes none" : concat("; on the disk at one time ", size(report.disk_bytes), " more");
    if (report.found.folder.free_bytes >= 0) text += concat(", free ", size(report.found.folder.free_bytes));
    text += "\n";
    text += "\n" + time_table(report);
    if (report.swept) text += "\n" + sweep_table(report);
    if (report.found.folder.resumes_at >= 0) text += concat("goes on from step ", report.found.folder.resumes_at, "\n");
    text += "\n";
  }
  if (!report.found.blend.empty()) text += blend_table(report.found.blend);
  for (const Trouble& trouble : report.found.troubles) text += concat("ERROR    ", trouble.text, "\n");
  for (const std::string& warning : report.found.warnings) text += concat("warning  ", warning, "\n");
  return text + verdict(report);
}

Json to_json(const CheckReport& report) {
  Json troubles = Json::array();
  for (const Trouble& trouble : report.found.troubles) {
    troubles.push_back({{"exit_code", static_cast<int>(trouble.code)}, {"text", trouble.text}});
  }
  Json json = {{"config", report.config},         {"ranks", report.ranks}, {"device", report.device.name},
               {"exit_code", report.exit_code()}, {"errors", troubles},    {"warnings", report.found.warnings}};
  for (const BlendFacts& each : report.found.blend) {
    json["blend"].push_back(
        {{"prefix", each.prefix}, {"share", each.share}, {"samples_per_epoch", each.samples_per_epoch}, {"epochs", each.epochs}});
  }
  if (!report.forecast) return json;
  const Forecast& forecast = *report.forecast;
  json["precision"] = report.precision;
  json["expert_parallel"] = forecast.expert_parallel();
  json["micro_steps"] = forecast.micro_steps();
  json["sequences_at_once"] = forecast.sequences_at_once();
  Json columns = Json::object();
  for (size_t column = 0; column < report.skews.size(); ++column) columns[report.skews[column].name] = to_json(report, column);
  json["memory"] = {{"limit", report.limit_bytes > 0 ? Json(report.limit_bytes) : Json(nullptr)},
                    {"overhead", report.overhead(report.judged)},
                    {"judged", report.skews[report.judged].name},
                    {"fits", report.memory_fits()},
                    {"skews", columns}};
  const TrafficForecast traffic = forecast.traffic();
  json["sent_each_step"] = {{"all", traffic.all()}, {"rows", traffic.rows}, {"gradients", traffic.gradients}, {"weights", traffic.weights}};
  json["checkpoint"] = {{"bytes", forecast.checkpoint_bytes()},
                        {"saves", report.saves},
                        {"disk_needed", report.disk_bytes},
                        {"disk_free", report.found.folder.free_bytes >= 0 ? Json(report.found.folder.free_bytes) : Json(nullptr)},
                        {"fits", report.disk_fits()}};
  if (report.time) {
    const StepTimeForecast& time = *report.time;
    Json parts = Json::array();
    for (const TimedWork& work : time.parts) parts.push_back({{"name", work.name}, {"seconds", work.seconds}, {"limit", work.limit}});
    json["time"] = {{"rates", report.rates.source},
                    {"parts", parts},
                    {"hidden_seconds", time.hidden_seconds},
                    {"step_seconds", time.seconds},
                    {"tokens_per_second", time.tokens_per_second},
                    {"mfu", report.rates.peak > 0 ? Json(time.megatron_flops / report.rates.peak) : Json(nullptr)},
                    {"mfu_torchtitan", report.rates.peak > 0 ? Json(time.torchtitan_flops / report.rates.peak) : Json(nullptr)},
                    {"bottleneck", time.bottleneck().name}};
  }
  if (report.swept) {
    Json layouts = Json::array();
    for (const SweptLayout& layout : report.sweep) {
      layouts.push_back({{"changes", layout.changes}, {"peak", layout.peak}, {"tokens_per_second", layout.time.tokens_per_second}});
    }
    json["sweep"] = layouts;
  }
  Json helps = Json::array();
  for (const Remedy& remedy : report.remedies) {
    helps.push_back({{"change", remedy.change}, {"bytes", remedy.bytes}, {"fits", remedy.peak <= report.limit_bytes}});
  }
  json["helps"] = helps;
  return json;
}

}  // namespace pimoe
