#!/usr/bin/env python3
"""Time and memory as one thing grows: experts, tokens, length, ranks, start-up, corpus, checkpoint. Needs nothing but Python.

    bench/growth.py [TOPIC ...] [--pimoe build/pimoe] [--under "nice -n 19"] [--scratch DIR] [--show]

Runs pimoe as a user does, on the CPU. Each topic prints a Markdown table and, of each measured column, the exponent with which it grows: the slope of a line
through all points in logarithms, and that between the last two. 1 is "in proportion", 0 "not at all". A constant beside a growing part makes the first smaller; the last one says
where it is going. --results gathers the numbers of all topics, whichever run measured them; --svg draws one panel or two for each. --show prints and draws what is there.
docs/bench.md says what the columns are.
"""
import argparse
import itertools
import json
import math
import os
import pathlib
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from svg_chart import COLORS, Frame, Logarithmic, Panel, Picture

ROOT = pathlib.Path(__file__).resolve().parent.parent
SEED = 1234
PATIENCE = 900  # seconds for one command

# A model of one layer whose experts have a fixed width; what a topic grows is set beside these.
MODEL = {"model.vocabulary": 512, "model.layers": 1, "model.width": 128, "model.heads": 4, "model.kv_heads": 4, "model.sequence_length": 128,
         "model.moe.experts": 8, "model.moe.choices": 2, "model.moe.expert_width": 64, "train.micro_batch": 4, "train.global_batch": 4, "mesh.device": "cpu",
         "run.hang_limit": 600}
QUIET = {"optimizer.warmup_steps": 0, "checkpoint.every_steps": 0, "checkpoint.at_end": "false", "train.validate_every": 0}
# As little as training can be: what remains of a run is its start.
TINY = {**MODEL, **QUIET, "model.width": 32, "model.sequence_length": 32, "model.moe.expert_width": 16, "train.micro_batch": 1, "train.steps": 100000, "train.threads": 1,
        "log.every_steps": 1}

SIZES = {"experts": [8, 16, 32, 64, 128, 256], "tokens": [1, 2, 4, 8, 16, 32], "length": [128, 256, 512, 1024, 2048, 4096], "ranks": [1, 2, 4, 8],
         "start": [1, 2, 4, 8, 16, 32, 64], "corpus": [10, 100, 1000], "checkpoint": [4, 16, 64, 256, 512]}
SMALL_SIZES = {"experts": [2, 4], "tokens": [1, 2], "length": [8, 16], "ranks": [1, 2], "start": [1, 2], "corpus": [0.1, 0.2], "checkpoint": [2, 4]}


class Failure(Exception):
    """A command that did not do what it should; its message is for the user."""


def words(keys):
    return [f"{key}={value}" for key, value in keys.items()]


class Tool:
    """pimoe, as it is run here."""

    def __init__(self, options, scratch):
        self.pimoe, self.under, self.scratch, self.seconds = options.pimoe, shlex.split(options.under), scratch, options.seconds
        self.mpirun = shlex.split(options.mpirun)
        self.runs = 0
        self.machine = self.commit = None

    def command(self, ranks, arguments):
        return [*self.under, *([*self.mpirun, "-n", str(ranks)] if ranks else []), self.pimoe, *map(str, arguments)]

    def run(self, arguments, ranks=0):
        """(stdout, seconds, usage of the processes that were waited for) @throws Failure"""
        command = self.command(ranks, arguments)
        begun = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
            process = subprocess.Popen(command, stdout=out, stderr=log, start_new_session=True)
            usage = waited(process, begun + PATIENCE)
            seconds = time.monotonic() - begun
            out.seek(0)
            log.seek(0)
            if process.returncode != 0:
                raise Failure(f"{shlex.join(command)}: exit status {process.returncode}\n{log.read().decode(errors='replace')[-2000:]}")
            return out.read().decode(), seconds, usage

    def bench(self, suite, keys, ranks=0):
        """(rows by name, usage)"""
        self.runs += 1
        folder = self.scratch / f"bench-{self.runs}"
        text, _, usage = self.run(["bench", suite, *words(keys), f"run.directory={folder}", "--seconds", self.seconds, "--json"], ranks)
        shutil.rmtree(folder, ignore_errors=True)
        document = json.loads(text)
        self.machine, self.commit = document["machine"], document["commit"]
        return {row["name"]: row for row in document["rows"] if row["suite"] == suite}, usage

    def train_arguments(self, corpus, keys):
        """A new run's, and its folder."""
        self.runs += 1
        folder, config = self.scratch / f"run-{self.runs}", self.scratch / "empty.yaml"
        config.write_text("{}\n")
        return ["train", config, *words(keys), f"data.train={corpus}", f"data.tokenizer={corpus}.model", f"run.directory={folder}"], folder

    def step_cpu_seconds(self, keys):
        """Of a step of training with one thread: what a run of more steps takes longer than one of few. Others at work on the machine hardly change it."""
        def cpu_seconds(steps):
            arguments, folder = self.train_arguments(self.small_corpus(), {**QUIET, **keys, "train.threads": 1, "train.steps": steps})
            _, _, usage = self.run(arguments)
            shutil.rmtree(folder, ignore_errors=True)
            return usage.cpu_seconds

        few, more = 3, 12
        begun = cpu_seconds(few)
        while True:
            taken = cpu_seconds(few + more) - begun
            if taken >= self.seconds:
                return taken / more
            more = min(4 * more, math.ceil(1.3 * more * self.seconds / max(taken, 1e-3)))

    def first_step(self, corpus, keys, ranks=0):
        """Starts training, and ends it when its first step is told. What the system then says of its processes."""
        arguments, folder = self.train_arguments(corpus, keys)
        command = self.command(ranks, arguments)
        begun, said = time.monotonic(), []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        try:
            for line in process.stdout:
                said.append(line)
                if re.match(r"step +1/", line):
                    return {"seconds": time.monotonic() - begun, **memory_of(processes_of(process.pid, self.pimoe))}
        finally:
            end(process)
            process.stdout.close()
            shutil.rmtree(folder, ignore_errors=True)
        raise Failure(f"{shlex.join(command)}: no step\n{''.join(said[-20:])}")

    def corpus(self, inputs, name, *arguments):
        """(prefix, facts, seconds, usage)"""
        prefix = self.scratch / name
        text, seconds, usage = self.run(["data", "build", "--output", prefix, *arguments, "--json", *inputs])
        return prefix, json.loads(text), seconds, usage

    def small_corpus(self):
        prefix = self.scratch / "small"
        if not pathlib.Path(f"{prefix}.idx").exists():
            write_texts(self.scratch / "small.jsonl", 100_000)
            self.corpus([self.scratch / "small.jsonl"], "small", "--vocabulary", "400")
        return prefix


class Usage:
    """Of a process that has ended; `private_bytes` is the most that was seen, a hundred times a second: without what is mapped from files."""

    def __init__(self, usage, private_bytes):
        self.cpu_seconds, self.peak_bytes, self.private_bytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, private_bytes


def private_bytes_now(pid):
    try:
        found = re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0


def waited(process, deadline):
    """The usage of the process, waited for. @throws Failure"""
    private = 0
    try:
        while time.monotonic() < deadline:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return Usage(usage, private)
            private = max(private, private_bytes_now(process.pid))
            time.sleep(0.01)
        raise Failure(f"{shlex.join(process.args)}: not done in {PATIENCE} s")
    except BaseException:
        end(process)
        raise


def end(process):
    """With all that it has started. The ranks first: mpirun then leaves by itself, and takes its files with it."""
    started = descendants(process.pid)
    for pid in started:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        process.wait(timeout=20 if started else 0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def descendants(root):
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def processes_of(root, program):
    """Those that run `program`."""
    name = os.path.realpath(program)
    return [pid for pid in [root, *descendants(root)] if os.path.realpath(f"/proc/{pid}/exe") == name]


def memory_of(pids):
    """Bytes: `own_bytes` a process, private or shared alike by those that have it, on average; `peak_bytes` of the largest; what the files read had to come from the disk."""
    own, shared, peak, read = 0, 0, 0, 0
    for pid in pids:
        folder = pathlib.Path(f"/proc/{pid}")
        sizes = dict(re.findall(r"(\w+): +(\d+) kB", (folder / "smaps_rollup").read_text()))
        own += int(sizes["Pss_Anon"]) * 1024
        shared += int(sizes["Pss_Shmem"]) * 1024
        peak = max(peak, 1024 * int(re.search(r"VmHWM:\s+(\d+)", (folder / "status").read_text())[1]))
        read += int(re.search(r"read_bytes: (\d+)", (folder / "io").read_text())[1])
    return {"processes": len(pids), "own_bytes": own / len(pids), "shared_bytes": shared / len(pids), "peak_bytes": peak, "read_bytes": read}


def write_texts(path, size):
    """Documents of about 2 KB, as .jsonl: lines of words that are as frequent as words are, in an order that never comes again."""
    source = random.Random(SEED)
    letters = "etaoinshrdlucmfwypvbgk"
    lexicon = ["".join(source.choices(letters, range(len(letters), 0, -1), k=source.randint(2, 9))) for _ in range(20_000)]
    cumulated = list(itertools.accumulate(1 / rank for rank in range(1, len(lexicon) + 1)))
    lines = [" ".join(source.choices(lexicon, cum_weights=cumulated, k=16)) + ".\\n" for _ in range(20_000)]
    written = 0
    with open(path, "w") as file:
        while written < size:
            written += file.write('{"text": "' + "".join(source.choices(lines, k=20)) + '"}\n')


def forget_cached(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def measure_experts(tool, sizes):
    """Experts of a layer; their width, a token's choices and the tokens stay."""
    for experts in sizes:
        keys = {**MODEL, "model.moe.experts": experts}
        few, many = (tool.bench("layer", {**keys, "train.micro_batch": batch})[0]["balanced"] for batch in (4, 16))
        tokens, more = few["tokens_of_a_rank"], many["tokens_of_a_rank"]
        per_token = (many["kept_bytes"] - few["kept_bytes"]) / (more - tokens)
        full = {**keys, "train.micro_batch": 16, "train.global_batch": 16}
        step = tool.bench("model", full)[0]["training step"]
        start = tool.first_step(tool.small_corpus(), {**TINY, "model.moe.experts": experts, "train.global_batch": 1})
        yield {"size": experts, "step_cpu_seconds": tool.step_cpu_seconds(full), "kept_bytes_a_token": per_token,
               "kept_bytes_beside": few["kept_bytes"] - per_token * tokens, "state_bytes": step["state_bytes"], "peak_bytes": step["peak_bytes"],
               "start_seconds": start["seconds"]}


def step_of(tool, keys):
    keys = {**MODEL, "model.layers": 2, **keys}
    row = tool.bench("model", keys)[0]["training step"]
    return {"step_cpu_seconds": tool.step_cpu_seconds(keys), "kept_bytes": row["kept_bytes"], "peak_bytes": row["peak_bytes"], "state_bytes": row["state_bytes"]}


def measure_tokens(tool, sizes):
    """Sequences of a micro-batch, each of 128 tokens, in a model of two layers."""
    for sequences in sizes:
        yield {"size": sequences, **step_of(tool, {"train.micro_batch": sequences, "train.global_batch": sequences})}


def measure_length(tool, sizes):
    """Tokens of the one sequence of a micro-batch, in a model of two layers."""
    for length in sizes:
        yield {"size": length, **step_of(tool, {"train.micro_batch": 1, "train.global_batch": 1, "model.sequence_length": length})}


def kinds(by_group, ranks):
    """The mean rank's, by kind of group."""
    return {re.sub(" group of .*", "", group): count / ranks for group, count in by_group.items()}


def measure_ranks(tool, sizes):
    """Ranks, each with two sequences; the experts over all of them, and over pairs."""
    for ranks in sizes:
        point = {"size": ranks}
        keys = {**MODEL, "train.threads": 1, "train.micro_batch": 2, "train.global_batch": 2 * ranks}
        for name, parallel in (("all", ranks), ("pairs", min(ranks, 2))):
            row, = tool.bench("scaling", {**keys, "mesh.expert_parallel": parallel}, ranks)[0].values()
            bytes_, messages = kinds(row["sent_bytes_by_group"], ranks), kinds(row["sent_messages_by_group"], ranks)
            point[f"{name}_bytes"], point[f"{name}_messages"] = sum(bytes_.values()), sum(messages.values())
            point[f"{name}_collectives"] = sum(row["collectives_by_group"].values())
            point[f"{name}_groups"] = {group: {"bytes": bytes_[group], "messages": messages[group], "collectives": calls}
                                       for group, calls in kinds(row["collectives_by_group"], 1).items()}
        rows, _ = tool.bench("dispatch", {**keys, "mesh.expert_parallel": ranks}, ranks)
        point["dispatch_bytes"] = rows["forward and backward"]["sent_bytes_of_a_rank"]
        point["dispatch_messages"] = rows["forward and backward"]["sent_messages_of_a_rank"]
        yield point


def measure_start(tool, sizes):
    """Ranks of one thread that start a tiny model of 64 experts."""
    for ranks in sizes:
        start = tool.first_step(tool.small_corpus(), {**TINY, "model.moe.experts": 64, "train.global_batch": ranks}, ranks)
        if start["processes"] != ranks:
            raise Failure(f"{start['processes']} processes of {ranks} were there after the first step")
        yield {"size": ranks, "start_seconds": start["seconds"], "seconds_a_rank": start["seconds"] / ranks, "own_bytes": start["own_bytes"],
               "shared_bytes": start["shared_bytes"], "peak_bytes": start["peak_bytes"]}


def measure_corpus(tool, sizes):
    """Megabytes of text, in documents of 2 KB: built, then opened by training with nothing of it in memory."""
    for megabytes in sizes:
        path = tool.scratch / "texts.jsonl"
        write_texts(path, int(1e6 * megabytes))
        prefix, facts, seconds, usage = tool.corpus([path], "corpus", "--vocabulary", "1000")
        path.unlink()
        files = [pathlib.Path(f"{prefix}.{ending}") for ending in ("bin", "idx")]
        for file in files:
            forget_cached(file)
        start = tool.first_step(prefix, {**TINY, "model.vocabulary": 1024, "train.global_batch": 1})
        tokens, index = (file.stat().st_size for file in files)
        yield {"size": megabytes, "build_seconds": seconds, "build_cpu_seconds": usage.cpu_seconds,
               "megabytes_per_second": facts["input_bytes"] / 1e6 / seconds, "build_peak_bytes": usage.peak_bytes,
               "token_bytes": tokens, "index_bytes": index, "start_seconds": start["seconds"], "start_own_bytes": start["own_bytes"],
               "start_peak_bytes": start["peak_bytes"], "start_read_bytes": start["read_bytes"]}
        for file in files:
            file.unlink()


def measure_checkpoint(tool, sizes):
    """Bytes of a checkpoint, which grow with the experts, in files of 64 MiB; memory beside the state is what the process had of its own beyond one that only trains."""
    for experts in sizes:
        keys = {**MODEL, "model.width": 256, "model.moe.expert_width": 256, "model.moe.experts": experts, "train.micro_batch": 1, "train.global_batch": 1,
                "train.precision": "float32", "checkpoint.part_bytes": 64 << 20}
        rows, usage = tool.bench("checkpoint", keys)
        _, without = tool.bench("scaling", keys)
        save, load, beside = rows["save"], rows["load"], rows["save beside training"]
        yield {"size": save["bytes"], "experts": experts, "save_seconds": save["low_seconds"], "load_seconds": load["low_seconds"],
               "verify_seconds": load["verify_low_seconds"], "stall_seconds": beside["stall_low_seconds"], "peak_bytes": usage.peak_bytes,
               "beside_state_bytes": usage.private_bytes - without.private_bytes}


def number(value):
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def seconds(value):
    return f"{1e3 * value:,.1f} ms" if value < 1 else f"{value:.2f} s"


def size(value):
    if value < 0:
        return "-" + size(-value)
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}" if value < 999.5 * limit else f"{value / limit:.0f} {unit}"
    return f"{value:.0f} B"


class Topic:
    def __init__(self, name, title, unit, measure, columns, panels, shown=number):
        """@param columns  [(key, title, text of a value)]  @param panels  [(title, unit of y, [keys])]"""
        self.name, self.title, self.unit, self.measure, self.columns, self.panels, self.shown = name, title, unit, measure, columns, panels, shown


TOPICS = [
    Topic("experts", "Experts of a layer", "experts", measure_experts,
          [("step_cpu_seconds", "step of 2,048 tokens, CPU time", seconds), ("kept_bytes_a_token", "kept for backward a token", size),
           ("kept_bytes_beside", "kept beside", size), ("state_bytes", "weights, gradients, moments", size), ("peak_bytes", "peak", size),
           ("start_seconds", "start to first step", seconds)],
          [("Time", "s", ["step_cpu_seconds", "start_seconds"]),
           ("Memory", "bytes", ["kept_bytes_a_token", "kept_bytes_beside", "state_bytes", "peak_bytes"])]),
    Topic("tokens", "Sequences of a micro-batch", "sequences of 128 tokens", measure_tokens,
          [("step_cpu_seconds", "step, CPU time", seconds), ("kept_bytes", "kept for backward", size), ("peak_bytes", "peak", size), ("state_bytes", "state", size)],
          [("Time", "s", ["step_cpu_seconds"]), ("Memory", "bytes", ["kept_bytes", "peak_bytes", "state_bytes"])]),
    Topic("length", "Length of a sequence", "tokens of one sequence", measure_length,
          [("step_cpu_seconds", "step, CPU time", seconds), ("kept_bytes", "kept for backward", size), ("peak_bytes", "peak", size), ("state_bytes", "state", size)],
          [("Time", "s", ["step_cpu_seconds"]), ("Memory", "bytes", ["kept_bytes", "peak_bytes", "state_bytes"])]),
    Topic("ranks", "Ranks: what one sends in a step", "ranks", measure_ranks,
          [("all_bytes", "experts over all: bytes", size), ("all_messages", "messages", number), ("all_collectives", "collectives", number),
           ("pairs_bytes", "experts over pairs: bytes", size), ("pairs_messages", "messages", number), ("pairs_collectives", "collectives", number),
           ("dispatch_bytes", "dispatch, there and back: bytes", size), ("dispatch_messages", "messages", number)],
          [("Bytes that a rank sends", "bytes", ["all_bytes", "pairs_bytes", "dispatch_bytes"]),
           ("Messages of a rank, and collectives", "", ["all_messages", "pairs_messages", "dispatch_messages", "all_collectives"])]),
    Topic("start", "Start-up", "ranks of one thread", measure_start,
          [("start_seconds", "start to first step", seconds), ("seconds_a_rank", "over ranks", seconds), ("own_bytes", "own memory a rank", size),
           ("shared_bytes", "shared memory a rank", size), ("peak_bytes", "resident, largest rank", size)],
          [("Time", "s", ["start_seconds", "seconds_a_rank"]), ("Memory a rank", "bytes", ["own_bytes", "shared_bytes", "peak_bytes"])]),
    Topic("corpus", "Corpus", "MB of text", measure_corpus,
          [("build_seconds", "build", seconds), ("build_cpu_seconds", "its CPU time", seconds), ("megabytes_per_second", "MB/s", number), ("build_peak_bytes", "peak of building", size),
           ("token_bytes", ".bin", size), ("index_bytes", ".idx", size), ("start_seconds", "start to first step", seconds),
           ("start_own_bytes", "own memory of training", size), ("start_peak_bytes", "resident", size), ("start_read_bytes", "read from the disk", size)],
          [("Time", "s", ["build_seconds", "build_cpu_seconds", "start_seconds"]),
           ("Memory and disk", "bytes", ["build_peak_bytes", "start_own_bytes", "start_peak_bytes", "start_read_bytes"])]),
    Topic("checkpoint", "Checkpoint", "bytes of a checkpoint", measure_checkpoint,
          [("save_seconds", "save", seconds), ("load_seconds", "load", seconds), ("verify_seconds", "of it digests", seconds),
           ("stall_seconds", "training stands still", seconds), ("beside_state_bytes", "memory beside the state", size), ("peak_bytes", "peak", size)],
          [("Time", "s", ["save_seconds", "load_seconds", "stall_seconds"]), ("Memory", "bytes", ["beside_state_bytes", "peak_bytes"])], shown=size),
]


def exponents(points):
    """(slope of the line through all points in logarithms, slope between the last two), None where fewer than two are above 0."""
    logs = [(math.log(x), math.log(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return None
    (x1, y1), (x2, y2) = logs[-2:]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    if spread == 0 or x2 == x1:
        return None
    return sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread, (y2 - y1) / (x2 - x1)


def exponent_row(topic, points):
    cells = ["exponent (last two)"]
    for key, _, _ in topic.columns:
        fit = exponents([(point["size"], point[key]) for point in points])
        cells.append("-" if fit is None else "{:.2f} ({:.2f})".format(*(value + 0.0 for value in fit)).replace("-0.00", "0.00"))
    return cells


def table(topic, result):
    lines = [[topic.unit, *[title for _, title, _ in topic.columns]], ["---"] * (len(topic.columns) + 1)]
    for point in result["points"]:
        lines.append([topic.shown(point["size"]), *[text(point[key]) for key, _, text in topic.columns]])
    lines.append(exponent_row(topic, result["points"]))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("| ---", "|---").replace("--- |", "---|")


def per_expert_text(points):
    before, last = points[-2:]
    more = last["size"] - before["size"]
    each = (last["kept_bytes_a_token"] - before["kept_bytes_a_token"]) / more
    state = (last["state_bytes"] - before["state_bytes"]) / more
    return (f"Between the last two a further expert costs a token {size(each)} kept for backward, of {size(last['kept_bytes_a_token'] - last['size'] * each)} "
            f"that do not depend on their number, and {size(state)} of weights, gradients and moments.")


def groups_text(points):
    """Of the largest count, what travelled where."""
    point = points[-1]
    lines = [f"Of a rank of {point['size']}, by group:"]
    for name in ("all", "pairs"):
        for group, sent in point[f"{name}_groups"].items():
            lines.append(f"* experts over {name}, {group}: {size(sent['bytes'])}, {sent['messages']:.0f} messages, {sent['collectives']:.0f} collectives")
    return "\n".join(lines)


NOTES = {"experts": per_expert_text, "ranks": groups_text}


def picture(results):
    shown = [topic for topic in TOPICS if topic.name in results]
    height = 330
    drawing = Picture(1000, 10 + height * len(shown))
    for row, topic in enumerate(shown):
        points = results[topic.name]["points"]
        for column, (title, unit, keys) in enumerate(topic.panels):
            lines = [(key, [(point["size"], point[key]) for point in points if point[key] > 0]) for key in keys]
            lines = [(key, line) for key, line in lines if len(line) > 1]
            if not lines:
                continue
            values = [y for _, line in lines for _, y in line]
            panel = Panel(drawing, Frame(500 * column, 10 + height * row, 500, height - 10), f"{topic.title}: {title[0].lower()}{title[1:]}",
                          Logarithmic([point["size"] for point in points], topic.unit), Logarithmic(values, unit))
            names = {key: name for key, name, _ in topic.columns}
            for color, (key, line) in zip([*COLORS, "#8c8c8c"], lines):
                all_points, _ = exponents(line)
                panel.line(f"{legend_name(key, names[key])}: {all_points + 0.0:.2f}", line, color, labels=[""] * len(line))
            panel.legend()
    return drawing.text()


def legend_name(key, title):
    return key.replace("_", " ") if title in ("messages", "collectives") or "bytes" in title else title


def measure(topic, tool, options):
    sizes = options.sizes or (SMALL_SIZES if options.small else SIZES)[topic.name]
    points = []
    for point in topic.measure(tool, sizes):
        points.append(point)
        print(f"growth: {topic.name} {topic.shown(point['size'])}", file=sys.stderr, flush=True)
    return {"commit": tool.commit, "machine": tool.machine, "command": f"bench/growth.py {topic.name}" + (f" --under {shlex.quote(options.under)}" if options.under else ""),
            "points": points}


def show(topic, result):
    print(f"\n## {topic.title}\n\n{topic.measure.__doc__.strip()}\n")
    print(f"`{result['command']}`, commit {result['commit']}, {result['machine']['cpu']}, {result['machine']['cores']} cores, {result['machine']['precision']}\n")
    print(table(topic, result))
    if topic.name in NOTES:
        print("\n" + NOTES[topic.name](result["points"]))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"{', '.join(topic.name for topic in TOPICS)}; without one, all")
    parser.add_argument("--pimoe", default=str(ROOT / "build" / "pimoe"))
    parser.add_argument("--mpirun", default="mpirun --allow-run-as-root --oversubscribe --bind-to none", help="how ranks are started, without -n")
    parser.add_argument("--under", default="", help="what every command is run by: nice, chrt")
    parser.add_argument("--seconds", type=float, default=0.5, help="of pimoe bench")
    parser.add_argument("--scratch", type=pathlib.Path, help="folder for corpora and runs; what is made there is removed (default: the system's)")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench" / "results" / "growth.json")
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "docs" / "growth.svg")
    parser.add_argument("--small", action="store_true", help="sizes that say nothing, in seconds: does everything work?")
    parser.add_argument("--sizes", help="sizes of the one TOPIC in place of the usual ones: 10,100,1000,10000")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.topics) - {topic.name for topic in TOPICS})
    if unknown:
        parser.error(f"no topic {', '.join(unknown)}")
    if options.sizes:
        if len(options.topics) != 1:
            parser.error(f"--sizes {options.sizes} is of one topic: {len(options.topics)} are named")
        try:
            options.sizes = [int(size) for size in options.sizes.split(",")]
        except ValueError:
            parser.error(f"--sizes {options.sizes}: whole numbers with commas between them")
        if sorted(set(options.sizes)) != options.sizes or options.sizes[0] < 1:
            parser.error(f"--sizes {','.join(map(str, options.sizes))}: they ascend from 1 on")
    options.pimoe = os.path.abspath(options.pimoe)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: what was started ends, and its files go
    topics = [topic for topic in TOPICS if not options.topics or topic.name in options.topics]
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    failed = False
    for topic in topics:
        if not options.show:
            with tempfile.TemporaryDirectory(prefix="growth-", dir=options.scratch) as scratch:
                tool = Tool(options, pathlib.Path(scratch))
                try:
                    tool.bench("optimizer", MODEL)  # machine, commit and precision; and what the first start of a program costs is paid
                    results[topic.name] = measure(topic, tool, options)
                except Failure as failure:
                    print(f"growth: {topic.name}: {failure}", file=sys.stderr)
                    failed = True
                    continue
            options.results.write_text(json.dumps({each.name: results[each.name] for each in TOPICS if each.name in results}, indent=1) + "\n")
        if topic.name in results:
            show(topic, results[topic.name])
    if results:
        options.svg.write_text(picture(results))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
