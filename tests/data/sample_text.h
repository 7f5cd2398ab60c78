#pragma once

#include <random>
#include <string>
#include <vector>

namespace pimoe {

/// @returns `count` lines that look like code, some with accents: enough variety for a few hundred pieces.
inline std::vector<std::string> sample_lines(size_t count, uint32_t seed = 1) {
  static const std::vector<std::string> kWords = {"return", "value",  "tensor", "for",   "if",    "shape",  "café",
                                                  "length", "import", "self",   "the",   "of",    "result", "index",
                                                  "expert", "router", "token",  "naïve", "print", "width"};
  static const std::string kLetters = "abcdefghijklmnopqrstuvwxyz";
  std::mt19937 random(seed);
  std::vector<std::string> lines(count);
  for (std::string& line : lines) {
    line.append(4 * (random() % 4), ' ');
    const size_t words = 2 + random() % 8;
    for (size_t i = 0; i < words; ++i) {
      if (i > 0) line += ' ';
      line += kWords[random() % kWords.size()];
      if (random() % 3 == 0) line += std::string("_") + kLetters[random() % 26] + kLetters[random() % 26];
      if (random() % 4 == 0) line += "(" + std::to_string(random() % 1000) + ")";
    }
  }
  return lines;
}

}  // namespace pimoe
