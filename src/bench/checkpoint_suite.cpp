#include "bench/suites.h"

#include "base/errors.h"
#include "base/file_io.h"
#include "base/text.h"
#include "bench/report.h"
#include "checkpoint/checkpoint_store.h"

namespace pimoe {
namespace {

TimeMark host_now() { return TimeMark::now(c10::Device(c10::DeviceType::CPU)); }

void add_row(Bench& bench, const std::string& name, const Measurement& measured, int64_t bytes, const std::string& detail) {
  const double rate = static_cast<double>(bytes) / measured.seconds.median;
  BenchRow row{.suite = "checkpoint", .name = name, .seconds = measured.seconds};
  row.values["bytes"] = bytes;
  row.values["gigabytes_per_second"] = rate / 1e9;
  for (const TimedPart& part : measured.parts) put_seconds(row.values, part.seconds, part.name + "_");
  row.summary = concat(bytes_text(bytes), ", ", si_text(rate, "B/s"));
  if (!detail.empty()) row.details = {detail};
  bench.add(std::move(row));
}

}  // namespace

void run_checkpoint_suite(Bench& bench) {
  const std::filesystem::path folder = bench.scratch().path() / "checkpoints";
  TrainingStep training(bench);
  Snapshot state;
  state.config = to_yaml(bench.config());
  state.pieces = training.learner().state_pieces();
  CheckpointConfig config = bench.config().checkpoint;
  CheckpointStore store(folder, config, bench.mesh(), bench.log());

  bench.log().info("measuring a save beside training");
  store.prepare(state);
  int64_t bytes = 0;
  const Measurement beside = bench.measure_lightly(Clock::kHost, [&](Parts& parts) {
    ++state.step;
    const TimeMark begin = host_now();
    store.begin(state);
    parts.add("stall", begin, host_now());
    bytes = store.finish().bytes;
  });
  add_row(bench, "save beside training", beside, bytes,
          concat("training stands still for ", time_text(beside.part("stall").seconds.median)));

  bench.log().info("measuring a save that training waits for");
  const Measurement waited = bench.measure_lightly(Clock::kHost, [&](Parts&) {
    ++state.step;
    store.save(state);
  });
  add_row(bench, "save", waited, bytes, "");

  bench.log().info("measuring a load");
  const Measurement load = bench.measure_lightly(Clock::kHost, [&](Parts& parts) {
    if (bench.mesh().rank() == 0) {
      for (const auto& file : std::filesystem::recursive_directory_iterator(folder)) {
        if (file.is_regular_file()) forget_cached(file.path());
      }
    }
    bench.mesh().control().barrier();
    const TimeMark begin = host_now();
    const std::optional<std::filesystem::path> newest = store.newest_good();
    if (!newest) throw CheckpointError(concat("none of the checkpoints just written to ", folder.string(), " is good"));
    const TimeMark verified = host_now();
    store.restore(*newest, state);
    parts.add("verify", begin, verified);
    parts.add("restore", verified, host_now());
  });
  add_row(bench, "load", load, bytes, parts_text(load.parts));
}

}  // namespace pimoe
