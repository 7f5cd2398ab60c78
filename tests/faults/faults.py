#!/usr/bin/env python3
"""Kills training runs and makes their disks fail, and checks that nothing is lost. Needs a build; Python's standard library alone.

    tests/faults/faults.py EXPERIMENT [--rounds N] [--ranks 1,2] [--results FILE] [--seed S]

    kills    SIGKILL of one or all ranks at random moments of a run, and of one rank at each system call of its saves
    errors   ENOSPC, EIO, EDQUOT, EROFS and short writes at each system call of the saves
    bits     resumed after kills at random moments until it is done: the last checkpoint is the undisturbed run's to the bit
    supervised  launch/supervise.sh brings a run through five kills of a rank, to the undisturbed run's last checkpoint
    signals  SIGUSR1 at random moments: a complete checkpoint and exit code 75, every time
    damage   the newest checkpoint is damaged: `checkpoint verify` names the file, and a run goes on from the one before
    large    random bytes of a checkpoint of 1 GiB are changed: `checkpoint verify` names the file
    small_disk  a file system of 4 MiB fills up while a run saves, and is freed again (needs root, to mount it)
    hangs    a rank is killed, stopped, put to sleep, or leaves by an exception, at random moments and in its saves: the watchdog ends the job in
             time, names the rank, and has everyone's stacks
    calm     one rank at a twentieth of its speed, or with a slow disk: the watchdog says nothing

Each round is one line of JSON in the results file; rounds that are there already are not run again. Exit status 1 if one failed.
"""
import argparse
import glob
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build"))
PIMOE = BUILD / "pimoe"
SHIM = BUILD / "tests" / "libpimoe_fault_shim.so"
MPIRUN = [os.environ.get("PIMOE_MPIRUN", "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
LIMIT = 120  # seconds that any command may take: longer is a hang
STEPS = 40
EVERY = 8

CONFIG = """run: {directory: RUN}
mesh: {device: cpu}
data: {train: corpus, tokenizer: corpus.model}
model: {layers: 2, width: 32, heads: 2, kv_heads: 1, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32}}
train: {steps: %d, global_batch: 5, micro_batch: 3, precision: float32, threads: 1}
checkpoint: {every_steps: %d, part_bytes: 1048576}
log: {every_steps: 100}
""" % (STEPS, EVERY)


class Workplace:
    """A folder with a corpus and a configuration, and the undisturbed run's digests for each number of ranks."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pimoe-faults-"))
        text = "".join(f"the {i % 7} cats sat on {i % 11} mats and {i % 5} hats\n" for i in range(4000))
        (self.folder / "a.txt").write_text(text)
        self.sh([str(PIMOE), "data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "a.txt"])
        self.undisturbed = {}
        self.calls = {}

    def sh(self, command, **options):
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=LIMIT, check=True, **options)

    def train(self, run, ranks, overrides=(), environment=None, during=None):
        """Runs training; `during(process)` may disturb it. Returns (exit status, output)."""
        (self.folder / f"{run}.yaml").write_text(CONFIG.replace("RUN", run))
        command = MPIRUN + ["-n", str(ranks), str(PIMOE), "train", f"{run}.yaml", *overrides]
        variables = dict(os.environ, **(environment or {}))
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True)
            try:
                if during:
                    during(process)
                status = process.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                status = "hang"
            finally:
                kill_all(process, run)
            output.seek(0)
            return status, output.read()

    def expected(self, ranks):
        """Digest of the last checkpoint of a run that nothing disturbed."""
        if ranks not in self.undisturbed:
            run = f"whole-{ranks}"
            status, output = self.train(run, ranks)
            assert status == 0, output
            self.undisturbed[ranks] = digest(self.folder / run)
        return self.undisturbed[ranks]

    def calls_of_a_run(self, ranks, rank):
        """System calls that a rank's saves make in an undisturbed run."""
        if (ranks, rank) not in self.calls:
            run = f"count-{ranks}-{rank}"
            count = self.folder / f"{run}.count"
            status, output = self.train(run, ranks, environment=shim(self.folder / run, rank=rank, count=count))
            assert status == 0, output
            self.calls[ranks, rank] = max(int(line) for line in count.read_text().split())
            shutil.rmtree(self.folder / run)
        return self.calls[ranks, rank]


def shim(run, rank=None, at=0, kind="KILL", times=1, count=None):
    variables = {"LD_PRELOAD": str(SHIM), "PIMOE_FAULT_FOLDER": f"{run.name}/checkpoints", "PIMOE_FAULT_AT": str(at), "PIMOE_FAULT_KIND": kind,
                 "PIMOE_FAULT_TIMES": str(times)}
    if rank is not None:
        variables["PIMOE_FAULT_RANK"] = str(rank)
    if count is not None:
        variables["PIMOE_FAULT_COUNT"] = str(count)
    return variables


def pids_of(run):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            words = pathlib.Path(path).read_bytes().split(b"\0")
        except OSError:
            continue
        if words and words[0].endswith(b"/pimoe") and f"{run}.yaml".encode() in words and b"--print-config" not in words:
            found.append(int(path.split("/")[2]))
    return sorted(found)


def kill_all(process, run):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    for pid in pids_of(run):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    while pids_of(run):
        time.sleep(0.05)


def newest_good(folder):
    output = subprocess.run([str(PIMOE), "checkpoint", "list", str(folder), "--json"], capture_output=True, text=True, timeout=LIMIT)
    if output.returncode != 0:
        return 0, []
    rows = json.loads(output.stdout)
    return max([row["step"] for row in rows if row["good"]], default=0), [row["step"] for row in rows if not row["good"]]


def digest(folder):
    """Of every stored piece of the last step's checkpoint, whatever the files are called."""
    manifest = json.loads((folder / "checkpoints" / f"step-{STEPS:08d}" / "manifest.json").read_text())
    found = []

    def walk(node):
        if isinstance(node, dict):
            if "dataset" in node and "sha256" in node:
                found.append(f"{node['file']} {node['dataset']} {node['sha256']}")
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(manifest)
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def saved_before(output):
    """Steps whose save the log called good."""
    steps = [0]
    for line in output.splitlines():
        if "saved step " in line:
            steps.append(int(line.split("saved step ")[1].split(":")[0].split(";")[0]))
    return max(steps)


def after_a_kill(place, run, ranks, output):
    """What must hold after a killed run: every checkpoint that was called good is good or replaced by a later one, and training goes on to the
    same bits. Returns what does not."""
    good, bad = newest_good(place.folder / run)
    troubles = []
    if bad:
        troubles.append(f"damaged checkpoints under a good name: {bad}")
    if good < saved_before(output):
        troubles.append(f"step {saved_before(output)} was called saved, the newest good one is {good}")
    status, again = place.train(run, ranks)
    if status != 0:
        troubles.append(f"going on ended with {status}: {again[-400:]}")
    elif good and f"resumed from" not in again and "the run is complete" not in again:
        troubles.append("began from scratch beside a good checkpoint")
    if status == 0 and digest(place.folder / run) != place.expected(ranks):
        troubles.append("the last checkpoint differs from the undisturbed run's")
    return troubles


def kill_round(place, draw, run, ranks):
    rank = draw.randrange(ranks)
    how = draw.choice(["one rank", "all ranks", "system call", "system call"])
    facts = {"ranks": ranks, "how": how}
    if how == "system call":
        calls = place.calls_of_a_run(ranks, rank)
        facts.update(rank=rank, call=draw.randint(1, calls), of=calls)
        status, output = place.train(run, ranks, environment=shim(place.folder / run, rank=rank, at=facts["call"]))
    else:
        facts["after"] = draw.uniform(0.3, 3.0)

        def during(process):
            time.sleep(facts["after"])
            pids = pids_of(run)
            if how == "all ranks" or not pids:
                os.killpg(process.pid, signal.SIGKILL)
            for pid in pids if how == "all ranks" else draw.sample(pids, min(1, len(pids))):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

        status, output = place.train(run, ranks, during=during)
    troubles = ["the killed run hung"] if status == "hang" else []
    return facts, troubles + after_a_kill(place, run, ranks, output)


def error_round(place, draw, run, ranks):
    rank = draw.randrange(ranks)
    calls = place.calls_of_a_run(ranks, rank)
    kind = draw.choice(["ENOSPC", "EIO", "EDQUOT", "EROFS", "SHORT"])
    times = draw.choice([1, 1, 3, 20])
    facts = {"ranks": ranks, "rank": rank, "kind": kind, "call": draw.randint(1, calls), "of": calls, "times": times}
    status, output = place.train(run, ranks, ["checkpoint.retry_seconds=0.01"],
                                 environment=shim(place.folder / run, rank=rank, at=facts["call"], kind=kind, times=times))
    troubles = []
    good, bad = newest_good(place.folder / run)
    if status == "hang":
        troubles.append("hung")
    elif status == 74:  # the folder cannot be made, or the last save failed to its last try: said, and nothing is lost
        facts["ended"] = 74
        if "was not saved" not in output and "cannot" not in output:
            troubles.append(f"left with 74 without saying why: {output[-300:]}")
        troubles += after_a_kill(place, run, ranks, output)
    elif status != 0:
        troubles.append(f"ended with {status}: {output[-400:]}")
    elif digest(place.folder / run) != place.expected(ranks):
        troubles.append("the last checkpoint differs from the undisturbed run's")
    if bad:
        troubles.append(f"damaged checkpoints under a good name: {bad}")
    if status == 0 and good != STEPS:
        troubles.append(f"the newest good checkpoint is {good}")
    facts["said"] = output.count("Training goes on")
    return facts, troubles


def bits_round(place, draw, run, ranks):
    kills = []
    for _ in range(20):
        pause = draw.uniform(0.4, 2.5)

        def during(process):
            try:
                process.wait(timeout=pause)
            except subprocess.TimeoutExpired:
                for pid in pids_of(run):
                    os.kill(pid, signal.SIGKILL)

        status, output = place.train(run, ranks, during=during)
        if status == 0:
            break
        if status == "hang":
            return {"ranks": ranks, "kills": kills}, ["hung"]
        kills.append(round(pause, 2))
    troubles = after_a_kill(place, run, ranks, output)
    records = [json.loads(line)["step"] for line in (place.folder / run / "metrics.jsonl").read_text().splitlines()]
    if records != list(range(1, STEPS + 1)):
        troubles.append(f"metrics.jsonl has the steps {records}")
    return {"ranks": ranks, "kills": kills}, troubles


def signal_round(place, draw, run, ranks):
    facts = {"ranks": ranks, "after_first_line": draw.uniform(0.0, 1.5)}

    def during(process):
        log = place.folder / run / "log" / "rank-0000.log"
        begun = time.time()
        while not (log.exists() and log.stat().st_size) and time.time() - begun < LIMIT:
            time.sleep(0.01)
        time.sleep(facts["after_first_line"])
        process.send_signal(signal.SIGUSR1)
        facts["asked"] = time.time()

    status, output = place.train(run, ranks, [f"train.steps={STEPS * 50}", "checkpoint.every_steps=1000"], during=during)
    facts["seconds"] = round(time.time() - facts["asked"], 2)
    troubles = []
    if status != 75:
        troubles.append(f"ended with {status}: {output[-400:]}")
    good, bad = newest_good(place.folder / run)
    if bad or (status == 75 and f"saved step {good};" not in output):
        troubles.append(f"newest good {good}, damaged {bad}: {output[-200:]}")
    return facts, troubles


def supervised_round(place, draw, run, ranks):
    (place.folder / f"{run}.yaml").write_text(CONFIG.replace("RUN", run))
    command = [str(REPOSITORY / "launch" / "supervise.sh"), "-n", str(ranks), "--back-off", "0", "--attempts", "6", "--mpirun",
               "--oversubscribe --bind-to none", f"{run}.yaml"]
    kills = 0
    begun = time.time()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=place.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        while process.poll() is None and time.time() - begun < 2 * LIMIT:
            time.sleep(draw.uniform(0.4, 1.6))
            pids = pids_of(run)
            if pids and kills < 5 and process.poll() is None:
                os.kill(draw.choice(pids), signal.SIGKILL)
                kills += 1
        status = process.poll()
        kill_all(process, run)
        output.seek(0)
        said = output.read()
    troubles = [] if status == 0 else [f"ended with {status}: {said[-600:]}"]
    if status == 0 and digest(place.folder / run) != place.expected(ranks):
        troubles.append("the last checkpoint differs from the undisturbed run's")
    return {"ranks": ranks, "kills": kills, "seconds": round(time.time() - begun, 1)}, troubles


def flipped(path, draw):
    """Changes one byte of a file in one of three ways; returns where and how."""
    data = bytearray(path.read_bytes()) if path.stat().st_size < 1 << 24 else None
    at = draw.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        was = file.read(1)[0] if data is None else data[at]
        becomes = draw.choice([was ^ 0xFF, (was + 1) % 256, was ^ (1 << draw.randrange(8))])
        file.seek(at)
        file.write(bytes([becomes]))
    return {"at": at, "was": was, "becomes": becomes}


def damage_round(place, draw, run, ranks):
    place.expected(ranks)
    shutil.copytree(place.folder / f"whole-{ranks}", place.folder / run)
    steps = sorted((place.folder / run / "checkpoints").glob("step-*"))
    newest, before = steps[-1], steps[-2]
    shards = sorted(newest.glob("*.h5"))
    hit = draw.choice(shards + [newest / "manifest.json"])
    how = draw.choice(["flip", "flip", "flip", "cut", "longer", "swapped", "stale", "missing", "empty"])
    if how == "swapped" and len(shards) < 2:
        how = "flip"
    facts = {"ranks": ranks, "how": how, "file": hit.name}
    if how == "flip":
        facts.update(flipped(hit, draw))
    elif how == "cut":
        os.truncate(hit, draw.randrange(hit.stat().st_size))
    elif how == "longer":
        hit.write_bytes(hit.read_bytes() + bytes(draw.randint(1, 100)))
    elif how == "swapped":
        hit, other = draw.sample(shards, 2)
        facts["file"] = hit.name
        content = hit.read_bytes()
        hit.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif how == "stale":
        hit.write_bytes((before / hit.name).read_bytes())
    elif how == "missing":
        hit.unlink()
    else:
        hit.write_bytes(b"")
    troubles = []
    verified = subprocess.run([str(PIMOE), "checkpoint", "verify", str(newest)], capture_output=True, text=True, timeout=LIMIT)
    said = verified.stdout + verified.stderr
    if verified.returncode != 1 or (hit.name not in said and "manifest" not in said):
        troubles.append(f"verify ended with {verified.returncode}: {said[-300:]}")
    status, output = place.train(run, ranks)
    if status != 0 or digest(place.folder / run) != place.expected(ranks):
        troubles.append(f"going on ended with {status}: {output[-400:]}")
    if "is damaged" not in output or not (place.folder / run / "checkpoints" / (newest.name + ".bad")).exists():
        troubles.append(f"it was not set aside: {output[-400:]}")
    return facts, troubles


def large_round(place, draw, run, ranks):
    folder = place.folder / "large"
    if not folder.exists():
        status, output = place.train("large", 1, ["model.width=1024", "model.heads=8", "model.kv_heads=8", "model.layers=6",
                                                  "model.moe.expert_width=1024", "checkpoint.part_bytes=268435456", "train.steps=1"])
        assert status == 0, output
    checkpoint = folder / "checkpoints" / "step-00000001"
    hit = draw.choice(sorted(checkpoint.glob("*.h5")))
    facts = {"bytes": sum(file.stat().st_size for file in checkpoint.iterdir()), "file": hit.name, **flipped(hit, draw)}
    begun = time.time()
    verified = subprocess.run([str(PIMOE), "checkpoint", "verify", str(checkpoint)], capture_output=True, text=True, timeout=LIMIT)
    facts["seconds"] = round(time.time() - begun, 2)
    with hit.open("r+b") as file:
        file.seek(facts["at"])
        file.write(bytes([facts["was"]]))
    said = verified.stdout + verified.stderr
    return facts, [] if verified.returncode == 1 and hit.name in said else [f"verify ended with {verified.returncode}: {said[-300:]}"]


def small_disk_round(place, draw, run, ranks):
    """The run folder is on a file system that somebody else fills up and frees again."""
    disk = place.folder / run
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={4 * ranks}m", "tmpfs", str(disk)], check=True)
    try:
        facts = {"ranks": ranks, "full_after": draw.uniform(0.0, 0.5), "full_for": draw.uniform(0.2, 3.0)}

        def during(process):
            metrics = disk / "metrics.jsonl"  # before its first step a run may refuse to begin
            begun = time.time()
            while not (metrics.exists() and metrics.stat().st_size) and time.time() - begun < LIMIT:
                time.sleep(0.01)
            time.sleep(facts["full_after"])
            ballast = disk / "ballast"
            try:
                with ballast.open("wb", buffering=0) as file:
                    while True:
                        file.write(bytes(4096))
            except OSError:
                pass
            time.sleep(facts["full_for"])
            ballast.unlink()

        status, output = place.train(run, ranks, ["checkpoint.retry_seconds=0.05"], during=during)
        facts["failed_saves"] = output.count("was not saved")
        good, bad = newest_good(disk)
        troubles = [f"damaged checkpoints under a good name: {bad}"] if bad else []
        if status != 0:
            troubles.append(f"ended with {status}: {output[-600:]}")
        elif digest(disk) != place.expected(ranks):
            troubles.append("the last checkpoint differs from the undisturbed run's")
        else:
            records = [json.loads(line)["step"] for line in (disk / "metrics.jsonl").read_text().splitlines()]
            if records != list(range(1, STEPS + 1)):
                troubles.append(f"metrics.jsonl has the steps {records}")
        return facts, troubles
    finally:
        subprocess.run(["umount", str(disk)], check=False)


HANG_LIMIT = 3.0  # seconds, run.hang_limit
PATIENCE = 10  # times the limit, in a system call on a file
ALARM = re.compile(r"\b(dead|stopped|hung|mismatch|failed): ((?:rank |all ranks ).*)")


def pid_of(run, rank):
    """The process of a rank, None where there is none."""
    for pid in pids_of(run):
        try:
            variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables:
            return pid
    return None


def wait_for_training(place, run, process):
    log = place.folder / run / "log" / "rank-0000.log"
    while process.poll() is None and not (log.exists() and re.search(r"step +\d+/", log.read_text())):
        time.sleep(0.02)


def place_of(alarm):
    """What the culprit did, for the count: dispatch and reduction are what it does in them, whatever the phase."""
    found = re.search(r"step \d+, (\w+)(?:, layer \d+)?(?:, (in|after) (\w+))?", alarm)
    if not found:
        return "setup"
    phase, inside, collective = found.groups()
    if "the thread that saves" in alarm or "(beside it" in alarm.split(". waiting")[0]:
        return "save"
    if inside == "in" and collective == "all_to_all":
        return f"dispatch in {phase}"
    if inside == "in" and phase in ("forward", "backward", "gradients", "optimizer", "step"):
        return f"{collective} in {phase}"
    return phase


def hang_round(place, draw, run, ranks):
    rank = draw.randrange(ranks)
    how = draw.choice(["killed", "stopped", "asleep", "exception"])
    in_save = draw.random() < 0.3
    asynchronous = draw.random() < 0.5
    facts = {"ranks": ranks, "rank": rank, "how": how, "in_save": in_save, "asynchronous": asynchronous}
    overrides = [f"run.hang_limit={HANG_LIMIT:g}", f"train.steps={STEPS * 100}", f"checkpoint.asynchronous={str(asynchronous).lower()}",
                 "train.validate_every=7", "data.validation=corpus"]
    folder = place.folder / run
    environment = {"LD_PRELOAD": str(SHIM)}
    stamp = place.folder / f"{run}.stamp"
    if in_save:
        kind = {"killed": "KILL", "stopped": "STOP", "asleep": "SLEEP", "exception": "MPI"}[how]
        facts["call"] = draw.randint(1, 90 if rank == 0 else 20)
        environment = dict(shim(folder, rank=rank, at=facts["call"], kind=kind), PIMOE_FAULT_STAMP=str(stamp))
    struck = []
    troubles = []

    def during(process):
        if in_save:
            while process.poll() is None and not stamp.exists():
                time.sleep(0.02)
            struck.append(stamp.stat().st_mtime if stamp.exists() else time.time())
            return
        wait_for_training(place, run, process)
        time.sleep(draw.uniform(0.0, 1.5))
        pid = pid_of(run, rank)
        number = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "asleep": signal.SIGRTMIN + 10, "exception": signal.SIGRTMIN + 11}[how]
        struck.append(time.time())
        if pid:
            os.kill(pid, number)
        else:
            troubles.append("the round found no process of that rank, and disturbed nothing")

    ended = []

    def until_the_end(process):
        during(process)
        process.wait(timeout=LIMIT)
        ended.append(time.time())
        time.sleep(0.3)
        if pids_of(run):
            troubles.append("processes of the job are left")

    status, output = place.train(run, ranks, overrides, environment=environment, during=until_the_end)
    facts["status"] = status
    if status == "hang" or not ended:
        return facts, troubles + [f"hung: {output[-600:]}"]
    facts["seconds"] = round(ended[0] - struck[0], 2)
    alarms = [line for line in output.splitlines() if ALARM.search(line)]
    alarm = alarms[0] if alarms else ""
    facts["where"] = place_of(alarm) if alarm else "nowhere"
    disk = how == "asleep" and facts["where"] in ("save", "setup", "load")
    allowed = 5.0 if how in ("killed", "exception") else HANG_LIMIT * (PATIENCE if disk else 1) + 5.0
    facts["alarm"] = alarm[-400:]
    if status == 0:
        troubles.append("ended with 0")
    if facts["seconds"] > allowed:
        troubles.append(f"took {facts['seconds']} s, of {allowed} allowed")
    named = {int(number) for number in re.findall(r"rank (\d+) \(", alarm.split(". waiting")[0])}
    if named != {rank}:
        troubles.append(f"named {sorted(named)}: {output[-900:]}")
    kind = {"killed": "dead", "stopped": "stopped", "asleep": "hung", "exception": "failed"}[how]
    if alarm and ALARM.search(alarm).group(1) != kind:
        troubles.append(f"called {ALARM.search(alarm).group(1)}")
    if len(alarms) > 1:
        facts["alarms"] = len(alarms)
    for other in range(ranks):
        file = folder / "hang" / f"rank-{other:04d}.txt"
        text = file.read_text() if file.exists() else ""
        runs = other != rank or how in ("asleep", "exception")
        if "last record: " not in text or (runs and "\nthread " not in text) or (not runs and "no stacks" not in text):
            troubles.append(f"{file.name}: {text[:200]!r}")
    return facts, troubles


def calm_round(place, draw, run, ranks):
    rank = draw.randrange(ranks)
    how = draw.choice(["slow rank", "slow disk"])
    facts = {"ranks": ranks, "rank": rank, "how": how}
    overrides = [f"run.hang_limit={HANG_LIMIT:g}", "train.validate_every=5", "data.validation=corpus",
                 f"checkpoint.asynchronous={str(draw.random() < 0.5).lower()}"]
    environment = {}
    if how == "slow disk":
        overrides += ["train.steps=8", "checkpoint.every_steps=4"]
        environment = shim(place.folder / run, rank=rank, at=draw.randint(1, 10 if rank == 0 else 5), kind="SLOW", times=3)

    def during(process):
        if how == "slow disk":
            return
        wait_for_training(place, run, process)
        pid = pid_of(run, rank)
        begun = time.time()
        while process.poll() is None and pid and time.time() - begun < LIMIT - 30:
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.095)
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.005)
            except ProcessLookupError:
                break
        facts["slow_seconds"] = round(time.time() - begun, 1)

    status, output = place.train(run, ranks, overrides, environment=environment, during=during)
    troubles = [] if status == 0 else [f"ended with {status}: {output[-900:]}"]
    if ALARM.search(output) or (place.folder / run / "hang").exists():
        troubles.append(f"a false alarm: {output[-900:]}")
    return facts, troubles


EXPERIMENTS = {"hangs": hang_round, "calm": calm_round, "damage": damage_round, "large": large_round, "small_disk": small_disk_round,
               "supervised": supervised_round, "kills": kill_round, "errors": error_round, "bits": bits_round, "signals": signal_round}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=pathlib.Path)
    options = parser.parse_args()
    done = {}
    if options.results and options.results.exists():
        for line in options.results.read_text().splitlines():
            row = json.loads(line)
            if row["experiment"] == options.experiment and row["seed"] == options.seed:
                done[row["round"]] = row
    layouts = [int(ranks) for ranks in options.ranks.split(",")]
    place = None
    for number in range(options.rounds):
        if number in done:
            continue
        place = place or Workplace()
        ranks = layouts[number % len(layouts)]
        run = f"{options.experiment}-{options.seed}-{number}"
        begun = time.time()
        facts, troubles = EXPERIMENTS[options.experiment](place, random.Random(f"{options.seed}-{number}"), run, ranks)
        row = {"experiment": options.experiment, "seed": options.seed, "round": number, **facts, "troubles": troubles,
               "round_seconds": round(time.time() - begun, 1)}
        done[number] = row
        print(json.dumps(row), flush=True)
        if options.results:
            with options.results.open("a") as results:
                results.write(json.dumps(row) + "\n")
        if not troubles:
            shutil.rmtree(place.folder / run, ignore_errors=True)
    failed = [row for row in done.values() if row["troubles"]]
    if place and not failed:
        shutil.rmtree(place.folder)
    print(f"{options.experiment}: {len(done) - len(failed)} of {len(done)} rounds held" + (f"; see {place.folder}" if place and failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
