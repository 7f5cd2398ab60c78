#include "data/data_stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "base/errors.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

using Share = std::pair<int64_t, int64_t>;

std::vector<Share> shares(const StepPlan& plan, int64_t micro_step, int ranks) {
  std::vector<Share> all;
  for (int rank = 0; rank < ranks; ++rank) all.push_back(plan.share(micro_step, rank));
  return all;
}

// A step of 7 sequences in M = 2 micro-steps of 4 and 3, whatever the number of ranks.
TEST(StepPlan, CutsSevenSequencesIntoTwoMicroStepsForOneToFourRanks) {
  const StepPlan one(7, 1, 4);
  ASSERT_EQ(one.micro_steps(), 2);
  EXPECT_EQ(shares(one, 0, 1), (std::vector<Share>{{0, 4}}));
  EXPECT_EQ(shares(one, 1, 1), (std::vector<Share>{{4, 3}}));
  const StepPlan two(7, 2, 2);
  ASSERT_EQ(two.micro_steps(), 2);
  EXPECT_EQ(shares(two, 0, 2), (std::vector<Share>{{0, 2}, {2, 2}}));
  EXPECT_EQ(shares(two, 1, 2), (std::vector<Share>{{4, 2}, {6, 1}}));
  const StepPlan three(7, 3, 2);
  ASSERT_EQ(three.micro_steps(), 2);
  EXPECT_EQ(shares(three, 0, 3), (std::vector<Share>{{0, 2}, {2, 1}, {3, 1}}));
  EXPECT_EQ(shares(three, 1, 3), (std::vector<Share>{{4, 1}, {5, 1}, {6, 1}}));
  const StepPlan four(7, 4, 1);
  ASSERT_EQ(four.micro_steps(), 2);
  EXPECT_EQ(shares(four, 0, 4), (std::vector<Share>{{0, 1}, {1, 1}, {2, 1}, {3, 1}}));
  EXPECT_EQ(shares(four, 1, 4), (std::vector<Share>{{4, 1}, {5, 1}, {6, 1}, {7, 0}}));
}

TEST(StepPlan, RanksBeyondTheBatchGetEmptyShares) {
  const StepPlan plan(2, 4, 8);
  ASSERT_EQ(plan.micro_steps(), 1);
  EXPECT_EQ(shares(plan, 0, 4), (std::vector<Share>{{0, 1}, {1, 1}, {2, 0}, {2, 0}}));
}

TEST(StepPlan, AMicroBatchAboveTheGlobalBatchIsOneMicroStep) { EXPECT_EQ(StepPlan(7, 3, INT64_MAX).micro_steps(), 1); }

TEST(StepPlan, CoversEachSequenceOnceInTheFewestMicroSteps) {
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 500; ++round) {
    const int64_t global_batch = 1 + random() % 60;
    const int ranks = 1 + static_cast<int>(random() % 9);
    const int64_t micro_batch = 1 + random() % 12;
    const StepPlan plan(global_batch, ranks, micro_batch);
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": batch " << global_batch << ", ranks " << ranks << ", micro " << micro_batch);
    int64_t next = 0;
    int64_t smallest = global_batch;
    int64_t largest = 0;
    for (int64_t micro_step = 0; micro_step < plan.micro_steps(); ++micro_step) {
      const int64_t begin = next;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto [first, count] = plan.share(micro_step, rank);
        ASSERT_EQ(first, next);
        ASSERT_LE(count, micro_batch);
        next += count;
      }
      ASSERT_EQ(plan.micro_step_sequences(micro_step), next - begin);
      smallest = std::min(smallest, next - begin);
      largest = std::max(largest, next - begin);
    }
    ASSERT_EQ(next, global_batch);
    ASSERT_LE(largest - smallest, 1);
    // One micro-step fewer would need more room than all ranks have.
    ASSERT_GT(global_batch, (plan.micro_steps() - 1) * ranks * micro_batch);
  }
}

/// A corpus whose token at position p is p, in documents of uneven length.
std::filesystem::path counting_corpus(const TemporaryFolder& folder, int64_t tokens) {
  TokenFileWriter writer(folder / "count", 100000);
  for (int32_t id = 0; id < tokens; ++id) {
    writer.add({id});
    if (id % 7 == 3 || id % 31 == 0) writer.end_document();
  }
  writer.finish();
  return folder / "count";
}

std::vector<int64_t> read_sample(const SampleReader& reader, int64_t sample, int64_t length) {
  std::vector<int64_t> ids(static_cast<size_t>(length) + 1);
  reader.read(sample, ids.data());
  return ids;
}

TEST(SampleReader, UnshuffledReadsTheCorpusInOrderSharingOneToken) {
  const TemporaryFolder folder;
  const TokenFile corpus(counting_corpus(folder, 10));
  const SampleReader reader(corpus, 3, /*seed=*/1, /*shuffle=*/false);
  EXPECT_EQ(reader.samples_per_epoch(), 3);
  EXPECT_EQ(read_sample(reader, 0, 3), (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(read_sample(reader, 2, 3), (std::vector<int64_t>{6, 7, 8, 9}));
  EXPECT_EQ(read_sample(reader, 3, 3), read_sample(reader, 0, 3));
}

TEST(SampleReader, UsesEachSampleOfAnEpochOnceWhateverTheLengths) {
  const TemporaryFolder folder;
  for (const int64_t tokens : {9, 10, 16, 17, 40, 1000}) {
    const TokenFile corpus(counting_corpus(folder, tokens));
    for (const int64_t length : {1, 3, 8}) {
      const SampleReader reader(corpus, length, /*seed=*/5, /*shuffle=*/true);
      const int64_t samples = reader.samples_per_epoch();
      ASSERT_GE(samples, 1);
      EXPECT_GE((samples + 2) * length, tokens - 1);  // fewer than 2 S tokens sit out
      for (int64_t epoch = 0; epoch < 4; ++epoch) {
        std::set<int64_t> begins;
        for (int64_t i = 0; i < samples; ++i) begins.insert(reader.begin_of(epoch * samples + i));
        ASSERT_EQ(static_cast<int64_t>(begins.size()), samples) << tokens << " tokens, length " << length;
        ASSERT_GE(*begins.begin(), 0);
        ASSERT_LT(*begins.begin(), length);
        ASSERT_EQ(*begins.rbegin() - *begins.begin(), (samples - 1) * length);
        ASSERT_LT(*begins.rbegin() + length, tokens);
      }
    }
  }
}

TEST(SampleReader, EpochsDifferInOrderAndInTheirCuts) {
  const TemporaryFolder folder;
  const TokenFile corpus(counting_corpus(folder, 2000));
  const SampleReader reader(corpus, 10, /*seed=*/5, /*shuffle=*/true);
  std::set<int64_t> first_positions;
  for (int64_t epoch = 0; epoch < 20; ++epoch) first_positions.insert(reader.begin_of(epoch * reader.samples_per_epoch()) % 10);
  EXPECT_GT(first_positions.size(), 4u);
  const SampleReader other_seed(corpus, 10, /*seed=*/6, /*shuffle=*/true);
  int64_t same = 0;
  for (int64_t sample = 0; sample < 100; ++sample) same += reader.begin_of(sample) == other_seed.begin_of(sample) ? 1 : 0;
  EXPECT_LT(same, 20);
}

TEST(SampleReader, ACorpusShorterThanOneSampleIsADataError) {
  const TemporaryFolder folder;
  const TokenFile corpus(counting_corpus(folder, 8));
  EXPECT_NO_THROW(SampleReader(corpus, 7, 1, true));
  EXPECT_EQ(read_sample(SampleReader(corpus, 7, 1, true), 5, 7).back(), 7);
  EXPECT_THROW(SampleReader(corpus, 8, 1, true), DataError);
}

DataStreamOptions stream_options(int rank, int ranks, int64_t global_batch, int64_t micro_batch, bool prefetch = false) {
  DataStreamOptions options;
  options.sequence_length = 4;
  options.vocabulary = 100000;
  options.global_batch = global_batch;
  options.micro_batch = micro_batch;
  options.seed = 11;
  options.rank = rank;
  options.ranks = ranks;
  options.prefetch = prefetch;
  return options;
}

/// The first tokens of one step's sequences of one rank; checks that each is a run of S + 1 tokens with its targets one further.
void append_sequences(const std::vector<MicroBatch>& step, std::map<int64_t, std::vector<int64_t>>& by_micro_step) {
  for (const MicroBatch& batch : step) {
    ASSERT_EQ(batch.tokens.sizes(), batch.targets.sizes());
    ASSERT_EQ(batch.tokens.size(1), 4);
    const auto* tokens = batch.tokens.data_ptr<int64_t>();
    const auto* targets = batch.targets.data_ptr<int64_t>();
    for (int64_t i = 0; i < batch.tokens.numel(); ++i) ASSERT_EQ(targets[i], tokens[i] + 1);
    for (int64_t i = 0; i < batch.tokens.size(0); ++i) by_micro_step[batch.micro_step].push_back(tokens[4 * i]);
  }
}

/// What all ranks together read from `start` on, in order.
std::vector<int64_t> global_order(const std::filesystem::path& prefix, int64_t start, int steps, int64_t global_batch, int ranks,
                                  int64_t micro_batch) {
  std::vector<std::unique_ptr<DataStream>> streams;
  for (int rank = 0; rank < ranks; ++rank) {
    streams.push_back(std::make_unique<DataStream>(prefix, stream_options(rank, ranks, global_batch, micro_batch), DataCursor{start}));
  }
  std::vector<int64_t> order;
  for (int step = 0; step < steps; ++step) {
    std::map<int64_t, std::vector<int64_t>> by_micro_step;
    for (const auto& stream : streams) append_sequences(stream->next_step(), by_micro_step);
    for (const auto& [micro_step, sequences] : by_micro_step) order.insert(order.end(), sequences.begin(), sequences.end());
  }
  return order;
}

TEST(DataStream, GlobalBatchesAreTheSameForEveryWorldSize) {
  const TemporaryFolder folder;
  const auto prefix = counting_corpus(folder, 500);
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  for (int round = 0; round < 15; ++round) {
    const int64_t global_batch = 1 + random() % 12;
    const auto expected = global_order(prefix, 0, 5, global_batch, 1, global_batch);
    ASSERT_EQ(static_cast<int64_t>(expected.size()), 5 * global_batch);
    const int ranks = 1 + static_cast<int>(random() % 5);
    const int64_t micro_batch = 1 + random() % 5;
    ASSERT_EQ(global_order(prefix, 0, 5, global_batch, ranks, micro_batch), expected)
        << "seed " << seed << ": batch " << global_batch << ", ranks " << ranks << ", micro batch " << micro_batch;
  }
}

TEST(DataStream, ResumesAtAnyCursorWithAnotherWorldSizeAndBatch) {
  const TemporaryFolder folder;
  const auto prefix = counting_corpus(folder, 200);  // 49 samples an epoch: the steps below cross epochs
  const auto whole = global_order(prefix, 0, 120, 1, 1, 1);
  for (const int64_t cursor : {0, 1, 7, 48, 49, 50, 97}) {
    const auto resumed = global_order(prefix, cursor, 3, 7, 3, 2);
    EXPECT_TRUE(std::equal(resumed.begin(), resumed.end(), whole.begin() + cursor)) << "cursor " << cursor;
  }
}

TEST(DataStream, CursorCountsStepsHandedOutNotStepsReadAhead) {
  const TemporaryFolder folder;
  DataStream stream(counting_corpus(folder, 500), stream_options(1, 2, 6, 2, /*prefetch=*/true), DataCursor{12});
  EXPECT_EQ(stream.cursor().next_sample, 12);
  stream.next_step();
  stream.next_step();
  EXPECT_EQ(stream.cursor().next_sample, 24);
}

TEST(DataStream, MarksTheLastMicroBatchAndKeepsEmptyOnes) {
  const TemporaryFolder folder;
  DataStream stream(counting_corpus(folder, 500), stream_options(3, 4, 7, 1), DataCursor{});
  const auto step = stream.next_step();
  ASSERT_EQ(step.size(), 2u);
  EXPECT_EQ(step[0].global_sequences, 4);
  EXPECT_EQ(step[1].global_sequences, 3);
  EXPECT_FALSE(step[0].is_last);
  EXPECT_TRUE(step[1].is_last);
  EXPECT_EQ(step[1].tokens.sizes(), (at::IntArrayRef{0, 4}));
}

TEST(DataStream, ReadingAheadChangesNothing) {
  const TemporaryFolder folder;
  const auto prefix = counting_corpus(folder, 500);
  DataStream plain(prefix, stream_options(0, 2, 5, 2, /*prefetch=*/false), DataCursor{3});
  DataStream ahead(prefix, stream_options(0, 2, 5, 2, /*prefetch=*/true), DataCursor{3});
  for (int step = 0; step < 100; ++step) {
    std::map<int64_t, std::vector<int64_t>> expected;
    std::map<int64_t, std::vector<int64_t>> got;
    append_sequences(plain.next_step(), expected);
    append_sequences(ahead.next_step(), got);
    ASSERT_EQ(got, expected) << step;
  }
}

TEST(DataStream, EndsCleanlyWhileTheThreadReads) {
  const TemporaryFolder folder;
  const auto prefix = counting_corpus(folder, 500);
  for (int round = 0; round < 50; ++round) {
    DataStream stream(prefix, stream_options(0, 1, 64, 8, /*prefetch=*/true), DataCursor{});
    if (round % 2 == 0) stream.next_step();
  }
}

TEST(DataStream, ReadsAtMostTwoStepsAhead) {
  const TemporaryFolder folder;
  std::atomic<int> pinned = 0;
  auto options = stream_options(0, 1, 1, 1, /*prefetch=*/true);
  options.pin = [&](const at::Tensor& tensor) {
    ++pinned;
    return tensor;
  };
  DataStream stream(counting_corpus(folder, 500), options, DataCursor{});
  stream.next_step();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // long enough for hundreds of steps, were there no limit
  EXPECT_LE(pinned, 2 * 3);                                     // tokens and targets of one step handed out and two waiting
}

// Position p holds p, so that a vocabulary of 400 is first left by the sample that covers position 400.
TEST(DataStream, AnIdOutsideTheVocabularyIsADataErrorAfterTheGoodSteps) {
  const TemporaryFolder folder;
  const auto prefix = counting_corpus(folder, 500);
  for (const bool prefetch : {false, true}) {
    auto options = stream_options(0, 1, 1, 1, prefetch);
    options.shuffle = false;
    options.vocabulary = 400;
    DataStream stream(prefix, options, DataCursor{90});
    for (int64_t sample = 90; sample < 99; ++sample) EXPECT_NO_THROW(stream.next_step()) << sample;
    for (int again = 0; again < 2; ++again) {
      try {
        stream.next_step();
        FAIL() << "id 400 passed";
      } catch (const DataError& error) {
        EXPECT_NE(std::string(error.what()).find("count.bin: the id at position 400 (400)"), std::string::npos) << error.what();
      }
    }
  }
}

TEST(DataStream, ANegativeCursorIsADataError) {
  const TemporaryFolder folder;
  EXPECT_THROW(DataStream(counting_corpus(folder, 50), stream_options(0, 1, 1, 1), DataCursor{-1}), DataError);
}

DataStreamOptions eight_of_sixteen_tokens() {
  DataStreamOptions options;
  options.sequence_length = 16;
  options.vocabulary = 100;
  options.global_batch = options.micro_batch = 8;
  return options;
}

TEST(DataStream, ACorpusThatIsCutWhileItIsReadIsAnErrorThatNamesItAndNoSignal) {
  const TemporaryFolder folder;
  constexpr int kDocuments = 5000;
  TokenFileWriter writer(folder / "corpus", 100);
  for (int document = 0; document < kDocuments; ++document) {
    writer.add(std::vector<int32_t>(40, document % 100));
    writer.end_document();
  }
  writer.finish();
  DataStream stream(folder / "corpus", eight_of_sixteen_tokens(), {});
  stream.next_step();
  std::filesystem::resize_file(folder / "corpus.bin", 100);
  const auto read_on = [&] {
    for (int step = 0; step < 10; ++step) stream.next_step();
  };
  for (int again = 0; again < 2; ++again) {
    try {
      read_on();
      ADD_FAILURE() << "must throw";
    } catch (const IoError& error) {
      const std::string said = error.what();
      EXPECT_NE(said.find((folder / "corpus.bin").string() + ": it now ends before byte"), std::string::npos) << said;
      EXPECT_NE(said.find("had 400,000 bytes when it was opened: it was cut while it was in use"), std::string::npos) << said;
    }
  }
}

TEST(DataStream, ACorpusThatIsReplacedUnderItsNameStaysTheOldOneForWhoReadsIt) {
  const TemporaryFolder folder;
  const auto build = [&](int32_t id) {
    TokenFileWriter writer(folder / "corpus", 100);
    writer.add(std::vector<int32_t>(4000, id));
    writer.end_document();
    writer.finish();
  };
  build(7);
  DataStream stream(folder / "corpus", eight_of_sixteen_tokens(), {});
  build(8);
  for (int step = 0; step < 6; ++step) EXPECT_EQ(stream.next_step()[0].tokens.min().item<int64_t>(), 7);
}

}  // namespace
}  // namespace pimoe
