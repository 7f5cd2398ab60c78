/// The keys of metrics.jsonl that a report has curves of stand in three places: the record (train/metrics.cpp), the reader (monitor/run_record.h) and the
/// page's script (monitor/page/report.js). A key that one of them misses shows nothing, and says nothing.

#include "monitor/report_page.h"
#include "train/metrics.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <regex>
#include <set>
#include <string>

namespace pimoe {
namespace {

std::set<std::string> curve_keys() { return {kCurveKeys.begin(), kCurveKeys.end()}; }

/// Of a step that has everything to say.
std::set<std::string> keys_of_a_record() {
  StepRecord record;
  record.validation_loss = 1.0;
  record.mfu = record.mfu_torchtitan = 0.5;
  record.adaptive = AdaptiveRecord{.bias_rate = {0.01}, .moves = {}};
  record.routing = routing_metrics(at::ones({1, 4}, at::kLong), 0);
  for (std::vector<double>* values :
       {&record.routing->maxvio_rank, &record.routing->scaled_loss, &record.routing->dropped_fraction, &record.routing->fallback_tokens,
        &record.routing->nonfinite_slots, &record.routing->dispatch_ms, &record.routing->experts_ms, &record.routing->combine_ms,
        &record.routing->gate_confidence, &record.routing->bias_min, &record.routing->bias_max}) {
    values->push_back(1.0);
  }
  for (const BalanceLoss& loss : balance_losses()) record.routing->losses.push_back({loss.rule, {1.0}, {1.0}});
  std::set<std::string> keys;
  for (const auto& [key, value] : to_scalars(record)) keys.insert(key);
  return keys;
}

/// What the script draws: of `curves: [["loss", "training"], ...]` each first word.
std::set<std::string> drawn_keys() {
  const std::string script = page_parts().script;
  std::set<std::string> keys;
  const std::regex list(R"(curves: \[(\[[^\n]*\])\])");
  const std::regex first(R"re(\["([^"]+)", ")re");
  for (std::sregex_iterator found(script.begin(), script.end(), list), end; found != end; ++found) {
    const std::string curves = (*found)[1];
    for (std::sregex_iterator curve(curves.begin(), curves.end(), first); curve != end; ++curve) keys.insert((*curve)[1]);
  }
  return keys;
}

TEST(ReportCurves, AreOfKeysThatARecordHas) {
  const std::set<std::string> written = keys_of_a_record();
  for (const std::string& key : curve_keys()) EXPECT_TRUE(written.contains(key)) << key << " is in no record of a step";
}

TEST(ReportCurves, AreAllDrawnAndNoOthers) { EXPECT_EQ(drawn_keys(), curve_keys()); }

}  // namespace
}  // namespace pimoe
