#include "monitor/terminal_line.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pimoe {
namespace {

const char* escape(Ink ink) {
  switch (ink) {
    case Ink::kPlain: return "";
    case Ink::kDim: return "\033[2m";
    case Ink::kGood: return "\033[32m";
    case Ink::kWarn: return "\033[33m";
    case Ink::kBad: return "\033[31m";
    case Ink::kBold: return "\033[1m";
  }
  return "";
}

std::string cut_to(const std::string& text, int columns) {
  if (width_of(text) <= columns) return text;
  size_t at = 0;
  for (int seen = 0; at < text.size(); ++at) {
    if ((static_cast<uint8_t>(text[at]) & 0xc0) == 0x80) continue;
    if (seen++ == columns - 1) break;
  }
  return text.substr(0, at) + "…";
}

}  // namespace

int width_of(const std::string& text) {
  return static_cast<int>(std::count_if(text.begin(), text.end(), [](char byte) { return (static_cast<uint8_t>(byte) & 0xc0) != 0x80; }));
}

TerminalLine& TerminalLine::add(const std::string& text, Ink ink) {
  if (left_ <= 0) return *this;
  const std::string fits = cut_to(text, left_);
  left_ -= width_of(fits);
  text_ += colours_ && ink != Ink::kPlain ? concat(escape(ink), fits, "\033[0m") : fits;
  return *this;
}

std::string sparkline(const std::vector<double>& values, int columns) {
  constexpr std::array kBlocks = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const size_t count = std::min(values.size(), static_cast<size_t>(std::max(1, columns)));
  std::vector<double> means;
  for (size_t at = 0; at < count; ++at) {
    double sum = 0.0;
    int finite = 0;
    for (size_t index = at * values.size() / count; index < (at + 1) * values.size() / count; ++index) {
      if (!std::isfinite(values[index])) continue;
      sum += values[index];
      ++finite;
    }
    means.push_back(finite == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / finite);
  }
  double least = std::numeric_limits<double>::infinity();
  double most = -least;
  for (const double mean : means) {
    if (std::isnan(mean)) continue;
    least = std::min(least, mean);
    most = std::max(most, mean);
  }
  std::string text;
  for (const double mean : means) {
    if (std::isnan(mean)) {
      text += ' ';
    } else {
      const double share = most > least ? (mean - least) / (most - least) : 0.5;
      text += kBlocks[std::min(kBlocks.size() - 1, static_cast<size_t>(share * kBlocks.size()))];
    }
  }
  return text;
}

}  // namespace pimoe
