#include "analysis/heat_map.h"

#include "base/text.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace pimoe {
namespace {

// All lengths are in pixels of the SVG's own size.
constexpr int kMargin = 24;
constexpr int kCellHeight = 22;
constexpr int kGroupGap = 5;
constexpr int kPanelGap = 36;
constexpr int kPanelHeader = 62;  ///< title, subtitle, columns' labels and notes
constexpr int kHeader = 60;
constexpr int kLegendHeight = 48;
constexpr int kLegendWidth = 240;
constexpr int kLineHeight = 16;
constexpr double kLimit = 2.0;  ///< log2 of the last colour's value

struct Colour {
  double red, green, blue;
};

/// ColorBrewer's RdBu, which people with any colour vision can tell apart; from kLimit below to kLimit above.
constexpr std::array<Colour, 9> kScale = {{{33, 102, 172},
                                           {67, 147, 195},
                                           {146, 197, 222},
                                           {209, 229, 240},
                                           {250, 250, 250},
                                           {253, 219, 199},
                                           {244, 165, 130},
                                           {214, 96, 77},
                                           {178, 24, 43}}};

Colour colour_at(double log2_value) {
  const double place = (std::clamp(log2_value, -kLimit, kLimit) + kLimit) / (2 * kLimit) * (kScale.size() - 1);
  const auto lower = std::min(static_cast<size_t>(place), kScale.size() - 2);
  const double part = place - static_cast<double>(lower);
  const auto mix = [&](double from, double to) { return from + (to - from) * part; };
  const Colour& from = kScale[lower];
  const Colour& to = kScale[lower + 1];
  return {mix(from.red, to.red), mix(from.green, to.green), mix(from.blue, to.blue)};
}

std::string hex(const Colour& colour) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "#";
  for (const double part : {colour.red, colour.green, colour.blue}) {
    const auto value = static_cast<unsigned>(std::lround(part));
    text += {kDigits[value / 16], kDigits[value % 16]};
  }
  return text;
}

/// White letters where black ones would be hard to read.
bool is_dark(const Colour& colour) { return 0.299 * colour.red + 0.587 * colour.green + 0.114 * colour.blue < 140; }

std::string escaped(const std::string& text) {
  std::string out;
  for (const char letter : text) {
    switch (letter) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      default: out += letter;
    }
  }
  return out;
}

/// A letter's width is about 0.6 of its size in the fonts that a viewer may take; sizes here are 11.
int text_width(const std::string& text) { return static_cast<int>(6.4 * static_cast<double>(text.size())); }

struct Layout {
  int label_width = 0;
  int note_width = 0;
  int cell_width = 44;
  int panel_width = 0;
  int panel_height = 0;
  int across = 1;
  int width = 0;

  explicit Layout(const HeatMap& map) {
    label_width = text_width(map.row_title);
    note_width = text_width(map.note_title) + 10;
    for (const std::string& column : map.columns) cell_width = std::max(cell_width, text_width(column) + 4);
    for (const HeatMapPanel& panel : map.panels) {
      int height = kPanelHeader;
      for (const HeatMapRow& row : panel.rows) {
        label_width = std::max(label_width, text_width(row.label) * (row.is_sum ? 6 : 5) / 5);
        note_width = std::max(note_width, text_width(row.note) + 10);
        height += kCellHeight + (row.begins_group ? kGroupGap : 0);
      }
      panel_height = std::max(panel_height, height);
    }
    panel_width = label_width + note_width + 8 + cell_width * static_cast<int>(map.columns.size());
    across = map.panels.size() > 8 ? 4 : map.panels.size() > 1 ? 2 : 1;
    width = 2 * kMargin + across * panel_width + (across - 1) * kPanelGap;
    width = std::max(width, 2 * kMargin + 640);
  }

  int cells_left() const { return label_width + note_width + 8; }
  int panel_rows(size_t panels) const { return (static_cast<int>(panels) + across - 1) / across; }
};

class SvgText {
 public:
  SvgText& text(int x, int y, const char* style, const std::string& content) {
    out_ += concat("<text x=\"", x, "\" y=\"", y, "\" class=\"", style, "\">", escaped(content), "</text>\n");
    return *this;
  }
  SvgText& box(int x, int y, int width, int height, const std::string& fill) {
    out_ += concat("<rect x=\"", x, "\" y=\"", y, "\" width=\"", width, "\" height=\"", height, "\" fill=\"", fill, "\"/>\n");
    return *this;
  }
  SvgText& raw(const std::string& markup) {
    out_ += markup;
    return *this;
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

std::string number(double value) { return value >= 9.95 ? fixed(value, 0) : value >= 0.995 ? fixed(value, 1) : fixed(value, 2); }

void draw_cell(SvgText& svg, int x, int y, int width, const HeatMapCell& cell) {
  const int middle = x + width / 2;
  const int baseline = y + 15;
  if (std::isnan(cell.value) || cell.is_thin) {
    svg.box(x, y, width - 1, kCellHeight - 1, "#e9e9e9").text(middle, baseline, "m g", std::isnan(cell.value) ? "–" : number(cell.value));
    return;
  }
  const Colour colour = colour_at(std::log2(std::max(cell.value, 1e-9)));
  svg.box(x, y, width - 1, kCellHeight - 1, hex(colour)).text(middle, baseline, is_dark(colour) ? "m w" : "m", number(cell.value));
}

void draw_panel(SvgText& svg, const HeatMap& map, const HeatMapPanel& panel, const Layout& layout, int left, int top) {
  const int cells_left = left + layout.cells_left();
  svg.text(left, top + 12, "b", panel.title).text(left + text_width(panel.title) + 14, top + 12, "g", panel.subtitle);
  svg.text(left + layout.label_width, top + 40, "e", map.row_title);
  svg.text(left + layout.label_width + layout.note_width, top + 40, "e g", map.note_title);
  for (size_t column = 0; column < map.columns.size(); ++column) {
    const int middle = cells_left + layout.cell_width * static_cast<int>(column) + layout.cell_width / 2;
    svg.text(middle, top + 40, "m", map.columns[column]).text(middle, top + 54, "m g", panel.column_notes[column]);
  }
  int y = top + kPanelHeader;
  for (const HeatMapRow& row : panel.rows) {
    if (row.begins_group) y += kGroupGap;
    svg.text(left + layout.label_width, y + 15, row.is_sum ? "e b" : "e", row.label);
    svg.text(left + layout.label_width + layout.note_width, y + 15, "e g", row.note);
    for (size_t column = 0; column < row.cells.size(); ++column) {
      draw_cell(svg, cells_left + layout.cell_width * static_cast<int>(column), y, layout.cell_width, row.cells[column]);
    }
    y += kCellHeight;
  }
}

void draw_legend(SvgText& svg, const HeatMap& map, int left, int top) {
  svg.raw("<defs><linearGradient id=\"scale\">");
  for (size_t stop = 0; stop < kScale.size(); ++stop) {
    svg.raw(
        concat("<stop offset=\"", 100.0 * static_cast<double>(stop) / (kScale.size() - 1), "%\" stop-color=\"", hex(kScale[stop]), "\"/>"));
  }
  svg.raw("</linearGradient></defs>\n").box(left, top, kLegendWidth, 12, "url(#scale)");
  const std::array<const char*, 5> ticks = {"≤ 1/4", "1/2", "1", "2", "≥ 4"};
  for (size_t tick = 0; tick < ticks.size(); ++tick) {
    svg.text(left + kLegendWidth * static_cast<int>(tick) / 4, top + 26, "m", ticks[tick]);
  }
  svg.text(left + kLegendWidth + 24, top + 10, "", map.legend);
  if (map.thin_legend.empty()) return;
  svg.box(left + kLegendWidth + 24, top + 17, 18, 12, "#e9e9e9").text(left + kLegendWidth + 48, top + 27, "", map.thin_legend);
}

}  // namespace

std::string to_svg(const HeatMap& map) {
  const Layout layout(map);
  const int panels_height = layout.panel_rows(map.panels.size()) * (layout.panel_height + kPanelGap);
  const int legend_top = kMargin + kHeader + panels_height;
  const int height = legend_top + kLegendHeight + kLineHeight * static_cast<int>(map.closing.size()) + kMargin;

  SvgText svg;
  svg.raw(concat("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", layout.width, "\" height=\"", height, "\" viewBox=\"0 0 ",
                 layout.width, " ", height, "\">\n"));
  // m, e: centred, and at its end; b: bold; g: grey; w: white.
  svg.raw(
      "<style>text{font:11px system-ui,'DejaVu Sans',Helvetica,Arial,sans-serif;fill:#1a1a1a}.m{text-anchor:middle}.e{text-anchor:end}"
      ".b{font-weight:bold}.g{fill:#666}.w{fill:#fff}.t{font-size:16px;font-weight:bold}</style>\n");
  svg.raw("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
  svg.text(kMargin, kMargin + 14, "t", map.title).text(kMargin, kMargin + 34, "g", map.subtitle);
  for (size_t index = 0; index < map.panels.size(); ++index) {
    const int column = static_cast<int>(index) % layout.across;
    const int row = static_cast<int>(index) / layout.across;
    draw_panel(svg, map, map.panels[index], layout, kMargin + column * (layout.panel_width + kPanelGap),
               kMargin + kHeader + row * (layout.panel_height + kPanelGap));
  }
  draw_legend(svg, map, kMargin + 16, legend_top);
  for (size_t line = 0; line < map.closing.size(); ++line) {
    svg.text(kMargin, legend_top + kLegendHeight + kLineHeight * static_cast<int>(line + 1), "g", map.closing[line]);
  }
  return svg.raw("</svg>\n").take();
}

}  // namespace pimoe
