#include "train/micro_batch.h"

#include "ops/tile_product.h"
#include "support/temporary_folder.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

namespace pimoe {
namespace {

TrainConfig config_of(int64_t global_batch) {
  TrainConfig config;
  config.model.layers = 2;
  config.model.width = 64;
  config.model.sequence_length = 128;
  config.model.vocabulary = 300;
  config.model.moe.experts = 8;
  config.train.global_batch = global_batch;
  config.train.micro_batch = 0;
  return config;
}

int64_t peak(TrainConfig config, const ForecastPlace& place, int64_t sequences) {
  config.train.micro_batch = sequences;
  return Forecast(config, place).memory(kWorstSkew).peak(place.on_gpu);
}

int64_t needed(TrainConfig config, const ForecastPlace& place, int64_t sequences) {
  config.train.micro_batch = sequences;
  return device_bytes(Forecast(config, place).memory(kWorstSkew), place.on_gpu);
}

// Each token of packed rows has a position and angles of its own, as with data.document_mask.
TEST(Forecast, CountsWhatPackedRowsKeep) {
  const TemporaryFolder folder;
  const ForecastPlace place{.ranks = 1, .node_ranks = 1};
  TrainConfig config = config_of(4);
  config.data.train = folder / "corpus";
  const int64_t of_stream = peak(config, place, 4);
  config.data.document_mask = true;
  const int64_t of_documents = peak(config, place, 4);
  config.data.document_mask = false;
  EXPECT_GT(of_documents, of_stream);
  for (const Packing packing : {Packing::kPacked, Packing::kPadded}) {
    config.data.packing = packing;
    EXPECT_EQ(peak(config, place, 4), of_documents);
  }
  config.data.packing = Packing::kAuto;
  EXPECT_EQ(peak(config, place, 4), of_stream);
  folder.write("corpus.loss_mask", "");
  EXPECT_EQ(peak(config, place, 4), of_documents);
}

TEST(MicroBatch, AutoIsTheWholeShareWhereThereIsRoom) {
  EXPECT_EQ(largest_micro_batch(config_of(13), {.ranks = 2, .node_ranks = 2}, 0), 7);
  EXPECT_EQ(largest_micro_batch(config_of(13), {.ranks = 2, .node_ranks = 2}, int64_t{1} << 40), 7);
  EXPECT_EQ(largest_micro_batch(config_of(3), {.ranks = 8, .node_ranks = 8}, int64_t{1} << 40), 1);
}

// Twelve sequences come to 12, 6, 4, 3, 2 or 1 at a time.
TEST(MicroBatch, AutoTakesTheMostThatFitsInTheFewestMicroSteps) {
  const TrainConfig config = config_of(12);
  const ForecastPlace place{.ranks = 1, .node_ranks = 1};
  EXPECT_EQ(largest_micro_batch(config, place, needed(config, place, 12)), 12);
  EXPECT_EQ(largest_micro_batch(config, place, needed(config, place, 12) - 1), 6);
  EXPECT_EQ(largest_micro_batch(config, place, needed(config, place, 6) - 1), 4);
  EXPECT_EQ(largest_micro_batch(config, place, needed(config, place, 4)), 4);
  EXPECT_EQ(largest_micro_batch(config, place, 1), 1);
}

// In bfloat16 each thread has a tile of logits; a machine that only checks has its own number of threads.
TEST(MicroBatch, MemoryIsThatOfTheConfiguredThreads) {
  const ForecastPlace place{.ranks = 1, .node_ranks = 1, .dtype = at::kBFloat16};
  TrainConfig config = config_of(4);
  config.model.vocabulary = 20'000;
  config.train.threads = 1;
  const int64_t of_one = peak(config, place, 4);
  config.train.threads = 9;
  EXPECT_GE(peak(config, place, 4), of_one);
  if (has_tile_product()) {
    EXPECT_GT(peak(config, place, 4), of_one);
  }
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const int64_t here = peak(config, place, 4);
  at::set_num_threads(2);
  EXPECT_EQ(peak(config, place, 4), here);
  at::set_num_threads(before);
}

}  // namespace
}  // namespace pimoe
