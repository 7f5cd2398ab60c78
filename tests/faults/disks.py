"""Bad disks: calls that fail, files that are damaged or go, a file system that fills up. What becomes of checkpoints, and of the run."""
import os
import random
import shutil
import subprocess
import time

from kills import after_a_kill
from workplace import LIMIT, PIMOE, STEPS, digest, newest_good, not_each_step_once, shim

KINDS = ["ENOSPC", "EIO", "EDQUOT", "EROFS", "SHORT"]


def error_round(place, draw, run, ranks, number):
    # Kinds in turn, and all calls of all ranks before one comes again.
    spots = [(rank, call) for rank in range(ranks) for call in range(1, place.calls_of_a_run(ranks, rank) + 1)]
    random.Random(ranks).shuffle(spots)
    kind = KINDS[number % len(KINDS)]
    rank, call = spots[number // len(KINDS) % len(spots)]
    times = draw.choice([1, 1, 3, 20])
    facts = {"ranks": ranks, "rank": rank, "kind": kind, "call": call, "times": times}
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
    elif digest(place.folder / run) != place.expected(ranks)[0]:
        troubles.append("the last checkpoint differs from the undisturbed run's")
    if bad:
        troubles.append(f"damaged checkpoints under a good name: {bad}")
    if status == 0 and good != STEPS:
        troubles.append(f"the newest good checkpoint is {good}")
    facts["said"] = output.count("Training goes on")
    return facts, troubles


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


def damage_round(place, draw, run, ranks, number):
    place.expected(ranks)[0]
    shutil.copytree(place.folder / f"whole-{ranks}-{STEPS}", place.folder / run)
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
    if status != 0 or digest(place.folder / run) != place.expected(ranks)[0]:
        troubles.append(f"going on ended with {status}: {output[-400:]}")
    if "is damaged" not in output or not (place.folder / run / "checkpoints" / (newest.name + ".bad")).exists():
        troubles.append(f"it was not set aside: {output[-400:]}")
    return facts, troubles


LOAD_FAULTS = [("FLIP", 1), ("GONE", 1), ("EIO", 1), ("CUT", 1), ("FLIP", 1), ("EIO", 0), ("GONE", 1), ("ESTALE", 1), ("EACCES", 0)]


def load_round(place, draw, run, ranks, number):
    """Something happens to a file of the newest checkpoint just before a rank reads it, at any moment of its verification and its load."""
    kind, times = LOAD_FAULTS[number % len(LOAD_FAULTS)]
    rank = draw.randrange(ranks)
    calls = place.reads_of_a_load(ranks, rank)
    shutil.copytree(place.folder / f"whole-{ranks}-{STEPS}", place.folder / run)
    facts = {"ranks": ranks, "rank": rank, "kind": kind, "times": times, "call": draw.randint(1, calls), "of": calls}
    status, output = place.train(run, ranks, environment=shim(place.folder / run, rank, facts["call"], kind, times, reads=True))
    aside = [path.name for path in (place.folder / run / "checkpoints").glob("*.bad*")]
    facts.update(status=status, aside=aside)
    troubles = []
    if kind in ("FLIP", "GONE", "CUT"):
        # Cut behind its digest, a file ends the process that reads it (docs/reliability.md).
        if status != 0 and not (kind == "CUT" and not aside):
            troubles.append(f"ended with {status}: {output[-600:]}")
        if aside and "is damaged" not in output:
            troubles.append(f"set aside without a word: {output[-600:]}")
    else:
        if status not in (0, 74) or (times == 1 and status != 0 and kind == "EIO"):
            troubles.append(f"ended with {status}: {output[-600:]}")
        if aside:
            troubles.append(f"{aside} was set aside, though it is good")
    # What was not noticed, because it had been read already, is at the next start.
    status, output = place.train(run, ranks)
    if status != 0 or digest(place.folder / run) != place.expected(ranks)[0]:
        troubles.append(f"the next start ended with {status}, or in other bits: {output[-600:]}")
    if newest_good(place.folder / run) != (STEPS, []):
        troubles.append(f"newest good and damaged: {newest_good(place.folder / run)}")
    return facts, troubles


def removed_round(place, draw, run, ranks, number):
    """The folder checkpoints/ is taken away at one of the calls of a save: the run says so, and saves into a new one."""
    rank = draw.randrange(ranks)
    calls = place.calls_of_a_run(ranks, rank)
    first = 2 if rank == 0 else 1  # rank 0's first call makes the folder
    facts = {"ranks": ranks, "rank": rank, "call": draw.randint(first, calls), "of": calls}
    status, output = place.train(run, ranks, ["checkpoint.retry_seconds=0.01"],
                                 environment=shim(place.folder / run, rank, facts["call"], "AWAY"))
    facts["status"], facts["said"] = status, "was not saved" in output
    away = place.folder / run / "checkpoints.away"
    troubles = [] if away.exists() else ["the folder was not taken away"]
    if status != 0:
        troubles.append(f"ended with {status}: {output[-600:]}")
    elif not (away / f"step-{STEPS:08d}").exists() and digest(place.folder / run) != place.expected(ranks)[0]:
        troubles.append("the last checkpoint differs from the undisturbed run's")
    # In the folder that is gone nothing unfinished bears a good name, and what lay there is as it was.
    for folder in (place.folder / run, away):
        if folder.exists() and newest_good(folder)[1]:
            troubles.append(f"{folder.name}: damaged checkpoints under a good name: {newest_good(folder)[1]}")
    return facts, troubles


def large_round(place, draw, run, ranks, number):
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


def small_disk_round(place, draw, run, ranks, number):
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
        elif digest(disk) != place.expected(ranks)[0]:
            troubles.append("the last checkpoint differs from the undisturbed run's")
        else:
            troubles += not_each_step_once(disk, STEPS)
        return facts, troubles
    finally:
        subprocess.run(["umount", str(disk)], check=False)


EXPERIMENTS = {"errors": error_round, "damage": damage_round, "loads": load_round, "removed": removed_round, "large": large_round, "small_disk": small_disk_round}
