"""Charts as SVG, for the scripts of this folder. Needs nothing but Python.

    picture = Picture(900, 300)
    panel = Panel(picture, Frame(0, 0, 450, 300), "tokens/s", x=Places(["1", "2", "4"], "ranks"), y=Logarithmic([100, 400], "tokens/s"))
    panel.line("measured", [(0, 100), (1, 190), (2, 300)], BLUE, labels=["100", "190", "300"])
    panel.legend()
    pathlib.Path("chart.svg").write_text(picture.text())

A panel has a title, two axes with their units, what is drawn on it, and a legend between title and plot.
"""
import html
import math
import typing

BLUE, RED, GREEN, ORANGE, PURPLE, GREY = "#2166ac", "#c43c39", "#3a923a", "#e08214", "#7b5aa6", "#8c8c8c"
COLORS = [BLUE, ORANGE, GREEN, PURPLE, RED]
LETTER = 6.6  # pixels of a letter at 12, on average and a little more


class Frame(typing.NamedTuple):
    left: float
    top: float
    width: float
    height: float


class Picture:
    def __init__(self, width, height):
        self.parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
                      f'<rect width="{width}" height="{height}" fill="white"/>']

    def add(self, part):
        self.parts.append(part)

    def line(self, x1, y1, x2, y2, color, width=1.0, dashed=False):
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.add(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}" stroke-width="{width}"{dashes}/>')

    def box(self, x, y, width, height, color, hollow=False):
        look = f'fill="white" stroke="{color}" stroke-width="1.5"' if hollow else f'fill="{color}"'
        self.add(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" {look}/>')

    def words(self, x, y, text, anchor="start", color="#222", bold=False, size=12, turned=False):
        place = f'transform="translate({x:.1f} {y:.1f}) rotate(-90)"' if turned else f'x="{x:.1f}" y="{y:.1f}"'
        weight = ' font-weight="bold"' if bold else ""
        self.add(f'<text {place} text-anchor="{anchor}" fill="{color}" font-size="{size}"{weight}>{html.escape(text)}</text>')

    def text(self):
        return "\n".join(self.parts + ["</svg>"]) + "\n"


class Places:
    """An axis of names, evenly spaced; where something lies is its index."""

    def __init__(self, names, title):
        self.names, self.title = names, title
        self.ticks = [(index, name) for index, name in enumerate(names)]

    def share(self, index):
        return (index + 0.5) / len(self.names)


class Linear:
    """An axis from 0 to a little more than the largest of `values`."""

    def __init__(self, values, title):
        self.title = title
        largest = max([value for value in values if value > 0], default=1.0)
        rough = largest / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
        self.end = largest * 1.12
        self.ticks = [(index * step, short(index * step)) for index in range(int(self.end / step) + 1)]

    def share(self, value):
        return value / self.end


class Logarithmic:
    """An axis around `values`, all above 0."""

    def __init__(self, values, title):
        self.title = title
        low, high = min(values), max(values)
        self.begin, self.range = math.log(low / 1.25), math.log(high / low * 1.6)
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        factors = (1, 2, 5) if high / low < 1000 else (1,)
        every = [factor * 10.0**power for power in powers for factor in factors]
        self.ticks = [(value, short(value)) for value in every if 0 <= self.share(value) <= 1]

    def share(self, value):
        return (math.log(value) - self.begin) / self.range


class Panel:
    def __init__(self, picture, frame, title, x, y, pale=False):
        """@param pale  in faint colors: not the thing to look at"""
        self.picture, self.x_axis, self.y_axis, self.pale, self.entries = picture, x, y, pale, []
        self.frame = frame
        self.left, self.top = frame.left + 66, frame.top + 56
        self.width, self.height = frame.width - 66 - 16, frame.height - 56 - 46
        picture.words(frame.left + 12, frame.top + 18, title, bold=True, size=13, color="#777" if pale else "#222")
        for value, name in y.ticks:
            picture.line(self.left, self.y(value), self.left + self.width, self.y(value), "#e2e2e2")
            picture.words(self.left - 7, self.y(value) + 4, name, anchor="end")
        for value, name in x.ticks:
            picture.words(self.x(value), self.top + self.height + 17, name, anchor="middle")
        bottom = self.top + self.height
        picture.line(self.left, bottom, self.left + self.width, bottom, "#555")
        picture.line(self.left, self.top, self.left, bottom, "#555")
        picture.words(self.left + self.width / 2, bottom + 36, x.title, anchor="middle")
        picture.words(frame.left + 16, self.top + self.height / 2, y.title, anchor="middle", turned=True)

    def x(self, value):
        return self.left + self.width * self.x_axis.share(value)

    def y(self, value):
        return self.top + self.height * (1 - self.y_axis.share(value))

    def shade(self, color):
        if not self.pale:
            return color
        return "#" + "".join(f"{255 - (255 - int(color[at:at + 2], 16)) * 4 // 10:02x}" for at in (1, 3, 5))

    def line(self, name, points, color, labels=None, dashed=False):
        """@param labels  one for each point, beside it; None draws no points either"""
        color = GREY if dashed else self.shade(color)
        where = [(self.x(x), self.y(y)) for x, y in points]
        for (x1, y1), (x2, y2) in zip(where, where[1:]):
            self.picture.line(x1, y1, x2, y2, color, 1.5 if dashed else 2, dashed)
        for index, label in enumerate(labels or []):
            x, y = where[index]
            self.picture.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{color}"/>')
            self.label(x, y, label, *self.slopes(where, index))
        self.entries.append((name, color, "dashed" if dashed else "line"))

    @staticmethod
    def slopes(where, index):
        """Pixels by which the line falls from the point before and to the next one; 0 where there is none."""
        before = where[index][1] - where[index - 1][1] if index > 0 else 0
        return before, where[index + 1][1] - where[index][1] if index + 1 < len(where) else 0

    def label(self, x, y, text, before, after):
        """Beside the point where the line leaves room, and within the plot."""
        steep = 20
        if after > steep:
            self.picture.words(x + 6, y - 6, text)
        elif y + 19 > self.top + self.height - 3:
            self.picture.words(x, y - 10, text, anchor="middle")
        elif after < -steep or before < -steep:
            self.picture.words(x + 5, y + 15, text)
        else:
            self.picture.words(x, y + 19, text, anchor="middle")

    def bars(self, groups, ticks=None, tick_name=""):
        """Bars side by side at each place.

        @param groups  [(name, color, [value or None at each place])]
        @param ticks   as the values of `groups`: a black mark across each bar
        """
        slot = self.width / len(self.x_axis.names) * 0.8 / len(groups)
        for index, (name, color, values) in enumerate(groups):
            for place, value in enumerate(values):
                if value is None:
                    continue
                begin = self.x(place) + (index - len(groups) / 2) * slot
                self.picture.box(begin, self.y(value), slot * 0.86, self.top + self.height - self.y(value), self.shade(color))
                if ticks and ticks[index][place] is not None:
                    at = self.y(ticks[index][place])
                    self.picture.line(begin - slot * 0.05, at, begin + slot * 0.91, at, "black", 2)
            self.entries.append((name, self.shade(color), "box"))
        if ticks:
            self.entries.append((tick_name, "black", "line"))

    def legend(self):
        """In one row, as far as it is wide enough; then in a second one."""
        x, y = self.frame.left + 12, self.frame.top + 36
        for name, color, look in self.entries:
            width = 22 + LETTER * len(name) + 14
            if x > self.frame.left + 12 and x + width > self.frame.left + self.frame.width:
                x, y = self.frame.left + 12, y + 15
            if look == "box":
                self.picture.box(x, y - 9, 14, 10, color)
            else:
                self.picture.line(x, y - 4, x + 16, y - 4, color, 2, look == "dashed")
            self.picture.words(x + 21, y, name)
            x += width


def short(value):
    """At most three digits and a letter: 1500 -> "1.5k"."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def wrapped(text, letters):
    """Lines of at most `letters`, broken at blanks where there are any."""
    lines = [""]
    for word in text.split():
        while len(word) > letters:
            lines += [word[:letters], ""]
            word = word[letters:]
        if len(lines[-1]) + 1 + len(word) > letters:
            lines.append("")
        lines[-1] = (lines[-1] + " " + word).strip()
    return [line for line in lines if line]
