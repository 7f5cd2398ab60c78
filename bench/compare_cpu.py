#!/usr/bin/env python3
"""Our training step on the CPU against that of Hugging Face transformers in each of its modes, turn by turn in one run.

    bench/compare_cpu.py --peer-python /path/to/venv/bin/python [--pimoe build/pimoe] [--shapes olmoe,many] [--rounds 3] [--under "chrt -f 20"]
    bench/compare_cpu.py --peer-python python3 --modes "grouped_mm, compiled" --results elsewhere/results

The other Python needs torch and transformers. Each turn is a process of its own that trains on random tokens for a few steps; its time is the
median step after the first ones. The first round asks every mode, later rounds those within --near of the best. Before anything is counted, the
first loss must be that of fresh weights within 3 %. What fails is listed with its error. Writes cpu-SHAPE.json to --results for each shape.
"""
import argparse
import array
import itertools
import json
import math
import os
import pathlib
import random
import statistics
import struct
import sys
import tempfile

from comparison import ROOT, check_first_loss, commit, cpu_name, end_children_too, output_of, ratios_text, take_turns

SHAPES = {
    "olmoe": dict(layers=6, width=256, expert_width=512, experts=8, choices=2, vocabulary=4096, positions=256, sequences=16, heads=4),
    "many": dict(layers=6, width=256, expert_width=128, experts=32, choices=4, vocabulary=4096, positions=256, sequences=16, heads=4),
    "wide": dict(layers=4, width=512, expert_width=512, experts=16, choices=2, vocabulary=4096, positions=256, sequences=16, heads=8),
}
MODES = {f"transformers, {dtype}, {experts}{', compiled' if compiled else ''}": (dtype, experts, compiled)
         for dtype, experts, compiled in itertools.product(("autocast", "fp32"), ("grouped_mm", "eager"), (True, False))}
WARMUP = 2
STEPS = 6


def write_corpus(prefix, vocabulary, tokens):
    """Random ids in one document, in Megatron's indexed format (src/data/token_file.h)."""
    ids = array.array("H", random.Random(1).choices(range(vocabulary), k=tokens))
    with open(f"{prefix}.bin", "wb") as file:
        ids.tofile(file)
    with open(f"{prefix}.idx", "wb") as file:
        file.write(b"MMIDIDX\0\0" + struct.pack("<QBQQiqqq", 1, 8, 1, 2, tokens, 0, 0, 1))


def config_of(shape, precision, threads, run, corpus):
    """@returns our configuration of this shape, all sequences of a step at a time"""
    return {
        "run": {"directory": str(run)},
        "data": {"train": corpus},
        "model": {
            "vocabulary": shape["vocabulary"], "layers": shape["layers"], "width": shape["width"], "heads": shape["heads"],
            "kv_heads": shape["heads"], "sequence_length": shape["positions"], "qk_norm": True,
            "moe": {"experts": shape["experts"], "choices": shape["choices"], "expert_width": shape["expert_width"]},
        },
        "train": {"steps": WARMUP + STEPS, "global_batch": shape["sequences"], "micro_batch": shape["sequences"],
                  "precision": precision, "threads": threads},
        "checkpoint": {"every_steps": 0, "at_end": False},
        "log": {"every_steps": 1},
    }


def train_ours(options, shape, folder, precision, ranks):
    run = pathlib.Path(tempfile.mkdtemp(dir=folder))
    threads = options.threads // ranks
    config = config_of(shape, precision, threads, run / "run", f"{folder}/corpus") | {"mesh": {"expert_parallel": ranks}}
    path = run / "config.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    launch = ["mpirun", "--bind-to", "none", "-n", str(ranks)] + (["--allow-run-as-root"] if os.getuid() == 0 else [])
    output_of((launch if ranks > 1 else []) + options.under + [options.pimoe, "train", str(path)])
    records = [json.loads(line) for line in open(run / "run" / "metrics.jsonl")]
    return {"first_loss": records[0]["loss"], "seconds": [record["step_seconds"] for record in records[WARMUP:]],
            "peak_bytes": records[-1]["memory_bytes"] * ranks}


def train_peer(options, shape, dtype, experts, compiled):
    command = options.under + [options.peer_python, str(ROOT / "bench/peers/transformers_cpu.py"), json.dumps(shape), "--dtype", dtype,
                               "--experts", experts, "--threads", str(options.threads), "--warmup", str(WARMUP), "--steps", str(STEPS)]
    return json.loads(output_of(command + (["--compile"] if compiled else []), timeout=600).splitlines()[-1])


def compare(options, name, shape, folder):
    write_corpus(f"{folder}/corpus", shape["vocabulary"], shape["sequences"] * (shape["positions"] + 1) * (WARMUP + STEPS + 2))
    turns = {f"ours, {precision}": lambda precision=precision: train_ours(options, shape, folder, precision, 1)
             for precision in ("bfloat16", "float32")}
    turns["ours, bfloat16, 2 ranks x 1 thread, EP 2"] = lambda: train_ours(options, shape, folder, "bfloat16", 2)
    for mode, arguments in MODES.items():
        if options.modes in mode:
            turns[mode] = lambda arguments=arguments: train_peer(options, shape, *arguments)

    is_ours = lambda turn: turn.startswith("ours")
    time_of = lambda turn, of: statistics.median(second for result in of[turn] for second in result["seconds"])
    best_peer = lambda of: min((turn for turn in of if not is_ours(turn)), key=lambda turn: time_of(turn, of), default=None)
    is_near = lambda turn, of: is_ours(turn) or time_of(turn, of) <= options.near * time_of(best_peer(of), of)

    def checked(train):
        result = train()
        check_first_loss(result["first_loss"], shape["vocabulary"], shape["width"])
        return result

    taken, errors = take_turns(name, {turn: lambda train=train: checked(train) for turn, train in turns.items()}, options.rounds,
                               lambda result: f"{statistics.median(result['seconds']):.3f} s a step, {result['peak_bytes'] / 1e6:,.0f} MB", is_near)
    if "ours, bfloat16" in errors:
        sys.exit(f"{name}: ours, bfloat16: {errors['ours, bfloat16']}")
    results = {turn: {"seconds": sum((result["seconds"] for result in of), []), "peak_bytes": max(result["peak_bytes"] for result in of),
                      "first_loss": of[0]["first_loss"]} for turn, of in taken.items()}
    times = {turn: time_of(turn, taken) for turn in taken}
    best_turn = best_peer(taken)

    best = times[best_turn] if best_turn else math.nan
    tokens = shape["sequences"] * shape["positions"]
    print(f"\n{name}: {shape}\n| | s a step, median (range) | tokens/s | peak memory | best peer / this |\n|---|---|---|---|---|")
    for turn in sorted(results, key=times.get):
        seconds = results[turn]["seconds"]
        print(f"| {turn} | {times[turn]:.3f} ({min(seconds):.3f} to {max(seconds):.3f}) | {tokens / times[turn]:,.0f} "
              f"| {results[turn]['peak_bytes'] / 1e6:,.0f} MB | {best / times[turn]:.2f} |")
    for turn, error in errors.items():
        print(f"| {turn} | failed: {error} | | | |")
    sys.stdout.flush()
    ratio = best / times["ours, bfloat16"]
    record = {"shape": shape, "cpu": cpu_name(), "threads": options.threads, "commit": commit(), "results": results, "errors": errors,
              "best_peer": best_turn, "ratio": ratio}
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"cpu-{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--pimoe", default=str(ROOT / "build/pimoe"))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--modes", default="", metavar="TEXT", help="of transformers, only those whose name has it: fp32, autocast, eager, grouped_mm, compiled")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench/results")
    parser.add_argument("--near", type=float, default=1.25)
    parser.add_argument("--under", type=str.split, default=[], help="a command that runs each turn, as: chrt -f 20")
    options = parser.parse_args()
    if not any(options.modes in mode for mode in MODES):
        parser.error(f"--modes: none of transformers' modes has '{options.modes}' in its name: {'; '.join(MODES)}")
    end_children_too()
    ratios = []
    for name in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as folder:
            ratios.append(compare(options, name, SHAPES[name], folder))
    print(f"\nbest peer / ours in bfloat16: {ratios_text(ratios)}")


if __name__ == "__main__":
    main()
