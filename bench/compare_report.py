"""What bench/compare.py found, as tables and as a chart. A record is what it writes for a row: see compare() there."""
import math
import statistics

from comparison import ratios_text
from svg_chart import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, Frame, Linear, Panel, Picture, Places

CASES = {"layer": ["balanced", "natural", "zipf"], "model": ["step"]}
COLORS = {"ours": BLUE, "torch": GREY, "transformers": ORANGE, "torchtitan": GREEN, "scattermoe": PURPLE, "liger": RED, "eager": GREY,
          "compile": ORANGE, "liger-compile": PURPLE}
TITLES = {"qwen3": "Qwen3-30B", "olmoe": "OLMoE", "mixtral": "Mixtral-8x7B"}


def seconds_of(record, program, case):
    """@returns a program's times, one for each turn"""
    return [turn[case]["seconds"] for turn in record["turns"].get(program, []) if case in turn]


def median_of(record, program, case):
    return statistics.median(seconds_of(record, program, case))


def best_peer(record, case):
    """@returns a name, or None if no peer ran"""
    peers = [program for program in record["turns"] if program != "ours"]
    return min(peers, key=lambda peer: median_of(record, peer, case), default=None)


def ratio_of(record, case):
    """@returns the best peer's time over ours, or None if no peer ran"""
    peer = best_peer(record, case)
    return median_of(record, peer, case) / median_of(record, "ours", case) if peer else None


def share_of_limit(record, case):
    """@returns the time that a product at the best rate of this run would take for the same FLOP, over ours"""
    return record["flop"] / (max(record["gemm_tflops"]) * 1e12) / median_of(record, "ours", case)


def cell(record, program, case):
    seconds, flop = seconds_of(record, program, case), record["flop"]
    median = statistics.median(seconds)
    parts = [f"{median * 1e3:.4g} ms" + (f" ({min(seconds) * 1e3:.4g} to {max(seconds) * 1e3:.4g})" if len(seconds) > 1 else "")]
    last = record["turns"][program][-1][case]
    if record["row"] == "model":
        shape = record["shape"]
        parts.append(f"{shape['sequences'] * shape['positions'] / median:,.0f} tokens/s")
        if record["peak_tflops"]:
            parts.append(f"MFU {flop / median / 1e10 / record['peak_tflops']:.1f} %")
        if last.get("micro_batch", shape["sequences"]) != shape["sequences"]:
            parts.append(f"{last['micro_batch']} sequences at a time")
    else:
        parts.append(f"{flop / median / 1e12:.3g} TFLOP/s")
    for key, name in (("kept_bytes", "kept"), ("peak_bytes", "peak")):
        if last.get(key) is not None and (key == "peak_bytes" or record["row"] == "layer"):
            parts.append(f"{last[key] / 1e9:.3g} GB {name}")
    return ", ".join(parts)


def checked_text(record, program):
    agreed = record["agreed"].get(program)
    if agreed is None:
        return "not checked"
    if record["row"] == "model":
        return f"{agreed['parameters']:,} parameters, first loss {agreed['first_loss']:.3f}"
    what = "the float32 loop" if program == "ours" else "ours"
    return f"within {max(agreed.values()):.1%} of {what}"


def print_table(record):
    shape, cases = record["shape"], CASES[record["row"]]
    sizes = [f"D {shape['width']} F {shape['expert_width']} E {shape['experts']} K {shape['choices']}"]
    if record["row"] == "layer":
        sizes.insert(0, f"T {shape['tokens']}")
    else:
        sizes = [f"{shape['layers']} layers", *sizes, f"V {shape['vocabulary']}", f"{shape['sequences']} sequences of {shape['positions']}",
                 f"ln V {math.log(shape['vocabulary']):.3f}"]
    device = record["machine"].get("gpu") or record["machine"].get("device")
    print(f"\n{record['row']} {record['name']} on {device}, commit {record['commit']}: {', '.join(sizes)}; "
          f"gemm {max(record['gemm_tflops']):.3g} TFLOP/s\n\n| | {' | '.join(cases)} | result |\n|---|{'---|' * len(cases)}---|")
    for program in record["turns"]:
        print(f"| {program} | {' | '.join(cell(record, program, case) for case in cases)} | {checked_text(record, program)} |")
    for program, error in record["errors"].items():
        print(f"| {program} | failed: {error.replace('|', '/')} {'| ' * len(cases)}| |")
    ratios = [f"{ratio_of(record, case):.2f} ({best_peer(record, case)})" if best_peer(record, case) else "-" for case in cases]
    print(f"| best peer / ours | {' | '.join(ratios)} | |")
    print(f"| limit / ours | {' | '.join(f'{share_of_limit(record, case):.2f}' for case in cases)} | |", flush=True)


def print_summary(records):
    for row, cases in CASES.items():
        ratios = [ratio for record in records if record["row"] == row for case in cases if (ratio := ratio_of(record, case))]
        if ratios:
            print(f"\n{row}: best peer / ours: {ratios_text(ratios)} (of {len(ratios)})")


def bars(picture, frame, title, records, cases, unit, value):
    """One panel: a group of bars for each place, which is a record's case."""
    places = [(record, case) for record in records for case in cases]
    programs = [name for name in COLORS if any(name in record["turns"] for record in records)]
    groups = [(name, COLORS[name], [value(record, name, case) if name in record["turns"] else None for record, case in places]) for name in programs]
    names = [TITLES.get(record["name"], record["name"]) if len(cases) == 1 else case for record, case in places]
    ceiling = [max(record["gemm_tflops"]) for record, _ in places]
    ticks = [ceiling if unit == "TFLOP/s" and name == "ours" else [None] * len(places) for name in programs]
    high = [each for _, _, values in groups for each in values if each] + (ceiling if unit == "TFLOP/s" else [])
    panel = Panel(picture, frame, title, Places(names, ""), Linear(high, unit))
    panel.bars(groups, ticks, "gemm, at best") if unit == "TFLOP/s" else panel.bars(groups)
    panel.legend()


def write_chart(records, path):
    """A panel for each layer, and one for the models."""
    of = {row: [record for record in records if record["row"] == row] for row in CASES}
    panels = [[record] for record in of["layer"]] + ([of["model"]] if of["model"] else [])
    if not panels:
        return
    width, height = 560, 290
    picture = Picture(2 * width, height * math.ceil(len(panels) / 2))
    for index, group in enumerate(panels):
        frame = Frame(index % 2 * width, index // 2 * height, width, height)
        record = group[0]
        if record["row"] == "layer":
            rate = lambda record, name, case: record["flop"] / median_of(record, name, case) / 1e12
            bars(picture, frame, f"{TITLES.get(record['name'], record['name'])}'s layer, forward and backward", group, CASES["layer"], "TFLOP/s", rate)
        else:
            def speed(record, name, case):
                return record["shape"]["sequences"] * record["shape"]["positions"] / median_of(record, name, case)
            bars(picture, frame, "Training steps, models cut in depth", group, CASES["model"], "tokens/s", speed)
    path.write_text(picture.text())
