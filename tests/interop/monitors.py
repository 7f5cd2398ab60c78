"""Holds what a run shows of itself against the readers that it is for; started by monitors.sh.

A run of two ranks is killed with SIGKILL some steps behind a checkpoint, and goes on to its end. Then
  * TensorBoard's EventAccumulator must have, for every number of metrics.jsonl, each step once and in order, with that value in float32, and nothing else.
"""

import argparse
import json
import math
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

CONFIG = """
run: {directory: run}
mesh: {device: cpu}
data: {train: corpus, validation: corpus, tokenizer: corpus.model}
model: {layers: 3, width: 32, heads: 2, kv_heads: 2, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32, first_dense_layers: 1}}
train: {steps: 60, global_batch: 4, micro_batch: 2, precision: float32, validate_every: 7, validation_batches: 1}
checkpoint: {every_steps: 10, asynchronous: false}
"""


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def records(run):
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n") if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def train(options, folder, *overrides, **kwargs):
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2", options.pimoe, "train", "tiny.yaml", *overrides]
    return subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **kwargs)


def kill_behind_a_checkpoint(options, folder):
    """Ends every process of the job at once, between step 23 and step 30. @returns the last step whose record was written"""
    job = train(options, folder)
    while (done := records(folder / "run")) == [] or done[-1]["step"] < 23:
        if job.poll() is not None:
            sys.exit(f"FAILED: the run ended early: {job.stdout.read().decode()}")
        time.sleep(0.001)
    ranks = subprocess.run(["pgrep", "-s", str(job.pid)], capture_output=True, text=True).stdout.split()
    for pid in {*ranks, str(job.pid)}:
        os.kill(int(pid), signal.SIGKILL)
    job.wait()
    return records(folder / "run")[-1]["step"]


def curves_of(metrics):
    """The numbers of metrics.jsonl as TensorBoard is to have them: tag -> [(step, float32)]"""
    curves = {}
    for record in metrics:
        for key, value in record.items():
            if key != "step" and isinstance(value, (bool, int, float)):
                curves.setdefault(key, []).append((record["step"], struct.unpack("f", struct.pack("f", value))[0]))
    return curves


def check_tensorboard(run, begun, ended):
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    wanted = curves_of(records(run))
    check(set(reader.Tags()["scalars"]) == set(wanted), f"tags differ: {set(reader.Tags()['scalars']) ^ set(wanted)}")
    for tag, points in wanted.items():
        found = reader.Scalars(tag)
        check([(event.step, event.value) for event in found] == points, f"{tag}: TensorBoard has {found}, metrics.jsonl {points}")
        times = [event.wall_time for event in found]
        check(times == sorted(times) and begun <= times[0] and times[-1] <= ended, f"{tag}: times {times}")
    check([step for step, _ in wanted["loss"]] == list(range(1, 61)), "not each step once")
    return len(wanted), sum(map(len, wanted.values()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pimoe", required=True)
    options = parser.parse_args()
    options.pimoe = os.path.abspath(options.pimoe)
    with tempfile.TemporaryDirectory(prefix="pimoe-monitors-") as name:
        folder = pathlib.Path(name)
        (folder / "a.txt").write_text("".join(f"the {n % 7} cats sat on {n % 11} mats and {n % 5} hats\n" for n in range(4000)))
        subprocess.run([options.pimoe, "data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "a.txt"],
                       cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (folder / "tiny.yaml").write_text(CONFIG)
        begun = time.time()
        killed = kill_behind_a_checkpoint(options, folder)
        resumed = train(options, folder)
        text, _ = resumed.communicate()
        check(resumed.returncode == 0, f"the run that went on ended with {resumed.returncode}: {text.decode()}")
        files = sorted((folder / "run" / "tensorboard").iterdir())
        check(len(files) == 2, f"two processes, and {len(files)} event files")
        curves, points = check_tensorboard(folder / "run", begun, time.time())
        print(f"TensorBoard: killed behind step {killed}, {len(files)} event files; {curves} curves with {points} points, all those of metrics.jsonl")


if __name__ == "__main__":
    main()
