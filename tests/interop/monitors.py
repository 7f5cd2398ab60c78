"""Holds what a run shows of itself against the readers that it is for; started by monitors.sh.

A run of two ranks is killed with SIGKILL some steps behind a checkpoint, and goes on to its end. Then
  * TensorBoard's EventAccumulator must have, for every number of metrics.jsonl, each step once and in order, with that value in float32, and nothing else;
  * while it goes on, GET /metrics must be what prometheus_client's parser takes, with the newest record's values, and so must the file for node_exporter at its end;
  * every name that launch/grafana.json asks for must be there.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from prometheus_client.parser import text_string_to_metric_families
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


def samples_of(text):
    """name -> {labels without `run`: value}; checks what Prometheus wants of a family. """
    samples = {}
    for family in text_string_to_metric_families(text):
        check(family.documentation and family.type in ("gauge", "counter"), f"{family.name}: HELP '{family.documentation}', TYPE {family.type}")
        check(re.fullmatch("pimoe_[a-z_]+", family.name), f"the name {family.name}")
        for sample in family.samples:
            check(sample.labels.get("run") == "run", f"{sample.name} has the labels {sample.labels}")
            labels = tuple(sorted(item for item in sample.labels.items() if item[0] != "run"))
            check(labels not in samples.setdefault(sample.name, {}), f"{sample.name} {labels} is there twice")
            samples[sample.name][labels] = sample.value
    return samples


def fetch(port, path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        check(path != "/metrics" or answer.headers["Content-Type"].startswith("text/plain; version=0.0.4"), answer.headers["Content-Type"])
        return answer.read().decode()


def check_samples(samples, record):
    """One step's samples against its record in metrics.jsonl."""
    names = {"pimoe_step": "step", "pimoe_loss_nats": "loss", "pimoe_gradient_norm": "grad_norm", "pimoe_learning_rate": "learning_rate",
             "pimoe_tokens_total": "tokens", "pimoe_step_seconds": "step_seconds", "pimoe_forward_seconds": "forward_ms", "pimoe_moe_maxvio_worst": "moe/maxvio_worst",
             "pimoe_moe_dead_experts": "moe/dead_experts"}
    for name, key in names.items():
        wanted = record[key] * 1e-3 if key.endswith("_ms") else record[key]
        check(samples[name] == {(): wanted}, f"{name} is {samples[name]}, {key} is {record[key]}")
    layers = {(("layer", str(layer)),): value for layer, value in zip(record["moe/layers"], record["moe/maxvio_layers"])}
    check(samples["pimoe_moe_layer_maxvio"] == layers, f"pimoe_moe_layer_maxvio is {samples['pimoe_moe_layer_maxvio']}, not {layers}")


def watch_prometheus(job, port, run):
    """Scrapes a run that goes on. @returns how often"""
    scrapes = 0
    while job.poll() is None:
        try:
            samples = samples_of(fetch(port))
        except (urllib.error.URLError, ConnectionError, socket.timeout):
            time.sleep(0.005)
            continue
        if samples:
            record = next((each for each in records(run) if each["step"] == samples["pimoe_step"][()]), None)
            check(record is not None, f"a step that metrics.jsonl does not have: {samples['pimoe_step']}")
            check_samples(samples, record)
            scrapes += 1
            if scrapes == 1:
                try:
                    fetch(port, "/other")
                    check(False, "/other was answered")
                except urllib.error.HTTPError as error:
                    check(error.code == 404, f"/other: {error.code}")
        time.sleep(0.002)
    return scrapes


def check_dashboard(samples):
    """@returns how many names it asks for"""
    dashboard = json.loads((pathlib.Path(__file__).parents[2] / "launch" / "grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += [variable["query"] for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
    asked = set(re.findall(r"pimoe_\w+", " ".join(queries)))
    check(asked <= set(samples) | {"pimoe_mfu_ratio"}, f"the dashboard asks for {asked - set(samples)}")  # which CPUs do not have
    return len(asked)


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
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        resumed = train(options, folder, f"monitor.prometheus_port={port}", "monitor.prometheus_textfile=pimoe.prom", "train.steps=60")
        scrapes = watch_prometheus(resumed, port, folder / "run")
        text, _ = resumed.communicate()
        check(resumed.returncode == 0, f"the run that went on ended with {resumed.returncode}: {text.decode()}")
        files = sorted((folder / "run" / "tensorboard").iterdir())
        check(len(files) == 2, f"two processes, and {len(files)} event files")
        curves, points = check_tensorboard(folder / "run", begun, time.time())
        print(f"TensorBoard: killed behind step {killed}, {len(files)} event files; {curves} curves with {points} points, all those of metrics.jsonl")
        check(scrapes > 0, "no scrape met the run")
        samples = samples_of((folder / "pimoe.prom").read_text())
        check_samples(samples, records(folder / "run")[-1])
        asked = check_dashboard(samples)
        print(f"Prometheus: {scrapes} scrapes of the run, {len(samples)} names; the dashboard asks for {asked}, all there but MFU, which CPUs do not have")


if __name__ == "__main__":
    main()
