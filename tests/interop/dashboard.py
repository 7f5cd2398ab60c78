"""Asks a Prometheus that scrapes a run what launch/grafana.json would ask it; started by dashboard.sh.

Two runs train, one of them on two ranks. Then each query of each panel, with Grafana's variables put in as Grafana does (all runs, and one), must be
answered with finite numbers for every run, and the labels that legends name must be there; the list of runs must be those two. What only GPUs
report, the share of their peak, may be empty; a comparison such as `> 0` may choose nothing, its left side may not. The file is looked at
too: Grafana's own classes of a dashboard must know every key of it, every panel has an id and a place of its own on a grid of 24 columns, and names the
data source by its variable.
"""

import argparse
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

GPU_ALONE = {"pimoe_mfu_ratio"}
CONFIG = """
mesh: {device: cpu}
data: {train: corpus, validation: corpus, tokenizer: corpus.model}
model: {layers: 3, width: 32, heads: 2, kv_heads: 2, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32, first_dense_layers: 1}}
train: {steps: 1000000, global_batch: 4, micro_batch: 2, precision: float32, validate_every: 50, validation_batches: 1}
checkpoint: {every_steps: 1000000, asynchronous: false}
"""
SCRAPES = """
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs: [{job_name: pimoe, static_configs: [{targets: [%s]}]}]
"""


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """Prometheus' HTTP interface."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path, **values):
        with urllib.request.urlopen(self.base + path + "?" + urllib.parse.urlencode(values, doseq=True), timeout=10) as answer:
            return json.load(answer)["data"]

    def series(self, query, panel):
        """What a panel gets: the labels of each curve, and its newest number."""
        try:
            if panel["type"] == "stat":
                found = self.ask("query", query=query)["result"]
                return [(each["metric"], float(each["value"][1])) for each in found]
            now = time.time()
            found = self.ask("query_range", query=query, start=now - 60, end=now, step=1)["result"]
            return [(each["metric"], float(each["values"][-1][1])) for each in found]
        except urllib.error.HTTPError as error:
            sys.exit(f"FAILED: Prometheus refuses {query}: {error.read().decode()}")


def unknown(given, kept, place=""):
    """Where what Grafana's classes kept of a document is not what was given."""
    if isinstance(given, dict) and isinstance(kept, dict):
        return [line for key in given for line in (unknown(given[key], kept[key], f"{place}/{key}") if key in kept else [f"{place}/{key}"])]
    if isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        return [line for index, pair in enumerate(zip(given, kept)) for line in unknown(*pair, f"{place}/{index}")]
    return [] if given == kept else [place]


def check_layout(dashboard):
    plugins.register_default_plugins()
    lost = unknown(dashboard, json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard))))
    check(not lost, f"Grafana knows no {', '.join(lost)}")
    panels = dashboard["panels"]
    check({panel["type"] for panel in panels} <= {"stat", "timeseries"}, "a panel of a kind that these classes do not look into")
    asked = {panel["fieldConfig"]["defaults"]["unit"] for panel in panels}
    known = {value for value in vars(units).values() if isinstance(value, str)}
    check(asked <= known, f"Grafana knows no units {asked - known}")
    check(len({panel["id"] for panel in panels}) == len(panels), "two panels have one id")
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                check(x < 24 and (x, y) not in taken, f"'{panel['title']}' and '{taken.get((x, y), 'the edge')}' lie on each other")
                taken[x, y] = panel["title"]
        for source in [panel, *panel["targets"]]:
            check(source["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, f"'{panel['title']}' names a data source of its own")
        check(len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]), f"'{panel['title']}' has a refId twice")


def check_queries(server, dashboard, runs):
    """@returns how many queries were answered, how many curves they are, and what was empty"""
    answered, curves, empty = 0, 0, []
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            asked, query = re.fullmatch(r"(.*?)(?: > 0)?", target["expr"]).group(1), target["expr"]
            for variable, wanted in [(".*", set(runs)), (f"({'|'.join(runs)})", set(runs)), (runs[0], {runs[0]})]:
                server.series(query.replace("$run", variable), panel)
                found = server.series(asked.replace("$run", variable), panel)
                if not found and set(re.findall(r"pimoe_\w+", query)) <= GPU_ALONE:
                    empty.append(panel["title"])
                    continue
                check({labels.get("run") for labels, _ in found} == wanted, f"{panel['title']}: {asked} with $run {variable} has {found}, not the runs {wanted}")
                check(all(abs(value) < float("inf") for _, value in found), f"{panel['title']}: {found}")
                for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                    check(all(label in labels for labels, _ in found), f"{panel['title']}: its legend names {label}, which {found[0][0]} does not have")
                answered += 1
                curves += len(found)
    return answered, curves, sorted(set(empty))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--prometheus", required=True)
    options = parser.parse_args()
    dashboard = json.loads((pathlib.Path(__file__).parents[2] / "launch" / "grafana.json").read_text())
    check_layout(dashboard)
    pimoe, processes = os.path.abspath(options.pimoe), []
    with tempfile.TemporaryDirectory(prefix="pimoe-dashboard-") as name:
        folder = pathlib.Path(name)
        (folder / "a.txt").write_text("".join(f"the {n % 7} cats sat on {n % 11} mats and {n % 5} hats\n" for n in range(4000)))
        subprocess.run([pimoe, "data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "a.txt"], cwd=folder, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (folder / "tiny.yaml").write_text(CONFIG)
        runs, ports, here = ["first", "second"], [free_port(), free_port()], free_port()
        try:
            for run, port, ranks in zip(runs, ports, (1, 2)):
                command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(ranks), pimoe, "train", "tiny.yaml"]
                command += [f"run.directory={run}", f"monitor.prometheus_port={port}", "train.threads=1"]
                processes.append(subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            (folder / "prometheus.yml").write_text(SCRAPES % ", ".join(f"'127.0.0.1:{port}'" for port in ports))
            log = open(folder / "prometheus.log", "w")
            processes.append(subprocess.Popen([os.path.abspath(options.prometheus), "--config.file=prometheus.yml", "--storage.tsdb.path=store",
                                               f"--web.listen-address=127.0.0.1:{here}"], cwd=folder, stdout=log, stderr=log))
            server = Server(here)
            # Five scrapes of each run behind its first validation.
            deadline = time.monotonic() + 300
            while True:
                check(all(process.poll() is None for process in processes), f"a process ended early: {(folder / 'prometheus.log').read_text()[-2000:]}")
                check(time.monotonic() < deadline, "Prometheus has not seen both runs within five minutes")
                try:
                    seen = server.ask("query", query="count_over_time(pimoe_validation_loss_nats[1m])")["result"]
                    if len(seen) == 2 and all(float(each["value"][1]) >= 5 for each in seen):
                        break
                except (urllib.error.URLError, ConnectionError):
                    pass
                time.sleep(0.2)
            found = server.ask("label/run/values", **{"match[]": "pimoe_step"})
            check(found == runs, f"the list of runs is {found}")
            answered, curves, empty = check_queries(server, dashboard, runs)
            version = server.ask("status/buildinfo")["version"]
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    queries = sum(len(panel["targets"]) for panel in dashboard["panels"])
    print(f"Prometheus {version}, two runs: {len(dashboard['panels'])} panels with {queries} queries, each for all runs, for both by name and for one: "
          f"{answered} answers with {curves} curves; without numbers on CPUs: {', '.join(empty) or 'none'}")


if __name__ == "__main__":
    main()
