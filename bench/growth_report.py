"""What growth.py says of its numbers: exponents, tables, notes and charts."""
import math
import sys

from growth_topics import TOPICS, size
from svg_chart import COLORS, Frame, Logarithmic, Panel, Picture


def exponents(points):
    """(slope of the line through all points in logarithms, slope between the last two), None where fewer than two are above 0."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return None
    (x1, y1), (x2, y2) = logs[-2:]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    if spread == 0 or x2 == x1:
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread, (y2 - y1) / (x2 - x1)


def exponent_row(topic, points):
    cells = ["exponent (last two)"]
    for key, _, _ in topic.columns:
        fit = exponents([(point["size"], point[key]) for point in points])
        cells.append("-" if fit is None else "{:.2f} ({:.2f})".format(*(value + 0.0 for value in fit)).replace("-0.00", "0.00"))
    return cells


def table(topic, result):
    lines = [[topic.unit, *[title for _, title, _ in topic.columns]], ["---"] * (len(topic.columns) + 1)]
    for point in result["points"]:
        lines.append([topic.shown(point["size"]), *[text(point[key]) for key, _, text in topic.columns]])
    lines.append(exponent_row(topic, result["points"]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| ---", "|---").replace("--- |", "---|")


def per_expert_text(points):
    before, last = points[-2:]
    more = last["size"] - before["size"]
    each = (last["kept_bytes_a_token"] - before["kept_bytes_a_token"]) / more
    state = (last["state_bytes"] - before["state_bytes"]) / more
    return (f"Between the last two a further expert costs a token {size(each)} kept for backward, of {size(last['kept_bytes_a_token'] - last['size'] * each)} "
            f"that do not depend on their number, and {size(state)} of weights, gradients and moments.")


def groups_text(points):
    """Of the largest count, what travelled where."""
    point = points[-1]
    lines = [f"Of a rank of {point['size']}, by group:"]
    for name in ("all", "pairs"):
        for group, sent in point[f"{name}_groups"].items():
            lines.append(f"* experts over {name}, {group}: {size(sent['bytes'])}, {sent['messages']:.0f} messages, {sent['collectives']:.0f} collectives")
    return "\n".join(lines)


NOTES = {"experts": per_expert_text, "ranks": groups_text}


def picture(results):
    shown = [topic for topic in TOPICS if topic.name in results]
    height = 330
    drawing = Picture(1000, 10 + height * len(shown))
    for row, topic in enumerate(shown):
        points = results[topic.name]["points"]
        for column, (title, unit, keys) in enumerate(topic.panels):
            lines = [(key, [(point["size"], point[key]) for point in points if point[key] > 0]) for key in keys]
            lines = [(key, line) for key, line in lines if len(line) > 1]
            if not lines:
                continue
            values = [y for _, line in lines for _, y in line]
            panel = Panel(drawing, Frame(500 * column, 10 + height * row, 500, height - 10), f"{topic.title}: {title[0].lower()}{title[1:]}",
                          Logarithmic([point["size"] for point in points], topic.unit), Logarithmic(values, unit))
            names = {key: name for key, name, _ in topic.columns}
            for color, (key, line) in zip([*COLORS, "#8c8c8c"], lines):
                all_points, _ = exponents(line)
                panel.line(f"{legend_name(key, names[key])}: {round(all_points, 2) + 0.0:.2f}", line, color, labels=[""] * len(line))
            panel.legend()
    return drawing.text()


def legend_name(key, title):
    return key.replace("_", " ") if title in ("messages", "collectives") or "bytes" in title else title


def show(topic, result):
    print(f"\n## {topic.title}\n\n{topic.measure.__doc__.strip()}\n")
    print(f"`{result['command']}`, commit {result['commit']}, {result['machine']['cpu']}, {result['machine']['cores']} cores, {result['machine']['precision']}\n")
    print(table(topic, result))
    if topic.name in NOTES:
        print("\n" + NOTES[topic.name](result["points"]))
    sys.stdout.flush()
