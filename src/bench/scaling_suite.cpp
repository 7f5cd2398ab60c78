#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "train/forecast.h"

namespace pimoe {
namespace {

/// What the layout should send in a step, all of it by the fullest rank.
TrafficForecast foretold(const Bench& bench) {
  const ForecastPlace place{
      .ranks = bench.mesh().size(), .node_ranks = bench.mesh().expert_parallel(), .on_gpu = bench.on_gpu(), .dtype = bench.dtype()};
  TrainConfig config = bench.config();
  config.mesh.expert_parallel = bench.mesh().expert_parallel();
  return Forecast(config, place).traffic();
}

}  // namespace

void run_scaling_suite(Bench& bench) {
  const StepMeasurement& step = bench.step();
  BenchRow row{.suite = "scaling", .name = counted(bench.mesh().size(), "rank"), .seconds = step.measured.seconds};
  row.summary = concat(grouped(static_cast<int64_t>(step.tokens_per_second())), " tokens/s");
  row.values["ranks"] = bench.mesh().size();
  row.values["expert_parallel"] = bench.mesh().expert_parallel();
  row.values["tokens"] = step.tokens;
  row.values["tokens_per_second"] = step.tokens_per_second();
  for (const TimedPart& part : step.measured.parts) {
    put_seconds(row.values, part.seconds, part.name + "_");
    row.values[part.name + "_seconds_by_rank"] = part.rank_medians;
  }
  row.details.push_back("the slowest rank: " + parts_text(step.measured.parts));
  row.values["maxvio"] = step.maxvio;
  row.values["kept_bytes"] = step.kept_bytes;
  row.values["peak_bytes"] = step.peak_bytes;
  for (const char* key : {"sent_bytes_by_group", "sent_messages_by_group", "collectives_by_group"}) {
    row.values[key] = nlohmann::ordered_json::object();
  }
  for (const GroupTraffic& sent : step.traffic) {
    row.values["sent_bytes_by_group"][sent.group] = sent.bytes;
    row.values["sent_messages_by_group"][sent.group] = sent.messages;
    row.values["collectives_by_group"][sent.group] = sent.collectives;
    row.details.push_back(concat("ranks sent ", bytes_text(sent.bytes), " in the ", sent.group, ": ", grouped(sent.messages), " messages, ",
                                 counted(sent.collectives, "collective"), " of a rank"));
  }
  const TrafficForecast traffic = foretold(bench);
  row.values["foretold_sent_bytes_of_a_rank"] = {{"rows", traffic.rows}, {"gradients", traffic.gradients}, {"weights", traffic.weights}};
  bench.add(std::move(row));
}

}  // namespace pimoe
