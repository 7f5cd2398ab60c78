#!/usr/bin/env python3
"""What launch/supervise.sh does where hosts fail, ranks die for good, mpirun hangs, somebody presses Ctrl-C, or it is killed itself.

    tests/faults/supervision.py [hosts] [ranks] [launcher] [refusals] [start] [restarts] [user] [--rounds N]      default: every case of all

    hosts     two hosts on this machine, by a stand-in for ssh; n2 kills its ranks at their first save, or is not reached: it is left out
    ranks     rank 3 of 4 always dies: fewer complete the run
    launcher  mpirun lives on after its ranks, or is stopped while they train or die: it is killed, and the run goes on
    refusals  mpirun does not know an argument, or has too few slots: the supervisor ends at once
    start     mpirun starts no rank and says nothing: it is killed, and the next one trains
    restarts  after a crash of a run that began at a path, and in a run folder whose name needs YAML's escapes
    user      Ctrl-C in training, while mpirun starts, between two starts, and where mpirun passes no signal on; the supervisor is killed; a second one for the same run

A round is one case of each. Each case must end as told, with the last checkpoint of a run that nobody disturbed, to the bit, each step in
metrics.jsonl once, and no process left. Exit status 1 if one did not; 77 if this machine does not allow `hosts` (root, unshare, an Open MPI
that comes up on hosts of which one has no address): which, and why, is said.
"""
import argparse
import functools
import glob
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from workplace import LIMIT, MPIRUN, REPOSITORY, STEPS, Workplace, digest, kill, newest_good, not_each_step_once, processes_of, require_built, shim

LINGER = 5  # seconds
IN_TRAINING = 3.0  # seconds of steps, at least, of a run that is to be disturbed in training


def long_run(place):
    """Steps of such a run on this machine, and the overrides that make it; it saves five times."""
    steps = place.steps_in(IN_TRAINING)
    return steps, [f"train.steps={steps}", f"checkpoint.every_steps={steps // 5}"]


# Runs a command as if on another host, as ssh would: with a host name, session folders and shared memory of its own. HOST may be an address.
STAND_IN = """#!/bin/bash
name=${1/127.0.0./n}
if [ "$name" = "$UNREACHED" ]; then echo "ssh: connect to host $name port 22: No route to host" >&2; exit 255; fi
if [ "$name" = "$BAD" ]; then export LD_PRELOAD=$BAD_PRELOAD; fi
export TMPDIR=$PWD/$name
mkdir -p "$TMPDIR"
exec unshare --mount --uts --propagation private bash -c 'hostname "$0" && mount -t tmpfs tmpfs /dev/shm && exec sh -c "$1"' "$name" "${*:2}"
"""


PROBE = """#include <mpi.h>
int main(int count, char** words) { MPI_Init(&count, &words); MPI_Barrier(MPI_COMM_WORLD); return MPI_Finalize(); }
"""
PROBE_LIMIT = 45  # seconds


class CannotBeMade(Exception):
    """A case that this machine does not allow, and why."""


class Supervisor:
    """launch/supervise.sh in a terminal of its own."""

    def __init__(self, place, run, options=(), overrides=(), environment=None, before=(), folder=None):
        place.write_config(run)
        command = [*before, str(REPOSITORY / "launch" / "supervise.sh"), "--back-off", "1", "--mpirun", "--oversubscribe --bind-to none",
                   *options, f"{run}.yaml", *overrides]
        self.folder, self.run, self.said, self.begun = place.folder, folder or run, "", time.time()
        self.terminal, end = pty.openpty()
        self.process = subprocess.Popen(["setsid", "--ctty", *command], cwd=place.folder, stdin=end, stdout=end, stderr=end,
                                        env={**os.environ, **(environment or {})})
        os.close(end)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        try:
            while piece := os.read(self.terminal, 4096):
                self.said += piece.decode(errors="replace").replace("\r", "")
        except OSError:
            pass  # nobody holds the other end any more

    def press_ctrl_c(self):
        os.write(self.terminal, b"\x03")

    def wait_until(self, holds):
        while not holds() and self.process.poll() is None and time.time() - self.begun < LIMIT:
            time.sleep(0.02)

    def wait_for_training(self):
        metrics = self.folder / self.run / "metrics.jsonl"
        self.wait_until(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") > 20)

    def mpirun(self):
        return next(pid for pid in processes_in(self.folder) if pathlib.Path(f"/proc/{pid}/comm").read_text().startswith("mpirun"))

    def end(self):
        """Exit status, or "hang"."""
        try:
            return self.process.wait(max(1.0, LIMIT - (time.time() - self.begun)))
        except subprocess.TimeoutExpired:
            return "hang"
        finally:
            self.reader.join(1)


def processes_in(folder):
    found = []
    for path in glob.glob("/proc/[0-9]*"):
        try:
            if pathlib.Path(os.readlink(f"{path}/cwd")) == folder:
                found.append(int(path.split("/")[2]))
        except OSError:
            continue
    return found


def completed(place, supervisor, ranks, steps=STEPS, words=(), starts=None):
    """What does not hold of a run that was to be completed by so many ranks, and of what was to be said."""
    status, run = supervisor.end(), supervisor.run
    troubles = [] if status == 0 else [f"ended with {status}"]
    troubles += [processes_of(supervisor.process.pid, place.folder)] if status == "hang" else []
    troubles += [f"did not say '{wanted}'" for wanted in words if wanted not in supervisor.said]
    if starts and supervisor.said.count(": start ") != starts:
        troubles.append(f"{supervisor.said.count(': start ')} starts, not {starts}")
    if status == 0 and digest(place.folder / run, steps) != place.expected(ranks, steps)[0]:
        troubles.append("the last checkpoint differs from the undisturbed run's")
    if status == 0:
        troubles += not_each_step_once(place.folder / run, steps)
    return troubles + left_over(place) + ([] if not troubles else [supervisor.said[-3000:]])


def left_over(place):
    begun = time.time()
    while (pids := processes_in(place.folder)) and time.time() - begun < 5:
        time.sleep(0.1)
    return [f"processes are left: {[pathlib.Path(f'/proc/{pid}/comm').read_text().strip() for pid in pids]}"] if pids else []


def hosts(place, run, entries, unreached="", bad=""):
    (place.folder / "hostfile").write_text(entries)
    (place.folder / "names").write_text("127.0.0.1 localhost\n127.0.0.2 n2\n127.0.0.3 n3\n")
    agent = place.folder / "agent"
    agent.write_text(STAND_IN)
    agent.chmod(0o755)
    faults = shim(place.folder / run, at=1)
    preload = faults.pop("LD_PRELOAD")
    environment = {**faults, "UNREACHED": unreached, "BAD": bad, "BAD_PRELOAD": preload, "OMPI_MCA_plm_rsh_agent": str(agent),
                   "OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_MCA_oob_tcp_if_include": "lo"}
    # Of the two files alone: n1 has no address, and where a name server does not answer, each question for it takes many seconds.
    (place.folder / "nsswitch").write_text("hosts: files\npasswd: files\ngroup: files\n")
    naming = ["unshare", "--mount", "--propagation", "private", "bash", "-c",
              'mount --bind names /etc/hosts && mount --bind nsswitch /etc/nsswitch.conf && exec "$0" "$@"']
    require_start(place, naming, environment)
    supervisor = Supervisor(place, run, ["-n", "4", "--hostfile", "hostfile", "--min-ranks", "2"], environment=environment, before=naming)
    out = entries.splitlines()[-1].split()[0]
    return completed(place, supervisor, 2, words=[f"host {out} failed twice and is left out: going on with 2 ranks"], starts=3)


def require_start(place, naming, environment):
    """A plain MPI program comes up on hosts like these. An Open MPI that waits for ever there, as 4.1.6 was seen to, says nothing about ours."""
    if shutil.which("mpicc") is None:
        return
    (place.folder / "probe.c").write_text(PROBE)
    subprocess.run(["mpicc", "-o", "probe", "probe.c"], cwd=place.folder, timeout=LIMIT, check=True)
    reached = {**environment, "UNREACHED": "", "BAD": "", "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    why = ""
    for _ in range(2):  # Open MPI may also hang as it ends, now and then
        process = subprocess.Popen([*naming, MPIRUN[0], "--oversubscribe", "--bind-to", "none", "-n", "4", "--hostfile", "hostfile", "./probe"],
                                   cwd=place.folder, env={**os.environ, **reached}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True)
        try:
            said = process.communicate(timeout=PROBE_LIMIT)[0]
            if process.returncode == 0:
                return
            why = f"ends with {process.returncode} on hosts like these: {said[-1000:]}"
        except subprocess.TimeoutExpired:
            why = f"does not come up on hosts like these within {PROBE_LIMIT} s{processes_of(process.pid, place.folder)}"
            for pid in processes_in(place.folder):
                kill(pid, signal.SIGKILL)
            process.communicate(timeout=LIMIT)
    raise CannotBeMade(f"a plain MPI program {why}")


def hosts_that_kill(place, run):
    return hosts(place, run, "# two hosts\nn1 slots=2\n\nn2 slots = 2 max_slots=4  # the bad one\n", bad="n2")


def hosts_by_address(place, run):
    return hosts(place, run, "127.0.0.2 slots=2\n127.0.0.3 slots=2\n", bad="n3")


def hosts_not_reached(place, run):
    return hosts(place, run, "n1 slots=2\nn2.cluster.example slots=2\n", unreached="n2")


def fewer_ranks(place, run, overrides, ranks):
    supervisor = Supervisor(place, run, ["-n", "4", "--min-ranks", "1"], overrides, shim(place.folder / run, rank=3, at=1))
    return completed(place, supervisor, ranks, words=[f"going on with {ranks} ranks instead of 4"], starts=3)


def ranks_of_expert_groups(place, run):
    return fewer_ranks(place, run, ["mesh.expert_parallel=2"], 2)


def ranks_of_any_number(place, run):
    return fewer_ranks(place, run, [], 3)


def launcher_lives_on(place, run):
    """After the first start mpirun sleeps for ever."""
    folder = place.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "mpirun").write_text(f'#!/bin/bash\n{shutil.which("mpirun")} "$@"\nstatus=$?\n[ ! -e {run}.once ] || exit $status\n'
                                   f'touch {run}.once\nexec sleep infinity\n')
    (folder / "mpirun").chmod(0o755)
    supervisor = Supervisor(place, run, ["--linger", str(LINGER)], environment={"PATH": f"{folder}:{os.environ['PATH']}"})
    return completed(place, supervisor, 2, words=[f"training ended {LINGER} s ago"])


def launcher_never_begins(place, run):
    """The first mpirun starts no rank, and says nothing."""
    folder = place.folder / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "mpirun").write_text(f'#!/bin/bash\n[ -e {run}.once ] || {{ touch {run}.once; exec sleep infinity; }}\nexec {shutil.which("mpirun")} "$@"\n')
    (folder / "mpirun").chmod(0o755)
    supervisor = Supervisor(place, run, ["--start-limit", "20"], environment={"PATH": f"{folder}:{os.environ['PATH']}"})
    return completed(place, supervisor, 2, words=["no rank has come up within 20 s of the start"], starts=2)


def launcher_stands_still(place, run, and_a_rank_dies=False):
    steps, in_training = long_run(place)
    supervisor = Supervisor(place, run, ["--linger", str(LINGER)], in_training)
    supervisor.wait_for_training()
    os.kill(supervisor.mpirun(), signal.SIGSTOP)
    if and_a_rank_dies:
        kill(place.pids_of(run)[-1], signal.SIGKILL)
    return completed(place, supervisor, 2, steps, [f"training ended {LINGER} s ago"])


def launcher_refuses(place, run):
    """mpirun does not know a word, or has too few slots: it would refuse each start."""
    troubles = []
    for words in "--oversubscrib", "--bind-to none":
        supervisor = Supervisor(place, run, ["-n", "99", "--mpirun", words])
        status = supervisor.end()
        troubles += left_over(place)
        if status != 64 or supervisor.said.count(": start ") != 1 or f"mpirun refuses to start even `true` with -n 99 {words}" not in supervisor.said:
            troubles.append(f"with {words} it ended with {status}: {supervisor.said[-1500:]}")
    return troubles


def restarts_go_on_where_they_saved(place, run):
    """checkpoint.resume is a path of the run's own, which the first start goes back to, and no other."""
    folder = f'{run}/a\tb "c"\\d'
    steps, in_training = long_run(place)
    first = f"step-{steps // 5:08d}"
    place.train(run, 2, [f"run.directory={folder}", "train.steps=16", "checkpoint.every_steps=8"])
    path = f"checkpoint.resume={folder}/checkpoints/step-00000008"
    supervisor = Supervisor(place, run, overrides=[*in_training, f"run.directory={folder}", path], folder=folder)
    supervisor.wait_until((place.folder / folder / "checkpoints" / first).exists)
    kill(place.pids_of(run)[0], signal.SIGKILL)
    words = ["step-00000008: step 8,", "start 2: 2 ranks, from step "]
    return completed(place, supervisor, 2, steps, words, starts=2)


def goes_on(place, supervisor, words=("asked to leave",)):
    """After the supervisor was asked to leave: with 75, and the next one completes the run."""
    status = supervisor.end()
    troubles = left_over(place)
    if status != 75 or any(word not in supervisor.said for word in words):
        troubles.append(f"asked to leave, it ended with {status}: {supervisor.said[-1500:]}")
    steps, in_training = long_run(place)
    return troubles + completed(place, Supervisor(place, supervisor.run, overrides=in_training), 2, steps, starts=1)


def user_interrupts_training(place, run):
    supervisor = Supervisor(place, run, overrides=long_run(place)[1])
    supervisor.wait_for_training()
    supervisor.press_ctrl_c()
    return goes_on(place, supervisor, ["asked to leave, and saved"])


def user_interrupts_behind_a_deaf_launcher(place, run):
    """mpirun passes no SIGUSR1 on: the ranks are asked all the same."""
    supervisor = Supervisor(place, run, overrides=long_run(place)[1], environment={"OMPI_MCA_ess_base_forward_signals": "none"},
                            before=["env", "--ignore-signal=USR1"])
    supervisor.wait_for_training()
    supervisor.press_ctrl_c()
    return goes_on(place, supervisor, ["asked to leave, and saved"])


def user_interrupts_the_start(place, run):
    supervisor = Supervisor(place, run, overrides=long_run(place)[1])
    supervisor.wait_until(lambda: ": start 1" in supervisor.said)
    supervisor.press_ctrl_c()
    return goes_on(place, supervisor)


def user_interrupts_the_pause(place, run):
    supervisor = Supervisor(place, run, ["--back-off", "60"], long_run(place)[1])
    supervisor.wait_for_training()
    kill(place.pids_of(run)[0], signal.SIGKILL)
    supervisor.wait_until(lambda: "starting again in 60 s" in supervisor.said)
    time.sleep(0.5)
    supervisor.press_ctrl_c()
    return goes_on(place, supervisor, ["asked to leave between two starts"])


def user_kills_the_supervisor(place, run):
    steps, in_training = long_run(place)
    supervisor = Supervisor(place, run, overrides=in_training)
    supervisor.wait_for_training()
    supervisor.process.kill()
    supervisor.end()
    troubles = left_over(place)
    step = int((place.folder / run / "metrics.jsonl").read_text().count("\n"))
    if newest_good(place.folder / run) != (step, []) or step == steps:
        troubles.append(f"the run got to step {step}, and its newest checkpoint is {newest_good(place.folder / run)}")
    return troubles + completed(place, Supervisor(place, run, overrides=in_training), 2, steps, starts=1)


def user_starts_it_twice(place, run):
    steps, in_training = long_run(place)
    first = Supervisor(place, run, overrides=in_training)
    first.wait_for_training()
    second = Supervisor(place, run, overrides=in_training)
    status, troubles = second.end(), []
    if status != 78 or f"run.directory ({run}) is in use by another job" not in second.said:
        troubles.append(f"the second one ended with {status}: {second.said[-1000:]}")
    return troubles + completed(place, first, 2, steps, starts=1)


CASES = {
    "hosts": [hosts_that_kill, hosts_not_reached, hosts_by_address],
    "ranks": [ranks_of_expert_groups, ranks_of_any_number],
    "launcher": [launcher_stands_still, launcher_lives_on, functools.partial(launcher_stands_still, and_a_rank_dies=True)],
    "refusals": [launcher_refuses],
    "start": [launcher_never_begins],
    "restarts": [restarts_go_on_where_they_saved],
    "user": [user_interrupts_training, user_kills_the_supervisor, user_interrupts_the_pause, user_interrupts_the_start, user_starts_it_twice,
             user_interrupts_behind_a_deaf_launcher],
}


def name_of(case):
    return case.__name__ if not isinstance(case, functools.partial) else " ".join([case.func.__name__, *case.keywords])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, help="default: until each case was played once")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(CASES):
        parser.error(f"there is no {', '.join(unknown)}: {', '.join(CASES)}")
    require_built(parser)
    skipped = []
    cases = []
    for group in options.groups or CASES:
        if group == "hosts" and subprocess.run(["unshare", "--mount", "--uts", "true"], capture_output=True, check=False).returncode != 0:
            print("hosts: skipped, because `unshare --mount --uts` is not allowed here (root, CAP_SYS_ADMIN)", flush=True)
            skipped.append(group)
            continue
        cases += [CASES[group][number % len(CASES[group])] for number in range(options.rounds or len(CASES[group]))]
    os.environ["OMPI_MCA_mpi_yield_when_idle"] = "1"  # for more ranks than cores
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background job, and then by all that it starts
    folder = tempfile.mkdtemp(prefix="pimoe-supervision-")
    place = Workplace(folder, ["checkpoint.every_steps=200"])  # of the undisturbed runs
    failed = 0
    for number, case in enumerate(cases):
        begun = time.time()
        try:
            troubles = case(place, f"run-{number}")
        except CannotBeMade as reason:
            print(f"{name_of(case).replace('_', ' ')}: skipped, because {reason}", flush=True)
            skipped.append(case)
            continue
        except Exception:  # of one case, which is then no reason to lose the others
            troubles = [traceback.format_exc()]
        for pid in processes_in(place.folder):
            kill(pid, signal.SIGKILL)
        failed += bool(troubles)
        print(f"{name_of(case).replace('_', ' ')}: {'held' if not troubles else 'FAILED'}, {time.time() - begun:.1f} s", flush=True)
        for trouble in troubles:
            print("  " + re.sub("\n", "\n  ", trouble), flush=True)
    held = len(cases) - failed - sum(case in skipped for case in cases)
    print(f"{held} of {len(cases)} cases held" + (f", {len(cases) - failed - held} could not be made here" if held + failed < len(cases) else ""))
    if failed:
        print(f"see {place.folder}")
        return 1
    shutil.rmtree(folder)
    return 77 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
