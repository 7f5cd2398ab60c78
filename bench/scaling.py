#!/usr/bin/env python3
"""Gathers what launch/scaling.sh ran into DIR/table.md, which it prints too, and DIR/scaling.svg. Needs nothing but Python.

    bench/scaling.py DIR

DIR/experiment.json names mode and rank counts; DIR/scaling-RANKS.json is what `pimoe bench scaling` measured, DIR/scaling-RANKS.status and .log
say why there is none. Exit status 1 if a count has no result. docs/scaling.md says what the columns mean.
"""
import argparse
import json
import pathlib
import re
import sys

from svg_chart import BLUE, COLORS, GREEN, GREY, ORANGE, Frame, Linear, Logarithmic, Panel, Picture, Places, short, wrapped

PHASES = ["forward", "backward", "gradients", "update"]


class Failure(Exception):
    """Why a count has no result."""


class Result:
    """What was measured at one rank count, as `pimoe bench scaling --json` writes it."""

    def __init__(self, document):
        self.machine = document["machine"]
        self.commit, self.command, self.config = document["commit"], document["command"], document["config"]
        self.row = next(row for row in document["rows"] if row["suite"] == "scaling")
        self.ranks = self.machine["ranks"]
        self.hosts, self.threads = self.machine["hosts"], self.machine["threads"]
        self.tokens_per_second = self.row["tokens_per_second"]
        self.sequences = int(re.search(r"^  global_batch: (\d+)", self.config, re.MULTILINE)[1])

    @property
    def oversubscribed(self):
        return self.machine["gpu"] is None and self.ranks * self.threads > self.machine["cores"] * self.hosts

    @property
    def unsteady(self):
        return self.row["high_seconds"] > 1.5 * self.row["low_seconds"]

    def remarks(self):
        return ", ".join(name for name in ("oversubscribed", "unsteady") if getattr(self, name))

    def phase(self, name):
        """Median seconds of the slowest and of the fastest rank."""
        by_rank = self.row[f"{name}_seconds_by_rank"]
        return max(by_rank), min(by_rank)

    def traffic(self):
        """[(what, groups, bytes that all ranks together sent in a step, foretold bytes)]

        A group of ranks may serve several ends. Where the experts are shared out over all ranks, their rows and the weights travel in one.
        """
        sent, foretold = self.row["sent_bytes_by_group"], self.row["foretold_sent_bytes_of_a_rank"]
        gradients = [group for group in sent if "gradient" in group]
        rows = [group for group in sent if group.startswith("expert group")]
        weights = [group for group in sent if group not in gradients + rows]
        if rows or foretold["rows"] == 0:
            parts = [("rows", rows, ["rows"]), ("weights", weights, ["weights"])]
        else:
            parts = [("rows and weights", weights, ["rows", "weights"])]
        parts.append(("gradients", gradients, ["gradients"]))
        return [(what, groups, sum(sent[group] for group in groups), self.ranks * sum(foretold[key] for key in keys))
                for what, groups, keys in parts if groups]


def read_result(folder, ranks):
    """@throws Failure"""
    path = folder / f"scaling-{ranks}.json"
    if not path.exists():
        raise Failure(trouble(folder, ranks))
    try:
        result = Result(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, StopIteration) as error:
        raise Failure(f"{path.name} is not what `pimoe bench scaling --json` writes ({type(error).__name__}: {error}); remove it, and run again") from error
    if result.ranks != ranks:
        raise Failure(f"{path.name} is of {ranks_text(result.ranks)}")
    return result


def trouble(folder, ranks):
    """The status, and the log's first error or else its last line."""
    status, log = (read_text(folder / f"scaling-{ranks}.{kind}") for kind in ("status", "log"))
    lines = [line.strip() for line in log.splitlines() if re.search(r"\w", line)]
    errors = [line for line in lines if re.search(r"\berror:|exited on signal|\bKilled\b|not enough slots", line)]
    reason = (errors or lines[-1:] or [""])[0]
    return ": ".join(filter(None, [status.strip() or "no result", reason])) + ("" if reason else "; there is no log")


def read_text(path):
    return path.read_text(errors="replace") if path.exists() else ""


def ranks_text(ranks):
    return "1 rank" if ranks == 1 else f"{ranks} ranks"


def milliseconds(seconds):
    return f"{seconds * 1e3:,.1f}" if seconds < 1 else f"{seconds * 1e3:,.0f}"


def megabytes(count):
    return f"{count / 1e6:,.1f}" if count >= 1e7 else f"{count / 1e6:.3g}"


def table(columns, rows):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def cell(text):
    return text.replace("|", "\\|")


class Experiment:
    def __init__(self, folder):
        plan = json.loads((folder / "experiment.json").read_text())
        self.mode, self.counts = plan["mode"], plan["ranks"]
        self.results, self.failures = {}, {}
        for ranks in self.counts:
            try:
                self.results[ranks] = read_result(folder, ranks)
            except Failure as failure:
                self.failures[ranks] = str(failure)

    @property
    def base(self):
        return self.results[min(self.results)]

    def ideal(self, ranks):
        """Tokens/s if each rank had the speed of one at the smallest count."""
        return self.base.tokens_per_second * ranks / self.base.ranks

    def efficiency(self, result):
        return result.tokens_per_second / self.ideal(result.ranks)

    def title(self):
        grows = "the step stays the same" if self.mode == "strong" else "the step grows with the ranks"
        return f"{self.mode.capitalize()} scaling: {grows}"

    def facts(self):
        machine, commits = self.base.machine, sorted({result.commit for result in self.results.values()})
        return f"commit {', '.join(commits)}; {machine['gpu'] or machine['cpu']}; {machine['transport']}, {machine['precision']}"

    def notes(self):
        """What a reader has to know before comparing."""
        results, notes = list(self.results.values()), []
        crowded = [result for result in results if result.oversubscribed]
        if crowded:
            names = ", ".join(f"{ranks_text(each.ranks)} ({each.ranks * each.threads} threads on {each.machine['cores'] * each.hosts} cores)"
                              for each in crowded)
            notes.append(f"Oversubscribed: {names}. Their seconds and tokens/s say nothing about scaling; read the bytes.")
        unsteady = [ranks_text(each.ranks) for each in results if each.unsteady]
        if unsteady:
            notes.append(f"Unsteady: {', '.join(unsteady)}. Some of their steps took half as long again as others: is anything else at work on the machine?")
        threads = {result.ranks: result.threads for result in results}
        if len(set(threads.values())) > 1:
            said = ", ".join(f"{count} at {ranks}" for ranks, count in threads.items())
            notes.append(f"A rank's threads differ ({said} ranks), and so does what a rank can do: set OMP_NUM_THREADS or train.threads.")
        for name, values in (("precision", {result.machine["precision"] for result in results}), ("commit", {result.commit for result in results}),
                             ("processor", {result.machine["device"] for result in results})):
            if len(values) > 1:
                notes.append(f"Not the same {name} everywhere: {', '.join(sorted(values))}.")
        if self.base.ranks != min(self.counts):
            notes.append(f"The smallest count has no result: efficiency is against {ranks_text(self.base.ranks)}.")
        return notes

    def markdown(self):
        if not self.results:
            return "\n\n".join([f"# {self.title()}", table(["ranks", "result"], [[str(ranks), cell(text)] for ranks, text in self.failures.items()])]) + "\n"
        parts = [f"# {self.title()}", f"`{self.base.command}` on {ranks_text(self.base.ranks)}, and so on; {self.facts()}.", *self.notes(),
                 self.speed_table(), "Time of a step by phase, in ms: slowest rank / fastest rank.", self.phase_table(),
                 "Sent in a step by all ranks together, in MB, and what `pimoe check` foretells for as many ranks as full as the fullest.",
                 self.traffic_table(), "Memory of the fullest rank, in MB.", self.memory_table()]
        return "\n\n".join(parts) + "\n"

    def speed_table(self):
        rows = []
        for ranks in self.counts:
            if ranks in self.failures:
                rows.append([str(ranks), *["-"] * 7, cell(self.failures[ranks])])
                continue
            result = self.results[ranks]
            spread = f"{milliseconds(result.row['low_seconds'])} .. {milliseconds(result.row['high_seconds'])}"
            rows.append([str(ranks), str(result.hosts), str(result.threads), str(result.machine["expert_parallel"]), str(result.sequences),
                         f"{milliseconds(result.row['median_seconds'])} ({spread})", f"{result.tokens_per_second:,.0f}",
                         f"{self.efficiency(result):.1%}", result.remarks()])
        return table(["ranks", "hosts", "threads of a rank", "expert_parallel", "sequences a step", "step, ms (10 % .. 90 %)", "tokens/s",
                      f"efficiency against {self.base.ranks}", "remark"], rows)

    def phase_table(self):
        return table(["ranks", *PHASES], [[str(ranks), *[" / ".join(map(milliseconds, result.phase(phase))) for phase in PHASES]]
                                          for ranks, result in self.results.items()])

    def traffic_table(self):
        rows = []
        for ranks, result in self.results.items():
            for what, groups, sent, foretold in result.traffic():
                ratio = f"{sent / foretold:.3f}" if foretold else "-"
                rows.append([str(ranks), what, ", ".join(groups), megabytes(sent), megabytes(foretold), ratio])
            if not result.traffic():
                rows.append([str(ranks), "nothing", "-", "0", "0", "-"])
        return table(["ranks", "what", "groups of ranks", "sent", "foretold", "sent / foretold"], rows)

    def memory_table(self):
        rows = [[str(ranks), megabytes(result.row["kept_bytes"]), megabytes(result.row["peak_bytes"])] for ranks, result in self.results.items()]
        return table(["ranks", "kept for backward of a micro-batch", "peak"], rows)

    def picture(self):
        picture = Picture(960, 1010)
        picture.words(480, 24, self.title(), anchor="middle", bold=True, size=15)
        picture.words(480, 43, self.facts(), anchor="middle", color="#555")
        crowded = any(result.oversubscribed for result in self.results.values())
        timed, counted = [self.draw_speed, self.draw_efficiency, self.draw_phases], [self.draw_traffic, self.draw_memory]
        panels = counted + timed if crowded else timed + counted  # what to read comes first
        for index, draw in enumerate(panels):
            draw(picture, Frame(480 * (index % 2), 56 + 315 * (index // 2), 480, 300), pale=crowded and draw in timed)
        y = 56 + 315 * 2 + 18
        for note in self.notes() + [f"{ranks_text(ranks)}: {text}" for ranks, text in self.failures.items()]:
            for line in wrapped(note, 66)[:6]:
                picture.words(496, y, line)
                y += 16
            y += 8
        return picture.text()

    def ranks_axis(self):
        return Places([f"{ranks}{'*' if result.oversubscribed else ''}" for ranks, result in self.results.items()],
                      "ranks (* more threads than cores)" if any(result.oversubscribed for result in self.results.values()) else "ranks")

    def draw_speed(self, picture, frame, pale):
        measured = [result.tokens_per_second for result in self.results.values()]
        ideal = [self.ideal(ranks) for ranks in self.results]
        panel = Panel(picture, frame, "Speed", self.ranks_axis(), Logarithmic(measured + ideal, "tokens/s"), pale)
        panel.line("ideal", list(enumerate(ideal)), GREY, dashed=True)
        panel.line("measured", list(enumerate(measured)), BLUE, [short(value) for value in measured])
        panel.legend()

    def draw_efficiency(self, picture, frame, pale):
        shares = [100 * self.efficiency(result) for result in self.results.values()]
        panel = Panel(picture, frame, f"Efficiency against {ranks_text(self.base.ranks)}", self.ranks_axis(), Linear([*shares, 100], "% of the ideal"), pale)
        panel.line("ideal", [(index, 100) for index in range(len(shares))], GREY, dashed=True)
        panel.line("measured", list(enumerate(shares)), BLUE, [f"{value:.0f}" for value in shares])
        panel.legend()

    def draw_phases(self, picture, frame, pale):
        times = [[[1e3 * seconds for seconds in result.phase(phase)] for result in self.results.values()] for phase in PHASES]
        slowest = [[pair[0] for pair in phase] for phase in times]
        panel = Panel(picture, frame, "Time of a step by phase, slowest rank", self.ranks_axis(), Linear(sum(slowest, []), "ms"), pale)
        panel.bars(list(zip(PHASES, COLORS, slowest)), [[pair[1] for pair in phase] for phase in times], "fastest rank")
        panel.legend()

    def draw_traffic(self, picture, frame, pale):
        """A rank's mean, so that one chart holds 2 ranks and 512."""
        kinds = {"rows and weights": [], "gradients": []}
        foretold = {name: [] for name in kinds}
        for ranks, result in self.results.items():
            for name in kinds:
                parts = [part for part in result.traffic() if (part[0] == "gradients") == (name == "gradients")]
                kinds[name].append(sum(part[2] for part in parts) / ranks / 1e6)
                foretold[name].append(sum(part[3] for part in parts) / ranks / 1e6 if parts else None)
        values = sum(kinds.values(), []) + [value for each in foretold.values() for value in each if value is not None]
        panel = Panel(picture, frame, "Sent in a step by a rank, on average", self.ranks_axis(), Linear(values, "MB"), pale)
        panel.bars([("experts' rows and weights", BLUE, kinds["rows and weights"]), ("gradients", ORANGE, kinds["gradients"])],
                   list(foretold.values()), "foretold")
        panel.legend()

    def draw_memory(self, picture, frame, pale):
        peak = [result.row["peak_bytes"] / 1e6 for result in self.results.values()]
        kept = [result.row["kept_bytes"] / 1e6 for result in self.results.values()]
        panel = Panel(picture, frame, "Memory of the fullest rank", self.ranks_axis(), Linear(peak + kept, "MB"), pale)
        panel.bars([("peak", BLUE, peak), ("of it kept for backward", GREEN, kept)])
        panel.legend()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, metavar="DIR")
    folder = parser.parse_args().folder
    experiment = Experiment(folder)
    text = experiment.markdown()
    (folder / "table.md").write_text(text)
    print(text, end="")
    (folder / "scaling.svg").unlink(missing_ok=True)  # a picture of other results
    if experiment.results:
        (folder / "scaling.svg").write_text(experiment.picture())
    sys.exit(1 if experiment.failures else 0)


if __name__ == "__main__":
    main()
