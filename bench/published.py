#!/usr/bin/env python3
"""The forecast of `pimoe check` beside published measurements: bench/results/published.json, which names the source of each.

    bench/published.py [--pimoe build/pimoe] [--parts]

Foretold is PiMoE's step on PiMoE's rates. Beside measurements of PiMoE the last column is the forecast's error; beside those of others it says how much
faster or slower PiMoE would be, which is no error: their kernels and their overlap are not ours. Published TFLOP/s are by Megatron's count, which is
`pimoe check`'s too; tokens/s and TFLOP/s are of one GPU. --parts adds what the forecast's time consists of.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEAK = 989.5  # TFLOP/s of H100 and H200


def config_of(row, model, folder):
    moe = model["moe"] | {"exchange": row.get("exchange", "auto")}
    return {
        "run": {"directory": str(folder / "run")},
        "data": {"train": str(folder / "corpus")},
        "mesh": {"expert_parallel": row["expert_parallel"]},
        "model": model | {"sequence_length": 4096, "moe": moe},
        "train": {"steps": 1, "global_batch": row["global_batch"], "micro_batch": row["micro_batch"], "precision": "bfloat16",
                  "recompute": row.get("recompute", "none")},
        "checkpoint": {"every_steps": 0, "at_end": False},
    }


def foretell(options, row, model, folder):
    path = folder / "config.yaml"
    path.write_text(json.dumps(config_of(row, model, folder)))  # JSON is YAML
    # There is no corpus: the exit status says so, and is no matter here.
    done = subprocess.run([options.pimoe, "check", str(path), "--ranks", str(row["ranks"]), "--device", row["device"], "--skew", "balanced", "--json"],
                          capture_output=True, text=True)
    said = json.loads(done.stdout)
    wrong = [error["text"] for error in said["errors"] if "corpus" not in error["text"]]
    if wrong or "time" not in said:
        raise SystemExit(f"{row['name']} of {row['of']}: {wrong or done.stderr}")
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pimoe", default=str(ROOT / "build/pimoe"))
    parser.add_argument("--parts", action="store_true")
    options = parser.parse_args()
    data = json.loads((ROOT / "bench/results/published.json").read_text())
    print("| model, GPUs | measured by | tokens/s a GPU | TFLOP/s (MFU) | PiMoE foretold: tokens/s a GPU | TFLOP/s (MFU) | foretold / measured | peak: foretold, measured | layout |")
    print("|---|---|---|---|---|---|---|---|---|")
    notes, parts = [], []
    for number, row in enumerate(data["rows"], 1):
        with tempfile.TemporaryDirectory() as folder:
            said = foretell(options, row, data["models"][row["model"]], pathlib.Path(folder))
        time = said["time"]
        tokens = time["tokens_per_second"] / row["ranks"]
        tflops = time["mfu"] * PEAK
        per_token = tflops / tokens  # TFLOP
        published = row.get("tokens_per_second") or row["tflops"] / per_token
        published_tflops = row.get("tflops") or published * per_token
        peak = said["memory"]["skews"]["at balance"]["peak"]
        layout = f"EP {row['expert_parallel']}, {row['micro_batch']} of {row['global_batch']} at a time"
        layout += ", recompute" if row.get("recompute") == "full" else ""
        layout += f", {row['exchange']} travel" if "exchange" in row else ""
        memory = f"{peak / 1e9:.0f} GB{', ' + format(row['peak_bytes'] / 1e9, '.0f') + ' GB' if 'peak_bytes' in row else ''}"
        memory += "" if said["memory"]["fits"] else ", does not fit"
        print(f"| {row['name']}, {row['ranks']} {row['device'].upper()} | {row['of']} [{number}] | {published:,.0f} | {published_tflops:.0f} ({published_tflops / PEAK:.1%}) "
              f"| {tokens:,.0f} | {tflops:.0f} ({tflops / PEAK:.1%}) | {100 * (tokens / published - 1):+.0f} % | {memory} | {layout} |")
        notes.append(f"{number}. {row['source']}. Layout: {row['layout']}. {row['difference']}.")
        shares = sorted(time["parts"], key=lambda part: -part["seconds"])
        parts.append(f"{number}. {time['step_seconds']:.2f} s: " + ", ".join(
            f"{part['name']} {part['seconds'] / time['step_seconds']:.0%}" for part in shares if part["seconds"] > 0.02 * time["step_seconds"]))
    print("\n" + "\n".join(notes))
    if options.parts:
        print("\nforetold:\n" + "\n".join(parts))
    print("\nLeft out:\n" + "\n".join(f"* {what}: {why}." for what, why in data["left_out"]))


if __name__ == "__main__":
    main()
