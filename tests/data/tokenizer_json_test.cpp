#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/errors.h"
#include "base/text.h"
#include "data/byte_level_tokenizer.h"
#include "data/pair_merges.h"
#include "data/tokenizer.h"
#include "support/temporary_folder.h"

namespace pimoe {
namespace {

using Json = nlohmann::ordered_json;

using Ids = std::vector<int32_t>;

void add_token(Json& json, const std::string& content, const Json& more = Json::object()) {
  Json token = {{"id", json["added_tokens"].back()["id"].get<int>() + 1}, {"content", content}, {"special", false}, {"normalized", false}};
  token.update(more);
  json["added_tokens"].push_back(token);
}

Tokenizer tokenizer_of(const Json& json) { return Tokenizer(json.dump(), "t.json"); }

std::string why_refused(const std::string& content) {
  try {
    static_cast<void>(Tokenizer(content, "t.json"));
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}
std::string why_refused(const Json& json) { return why_refused(json.dump()); }

Ids bytes_of(const std::string& text) {
  Ids ids;
  for (const char byte : text) ids.push_back(static_cast<unsigned char>(byte));
  return ids;
}

// Ranks: he, ll, hell, Ġw, hello. "hello" is 260 and " w" 259.
const std::vector<std::pair<std::string, std::string>> kHello = {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"Ġ", "w"}, {"hell", "o"}};

TEST(TokenizerJson, MergesTheLowestRankFirst) {
  const Tokenizer tokenizer = tokenizer_of(byte_level(kHello));
  EXPECT_EQ(tokenizer.vocabulary(), 262);
  EXPECT_EQ(tokenizer.end_of_document(), 261);
  EXPECT_EQ(tokenizer.encode("hello"), (Ids{260}));
  EXPECT_EQ(tokenizer.encode("hell world"), (Ids{258, 259, 'o', 'r', 'l', 'd'}));
  EXPECT_EQ(tokenizer.encode("lll"), (Ids{257, 'l'}));  // the leftmost of equal ranks
  EXPECT_EQ(tokenizer.encode(""), Ids{});
  EXPECT_EQ(tokenizer.piece(259), "Ġw");
  EXPECT_EQ(tokenizer.text(259), " w");
  EXPECT_EQ(tokenizer.text(261), "");
  EXPECT_THROW(tokenizer.text(262), DataError);
}

TEST(TokenizerJson, MergesAreReadInBothSpellings) {
  Json pairs = byte_level(kHello);
  for (Json& merge : pairs["model"]["merges"]) {
    const std::vector<std::string> parts = split(merge.get<std::string>(), ' ');
    merge = {parts[0], parts[1]};
  }
  EXPECT_EQ(tokenizer_of(pairs).encode("hello hell"), tokenizer_of(byte_level(kHello)).encode("hello hell"));
}

TEST(TokenizerJson, EveryBytePassesWhateverItsPlace) {
  const Tokenizer tokenizer = tokenizer_of(byte_level(kHello));
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string text(random() % 40, '\0');
    for (char& byte : text) byte = static_cast<char>(random());
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << "round " << round;
  }
  // What is no UTF-8 parts words: the bytes beside it are not merged over it.
  EXPECT_EQ(tokenizer.encode("he\xFFllo"), (Ids{256, 0xFF, 257, 'o'}));
  EXPECT_EQ(tokenizer.encode("\xED\xA0\x80"), (Ids{0xED, 0xA0, 0x80}));  // a surrogate
}

TEST(TokenizerJson, AMegabyteWithoutABreakTakesNoQuadraticTime) {
  const Tokenizer tokenizer = tokenizer_of(byte_level({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}, {"Ġ", "Ġ"}}));
  EXPECT_EQ(tokenizer.encode(std::string(1 << 20, 'a')), Ids(1 << 17, 258));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(std::string(1 << 20, ' '))), std::string(1 << 20, ' '));
  Json json = byte_level();
  json["normalizer"] = {{"type", "NFC"}};
  std::string marks = "e";
  for (int i = 0; i < 200'000; ++i) marks += i % 2 == 0 ? "\u0301" : "\u0316";  // the second belongs before the first
  EXPECT_EQ(tokenizer_of(json).encode(marks).size(), marks.size() - 1);         // é is two bytes, e and its mark three
}

TEST(TokenizerJson, LongAndShortWordsAreMergedAlike) {
  PairMerges merges;
  std::mt19937 random(3);
  std::map<std::pair<int32_t, int32_t>, uint32_t> ranks;
  uint32_t rank = 0;
  for (int32_t left = 0; left < 30; ++left) {
    for (int32_t right = 0; right < 30; ++right) {
      if (random() % 3 != 0) continue;
      ranks[{left, right}] = rank;
      merges.add(left, right, rank++, left < 4 && right < 4 ? 4 + (left * 4 + right) : 20 + (left + right) % 10);
    }
  }
  // By the definition; a pair alone tells whether it may be merged, its rank is known here.
  const auto plain = [&](Ids word) {
    while (true) {
      size_t best = word.size();
      uint32_t best_rank = UINT32_MAX;
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        const auto found = ranks.find({word[i], word[i + 1]});
        if (found != ranks.end() && found->second < best_rank) {
          best = i;
          best_rank = found->second;
        }
      }
      if (best == word.size()) return word;
      Ids pair = {word[best], word[best + 1]};
      merges.apply(pair);
      word[best] = pair[0];
      word.erase(word.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    }
  };
  for (int round = 0; round < 200; ++round) {
    Ids word(33 + random() % 200);
    for (int32_t& symbol : word) symbol = static_cast<int32_t>(random() % 4);
    Ids merged = word;
    merges.apply(merged);
    ASSERT_EQ(merged, plain(word));
  }
}

TEST(TokenizerJson, AddedTokensAreFoundInTheTextTheLongestFirst) {
  Json json = byte_level(kHello);  // <|endoftext|> is 261
  add_token(json, "<|end");        // 262
  add_token(json, "<m>", {{"lstrip", true}, {"rstrip", true}});
  add_token(json, "go", {{"single_word", true}});  // 264
  const Tokenizer tokenizer = tokenizer_of(json);
  EXPECT_EQ(tokenizer.encode("hello<|endoftext|>hello<|endo"), (Ids{260, 261, 260, 262, 'o'}));
  EXPECT_EQ(tokenizer.encode("a \t<m>\n b"), (Ids{'a', 263, 'b'}));
  EXPECT_EQ(tokenizer.encode("go go, ergo"), (Ids{264, ' ', 264, ',', ' ', 'e', 'r', 'g', 'o'}));
  EXPECT_EQ(tokenizer.decode({260, 261, 262}), "hello<|end");
}

TEST(TokenizerJson, NormalizationComesBeforeTheTokensThatAskForIt) {
  Json json = byte_level();
  json["normalizer"] = {{"type", "Sequence"},
                        {"normalizers", {{{"type", "NFC"}}, {{"type", "Replace"}, {"pattern", {{"Regex", "q+"}}}, {"content", "k"}}}}};
  add_token(json, "caf\u00e9", {{"normalized", true}});  // 257
  add_token(json, "qq");                                 // 258
  const Tokenizer tokenizer = tokenizer_of(json);
  EXPECT_EQ(tokenizer.encode("cafe\u0301"), (Ids{257}));
  EXPECT_EQ(tokenizer.encode("qqq"), (Ids{258, 'k'}));
  EXPECT_EQ(tokenizer.encode("\u1100\u1161\u11a8"), bytes_of("\uac01"));  // Hangul
}

TEST(TokenizerJson, SplitsByPatternsInEveryBehavior) {
  // All bytes of one word merge: the tokens show the words.
  Json json = byte_level({{"-", "-"}, {"a", "b"}, {"ab", "-"}, {"-", "ab"}, {"--", "ab"}, {"ab", "--"}});
  const auto words = [&](const char* behavior, bool invert = false) {
    json["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers",
                              {{{"type", "Split"}, {"pattern", {{"String", "-"}}}, {"behavior", behavior}, {"invert", invert}},
                               {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    const Tokenizer tokenizer = tokenizer_of(json);
    std::string cut;
    for (const int32_t id : tokenizer.encode("ab--ab-")) cut += tokenizer.text(id) + "|";
    return cut;
  };
  EXPECT_EQ(words("Isolated"), "ab|-|-|ab|-|");
  EXPECT_EQ(words("Removed"), "ab|ab|");
  EXPECT_EQ(words("Removed", true), "-|-|-|");
  EXPECT_EQ(words("MergedWithPrevious"), "ab-|-|ab-|");
  EXPECT_EQ(words("MergedWithNext"), "ab|-|-ab|-|");
  EXPECT_EQ(words("Contiguous"), "ab|--|ab|-|");
}

TEST(TokenizerJson, ASpaceIsPutInFrontOfADocumentAlone) {
  Json json = byte_level(kHello);
  json["pre_tokenizer"]["add_prefix_space"] = true;
  const Tokenizer tokenizer = tokenizer_of(json);
  EXPECT_EQ(tokenizer.encode("wo"), (Ids{259, 'o'}));
  EXPECT_EQ(tokenizer.encode(" wo"), (Ids{259, 'o'}));
  EXPECT_EQ(tokenizer.encode("wo", /*starts_document=*/false), (Ids{'w', 'o'}));
}

TEST(TokenizerJson, IgnoreMergesTakesWholeWordsOfTheVocabulary) {
  Json json = byte_level(kHello);
  json["model"]["vocab"]["wow"] = 400;
  json["added_tokens"][0]["id"] = 401;
  EXPECT_EQ(tokenizer_of(json).encode("wow"), (Ids{'w', 'o', 'w'}));
  json["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokenizer_of(json).encode("wow"), (Ids{400}));
}

/// Llama 2's: characters, and bytes for those that have no piece. 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes.
Json byte_fallback() {
  Json json = byte_level();
  json["added_tokens"] = Json::array();
  json["model"]["vocab"] = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}};
  for (int byte = 0; byte < 256; ++byte) {
    static constexpr char kDigits[] = "0123456789ABCDEF";
    json["model"]["vocab"][concat("<0x", kDigits[byte >> 4], kDigits[byte & 15], ">")] = 3 + byte;
  }
  int id = 259;
  for (const char* piece : {"▁", "a", "b", "▁a"}) json["model"]["vocab"][piece] = id++;
  json["model"]["merges"] = {"▁ a"};
  json["model"]["byte_fallback"] = true;
  json["model"]["unk_token"] = "<unk>";
  json["pre_tokenizer"] = nullptr;
  json["normalizer"] = {
      {"type", "Sequence"},
      {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
  json["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  for (const char* special : {"<unk>", "<s>", "</s>"}) {
    json["added_tokens"].push_back({{"id", json["added_tokens"].size()}, {"content", special}, {"special", true}, {"normalized", false}});
  }
  return json;
}

TEST(TokenizerJson, WhatHasNoPieceIsWrittenInBytes) {
  const Tokenizer tokenizer = tokenizer_of(byte_fallback());
  EXPECT_EQ(tokenizer.end_of_document(), 2);
  EXPECT_EQ(tokenizer.encode("a b\u00e9"), (Ids{262, 259, 261, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer.encode("a", /*starts_document=*/false), (Ids{260}));
  EXPECT_EQ(tokenizer.encode("a</s>a"), (Ids{262, 2, 262}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" a b\u00e9 \xFF")), " a b\u00e9 \xFF");
  Json json = byte_fallback();
  json["model"]["vocab"].erase("<0x41>");
  EXPECT_NE(why_refused(json).find("byte_fallback needs the piece <0x41>"), std::string::npos) << why_refused(json);
}

TEST(TokenizerJson, TheEndOfADocumentIsFoundAsTransformersFindsIt) {
  const TemporaryFolder folder;
  Json json = byte_level();
  add_token(json, "<|im_end|>", {{"special", true}});  // 257
  add_token(json, "stop", {{"special", true}});        // 258
  const auto file = folder.write("tokenizer.json", json.dump());
  EXPECT_EQ(Tokenizer(file).end_of_document(), 256);  // <|endoftext|> by its name
  folder.write("config.json", R"({"eos_token_id": [258, 257]})");
  EXPECT_EQ(Tokenizer(file).end_of_document(), 258);
  folder.write("generation_config.json", R"({"eos_token_id": 257})");
  EXPECT_EQ(Tokenizer(file).end_of_document(), 257);
  folder.write("special_tokens_map.json", R"({"eos_token": {"content": "stop"}})");
  EXPECT_EQ(Tokenizer(file).end_of_document(), 258);
  folder.write("tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
  EXPECT_EQ(Tokenizer(file).end_of_document(), 257);
  folder.write("tokenizer_config.json", R"({"eos_token": "<eot>"})");
  try {
    static_cast<void>(Tokenizer(file));
    FAIL() << "accepted";
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("tokenizer_config.json: eos_token (<eot>) is no token of"), std::string::npos) << error.what();
  }
  Json none = byte_level();
  none["added_tokens"][0]["content"] = "<|pad|>";
  EXPECT_NE(why_refused(none).find("has no end-of-document token"), std::string::npos) << why_refused(none);
}

TEST(TokenizerJson, WhatIsNotImplementedIsRefusedByName) {
  const auto changed = [](const char* pointer, const Json& value) {
    Json json = byte_level(kHello);
    json[Json::json_pointer(pointer)] = value;
    return why_refused(json);
  };
  const auto says = [](const std::string& message, const std::string& words) {
    EXPECT_NE(message.find(words), std::string::npos) << message;
    EXPECT_NE(message.find("t.json"), std::string::npos) << message;
  };
  says(changed("/model/type", "Unigram"), "model is of the type 'Unigram', which is not implemented; BPE is");
  says(changed("/normalizer", {{"type", "Lowercase"}}), "normalizer is of the type 'Lowercase', which is not implemented");
  says(changed("/pre_tokenizer", {{"type", "Metaspace"}}), "pre_tokenizer is of the type 'Metaspace', which is not implemented");
  says(changed("/decoder", {{"type", "WordPiece"}}), "decoder is of the type 'WordPiece', which is not implemented");
  says(changed("/decoder", nullptr), "decoder is missing");
  says(changed("/post_processor", {{"type", "BertProcessing"}}),
       "post_processor is of the type 'BertProcessing', which is not implemented");
  says(changed("/model/dropout", 0.1), "model.dropout (0.1) is not implemented");
  says(changed("/model/end_of_word_suffix", "</w>"), "model.end_of_word_suffix (\"</w>\") is not implemented");
  says(changed("/model/merges/0", "h e l"), "model.merges[0] (\"h e l\") must be \"a b\" or [\"a\", \"b\"]");
  says(changed("/model/merges/0", "h x"), "needs the piece 'hx', which is not in vocab");
  says(changed("/model/vocab/h", -1), "model.vocab of 'h' (-1) must be a whole number in [0, 16777216)");
  says(changed("/model/vocab/h", 5), "the id 5 is both");
  says(changed("/model/vocab/h", 100'000), "most ids would have none");
  says(changed("/model/ignore_merge", true),
       "model has the key 'ignore_merge', which is not known here; the nearest that is, is ignore_merges");
  says(changed("/model/unk_token", "<unk>"), "model.unk_token (<unk>) is not in vocab");
  says(changed("/added_tokens/0/content", ""), "added_tokens[0].content must not be empty");
  says(changed("/version", "2.0"), "version (2.0) must be 1.0");
  says(why_refused(std::string("{")), "is not JSON");
  says(why_refused(std::string("{\"model\": {\"vocab\": {\"a\": 1, \"a\": 2}}}")), "has the key 'a' twice in one object");
  const auto pattern = [&](const std::string& expression) {
    return changed("/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", expression}}}, {"behavior", "Isolated"}});
  };
  says(pattern("a\\b"), "pre_tokenizer.pattern.Regex: the regular expression has \\b, which is not supported");
  says(pattern("[a&&b]"), "&& inside of [ ]");
  says(pattern("(?<n>a)"), "(?<n");
  says(pattern("a{2,3}+"), "{n,m}+");
  says(pattern("(a"), "is refused: missing closing parenthesis");
  says(pattern("\\p{Klingon}"), "is refused");
}

TEST(TokenizerJson, AnExpressionWithoutEndIsGivenUp) {
  Json json = byte_level();
  json["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(x+x+)+[yz]"}}}, {"behavior", "Isolated"}};
  json["decoder"] = {{"type", "Fuse"}};
  const Tokenizer tokenizer = tokenizer_of(json);
  EXPECT_THROW(tokenizer.encode(std::string(100, 'x')), DataError);
  EXPECT_EQ(tokenizer.encode("x").size(), 1u);  // and the next text is encoded
}

TEST(TokenizerJson, TenThousandDamagedFilesAreReadOrRefusedWithAReason) {
  const std::vector<std::string> sources = {byte_level(kHello).dump(), byte_fallback().dump()};
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  int refused = 0;
  for (int round = 0; round < 10'000; ++round) {
    std::string text = sources[static_cast<size_t>(round) % sources.size()];
    for (uint32_t changes = 1 + random() % 4; changes > 0 && !text.empty(); --changes) {
      const size_t at = random() % text.size();
      switch (random() % 5) {
        case 0: text[at] = static_cast<char>(random()); break;
        case 1: text.erase(at, 1 + random() % 20); break;
        case 2: text.insert(at, text.substr(random() % text.size(), random() % 40)); break;
        case 3: text[at] = "\"{}[],:0 tfn"[random() % 12]; break;
        default: text.resize(at + 1);
      }
    }
    try {
      const Tokenizer tokenizer(text, "t.json");
      const Ids ids = tokenizer.encode("hello a<s> \u00e9\xFF");
      ASSERT_LE(ids.size(), 64u);
      static_cast<void>(tokenizer.decode(ids));
    } catch (const DataError& error) {
      ++refused;
      ASSERT_NE(std::string(error.what()).find("t.json"), std::string::npos) << error.what() << " seed " << seed << " round " << round;
    }
  }
  EXPECT_GT(refused, 5000);
}

}  // namespace
}  // namespace pimoe
