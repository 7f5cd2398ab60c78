#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pimoe {

/// What a piece of text means on a terminal.
enum class Ink { kPlain, kDim, kGood, kWarn, kBad, kBold };

/// @returns columns that UTF-8 text without escapes takes: what is put into lines here is one column wide a character, but for names of runs
int width_of(const std::string& text);

/// A line of pieces, cut at the screen's edge.
class TerminalLine {
 public:
  /// @param colours  with the escapes of a terminal
  TerminalLine(int columns, bool colours) : left_(columns), colours_(colours) {}

  /// What does not fit is left out, and ends in an ellipsis.
  TerminalLine& add(const std::string& text, Ink ink = Ink::kPlain);
  /// @returns columns that are free
  int left() const { return left_; }
  /// @returns the line without its end; the object is used up
  std::string take() { return std::move(text_); }

 private:
  int left_;
  bool colours_;
  std::string text_;
};

/// @returns values as a row of block characters, thinned to `columns` by the mean of each stretch; what is no number is a blank
std::string sparkline(const std::vector<double>& values, int columns);

}  // namespace pimoe
