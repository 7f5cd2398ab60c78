#include "bench/report.h"

#include "base/text.h"

#include <algorithm>
#include <array>

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

std::string filled(std::string text, size_t width, bool right) {
  const std::string blanks(width - std::min(width, text.size()), ' ');
  return right ? blanks + text : text + blanks;
}

}  // namespace

std::string si_text(double value, const std::string& unit) {
  constexpr std::array kPrefixes = {"", "k", "M", "G", "T", "P", "E"};
  size_t prefix = 0;
  while (value >= 999.5 && prefix + 1 < kPrefixes.size()) {
    value /= 1000;
    ++prefix;
  }
  return concat(three_digits(value), " ", kPrefixes[prefix], unit);
}

std::string bytes_text(int64_t bytes) { return human_bytes(static_cast<double>(bytes)); }

std::string parts_text(const std::vector<TimedPart>& parts) {
  std::vector<std::string> texts;
  for (const TimedPart& part : parts) texts.push_back(concat(part.name, " ", time_text(part.seconds.median)));
  return join(texts, ", ");
}

void put_seconds(Json& values, const Spread& seconds, const std::string& prefix) {
  values[prefix + "median_seconds"] = seconds.median;
  values[prefix + "low_seconds"] = seconds.low;
  values[prefix + "high_seconds"] = seconds.high;
  values[prefix + "repetitions"] = seconds.repetitions;
}

Json to_json(const BenchFacts& facts, const std::vector<BenchRow>& rows) {
  Json document = {{"version", facts.version}, {"commit", facts.commit}, {"command", facts.command},
                   {"machine", facts.machine}, {"config", facts.config}, {"rows", Json::array()}};
  for (const BenchRow& row : rows) {
    Json entry = {{"suite", row.suite}, {"name", row.name}};
    if (row.seconds) put_seconds(entry, *row.seconds);
    entry.update(row.values);
    document["rows"].push_back(std::move(entry));
  }
  return document;
}

std::string to_text(const BenchFacts& facts, const std::vector<BenchRow>& rows) {
  const auto text = [&](const char* key) { return facts.machine.at(key).get<std::string>(); };
  const auto number = [&](const char* key) { return facts.machine.at(key).get<int64_t>(); };
  std::string table = concat("pimoe ", facts.version, " (", facts.commit, "): ", text("device"), "\n", counted(number("ranks"), "rank"),
                             " on ", counted(number("hosts"), "host"), ", ", counted(number("threads"), "thread"), " each, ",
                             text("transport"), ", ", text("precision"), ", experts shared out over ", number("expert_parallel"), "\n\n");
  table += concat("  ", filled("", 23, false), filled("median", 9, true), "  ", filled("10 % .. 90 %", 20, true), "\n");
  std::string suite;
  for (const BenchRow& row : rows) {
    if (row.suite != suite) table += row.suite + "\n";
    suite = row.suite;
    std::string line = concat("  ", filled(row.name, 23, false));
    if (row.seconds) {
      line += concat(filled(time_text(row.seconds->median), 9, true), "  ",
                     filled(concat(time_text(row.seconds->low), " .. ", time_text(row.seconds->high)), 20, true));
    } else {
      line += std::string(31, ' ');
    }
    table += line + (row.summary.empty() ? "" : "  " + row.summary) + "\n";
    for (const std::string& detail : row.details) table += concat("      ", detail, "\n");
  }
  return table;
}

nlohmann::ordered_json longest_kernels(const GpuTimeline& gpu) {
  constexpr size_t kMost = 20;
  nlohmann::ordered_json kernels = nlohmann::ordered_json::array();
  for (size_t index = 0; index < std::min(kMost, gpu.kernels.size()); ++index) {
    const KernelTime& kernel = gpu.kernels[index];
    kernels.push_back({{"name", kernel.name}, {"seconds", kernel.seconds}, {"count", kernel.count}});
  }
  return kernels;
}

}  // namespace pimoe
