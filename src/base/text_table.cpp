#include "base/text_table.h"

#include <algorithm>

namespace pimoe {

std::string table_text(const TextTable& lines) {
  std::string text;
  for (const std::vector<std::string>& line : lines) {
    for (size_t column = 0; column < line.size(); ++column) {
      size_t width = 0;
      for (const auto& other : lines) width = std::max(width, other[column].size());
      const std::string gap(width - line[column].size(), ' ');
      text += column == 0 ? line[column] + gap : "  " + gap + line[column];
    }
    text += "\n";
  }
  return text;
}

}  // namespace pimoe
