"""Kills and signals, of runs that train, save, start and reshard: what becomes of checkpoints, and of the run that goes on from them."""
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time

from workplace import LIMIT, PIMOE, REPOSITORY, STEPS, WITHOUT_END, digest, kill, newest_good, not_each_step_once, shim


def saved_before(output):
    """Steps whose save the log called good."""
    steps = [0]
    for line in output.splitlines():
        if "saved step " in line:
            steps.append(int(line.split("saved step ")[1].split(":")[0].split(";")[0]))
    return max(steps)


def after_a_kill(place, run, ranks, output, steps=STEPS):
    """What must hold after a killed run: every checkpoint that was called good is good or replaced by a later one, and training goes on to the
    same bits. Returns what does not."""
    good, bad = newest_good(place.folder / run)
    troubles = []
    if bad:
        troubles.append(f"damaged checkpoints under a good name: {bad}")
    if good < saved_before(output):
        troubles.append(f"step {saved_before(output)} was called saved, the newest good one is {good}")
    status, again = place.train(run, ranks, [f"train.steps={steps}"])
    if status != 0:
        troubles.append(f"going on ended with {status}: {again[-400:]}")
    elif good and f"resumed from" not in again and "the run is complete" not in again:
        troubles.append("began from scratch beside a good checkpoint")
    if status == 0 and digest(place.folder / run, steps) != place.expected(ranks, steps)[0]:
        troubles.append("the last checkpoint differs from the undisturbed run's")
    return troubles


def kill_round(place, draw, run, ranks, number):
    rank = draw.randrange(ranks)
    how = draw.choice(["one rank", "all ranks", "system call", "system call"])
    facts = {"ranks": ranks, "how": how}
    if how == "system call":
        calls = place.calls_of_a_run(ranks, rank)
        facts.update(rank=rank, call=draw.randint(1, calls), of=calls)
        status, output = place.train(run, ranks, environment=shim(place.folder / run, rank=rank, at=facts["call"]))
    else:
        facts["after"] = draw.uniform(0.1, 1.05) * place.expected(ranks)[1]

        def during(process):
            time.sleep(facts["after"])
            pids = place.pids_of(run)
            facts["found"] = len(pids)
            if how == "all ranks" or not pids:
                os.killpg(process.pid, signal.SIGKILL)
            for pid in pids if how == "all ranks" else draw.sample(pids, min(1, len(pids))):
                kill(pid, signal.SIGKILL)

        status, output = place.train(run, ranks, during=during)
    facts["status"] = status
    troubles = [f"the killed run hung: {output[-3000:]}"] if status == "hang" else []
    return facts, troubles + after_a_kill(place, run, ranks, output)


def bits_round(place, draw, run, ranks, number):
    steps = 4 * STEPS
    seconds = place.expected(ranks, steps)[1]
    kills = []
    launcher_hung = 0
    for _ in range(20):
        pause = draw.uniform(0.3, 0.9 * seconds)

        def during(process):
            try:
                process.wait(timeout=pause)
            except subprocess.TimeoutExpired:
                for pid in place.pids_of(run):
                    kill(pid, signal.SIGKILL)

        status, output = place.train(run, ranks, [f"train.steps={steps}"], during=during)
        if status == 0:
            break
        if status == "hang":
            return {"ranks": ranks, "kills": kills}, [f"hung: {output[-3000:]}"]
        launcher_hung += status == "launcher hung"
        kills.append(round(pause, 2))
    troubles = after_a_kill(place, run, ranks, output, steps)
    troubles += not_each_step_once(place.folder / run, steps)
    return {"ranks": ranks, "kills": kills, "launcher_hung": launcher_hung}, troubles


def signal_round(place, draw, run, ranks, number):
    facts = {"ranks": ranks, "after_first_line": draw.uniform(0.0, 1.5)}

    def during(process):
        log = place.folder / run / "log" / "rank-0000.log"
        begun = time.time()
        while not (log.exists() and log.stat().st_size) and time.time() - begun < LIMIT:
            time.sleep(0.01)
        time.sleep(facts["after_first_line"])
        process.send_signal(signal.SIGUSR1)
        facts["asked"] = time.time()

    status, output = place.train(run, ranks, [f"train.steps={WITHOUT_END}", f"checkpoint.every_steps={WITHOUT_END}"], during=during)
    facts["seconds"] = round(time.time() - facts["asked"], 2)
    troubles = []
    if status != 75:
        troubles.append(f"ended with {status}: {output[-400:]}")
    good, bad = newest_good(place.folder / run)
    if bad or (status == 75 and f"saved step {good};" not in output):
        troubles.append(f"newest good {good}, damaged {bad}: {output[-200:]}")
    return facts, troubles


def leave_round(place, draw, run, ranks, number):
    """Asked to leave at any moment from the start of mpirun to its end: once, or by signals without a pause to every rank."""
    digest_of_whole, seconds = place.expected(ranks)
    how = ["once to mpirun", "once to a rank", "storm"][number % 3]
    facts = {"ranks": ranks, "how": how, "after": draw.uniform(0.0, 1.05) * seconds}

    def during(process):
        time.sleep(facts["after"])
        if how == "once to mpirun":
            process.send_signal(signal.SIGUSR1)
        elif pids := place.pids_of(run):
            for pid in [draw.choice(pids)] if how == "once to a rank" else pids:
                kill(pid, signal.SIGUSR1)
            while how == "storm" and process.poll() is None and place.pids_of(run):
                for pid in pids:
                    kill(pid, draw.choice([signal.SIGUSR1, signal.SIGTERM]))

    status, output = place.train(run, ranks, during=during)
    facts["status"] = status
    troubles = []
    # Who has not learned to listen yet dies of it: nothing has changed then.
    deaf = status in (-signal.SIGUSR1, -signal.SIGTERM, 128 + signal.SIGUSR1, 128 + signal.SIGTERM)
    if not (status in (0, 75) or (deaf and not (place.folder / run / "metrics.jsonl").exists())):
        troubles.append(f"ended with {status}: {output[-900:]}")
    status, output = place.train(run, ranks)
    if status != 0 or digest(place.folder / run) != digest_of_whole:
        troubles.append(f"the next start ended with {status}, or in other bits: {output[-600:]}")
    else:
        troubles += not_each_step_once(place.folder / run, STEPS)
    return facts, troubles


def supervised_round(place, draw, run, ranks, number, wanted=20):
    steps = wanted * 6 // 5 * STEPS
    whole, seconds = place.expected(ranks, steps)
    place.write_config(run)
    command = [str(REPOSITORY / "launch" / "supervise.sh"), "-n", str(ranks), "--back-off", "0", "--attempts", str(wanted), "--mpirun",
               "--oversubscribe --bind-to none", f"{run}.yaml", *place.overrides, f"train.steps={steps}"]
    kills = 0
    begun = time.time()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=place.folder, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        # Soon after each start has a step, so that all kills come before the run is complete, on a fast machine too.
        metrics, killed = place.folder / run / "metrics.jsonl", begun
        while process.poll() is None and time.time() - begun < 3 * LIMIT:
            time.sleep(0.01)
            if kills == wanted or not metrics.exists() or metrics.stat().st_mtime <= killed:
                continue
            time.sleep(draw.uniform(0.0, 0.7 * seconds / wanted))
            if pids := place.pids_of(run):
                kill(draw.choice(pids), signal.SIGKILL)
                kills, killed = kills + 1, time.time()
        status = process.poll()
        taken = time.time() - begun
        place.kill_all(process, run)
        output.seek(0)
        said = output.read()
    troubles = [] if status == 0 else [f"ended with {status}: {said[-600:]}"]
    if kills < wanted:
        troubles.append(f"the run was complete after {kills} of {wanted} kills")
    if status == 0 and digest(place.folder / run, steps) != whole:
        troubles.append("the last checkpoint differs from the undisturbed run's")
    return {"ranks": ranks, "kills": kills, "seconds": round(taken, 1), "lost_per_kill": round((taken - seconds) / max(1, kills), 2)}, troubles


def bytes_below(folder):
    """{file: digest} of every file below a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def load_kill_round(place, draw, run, ranks, number):
    """A start is killed while it looks for the newest checkpoint and loads it: its checkpoints are as they were, and the next start goes on."""
    rank = draw.randrange(ranks)
    facts = {"ranks": ranks, "how": draw.choice(["read", "read", "moment"])}
    calls, seconds = place.reads_of_a_load(ranks, rank), place.expected(ranks)[1]
    shutil.copytree(place.folder / f"whole-{ranks}-{STEPS}", place.folder / run)
    checkpoints = place.folder / run / "checkpoints"
    shutil.rmtree(checkpoints / f"step-{STEPS:08d}")
    before = bytes_below(checkpoints)
    if facts["how"] == "read":
        facts.update(rank=rank, call=draw.randint(1, calls), of=calls)
        # No save: what else it does to the folder is of interest.
        status, output = place.train(run, ranks, ["checkpoint.every_steps=0", "checkpoint.at_end=false"],
                                     environment=shim(place.folder / run, rank, facts["call"], reads=True))
    else:
        facts["after"] = draw.uniform(0.1, 0.8) * seconds

        def during(process):
            time.sleep(facts["after"])
            for pid in draw.sample(pids := place.pids_of(run), min(1, len(pids))):
                kill(pid, signal.SIGKILL)

        status, output = place.train(run, ranks, ["checkpoint.every_steps=0", "checkpoint.at_end=false"], during=during)
    facts["status"] = status
    troubles = [f"the killed start hung: {output[-3000:]}"] if status == "hang" else []
    if bytes_below(checkpoints) != before:
        troubles.append("a file of its checkpoints has changed, or is new")
    return facts, troubles + after_a_kill(place, run, ranks, output)


def reshard_kill_round(place, draw, run, ranks, number):
    """`checkpoint reshard` is killed at a read of its source, at a call of its writing, or at any moment; then it is called again."""
    place.expected(ranks)
    source = place.folder / f"whole-{ranks}-{STEPS}"
    before = bytes_below(source)
    target = draw.choice([1, 2, 3, 4])
    output = place.folder / run
    command = [str(PIMOE), "checkpoint", "reshard", str(source), "--ranks", str(target), "--output", str(output)]
    facts = {"ranks": ranks, "to": target, "how": draw.choice(["read", "write", "moment"])}

    def call(environment=None, during=None):
        process = subprocess.Popen(command, cwd=place.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                   env=dict(os.environ, **(environment or {})))
        if during:
            during(process)
        said = process.communicate(timeout=LIMIT)[0]
        return process.returncode, said

    if facts["how"] == "moment":
        facts["after"] = draw.uniform(0.0, 0.5)

        def during(process):
            time.sleep(facts["after"])
            process.kill()

        status, _ = call(during=during)
    else:
        reads = facts["how"] == "read"
        counted = place.folder / f"{run}.count"
        status, said = call(shim(source if reads else output, count=counted, reads=reads))
        if status != 0:
            return facts, [f"ended with {status}: {said[-400:]}"]
        shutil.rmtree(output)
        calls = max(int(line) for line in counted.read_text().split())
        facts.update(call=draw.randint(1, calls), of=calls)
        status, _ = call(shim(source if reads else output, at=facts["call"], reads=reads))
    facts["status"] = status
    troubles = []
    good, bad = newest_good(output) if output.exists() else (0, [])
    if bad:
        troubles.append("a checkpoint that is not whole under a good name")
    if good:
        shutil.rmtree(output)
    status, said = call()
    if status != 0:
        troubles.append(f"the next call ended with {status}: {said[-400:]}")
    elif newest_good(output) != (STEPS, []):
        troubles.append(f"the next call left {newest_good(output)}")
    left = sorted(path.name for path in (output / "checkpoints").iterdir()) if status == 0 else []
    if status == 0 and left != [f"step-{STEPS:08d}"]:
        troubles.append(f"something is left: {left}")
    same = subprocess.run([str(PIMOE), "checkpoint", "diff", str(source), str(output)], capture_output=True, text=True, timeout=LIMIT)
    if same.returncode != 0:
        troubles.append(f"the tensors differ: {same.stdout[-400:]}")
    if bytes_below(source) != before:
        troubles.append("a file of the source has changed, or is new")
    return facts, troubles


EXPERIMENTS = {"kills": kill_round, "bits": bits_round, "signals": signal_round, "leaves": leave_round, "supervised": supervised_round,
               "supervised_briefly": functools.partial(supervised_round, wanted=5), "load_kills": load_kill_round, "reshard_kills": reshard_kill_round}
