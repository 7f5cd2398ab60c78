#!/usr/bin/env python3
"""Saving and loading a checkpoint: PiMoE against torch.save and PyTorch's distributed checkpoint (DCP), with the same ranks, tensors and disk.

    bench/checkpoint.py FOLDER [--ranks 2] [--rounds 3] [--pimoe build/pimoe] [key.path=value ...]

Run it with a Python that has torch. PiMoE trains a model of about 75 million parameters on the CPU and saves after each step without
`checkpoint.asynchronous`, and then some more with it; the others then save tensors of the same shapes and dtypes, each rank its own. Everyone's files are flushed to the
disk (fsync) before the clock stops. Loads begin with a cold page cache where this program may drop it (root). Prints a Markdown table.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp

CONFIG = """mesh: {{device: cpu}}
data: {{train: {folder}/corpus, tokenizer: {folder}/corpus.model}}
model: {{layers: 4, width: 512, heads: 8, sequence_length: 32, moe: {{experts: 24, choices: 2, expert_width: 512}}}}
train: {{steps: {steps}, global_batch: {ranks}, micro_batch: 1, precision: float32}}
checkpoint: {{every_steps: 1, asynchronous: {asynchronous}, keep: 2}}
run: {{directory: {folder}/run}}
"""


def cold_cache():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


def run_pimoe(arguments, folder, steps, asynchronous="false"):
    (folder / "config.yaml").write_text(CONFIG.format(folder=folder, ranks=arguments.ranks, steps=steps, asynchronous=asynchronous))
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(arguments.ranks), arguments.pimoe, "train",
               str(folder / "config.yaml"), *arguments.overrides]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def measure_pimoe(arguments, folder):
    """({"save": seconds of each, "load": ...}, tensors of each rank as [(shape, dtype)])"""
    text = "".join(f"def f{i}(x): return x + {i}\n" for i in range(3000))
    (folder / "a.txt").write_text(text)
    subprocess.run([arguments.pimoe, "data", "build", "--output", str(folder / "corpus"), "--vocabulary", "300", "--validation", "0",
                    str(folder / "a.txt")], check=True, capture_output=True)
    output = run_pimoe(arguments, folder, arguments.rounds)
    seconds = {"save": [float(s) for s in re.findall(r"saved step \d+: training waited ([\d.]+) s", output)][-arguments.rounds:], "load": []}
    for more in range(arguments.rounds):
        cold_cache()
        output = run_pimoe(arguments, folder, arguments.rounds + more + 1)
        seconds["load"].append(max(float(s) for s in re.findall(r"rank \d+ read .*, in ([\d.]+) s", output)))
    output = run_pimoe(arguments, folder, 3 * arguments.rounds + 1, asynchronous="true")  # the last save of a run is never beside training
    seconds["waits"] = [float(s) for s in re.findall(r"saved step \d+: training waited ([\d.]+) s, .* written beside it", output)]
    newest = max((folder / "run" / "checkpoints").glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    manifest = json.loads((newest / "manifest.json").read_text())
    tensors = [[] for _ in range(arguments.ranks)]
    for piece in manifest["pieces"]:
        rank = int(re.match(r"rank-(\d+)", piece["file"])[1])
        begin, end = piece["range"]
        tensors[rank].append((end - begin, piece["type"]))
    return seconds, tensors


def sync_folder(folder):
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def torch_rank(rank, ranks, tensors, folder, rounds, port, results):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    torch.set_num_threads(1)
    state = {f"rank-{rank}/{index}": torch.randn(count).to(getattr(torch, dtype)) for index, (count, dtype) in enumerate(tensors[rank])}
    seconds = {}

    def timed(name, action):
        dist.barrier()
        if rank == 0:
            cold_cache()
        dist.barrier()
        begun = time.perf_counter()
        action()
        dist.barrier()
        seconds.setdefault(name, []).append(time.perf_counter() - begun)

    for turn in range(rounds):
        plain, distributed = folder / f"plain-{turn}", folder / f"dcp-{turn}"
        if rank == 0:
            plain.mkdir()

        def save_plain():
            with open(plain / f"rank-{rank}.pt", "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())

        def save_distributed():
            dcp.save(state, storage_writer=dcp.FileSystemWriter(distributed, sync_files=True, single_file_per_rank=True))

        timed("torch.save save", save_plain)
        timed("torch.save load", lambda: state.update(torch.load(plain / f"rank-{rank}.pt", weights_only=True)))
        timed("DCP save", save_distributed)
        timed("DCP load", lambda: dcp.load(state, storage_reader=dcp.FileSystemReader(distributed)))
        if rank == 0:
            sync_folder(folder)
            shutil.rmtree(plain)
            shutil.rmtree(distributed)
    if rank == 0:
        results.put(seconds)
    dist.destroy_process_group()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="new, on the disk to be measured; removed at the end")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pimoe", default=str(pathlib.Path(__file__).parents[1] / "build" / "pimoe"))
    parser.add_argument("overrides", nargs="*", metavar="key.path=value")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True)
    try:
        ours, tensors = measure_pimoe(arguments, folder)
        shutil.rmtree(folder / "run")
        context = mp.get_context("spawn")
        results = context.SimpleQueue()
        mp.spawn(torch_rank, (arguments.ranks, tensors, folder, arguments.rounds, 20000 + os.getpid() % 20000, results), nprocs=arguments.ranks)
        theirs = results.get()
    finally:
        shutil.rmtree(folder)
    sizes = {"float64": 8, "float32": 4, "int64": 8, "int32": 4, "bfloat16": 2, "float16": 2, "uint8": 1}
    total = sum(count * sizes[dtype] for rank in tensors for count, dtype in rank)
    print(f"{total / 1e9:.2f} GB, {arguments.ranks} ranks, medians of {arguments.rounds} (range)\n")
    print(f"Training waits {statistics.median(ours['waits']):.2f} s ({min(ours['waits']):.2f} to {max(ours['waits']):.2f}) where PiMoE saves "
          "beside it.\n")
    print("| | save | GB/s | of PiMoE's time | load | GB/s | of PiMoE's time |\n|---|---|---|---|---|---|---|")
    rows = {"PiMoE": ours, **{name: {kind: theirs[f"{name} {kind}"] for kind in ("save", "load")} for name in ("torch.save", "DCP")}}
    for name, seconds in rows.items():
        cells = [name]
        for kind in ("save", "load"):
            middle = statistics.median(seconds[kind])
            cells += [f"{middle:.2f} s ({min(seconds[kind]):.2f} to {max(seconds[kind]):.2f})", f"{total / middle / 1e9:.2f}",
                      f"{middle / statistics.median(ours[kind]):.2f}"]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
