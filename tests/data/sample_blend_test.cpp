#include "data/sample_blend.h"

#include <gtest/gtest.h>

#include <set>

#include "base/errors.h"
#include "data/data_stream.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

constexpr int64_t kLength = 4;
constexpr int64_t kVocabulary = 100'000;

/// A corpus whose token at position p is `first` + p.
std::string corpus_from(const TemporaryFolder& folder, const std::string& name, int32_t first, int64_t tokens,
                        int64_t vocabulary = kVocabulary) {
  TokenFileWriter writer(folder / name, vocabulary);
  for (int32_t id = 0; id < tokens; ++id) writer.add({first + id});
  writer.finish();
  return (folder / name).string();
}

std::vector<int64_t> read(const SampleBlend& samples, int64_t sample) {
  std::vector<int64_t> ids(kLength + 1);
  samples.read(sample, kVocabulary, ids.data());
  return ids;
}

TEST(SampleBlend, EachCorpusIsReadInTheOrderThatItHasAlone) {
  const TemporaryFolder folder;
  const std::string one = corpus_from(folder, "one", 0, 400, /*vocabulary=*/1000);  // of 16 bits a token
  const std::string two = corpus_from(folder, "two", 70'000, 90);                   // of 32
  const SampleBlend samples({{one, 3.0}, {two, 2.0}}, kLength, /*seed=*/5, /*shuffle=*/true);
  EXPECT_STRNE(samples.corpus(0).dtype_name(), samples.corpus(1).dtype_name());
  const TokenFile first(one);
  const TokenFile second(two);
  const SampleReader alone[] = {{first, kLength, 5, true}, {second, kLength, 5, true}};
  std::vector<int64_t> ids(kLength + 1);
  int64_t next[] = {0, 0};
  for (int64_t sample = 0; sample < 500; ++sample) {
    const std::vector<int64_t> read_here = read(samples, sample);
    const size_t corpus = read_here[0] < 70'000 ? 0 : 1;
    alone[corpus].read(next[corpus]++, ids.data());
    ASSERT_EQ(read_here, ids) << "sample " << sample;
  }
  EXPECT_EQ(next[0], 300);
  EXPECT_EQ(next[1], 200);
}

// 24 tokens are 5 samples of 4: half of all samples pass through them again and again, each time all of them once.
TEST(SampleBlend, ACorpusMuchSmallerThanItsShareIsReadOverAndOverEachTimeWhole) {
  const TemporaryFolder folder;
  const SampleBlend samples({{corpus_from(folder, "large", 1000, 5000), 1.0}, {corpus_from(folder, "small", 0, 24), 1.0}}, kLength, 5,
                            true);
  const int64_t epoch = samples.samples_per_epoch(1);
  ASSERT_EQ(epoch, 5);
  std::vector<int64_t> begins;
  for (int64_t sample = 0; sample < 200; ++sample) {
    if (const int64_t first = read(samples, sample)[0]; first < 1000) begins.push_back(first);
  }
  ASSERT_EQ(begins.size(), 100u);
  for (size_t begin = 0; begin < begins.size(); begin += 5) {
    EXPECT_EQ(std::set<int64_t>(begins.begin() + begin, begins.begin() + begin + 5).size(), 5u) << "from " << begin;
  }
  EXPECT_DOUBLE_EQ(samples.epochs_before(200)[1], 20.0);
  EXPECT_DOUBLE_EQ(samples.epochs_before(200)[0], 100.0 / static_cast<double>(samples.samples_per_epoch(0)));
}

TEST(SampleBlend, AStreamIsTheSameForEveryWorldSizeAndFromEveryPosition) {
  const TemporaryFolder folder;
  const std::vector<BlendedCorpus> corpora = {{corpus_from(folder, "a", 0, 300), 0.7}, {corpus_from(folder, "b", 1000, 50), 0.3}};
  const SampleBlend samples(corpora, kLength, 11, true);
  for (const int64_t start : {0, 7, 1003}) {
    for (const int ranks : {1, 3}) {
      std::set<std::vector<int64_t>> wanted;
      std::set<std::vector<int64_t>> found;
      for (int64_t i = 0; i < 14; ++i) wanted.insert(read(samples, start + i));
      for (int rank = 0; rank < ranks; ++rank) {
        DataStreamOptions options;
        options.sequence_length = kLength;
        options.vocabulary = kVocabulary;
        options.global_batch = 7;
        options.micro_batch = 2;
        options.seed = 11;
        options.rank = rank;
        options.ranks = ranks;
        DataStream stream(corpora, options, {start});
        for (int step = 0; step < 2; ++step) {
          for (const MicroBatch& batch : stream.next_step()) {
            for (int64_t row = 0; row < batch.tokens.size(0); ++row) {
              const int64_t* tokens = batch.tokens.const_data_ptr<int64_t>() + row * kLength;
              std::vector<int64_t> ids(tokens, tokens + kLength);
              ids.push_back(batch.targets.const_data_ptr<int64_t>()[row * kLength + kLength - 1]);
              found.insert(ids);
            }
          }
        }
        EXPECT_EQ(stream.cursor().next_sample, start + 14);
      }
      EXPECT_EQ(found, wanted) << "from " << start << ", ranks " << ranks;
    }
  }
}

TEST(SampleBlend, TheCorpusThatIsWrongIsNamed) {
  const TemporaryFolder folder;
  const std::string good = corpus_from(folder, "good", 0, 100);
  const std::string brief = corpus_from(folder, "brief", 0, 4);
  const std::string high = corpus_from(folder, "high", 500, 100);
  const auto said = [](const auto& action) -> std::string {
    try {
      action();
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(said([&] { SampleBlend({{good, 1}, {brief, 1}}, kLength, 1, true); }).find("brief has 4 tokens"), std::string::npos);
  const SampleBlend samples({{good, 1}, {high, 1}}, kLength, 1, true);
  std::vector<int64_t> ids(kLength + 1);
  const std::string beyond = said([&] {
    for (int64_t sample = 0; sample < 2; ++sample) samples.read(sample, /*vocabulary=*/400, ids.data());
  });
  EXPECT_NE(beyond.find("high"), std::string::npos) << beyond;
}

std::vector<std::pair<std::string, std::string>> violations_of(const std::vector<BlendedCorpus>& blend) {
  DataConfig config;
  config.blend = blend;
  Violations violations;
  config.validate(violations);
  return violations.lines();
}

TEST(DataConfig, ABlendThatCannotBeMeantIsRefusedByItsKey) {
  EXPECT_TRUE(violations_of({}).empty());
  EXPECT_TRUE(violations_of({{"a", 1e-3}, {"b", 5}, {"c", 1e300}}).size() == 2) << "two weights beside 1e300";
  const auto twice = violations_of({{"a", 1}, {"b", 1}, {"./a", 2}});
  ASSERT_EQ(twice.size(), 1u);
  EXPECT_EQ(twice[0].first, "data.train[2].prefix");
  EXPECT_EQ(twice[0].second.find("(./a) is data.train[0] already"), 0u) << twice[0].second;
  const auto nameless = violations_of({{"", 1}});
  ASSERT_EQ(nameless.size(), 1u);
  EXPECT_EQ(nameless[0].first, "data.train[0].prefix");
  const auto tiny = violations_of({{"a", 1}, {"b", 1e-7}});
  ASSERT_EQ(tiny.size(), 1u);
  EXPECT_EQ(tiny[0].first, "data.train[1].weight");
  std::vector<BlendedCorpus> many;
  for (int i = 0; i < 257; ++i) many.push_back({std::to_string(i), 1.0});
  EXPECT_EQ(violations_of(many).at(0).first, "data.train");
}

TEST(DataConfig, TextAndListTakeEachOthersPlace) {
  const auto read = [](const std::string& yaml, const std::vector<std::string>& overrides) {
    DataConfig config;
    load_fields(yaml, "a.yaml", overrides, [&config](FieldVisitor& visit) { config.fields(visit); });
    return config;
  };
  const std::string list = "train: [{prefix: a, weight: 2}, {prefix: b}]";
  DataConfig blend = read(list, {});
  EXPECT_TRUE(blend.train.empty());
  ASSERT_EQ(blend.training().size(), 2u);
  EXPECT_EQ(blend.training()[0].weight, 2.0);
  EXPECT_EQ(blend.training()[1].prefix, "b");
  EXPECT_EQ(read(list, {"train=c"}).train, "c");
  EXPECT_EQ(read(list, {"train=c"}).training().size(), 1u);
  EXPECT_EQ(read("train: c", {"train=[{prefix: a, weight: 2}, {prefix: b, weight: 1}]"}).blend.size(), 2u);
  EXPECT_EQ(read(list, {"train.1.weight=0.5"}).blend[1].weight, 0.5);
  EXPECT_TRUE(read("train: c", {"train=[]"}).training().empty());
  const std::string printed = print_fields([&blend](FieldVisitor& visit) { blend.fields(visit); });
  EXPECT_EQ(read(printed, {}).blend.size(), 2u) << printed;
  EXPECT_EQ(read(printed, {}).blend[0].weight, 2.0) << printed;
}

TEST(DataConfig, WhatIsNoBlendIsRefusedWhereItIsWritten) {
  const auto complaint = [](const std::string& yaml, const std::vector<std::string>& overrides = {}) -> std::string {
    DataConfig config;
    try {
      load_fields(yaml, "a.yaml", overrides, [&config](FieldVisitor& visit) { config.fields(visit); });
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  for (const char* weight : {"0", "-1", ".inf", ".nan", "1e999", "heavy", "true", "[1]"}) {
    const std::string said = complaint(std::string("train: [{prefix: a, weight: ") + weight + "}]");
    EXPECT_EQ(said.find("a.yaml:1:"), 0u) << weight << ": " << said;
    EXPECT_NE(said.find("train[0].weight"), std::string::npos) << weight << ": " << said;
  }
  EXPECT_NE(complaint("train: [{prefix: a, wieght: 2}]").find("did you mean train[0].weight"), std::string::npos);
  EXPECT_NE(complaint("train: [a, b]").find("train[0]"), std::string::npos);
  EXPECT_NE(complaint("train: {prefix: a}").find("is a list"), std::string::npos);
  EXPECT_NE(complaint("train: c", {"train.0.weight=2"})
                .find("train.0: there is no element 0: train is one value, not a list. Either it is, as a whole: PREFIX"),
            std::string::npos)
      << complaint("train: c", {"train.0.weight=2"});
  EXPECT_NE(complaint("", {"train[0].prefix=a"}).find("or a blend, [{prefix: PREFIX, weight: 1}, ...]"), std::string::npos);
  EXPECT_NE(complaint("validation: [{prefix: a}]").find("validation: is one value, not a list"), std::string::npos);
}

}  // namespace
}  // namespace pimoe
