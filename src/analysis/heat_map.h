#pragma once

#include <string>
#include <vector>

namespace pimoe {

/// A lift: 1 is neutral.
struct HeatMapCell {
  double value = 1.0;    ///< NaN: nothing is known
  bool is_thin = false;  ///< from too few observations to be given a colour
};

struct HeatMapRow {
  std::string label;
  std::string note;           ///< beside the label, in grey
  bool begins_group = false;  ///< a gap stands before it
  bool is_sum = false;        ///< of the rows after it; its label is bold
  std::vector<HeatMapCell> cells;
};

struct HeatMapPanel {
  std::string title;
  std::string subtitle;
  std::vector<std::string> column_notes;  ///< under the columns' labels, in grey
  std::vector<HeatMapRow> rows;
};

/// Rows by columns of lifts for each panel, blue below 1, white at 1, red above, on a logarithmic scale from 1/4 to 4 (what is beyond has the
/// last colour), each cell with its number.
struct HeatMap {
  std::string title;
  std::string subtitle;
  std::string row_title;   ///< over the rows' labels
  std::string note_title;  ///< over the rows' notes
  std::vector<std::string> columns;
  std::vector<HeatMapPanel> panels;
  std::string legend;                ///< what the colours are
  std::string thin_legend;           ///< what grey cells are
  std::vector<std::string> closing;  ///< lines at the bottom
};

/// @returns the picture as one SVG document that needs nothing else: no script, no font file, no style sheet.
std::string to_svg(const HeatMap& map);

}  // namespace pimoe
