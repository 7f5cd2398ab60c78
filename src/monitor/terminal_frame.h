#pragma once

#include "monitor/run_status.h"

#include <string>

namespace pimoe {

struct TerminalSize {
  int columns = 80;
  int rows = 24;
};

/// @returns the picture of a run's state: at most `size.rows` lines of at most `size.columns` characters, each with its end. What does not fit
///          is left out from the bottom of the longest part. @param colours  with the escapes of a terminal
std::string to_frame(const RunStatus& status, TerminalSize size, bool colours);

}  // namespace pimoe
