#!/usr/bin/env python3
"""Reads what bench/adaptive.sh trained: a table on stdout, and MaxVio over steps as an SVG. Needs nothing but Python.

    bench/adaptive.py FOLDER [--svg FILE] [--against SETTING]

--against: another column, each setting's last validation loss minus SETTING's of the same seed (the same initial weights and data order):
mean, and the standard error of that mean.
"""
import argparse
import json
import pathlib
import re
import statistics

TARGET = 0.2
WINDOW = 10  # steps of the mean that has to meet the target


def read(folder):
    """{setting: {seed: records}}, seeds in order"""
    runs = {}
    for path in pathlib.Path(folder).glob("*-seed*/metrics.jsonl"):
        name, seed = re.fullmatch(r"(.*)-seed(\d+)", path.parent.name).groups()
        runs.setdefault(name, {})[int(seed)] = [json.loads(line) for line in path.open()]
    return {name: dict(sorted(seeds.items())) for name, seeds in runs.items()}


def smoothed(run):
    maxvio = [record["moe/maxvio"] for record in run]
    return [statistics.fmean(maxvio[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(maxvio))]


def steps_to_target(run):
    for step, value in enumerate(smoothed(run), start=1):
        if step >= WINDOW and value < TARGET:
            return step
    return None


def last_loss(run):
    return [record["validation_loss"] for record in run if "validation_loss" in record][-1]


def difference(runs, others):
    pairs = [last_loss(run) - last_loss(others[seed]) for seed, run in runs.items() if seed in others]
    if len(pairs) < 2:
        return "-"
    return f"{statistics.fmean(pairs):+.4f} ± {statistics.stdev(pairs) / len(pairs) ** 0.5:.4f}"


def row(name, runs):
    seeds = list(runs.values())
    reached = [steps_to_target(run) for run in seeds]
    last = [statistics.fmean(record["moe/maxvio"] for record in run[-50:]) for run in seeds]
    loss = [last_loss(run) for run in seeds]
    share = [max(run[0]["moe/load"][0]) / sum(run[0]["moe/load"][0]) for run in seeds]
    said = ", ".join("never" if step is None else str(step) for step in reached)
    if None not in reached:
        said += f" (mean {statistics.fmean(reached):.0f})"
    return (f"| {name} | {said} | {statistics.fmean(last):.3f} | {statistics.fmean(loss):.4f} "
            f"({min(loss):.4f} to {max(loss):.4f}) | {statistics.fmean(share):.0%} |")


COLORS = ["#999999", "#9ecae1", "#4292c6", "#08519c", "#a1d99b", "#41ab5d", "#00441b", "#dadaeb", "#9e9ac8", "#54278f", "#c7a76c", "#8c6d31",
          "#d94801", "#d6004a"]


def svg(runs):
    width, height, left, top, right = 900, 460, 60, 20, 190
    inner_width, inner_height = width - left - right, height - top - 50
    steps = max(len(run) for seeds in runs.values() for run in seeds.values())
    highest = 7.0

    def x(step):
        return left + inner_width * step / steps

    def y(value):  # square root: the target is not lost at the bottom
        return top + inner_height * (1 - (max(0.0, min(value, highest)) / highest) ** 0.5)

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">',
             f'<rect width="{width}" height="{height}" fill="white"/>']
    for value in (0, 0.1, 0.2, 0.5, 1, 2, 4, 7):
        parts.append(f'<line x1="{left}" x2="{left + inner_width}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value}</text>')
    for step in range(0, steps + 1, 50):
        parts.append(f'<text x="{x(step):.1f}" y="{top + inner_height + 20}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{left + inner_width / 2}" y="{height - 8}" text-anchor="middle">step</text>')
    parts.append(f'<text transform="translate(16 {top + inner_height / 2}) rotate(-90)" text-anchor="middle">'
                 f'MaxVio, mean over layers, {WINDOW} steps and seeds</text>')
    parts.append(f'<line x1="{left}" x2="{left + inner_width}" y1="{y(TARGET):.1f}" y2="{y(TARGET):.1f}" stroke="black" stroke-dasharray="4 3"/>')
    for index, (name, seeds) in enumerate(runs.items()):
        curves = [smoothed(run) for run in seeds.values()]
        mean = [statistics.fmean(values) for values in zip(*curves)]
        points = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in enumerate(mean, start=1))
        color = COLORS[index % len(COLORS)]
        thick = 3 if name.startswith("adaptive") else 1.5
        parts.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{thick}"/>')
        at = top + 14 + 22 * index
        parts.append(f'<line x1="{left + inner_width + 14}" x2="{left + inner_width + 40}" y1="{at}" y2="{at}" stroke="{color}" stroke-width="{thick}"/>')
        parts.append(f'<text x="{left + inner_width + 46}" y="{at + 4}">{name}</text>')
    return "\n".join(parts + ["</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--against")
    arguments = parser.parse_args()
    runs = read(arguments.folder)
    order = ["none", "switch", "bias", "proportional", "both", "adaptive"]
    runs = dict(sorted(runs.items(), key=lambda item: (order.index(re.match(r"[a-z]+", item[0])[0]), item[0])))
    if arguments.against and arguments.against not in runs:
        parser.error(f"--against {arguments.against}: there is {', '.join(runs)}")
    columns = ["setting", f"steps until MaxVio < {TARGET} (mean of {WINDOW}), each seed", "MaxVio, last 50 steps", "validation loss",
               "fullest expert, step 1"]
    if arguments.against:
        columns.append(f"validation loss minus {arguments.against}'s")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for name, seeds in runs.items():
        print(row(name, seeds) + (f" {difference(seeds, runs[arguments.against])} |" if arguments.against else ""))
    if arguments.svg:
        arguments.svg.write_text(svg(runs))


if __name__ == "__main__":
    main()
