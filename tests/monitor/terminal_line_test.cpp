#include "monitor/terminal_line.h"

#include <gtest/gtest.h>

#include <cmath>

namespace pimoe {
namespace {

TEST(TerminalLine, EndsAtTheEdgeWhateverIsAdded) {
  TerminalLine line(6, /*colours=*/false);
  line.add("abc").add("défgh").add("i");
  EXPECT_EQ(line.left(), 0);
  EXPECT_EQ(line.take(), "abcdé…") << "six columns, the ellipsis among them";
}

TEST(TerminalLine, ColoursTakeNoColumn) {
  TerminalLine line(4, /*colours=*/true);
  line.add("ab", Ink::kBad).add("cd");
  EXPECT_EQ(line.take(), "\033[31mab\033[0mcd");
}

TEST(Sparkline, IsTheMeansOfStretchesFromLeastToMost) {
  EXPECT_EQ(sparkline({0, 0, 7, 7}, 2), "▁█");
  EXPECT_EQ(sparkline({1, std::nan(""), 2}, 3), "▁ █");
  EXPECT_EQ(sparkline({3, 3}, 10), "▅▅");
  EXPECT_EQ(sparkline({}, 10), "");
}

}  // namespace
}  // namespace pimoe
