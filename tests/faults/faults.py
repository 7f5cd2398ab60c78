#!/usr/bin/env python3
"""Kills training runs and makes their disks fail, and checks that nothing is lost. Needs a build; Python's standard library alone.

    tests/faults/faults.py EXPERIMENT [--rounds N] [--ranks 1,2] [--jobs J] [--results FILE] [--seed S] [--set key=value ...]
    tests/faults/faults.py all --jobs J --results FILE          the long form of each: docs/reliability.md has its figures

    kills    SIGKILL of one or all ranks at random moments of a run, and of one rank at each system call of its saves
    errors   ENOSPC, EIO, EDQUOT, EROFS and short writes at each system call of the saves
    bits     resumed after kills at random moments until it is done: the last checkpoint is the undisturbed run's to the bit
    supervised  launch/supervise.sh brings a run through twenty kills of a rank, to the undisturbed run's last checkpoint; supervised_briefly: through five
    signals  SIGUSR1 at random moments: a complete checkpoint and exit code 75, every time
    leaves   SIGUSR1 at any moment from the start of mpirun on, once or in a storm: 75 or complete, and the next start completes it to the same bits
    damage   the newest checkpoint is damaged: `checkpoint verify` names the file, and a run goes on from the one before
    loads    a file of the newest checkpoint is damaged, or cannot be read, just as a rank reads it: set aside, or read later
    load_kills     SIGKILL while a start looks for the newest checkpoint and loads it: nothing of it changes, and the next start ends in the same bits
    reshard_kills  SIGKILL of `checkpoint reshard`: its source stays as it is, nothing unfinished bears a good name, and the same call then works
    removed  checkpoints/ is taken away in the middle of a save: the run says so, and goes on
    large    random bytes of a checkpoint of 1 GiB are changed: `checkpoint verify` names the file
    small_disk  a file system of 4 MiB fills up while a run saves, and is freed again (needs root, to mount it)
    hangs    a rank is killed, stopped, put to sleep, or leaves by an exception, at random moments and in its saves: the watchdog ends the job in
             time, names the rank, and has everyone's stacks
    calm     one rank at a twentieth of its speed, or with a slow disk: the watchdog says nothing
    still_disk  the file system of the run folder stands still for a while (needs root, to mount it): the watchdog says nothing

Each round is one line of JSON in the results file; rounds that are there already are not run again. J rounds run side by side (a round keeps
about one core for each of its ranks busy). Exit status 1 if one failed.
"""
import argparse
import json
import multiprocessing
import pathlib
import random
import shutil
import sys
import tempfile
import time
import traceback

import disks
import hanging
import kills
from workplace import Workplace, require_built

EXPERIMENTS = {**kills.EXPERIMENTS, **disks.EXPERIMENTS, **hanging.EXPERIMENTS}
LONG = {  # rounds and ranks of the long form
    "kills": (1000, "1,2,4"), "errors": (1310, "1,2"), "bits": (100, "1,2,4"), "signals": (100, "1,2,4"), "leaves": (120, "1,2,4"), "supervised": (4, "1,2"),
    "damage": (100, "1,2,4"), "loads": (180, "1,2,4"), "load_kills": (180, "1,2,4"), "reshard_kills": (180, "1,2"),
    "removed": (100, "1,2,4"), "large": (50, "1"), "small_disk": (20, "1,2"), "hangs": (200, "2,4"), "calm": (20, "2,4"),
    "still_disk": (20, "2,3")}

place = None  # of this worker process


def begin_worker(folder, overrides):
    global place
    place = Workplace(folder, overrides)


def play(task):
    experiment, seed, number, ranks = task
    run = f"{experiment}-{seed}-{number}"
    begun = time.time()
    for attempt in range(2):
        try:
            facts, troubles = EXPERIMENTS[experiment](place, random.Random(f"{seed}-{number}"), run, ranks, number)
        except Exception:  # of one round, which is then no reason to lose the others
            facts, troubles = {"ranks": ranks}, [traceback.format_exc()]
        if not any("launcher hung" in trouble for trouble in troubles) or attempt == 1:
            break
        shutil.rmtree(place.folder / run, ignore_errors=True)
        print(f"mpirun did not end although all ranks had: round {number} is played again", flush=True)
    if troubles:
        troubles.append(f"see {place.folder / run}")
    else:
        shutil.rmtree(place.folder / run, ignore_errors=True)
    return {"experiment": experiment, "seed": seed, "round": number, **facts, "troubles": troubles, "round_seconds": round(time.time() - begun, 1)}


def run_experiment(experiment, rounds, layouts, options):
    """Returns the rows of all rounds, those of earlier calls included."""
    rows = {}
    if options.results and options.results.exists():
        for row in map(json.loads, options.results.read_text().splitlines()):
            if row["experiment"] == experiment and row["seed"] == options.seed:
                rows[row["round"]] = row
    tasks = [(experiment, options.seed, number, layouts[number % len(layouts)]) for number in range(rounds) if number not in rows]
    if tasks:
        folder = tempfile.mkdtemp(prefix="pimoe-faults-")
        with multiprocessing.Pool(options.jobs, begin_worker, (folder, options.set)) as pool:
            for row in pool.imap_unordered(play, tasks):
                rows[row["round"]] = row
                print(json.dumps(row), flush=True)
                if options.results:
                    with options.results.open("a") as results:
                        results.write(json.dumps(row) + "\n")
        if not any(row["troubles"] for row in rows.values()):
            shutil.rmtree(folder)
    held = sum(not row["troubles"] for row in rows.values())
    print(f"{experiment}: {held} of {len(rows)} rounds held", flush=True)
    return list(rows.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=[*EXPERIMENTS, "all"])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=pathlib.Path)
    parser.add_argument("--set", action="append", default=[], metavar="key=value", help="goes to every run, such as mesh.device=cuda")
    options = parser.parse_args()
    require_built(parser)
    if options.experiment == "all":
        rows = []
        for experiment, (rounds, ranks) in LONG.items():
            rows += run_experiment(experiment, rounds, [int(number) for number in ranks.split(",")], options)
    else:
        rows = run_experiment(options.experiment, options.rounds, [int(number) for number in options.ranks.split(",")], options)
    return 1 if any(row["troubles"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
