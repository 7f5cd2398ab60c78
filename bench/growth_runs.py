"""pimoe as a user runs it, for growth.py: commands, the processes that they are, texts to build corpora of, and what the system says of all that."""
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
import tempfile
import time

SEED = 1234
PATIENCE = 900  # seconds for one command
QUIET = {"optimizer.warmup_steps": 0, "checkpoint.every_steps": 0, "checkpoint.at_end": "false", "train.validate_every": 0}


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
