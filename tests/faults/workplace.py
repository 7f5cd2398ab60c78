"""What the experiments share: a folder to train in, runs that may be disturbed, their processes, and digests of what they saved."""
import glob
import hashlib
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
PIMOE = BUILD / "pimoe"
SHIM = BUILD / "tests" / "libpimoe_fault_shim.so"
MPIRUN = [os.environ.get("PIMOE_MPIRUN", "mpirun"), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
# What a container may have set for jobs of its own (isolated: no second host is taken), and no ssh where all ranks are here. And hwloc's plugin for
# OpenCL, by which mpirun may come to keep SIGUSR1 to itself (docs/reliability.md).
os.environ.update(OMPI_MCA_plm="rsh", OMPI_MCA_plm_rsh_agent="ssh : rsh : false")
os.environ.setdefault("HWLOC_COMPONENTS", "-opencl")
LIMIT = 120  # seconds that any command may take: longer is a hang
STEPS = 40
EVERY = 8
WITHOUT_END = 1000000  # steps: of a run that is to be still training when it is disturbed, on any machine
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1])  # mpirun would inherit it, and pass nothing on

CONFIG = """run: {directory: RUN}
mesh: {device: cpu}
data: {train: corpus, tokenizer: corpus.model}
model: {layers: 2, width: 32, heads: 2, kv_heads: 1, sequence_length: 16, moe: {experts: 4, choices: 2, expert_width: 32}}
train: {steps: %d, global_batch: 5, micro_batch: 3, precision: float32, threads: 1}
checkpoint: {every_steps: %d, part_bytes: 1048576}
log: {every_steps: 100}
""" % (STEPS, EVERY)


def require_built(parser):
    """Ends with what to build where a binary is missing."""
    targets = {"pimoe": PIMOE, "pimoe_fault_shim": SHIM}
    missing = [target for target, file in targets.items() if not file.exists()]
    if missing:
        files = ", ".join(str(targets[target]) for target in missing)
        parser.error(f"{files} must be there: `launch/build.sh {' '.join(missing)}` builds what is missing; PIMOE_BUILD names another build")


class Workplace:
    """A folder with a corpus, and what undisturbed runs in it gave. One is used by one round at a time.

    It lies in `parent`; `overrides` (key=value) go to every run.
    """

    def __init__(self, parent, overrides=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(dir=parent)).resolve()
        self.overrides = list(overrides)
        text = "".join(f"the {i % 7} cats sat on {i % 11} mats and {i % 5} hats\n" for i in range(4000))
        (self.folder / "a.txt").write_text(text)
        subprocess.run([str(PIMOE), "data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "a.txt"],
                       cwd=self.folder, capture_output=True, timeout=LIMIT, check=True)
        self.undisturbed = {}
        self.calls = {}
        self.step_seconds = {}

    def write_config(self, run):
        (self.folder / f"{run}.yaml").write_text(CONFIG.replace("RUN", run))

    def train(self, run, ranks, overrides=(), environment=None, during=None):
        """Runs training; `during(process)` may disturb it. Returns (exit status, output).

        The status is "hang" where it does not end in time, and "launcher hung" where mpirun stays although no rank is left: Open MPI's own
        deadlock (docs/reliability.md); such a round is played again. Then the output ends in what the processes are doing.
        """
        self.write_config(run)
        command = MPIRUN + ["-n", str(ranks), str(PIMOE), "train", f"{run}.yaml", *self.overrides, *overrides]
        variables = dict(os.environ, **(environment or {}))
        processes = ""
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT, env=variables, start_new_session=True)
            try:
                if during:
                    during(process)
                status = self.wait(process, run)
                if isinstance(status, str):
                    processes = processes_of(process.pid, self.folder)
            except subprocess.TimeoutExpired:
                status = "hang"
                processes = processes_of(process.pid, self.folder)
            finally:
                self.kill_all(process, run)
            output.seek(0)
            return status, output.read() + processes

    def wait(self, process, run):
        """Returns its exit status, "hang" or "launcher hung"."""
        begun = last_seen = time.time()
        while time.time() - begun < LIMIT:
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if self.pids_of(run):
                    last_seen = time.time()
                elif time.time() - last_seen > 20:
                    return "launcher hung"
        return "hang"

    def expected(self, ranks, steps=STEPS):
        """Digest of the last checkpoint of a run that nothing disturbed, and the seconds that it took."""
        if (ranks, steps) not in self.undisturbed:
            run = f"whole-{ranks}-{steps}"
            begun = time.time()
            status, output = self.train(run, ranks, [f"train.steps={steps}"])
            assert status == 0, f"{status}: {output}"
            self.undisturbed[ranks, steps] = digest(self.folder / run, steps), time.time() - begun
        return self.undisturbed[ranks, steps]

    def steps_in(self, seconds, ranks=2):
        """Steps, a multiple of 20, that take a run at least so long on this machine: it is still training when it is disturbed, and is complete soon."""
        if ranks not in self.step_seconds:
            run = f"pace-{ranks}"
            status, output = self.train(run, ranks, ["train.steps=60", "checkpoint.every_steps=0"])
            assert status == 0, f"{status}: {output}"
            times = sorted(record["step_seconds"] for record in records_of(self.folder / run))
            self.step_seconds[ranks] = times[len(times) // 2]
        return 20 * max(5, math.ceil(seconds / self.step_seconds[ranks] / 20))

    def calls_of_a_run(self, ranks, rank):
        """System calls that a rank's saves make in an undisturbed run."""
        if (ranks, rank) not in self.calls:
            run = f"count-{ranks}-{rank}"
            count = self.folder / f"{run}.count"
            status, output = self.train(run, ranks, environment=shim(self.folder / run, rank=rank, count=count))
            assert status == 0, f"{status}: {output}"
            self.calls[ranks, rank] = max(int(line) for line in count.read_text().split())
            shutil.rmtree(self.folder / run)
        return self.calls[ranks, rank]

    def reads_of_a_load(self, ranks, rank):
        """System calls by which a rank looks for the newest checkpoint of a complete run and loads it."""
        if ("load", ranks, rank) not in self.calls:
            self.expected(ranks)
            run = f"whole-{ranks}-{STEPS}"
            count = self.folder / f"{run}-{rank}.count"
            status, output = self.train(run, ranks, environment=shim(self.folder / run, rank=rank, count=count, reads=True))
            assert status == 0, f"{status}: {output}"
            self.calls["load", ranks, rank] = max(int(line) for line in count.read_text().split())
        return self.calls["load", ranks, rank]

    def pids_of(self, run):
        """The ranks of a run of this folder, in the order in which they were started."""
        found = []
        for path in glob.glob("/proc/[0-9]*"):
            try:
                words = pathlib.Path(path, "cmdline").read_bytes().split(b"\0")
                is_rank = words[0].endswith(b"/pimoe") and f"{run}.yaml".encode() in words and b"--print-config" not in words
                if is_rank and pathlib.Path(path, "cwd").resolve() == self.folder:
                    found.append(int(path.split("/")[2]))
            except OSError:
                continue
        return sorted(found)

    def pid_of(self, run, rank):
        """The process of a rank, None where there is none."""
        for pid in self.pids_of(run):
            try:
                variables = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables:
                return pid
        return None

    def kill_all(self, process, run):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        while pids := self.pids_of(run):
            for pid in pids:
                kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def kill(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def processes_of(launcher, folder):
    """What the launcher and the processes of a folder are doing, a line each: for a job that does not end."""
    lines = ["", "processes that were left:"]
    for path in glob.glob("/proc/[0-9]*"):
        try:
            pid = int(path.split("/")[2])
            if pid != launcher and pathlib.Path(path, "cwd").resolve() != folder:
                continue
            threads = [f"{(task / 'comm').read_text().strip()} {(task / 'stat').read_text().rsplit(')', 1)[1].split()[0]} "
                       f"{(task / 'wchan').read_text()} {(task / 'syscall').read_text().split(' ')[0]}" for task in pathlib.Path(path, "task").iterdir()]
            words = pathlib.Path(path, "cmdline").read_bytes().replace(b"\0", b" ").decode()[:60]
            lines.append(f"  {pid} {words}: {'; '.join(threads)}")
        except (OSError, IndexError):
            continue
    return "\n".join(lines)


def shim(run, rank=None, at=0, kind="KILL", times=1, count=None, reads=False):
    variables = {"LD_PRELOAD": str(SHIM), "PIMOE_FAULT_FOLDER": f"{run.name}/checkpoints", "PIMOE_FAULT_AT": str(at), "PIMOE_FAULT_KIND": kind,
                 "PIMOE_FAULT_TIMES": str(times)}
    if rank is not None:
        variables["PIMOE_FAULT_RANK"] = str(rank)
    if count is not None:
        variables["PIMOE_FAULT_COUNT"] = str(count)
    if reads:
        variables["PIMOE_FAULT_READS"] = "1"
    return variables


def newest_good(folder):
    output = subprocess.run([str(PIMOE), "checkpoint", "list", str(folder), "--json"], capture_output=True, text=True, timeout=LIMIT)
    if output.returncode != 0:
        return 0, []
    rows = json.loads(output.stdout)
    return max([row["step"] for row in rows if row["good"]], default=0), [row["step"] for row in rows if not row["good"]]


def records_of(folder):
    """What metrics.jsonl of a run holds."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def not_each_step_once(folder, steps):
    """What is wrong with the steps in metrics.jsonl, as a list of troubles."""
    found = [record["step"] for record in records_of(folder)]
    if found == list(range(1, steps + 1)):
        return []
    return [f"metrics.jsonl has the steps {found[:3]} ... {found[-3:]}, {len(found)} records of {steps} steps"]


def digest(folder, step=STEPS):
    """Of every stored piece of a step's checkpoint."""
    manifest = json.loads((folder / "checkpoints" / f"step-{step:08d}" / "manifest.json").read_text())
    pieces = sorted(f"{piece['file']} {piece['dataset']} {piece['sha256']}" for piece in manifest["pieces"])
    return hashlib.sha256("\n".join(pieces).encode()).hexdigest()
