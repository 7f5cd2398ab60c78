"""Ranks that die, stop, hang or leave by an exception, and slow ones that do not: what the watchdog makes of them."""
import os
import re
import signal
import subprocess
import time

from workplace import LIMIT, SHIM, WITHOUT_END, newest_good, shim

HANG_LIMIT = 3.0  # seconds, run.hang_limit
PATIENCE = 10  # times the limit, in a system call on a file
ALARM = re.compile(r"\b(dead|lost|stopped|hung|mismatch|failed): ((?:rank |all ranks ).*)")


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


def hang_round(place, draw, run, ranks, number):
    rank = draw.randrange(ranks)
    how = draw.choice(["killed", "stopped", "asleep", "exception"])
    in_save = draw.random() < 0.3
    asynchronous = draw.random() < 0.5
    facts = {"ranks": ranks, "rank": rank, "how": how, "in_save": in_save, "asynchronous": asynchronous}
    overrides = [f"run.hang_limit={HANG_LIMIT:g}", f"train.steps={WITHOUT_END}", f"checkpoint.asynchronous={str(asynchronous).lower()}",
                 "train.validate_every=7", "data.validation=corpus"]
    folder = place.folder / run
    environment = {"LD_PRELOAD": str(SHIM)}
    stamp = place.folder / f"{run}.stamp"
    if in_save:
        kind = {"killed": "KILL", "stopped": "STOP", "asleep": "SLEEP", "exception": "MPI"}[how]
        facts["call"] = draw.randint(1, 90 if rank == 0 else 20)
        environment = dict(shim(folder, rank=rank, at=facts["call"], kind=kind), PIMOE_FAULT_STAMP=str(stamp))
    # Another one with it, and be it rank 0: a survivor names both.
    beside = draw.choice([other for other in range(ranks) if other != rank]) if how == "killed" and not in_save and ranks > 2 else None
    facts["beside"] = beside
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
        pid = place.pid_of(run, rank)
        sent = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP, "asleep": signal.SIGRTMIN + 10, "exception": signal.SIGRTMIN + 11}[how]
        struck.append(time.time())
        other = place.pid_of(run, beside) if beside is not None else None
        if pid:
            os.kill(pid, sent)
            if other:
                os.kill(other, sent)
        else:
            troubles.append("the round found no process of that rank, and disturbed nothing")

    ended = []

    def until_the_end(process):
        during(process)
        if isinstance(place.wait(process, run), str):
            return
        ended.append(time.time())
        time.sleep(0.3)
        if place.pids_of(run):
            troubles.append("processes of the job are left")

    status, output = place.train(run, ranks, overrides, environment=environment, during=until_the_end)
    facts["status"] = status
    if not ended:
        return facts, troubles + [f"did not end, {status}: {output[-3000:]}"]
    facts["seconds"] = round(ended[0] - struck[0], 2)
    alarms = [line for line in output.splitlines() if ALARM.search(line)]
    alarm = alarms[0] if alarms else ""
    facts["where"] = place_of(alarm) if alarm else "nowhere"
    disk = how == "asleep" and facts["where"] in ("save", "setup", "load", "data", "step")  # it may sleep in a call on a file: patience
    allowed = 5.0 if how in ("killed", "exception") else HANG_LIMIT * (PATIENCE if disk else 1) + 5.0
    facts["alarm"] = alarm[-400:]
    if status == 0:
        troubles.append("ended with 0")
    if facts["seconds"] > allowed:
        troubles.append(f"took {facts['seconds']} s, of {allowed} allowed")
    named = {int(digits) for digits in re.findall(r"rank (\d+) \(", alarm.split(". waiting")[0])}
    if named != {rank, beside} - {None}:
        troubles.append(f"named {sorted(named)}: {output[-900:]}")
    kind = {"killed": "dead", "stopped": "stopped", "asleep": "hung", "exception": "failed"}[how]
    if alarm and ALARM.search(alarm).group(1) != kind:
        troubles.append(f"called {ALARM.search(alarm).group(1)}")
    if len(alarms) > 1:
        facts["alarms"] = len(alarms)
    without_record = {rank, beside} - {0} if 0 in (rank, beside) and beside is not None else set()  # rank 0 had it
    for other in set(range(ranks)) - without_record:
        file = folder / "hang" / f"rank-{other:04d}.txt"
        text = file.read_text() if file.exists() else ""
        runs = other not in (rank, beside) or how in ("asleep", "exception")
        if "last record: " not in text or (runs and "\nthread " not in text) or (not runs and "no stacks" not in text):
            troubles.append(f"{file.name}: {text[:200]!r}")
    return facts, troubles


def calm_round(place, draw, run, ranks, number):
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
        pid = place.pid_of(run, rank)
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


def still_disk_round(place, draw, run, ranks, number):
    """The file system of the run folder stands still for longer than the limit, but not ten times that, as one on a network may: training goes on."""
    disk, image = place.folder / run, place.folder / f"{run}.image"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(disk)], check=True)
    facts = {"ranks": ranks, "still_after": draw.uniform(0.0, 1.0), "still_for": draw.uniform(2.5, 4.0) * HANG_LIMIT}

    def during(process):
        wait_for_training(place, run, process)
        time.sleep(facts["still_after"])
        subprocess.run(["fsfreeze", "-f", str(disk)], check=True)
        time.sleep(facts["still_for"])
        subprocess.run(["fsfreeze", "-u", str(disk)], check=True)
        time.sleep(2)
        process.send_signal(signal.SIGUSR1)

    try:
        steps = [f"train.steps={WITHOUT_END}", f"run.hang_limit={HANG_LIMIT:g}", f"checkpoint.every_steps={draw.choice([5, 50, WITHOUT_END])}"]
        status, output = place.train(run, ranks, steps, during=during)
        troubles = [] if status == 75 else [f"ended with {status}: {output[-900:]}"]
        if ALARM.search(output) or (disk / "hang").exists():
            troubles.append(f"a false alarm: {output[-900:]}")
        if status == 75 and newest_good(disk)[1]:
            troubles.append(f"damaged checkpoints under a good name: {newest_good(disk)[1]}")
        return facts, troubles
    finally:
        subprocess.run(["fsfreeze", "-u", str(disk)], check=False, capture_output=True)
        subprocess.run(["umount", str(disk)], check=False)
        image.unlink()


EXPERIMENTS = {"hangs": hang_round, "calm": calm_round, "still_disk": still_disk_round}
