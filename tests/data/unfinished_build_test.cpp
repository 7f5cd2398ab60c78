#include "data/unfinished_build.h"

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file_io.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Json some_identity() { return {{"settings", {{"--seed", 1}, {"--text-key", "text"}}}, {"inputs", {{"/a", 10, 5}, {"/b", 20, 6}}}}; }

BuildState some_state() {
  BuildState state;
  state.file = 3;
  state.place = {17, 2, true};
  state.input_bytes = 99;
  state.skipped = 4;
  state.empty = 8;
  state.documents = 12;
  state.parts = {{"training", {1000, 9, 5}}, {"validation", {70, 3, 0}}};
  return state;
}

class Unfinished : public ::testing::Test {
 protected:
  std::string refusal(const Json& identity, bool restart = false) {
    try {
      const UnfinishedBuild build(folder_ / "corpus", identity, restart, log_);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  bool is_left() const { return fs::exists(folder_ / "corpus.unfinished"); }

  TemporaryFolder folder_;
  Logger log_;
};

TEST_F(Unfinished, WhatWasSavedIsFoundAgain) {
  {
    UnfinishedBuild build(folder_ / "corpus", some_identity(), false, log_);
    EXPECT_FALSE(build.found());
    build.keep_model("a tokenizer");
    build.save(some_state());
  }
  const UnfinishedBuild build(folder_ / "corpus", some_identity(), false, log_);
  ASSERT_TRUE(build.found());
  const BuildState& state = *build.found();
  EXPECT_EQ(state.file, 3u);
  EXPECT_EQ(state.place.offset, 17);
  EXPECT_EQ(state.place.line, 2);
  EXPECT_TRUE(state.place.in_document);
  EXPECT_EQ(state.input_bytes, 99);
  EXPECT_EQ(state.skipped, 4);
  EXPECT_EQ(state.empty, 8);
  EXPECT_EQ(state.documents, 12);
  EXPECT_EQ(state.parts.at("training").tokens, 1000);
  EXPECT_EQ(state.parts.at("training").documents, 9);
  EXPECT_EQ(state.parts.at("training").open_tokens, 5);
  EXPECT_EQ(state.parts.at("validation").tokens, 70);
  EXPECT_FALSE(state.facts);
  EXPECT_EQ(build.model(), "a tokenizer");
}

TEST_F(Unfinished, TheFactsOfAWholeBuildAreKeptToTheBit) {
  BuildState state = some_state();
  state.facts.emplace();
  state.facts->unigram_entropy = 1.0 / 3;
  state.facts->tokens = int64_t{1} << 60;
  state.facts->largest_id = 7;
  state.facts->learned = 11;
  state.facts->validation_learned = 13;
  state.facts->empty_documents = 17;
  UnfinishedBuild(folder_ / "corpus", some_identity(), false, log_).save(state);
  const UnfinishedBuild build(folder_ / "corpus", some_identity(), false, log_);
  ASSERT_TRUE(build.found() && build.found()->facts);
  EXPECT_EQ(build.found()->facts->unigram_entropy, 1.0 / 3);
  EXPECT_EQ(build.found()->facts->tokens, int64_t{1} << 60);
  EXPECT_EQ(build.found()->facts->largest_id, 7);
  EXPECT_EQ(build.found()->facts->learned, 11);
  EXPECT_EQ(build.found()->facts->validation_learned, 13);
  EXPECT_EQ(build.found()->facts->empty_documents, 17);
}

TEST_F(Unfinished, WhatSavedNothingLeavesNothing) {
  EXPECT_EQ(refusal(some_identity()), "");
  EXPECT_FALSE(is_left());
}

TEST_F(Unfinished, AnotherBuildIsRefusedByWhatDiffersFirst) {
  UnfinishedBuild(folder_ / "corpus", some_identity(), false, log_).save(some_state());
  const auto refused = [&](const Json& identity, const std::string& words) {
    const std::string said = refusal(identity);
    EXPECT_NE(said.find(words), std::string::npos) << said;
    EXPECT_NE(said.find("--restart"), std::string::npos) << said;
    EXPECT_TRUE(is_left());
  };
  Json other = some_identity();
  other["settings"]["--seed"] = 2;
  refused(other, "--seed was 1, and is 2 now");
  other = some_identity();
  other["settings"].erase("--seed");
  refused(other, "it has other settings");
  other = some_identity();
  other["inputs"][1][2] = 7;
  refused(other, "the input /b has changed since");
  other = some_identity();
  other["inputs"][0][0] = "/c";
  refused(other, "its input has /a where this one has /c");
  other = some_identity();
  other["inputs"].push_back({"/c", 1, 1});
  refused(other, "its input was 2 files, and is 3 now");
  EXPECT_EQ(refusal(other, /*restart=*/true), "");
  EXPECT_FALSE(is_left());
}

TEST_F(Unfinished, DamageIsNamedAndStays) {
  UnfinishedBuild(folder_ / "corpus", some_identity(), false, log_).save(some_state());
  for (const char* content : {"{\"version\": 2}", "{\"file\": 1}", "[", ""}) {
    folder_.write("corpus.unfinished/state.json", content);
    const std::string said = refusal(some_identity());
    EXPECT_NE(said.find("corpus.unfinished, what an earlier build left, is damaged"), std::string::npos) << content << ": " << said;
    EXPECT_TRUE(is_left());
  }
  folder_.write("corpus.unfinished/build.json", "{}");
  EXPECT_NE(refusal(some_identity()).find("damaged"), std::string::npos);
  EXPECT_EQ(refusal(some_identity(), /*restart=*/true), "");
}

TEST_F(Unfinished, OneBuildAtATime) {
  UnfinishedBuild build(folder_ / "corpus", some_identity(), false, log_);
  EXPECT_NE(refusal(some_identity()).find("another process builds a corpus of this name now"), std::string::npos);
  EXPECT_NE(refusal(some_identity(), /*restart=*/true).find("another process builds"), std::string::npos);
  build.save(some_state());
  build.remove();
  EXPECT_FALSE(is_left());
  EXPECT_EQ(refusal(some_identity()), "");
}

}  // namespace
}  // namespace pimoe
