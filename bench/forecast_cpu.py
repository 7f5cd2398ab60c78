#!/usr/bin/env python3
"""The forecast of `pimoe check` against our training step on this machine's CPU, for the shapes of bench/compare_cpu.py.

    bench/forecast_cpu.py [--pimoe build/pimoe] [--shapes olmoe,many] [--precisions bfloat16,float32] [--rounds 2] [--threads 2] [--under "chrt -r 20"]

A round measures the ceilings, trains, and asks `check` with these ceilings, one after the other; the round counts in which training was fastest, for what
else runs on the machine disturbs it least. Time is the median step after the first ones; memory is the process' peak against the forecast of training at
balance. Prints a table, with what the forecast consists of under --parts.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from compare_cpu import ROOT, SHAPES, STEPS, WARMUP, commit, config_of, cpu_name, output_of, write_corpus


def one_round(options, shape, precision, folder):
    run = pathlib.Path(tempfile.mkdtemp(dir=folder))
    path, ceilings = run / "config.yaml", run / "ceilings.json"
    path.write_text(json.dumps(config_of(shape, precision, options.threads, run / "run", f"{folder}/corpus")))  # JSON is YAML
    output_of(options.under + [options.pimoe, "bench", "ceilings", str(path), "--seconds", str(options.seconds), "--json", str(ceilings)])
    output_of(options.under + [options.pimoe, "train", str(path)])
    records = [json.loads(line) for line in open(run / "run" / "metrics.jsonl")]
    # Nothing is taken from the run that has just been: the same configuration, as if it was still to come.
    said = json.loads(output_of([options.pimoe, "check", str(path), f"run.directory={run / 'other'}", "--device", "cpu", "--ceilings", str(ceilings),
                                 "--json"]))
    return {"step_seconds": statistics.median(record["step_seconds"] for record in records[WARMUP:]), "peak_bytes": records[-1]["memory_bytes"],
            "foretold_seconds": said["time"]["step_seconds"], "foretold_bytes": said["memory"]["skews"]["at balance"]["training"],
            "parts": {part["name"]: part["seconds"] for part in said["time"]["parts"]}, "load": os.getloadavg()[0]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pimoe", default=str(ROOT / "build/pimoe"))
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--precisions", default="bfloat16,float32")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each ceiling's repetitions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--under", type=str.split, default=[], help="a command that runs each measurement, as: chrt -r 20")
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    lines, parts = [], []
    for name in options.shapes.split(","):
        shape = SHAPES[name]
        for precision in options.precisions.split(","):
            with tempfile.TemporaryDirectory() as folder:
                write_corpus(f"{folder}/corpus", shape["vocabulary"], shape["sequences"] * (shape["positions"] + 1) * (WARMUP + STEPS + 2))
                rounds = [one_round(options, shape, precision, folder) for _ in range(options.rounds)]
            least = min(rounds, key=lambda each: each["step_seconds"])
            print(name, precision, [f"{each['step_seconds']:.3f} s, foretold {each['foretold_seconds']:.3f} s" for each in rounds], file=sys.stderr, flush=True)
            time = least["foretold_seconds"] / least["step_seconds"] - 1
            memory = least["foretold_bytes"] / least["peak_bytes"] - 1
            lines.append(f"| {name}, {precision} | {least['foretold_seconds']:.3f} s | {least['step_seconds']:.3f} s | {100 * time:+.1f} % "
                         f"| {least['foretold_bytes'] / 1e6:,.0f} MB | {least['peak_bytes'] / 1e6:,.0f} MB | {100 * memory:+.1f} % |")
            parts.append(f"{name}, {precision}: " + ", ".join(f"{part} {1e3 * seconds:.1f} ms" for part, seconds in least["parts"].items()))
    print(f"{cpu_name()}, {options.threads} threads, commit {commit()}\n")
    print("| shape | step: foretold | measured | | peak: foretold | measured | |\n|---|---|---|---|---|---|---|\n" + "\n".join(lines))
    if options.parts:
        print("\n" + "\n".join(parts))


if __name__ == "__main__":
    main()
