#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/config_sample.h"
#include "base/random.h"
#include "base/text.h"

namespace pimoe {
namespace {

std::string printed(SampleConfig config) {
  return print_fields([&config](FieldVisitor& visit) { config.fields(visit); });
}

TEST(PrintFields, ReadsAsYamlWithItsExplanations) {
  EXPECT_EQ(printed(SampleConfig()), R"(run:
  directory: "runs/sample"  # where the run lives
  seed: 1234  # of everything random
  deterministic: false  # same bits each time
mesh:
  expert_parallel: auto  # ranks that share out the experts
model:
  layers: 6  # transformer blocks
  name: "small"  # for people
  moe:
    experts: 8  # experts of a layer
    choices: 2  # experts of a token
    groups: []  # kinds of experts
optimizer:
  learning_rate: 0.001  # peak
  beta1: 0.9
  offset: 0  # any number
  schedule: cosine  # cosine | linear | constant; after warm-up
checkpoint:
  every_steps: 10
log:
  every_steps: 10
)");
}

TEST(PrintFields, RoundTripsEveryKindOfField) {
  SampleConfig config;
  config.run = {"runs/x y", INT64_MIN, true};
  config.mesh.expert_parallel = 16;
  config.model = {48, "large", {128, 8, {}}};
  config.optimizer = {3e-4, 0.95, -1.0 / 3.0, Schedule::kConstant};
  EXPECT_EQ(loaded(printed(config)), config);
}

TEST(PrintFields, RoundTripsAnyText) {
  const std::vector<std::string> texts = {"",
                                          "auto",
                                          "1",
                                          "null",
                                          "~",
                                          "true",
                                          "a: b",
                                          "# not a comment",
                                          "a # b",
                                          "- a",
                                          "{a: b}",
                                          "[",
                                          "*a",
                                          "&a",
                                          "!a",
                                          "%a",
                                          "@",
                                          "`",
                                          "'",
                                          "\"",
                                          "\\",
                                          "\\n",
                                          " a ",
                                          "\n",
                                          "a\nb\n",
                                          "\r\n",
                                          "\t",
                                          "010",
                                          "\x01\x04\x1B\x7F",
                                          "Zürich",
                                          "日本語",
                                          "\xC2\x85",
                                          "\xE2\x80\xA8",
                                          "\xEF\xBB\xBF",
                                          "😀",
                                          std::string(5000, 'x'),
                                          "<<",
                                          "---",
                                          "..."};
  for (const std::string& text : texts) {
    SampleConfig config;
    config.model.name = text;
    config.run.directory = text;
    const SampleConfig read = loaded(printed(config));
    EXPECT_EQ(read.model.name, text);
    EXPECT_EQ(read.run.directory.string(), text);
  }
}

TEST(PrintFields, RoundTripsRandomTexts) {
  constexpr uint64_t kSeed = 11;
  std::mt19937_64 random(kSeed);
  for (int trial = 0; trial < 2000; ++trial) {
    SampleConfig config;
    config.model.name.clear();
    for (uint64_t length = random() % 12; length > 0; --length) config.model.name += static_cast<char>(1 + random() % 127);
    ASSERT_EQ(loaded(printed(config)).model.name, config.model.name) << "seed " << kSeed << ", trial " << trial;
  }
}

TEST(PrintFields, DoublesKeepAllTheirDigits) {
  std::vector<double> values = {
      0.1,  1e-3, 1e300,         5e-324,   std::numeric_limits<double>::max(), std::numeric_limits<double>::min(), -0.0,
      1e15, 1e16, 123456789.125, 1.0 / 3.0};
  for (uint64_t i = 0; i < 2000; ++i) {
    double value = 0;
    const uint64_t bits = random_bits(5, i);
    static_assert(sizeof value == sizeof bits);
    std::memcpy(&value, &bits, sizeof value);
    if (std::isfinite(value)) values.push_back(value);
  }
  for (const double value : values) {
    SampleConfig config;
    config.optimizer.offset = value;
    const double read = loaded(printed(config)).optimizer.offset;
    EXPECT_EQ(read, value);
    EXPECT_EQ(std::signbit(read), std::signbit(value));
  }
}

TEST(PrintFields, PrintingChangesNothing) {
  SampleConfig config;
  config.optimizer.schedule = Schedule::kLinear;
  const SampleConfig before = config;
  print_fields([&config](FieldVisitor& visit) { config.fields(visit); });
  EXPECT_EQ(config, before);
}

}  // namespace
}  // namespace pimoe
