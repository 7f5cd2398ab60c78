#include "serve/page_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

namespace pimoe {
namespace {

using Tokens = std::vector<int64_t>;

/// A text's pages, whole ones remembered.
struct Text {
  Tokens tokens;
  std::vector<int64_t> pages;
};

/// Takes what is there of the tokens and the rest anew, and remembers all whole pages. @returns how many were there
int64_t write_text(PagePool& pool, Text& text, int64_t page_tokens) {
  const auto most = static_cast<int64_t>(text.tokens.size());
  PagePool::Prefix prefix = pool.find(text.tokens, most);
  pool.hold(prefix.pages);
  const auto found = static_cast<int64_t>(prefix.pages.size());
  text.pages = prefix.pages;
  for (const int64_t page : pool.take((most + page_tokens - 1) / page_tokens - found)) text.pages.push_back(page);
  uint64_t name = prefix.name;
  for (int64_t at = found; (at + 1) * page_tokens <= most; ++at) {
    name = pool.remember(name, text.tokens.data() + at * page_tokens, text.pages[static_cast<size_t>(at)]);
  }
  return found;
}

TEST(PagePool, FindsWholePagesOfAnEqualBeginningAlone) {
  PagePool pool(8, 2, true);
  Text first{{1, 2, 3, 4, 5}, {}};
  EXPECT_EQ(write_text(pool, first, 2), 0);
  EXPECT_EQ(pool.available(), 5);
  const auto found = [&](const Tokens& tokens, int64_t most) { return pool.find(tokens, most).pages.size(); };
  EXPECT_EQ(found({1, 2, 3, 4, 9}, 5), 2u);
  EXPECT_EQ(found({1, 2, 3, 4}, 3), 1u);  // no more than is asked for
  EXPECT_EQ(found({1, 2, 9, 4}, 4), 1u);
  EXPECT_EQ(found({3, 4}, 2), 0u);  // the same page, behind another beginning
  EXPECT_EQ(found({9, 2, 3, 4}, 4), 0u);
}

TEST(PagePool, ASharedPageIsFreeWhenItsLastUserHasGone) {
  PagePool pool(4, 2, true);
  Text one{{1, 2, 3}, {}}, other{{1, 2, 4}, {}};
  write_text(pool, one, 2);
  EXPECT_EQ(write_text(pool, other, 2), 1);
  EXPECT_EQ(one.pages[0], other.pages[0]);
  EXPECT_EQ(pool.available(), 1);
  pool.release(one.pages);
  EXPECT_EQ(pool.available(), 2);
  pool.release(other.pages);
  EXPECT_EQ(pool.available(), 4);
  EXPECT_EQ(pool.find({1, 2}, 2).pages.size(), 1u);  // still there
}

TEST(PagePool, GivesAwayWhatWasUnusedLongestAndEndsOfTextsBeforeTheirBeginnings) {
  PagePool pool(4, 1, true);
  Text old{{1, 2}, {}}, recent{{7, 8}, {}};
  write_text(pool, old, 1);
  write_text(pool, recent, 1);
  pool.release(old.pages);
  pool.release(recent.pages);
  EXPECT_EQ(pool.available(), 4);
  pool.take(1);
  EXPECT_EQ(pool.find({1, 2}, 2).pages.size(), 1u);
  pool.take(1);
  EXPECT_EQ(pool.find({1, 2}, 2).pages.size(), 0u);
  EXPECT_EQ(pool.find({7, 8}, 2).pages.size(), 2u);
}

TEST(PagePool, RemembersNothingWhereItShallNot) {
  PagePool pool(4, 1, false);
  Text text{{1, 2}, {}};
  write_text(pool, text, 1);
  EXPECT_EQ(pool.find({1, 2}, 2).pages.size(), 0u);
  pool.release(text.pages);
  EXPECT_EQ(pool.available(), 4);
}

// Against a plain record of what each page holds and who has it.
TEST(PagePool, NeverGivesAPageToTwoNorFindsOneThatHoldsSomethingElse) {
  for (uint32_t seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const int64_t page_tokens = 1 + seed % 3, pages = 4 + static_cast<int64_t>(random() % 12);
    PagePool pool(pages, page_tokens, true);
    std::vector<Text> live;
    std::map<int64_t, Tokens> held;  // what was last written to a page, with all before it
    for (int step = 0; step < 400; ++step) {
      if (!live.empty() && random() % 2 == 0) {
        const auto which = live.begin() + static_cast<int64_t>(random() % live.size());
        pool.release(which->pages);
        live.erase(which);
      } else {
        Text text;
        const auto length = 1 + random() % 7;
        for (size_t at = 0; at < length; ++at) text.tokens.push_back(random() % 2);
        const auto needed = (static_cast<int64_t>(length) + page_tokens - 1) / page_tokens;
        if (pool.available() < needed) continue;
        const int64_t found = write_text(pool, text, page_tokens);
        for (int64_t at = 0; at < needed; ++at) {
          const int64_t page = text.pages[static_cast<size_t>(at)];
          const auto end = std::min<int64_t>((at + 1) * page_tokens, static_cast<int64_t>(length));
          const Tokens content(text.tokens.begin(), text.tokens.begin() + end);
          if (at < found) {
            ASSERT_EQ(held[page], content) << "seed " << seed << " step " << step;
          } else {
            for (const Text& other : live) {
              ASSERT_EQ(std::count(other.pages.begin(), other.pages.end(), page), 0) << "seed " << seed << " step " << step;
            }
            held[page] = content;
          }
        }
        live.push_back(std::move(text));
      }
      std::map<int64_t, int64_t> users;
      for (const Text& text : live) {
        for (const int64_t page : text.pages) ++users[page];
      }
      ASSERT_EQ(pool.available(), pages - static_cast<int64_t>(users.size())) << "seed " << seed << " step " << step;
    }
  }
}

}  // namespace
}  // namespace pimoe
