#!/usr/bin/env python3
"""New tokens a second of the engine of `pimoe serve` against Hugging Face transformers' `generate`, turn by turn in one run.

    bench/compare_serve.py --peer-python /path/to/venv/bin/python [--pimoe build/pimoe] [--rounds 2] [--device cpu|cuda] [--shape quickstart|wide]
        [--precisions bfloat16,float32] [--threads 2] [--under "chrt -r 20"]

A model of configs/quickstart.yaml's shape (or four times as wide, with 32 experts of 1,024) with 4,096 tokens is made, and exported for transformers with `pimoe export`. Each turn is a process of its own that
continues 1, 8 and 64 prompts of 16 tokens by 48 greedy ones (`pimoe bench serve` and bench/peers/transformers_generate.py); numbers are medians over the rounds.
The other Python needs torch and transformers.
"""
import argparse
import json
import pathlib
import statistics
import tempfile

from compare_cpu import write_corpus
from comparison import ROOT, commit, cpu_name, end_children_too, gpu_name, output_of, take_turns

BATCHES = (1, 8, 64)
VOCABULARY = 4096
SHAPES = {
    "quickstart": {"layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "moe": {"experts": 8, "choices": 2, "expert_width": 256}},
    "wide": {"layers": 4, "width": 1024, "heads": 16, "kv_heads": 4, "moe": {"experts": 32, "choices": 4, "expert_width": 1024}},
}


def config_of(folder, device, shape):
    return {
        "run": {"directory": f"{folder}/run"}, "mesh": {"device": device}, "data": {"train": f"{folder}/corpus"},
        "model": {"vocabulary": VOCABULARY, "sequence_length": 256} | SHAPES[shape],
        "train": {"steps": 2, "global_batch": 2, "micro_batch": 2, "precision": "float32"},
        "checkpoint": {"every_steps": 2},
    }


def ours(options, folder, precision):
    report = f"{folder}/ours.json"
    output_of(options.under + [options.pimoe, "bench", "serve", f"{folder}/config.json", f"train.precision={precision}",
                               f"train.threads={options.threads}", "--json", report])
    rows = json.loads(pathlib.Path(report).read_text())["rows"]
    return {row["requests"]: row["new_tokens_per_second"] for row in rows if row["suite"] == "serve"}


def theirs(options, folder, precision, experts):
    said = output_of(options.under + [options.peer_python, str(ROOT / "bench/peers/transformers_generate.py"), f"{folder}/hf", "--dtype", precision,
                                      "--experts", experts, "--device", options.device, "--batches", ",".join(map(str, BATCHES)), "--threads", str(options.threads)], timeout=900)
    return {int(batch): rate for batch, rate in json.loads(said.splitlines()[-1])["tokens_per_second"].items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--pimoe", default=str(ROOT / "build/pimoe"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=list(SHAPES), default="quickstart")
    parser.add_argument("--precisions", type=lambda text: text.split(","), default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--under", type=str.split, default=[], help="a command that runs each turn, as: chrt -r 20")
    options = parser.parse_args()
    end_children_too()
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(f"{folder}/corpus", VOCABULARY, 20_000)
        pathlib.Path(f"{folder}/config.json").write_text(json.dumps(config_of(folder, options.device, options.shape)))  # JSON is YAML
        output_of([options.pimoe, "train", f"{folder}/config.json"])
        output_of([options.pimoe, "export", f"{folder}/run", "--output", f"{folder}/hf"])
        turns = {f"ours, {precision}": lambda precision=precision: ours(options, folder, precision) for precision in options.precisions}
        for precision in options.precisions:
            for experts in ("eager", "grouped_mm"):
                turns[f"transformers, {precision}, {experts}"] = (
                    lambda precision=precision, experts=experts: theirs(options, folder, precision, experts))
        results, errors = take_turns("serve", turns, options.rounds, lambda rates: ", ".join(f"{rate:,.0f} tokens/s" for rate in rates.values()))
    rates = {turn: {batch: statistics.median(result[batch] for result in of) for batch in BATCHES} for turn, of in results.items()}
    machine = cpu_name() if options.device == "cpu" else gpu_name()
    print(f"{machine}, {options.threads} threads, shape {options.shape}, {commit()}\n\n| new tokens/s, at a time | " + " | ".join(map(str, BATCHES)) + " | 64 over 1 |\n|---|"
          + "---|" * (len(BATCHES) + 1))
    for turn, of in rates.items():
        print(f"| {turn} | " + " | ".join(f"{of[batch]:,.0f}" for batch in BATCHES) + f" | {of[BATCHES[-1]] / of[1]:.1f} |")
    for turn, error in errors.items():
        print(f"| {turn} | failed: {error} |" + " |" * len(BATCHES))
    for precision in options.precisions:
        peers = [of for turn, of in rates.items() if turn.startswith("transformers") and precision in turn]
        if peers and f"ours, {precision}" in rates:
            best = {batch: max(of[batch] for of in peers) for batch in BATCHES}
            print(f"ours over the best of transformers, {precision}: "
                  + ", ".join(f"{rates[f'ours, {precision}'][batch] / best[batch]:.2f} of {batch}" for batch in BATCHES))


if __name__ == "__main__":
    main()
