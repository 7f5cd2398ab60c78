#include "bench/suites.h"

#include "base/text.h"
#include "bench/report.h"
#include "data/token_file.h"

#include <cmath>
#include <random>

namespace pimoe {
namespace {

/// A corpus of ids drawn at random, in the scratch folder. Collective. @returns its prefix
std::string random_corpus(Bench& bench) {
  const std::string prefix = (bench.scratch().path() / "corpus").string();
  if (bench.mesh().rank() == 0) {
    constexpr int64_t kDocument = 1024;
    const auto vocabulary = static_cast<uint64_t>(bench.config().model.vocabulary);
    const int64_t least = 4 * bench.config().model.sequence_length;  // of which an epoch leaves out less than half
    TokenFileWriter writer(prefix, static_cast<int64_t>(vocabulary));
    std::mt19937_64 random(static_cast<uint64_t>(bench.config().run.seed));
    for (int64_t written = 0; written < std::max(least, bench.sizes().corpus_tokens); written += kDocument) {
      std::vector<int32_t> ids(static_cast<size_t>(kDocument));
      for (int32_t& id : ids) id = static_cast<int32_t>(random() % vocabulary);
      writer.add(ids);
      writer.end_document();
    }
    writer.finish();
  }
  bench.mesh().control().barrier();
  return prefix;
}

}  // namespace

void run_data_suite(Bench& bench) {
  const TrainConfig& config = bench.config();
  std::vector<BlendedCorpus> corpora = config.data.training();
  const bool is_random = corpora.empty();
  if (is_random) corpora = {{.prefix = random_corpus(bench)}};
  const double need = bench.step().tokens_per_second();
  DataStream stream(corpora, stream_options(config, bench.mesh()), {});
  const int64_t steps = bench.sizes().data_steps;
  const Measurement measured = bench.measure(Clock::kHost, [&](Parts&) {
    for (int64_t step = 0; step < steps; ++step) stream.next_step();
  });
  const int64_t tokens = steps * config.train.global_batch * config.model.sequence_length;
  const double rate = static_cast<double>(tokens) / measured.seconds.median;
  BenchRow row{.suite = "data", .name = is_random ? "random corpus" : "data.train", .seconds = measured.seconds};
  row.values["tokens"] = tokens;
  row.values["tokens_per_second"] = rate;
  row.values["step_tokens_per_second"] = need;
  row.values["ratio_to_step"] = rate / need;
  row.summary = concat(si_text(rate, "tokens/s"), ", ", grouped(std::llround(rate / need)), " x the step's");
  bench.add(std::move(row));
}

}  // namespace pimoe
