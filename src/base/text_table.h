#pragma once

#include <string>
#include <vector>

namespace pimoe {

/// Lines of cells, all of them equally many.
using TextTable = std::vector<std::vector<std::string>>;

/// @returns the table as lines: columns two blanks apart, the first to the left, the others to the right
std::string table_text(const TextTable& lines);

}  // namespace pimoe
