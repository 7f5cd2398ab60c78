"""What the scripts share that compare us with other programs: processes that take turns, and ratios. Needs nothing but Python."""
import math
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def output_of(command, timeout=None, env=None):
    """@returns stdout; raises RuntimeError with the last line in which the command speaks of an error, or else the last; so too if time is up."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True) as process:
        try:
            out, log = process.communicate(timeout=timeout)
        except BaseException as error:
            # Children of its own (a compiler's workers) would keep pipes open and memory taken.
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise RuntimeError(f"no result within {timeout:.0f} s") from None
            raise
    if process.returncode != 0:
        said = (out + log).strip().splitlines() or [f"status {process.returncode}"]
        raise RuntimeError(([line for line in said if "error" in line.lower()] or said)[-1].strip()[:300])
    return out


def end_children_too():
    """A script that is told to end (timeout, Slurm) ends what it started, as it does on Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def take_turns(label, turns, rounds, describe, is_wanted=lambda name, results: True):
    """Runs the functions of `turns` (by name) one after the other, and that so many times. What fails is said, and not asked again.

    @param describe  of what a turn returned, said at once: a run that is ended early has not measured for nothing
    @param is_wanted  of a name and the results so far; asked from the second round on
    @returns ({name: [what each turn returned]}, {name: error}); a name is in both if it failed in a later round
    """
    results, errors = {}, {}
    for round_ in range(rounds):
        for name, run in turns.items():
            if name in errors or (round_ > 0 and not is_wanted(name, results)):
                continue
            print(f"{label}: {name}, round {round_ + 1}", file=sys.stderr, flush=True)
            try:
                result = run()
            except RuntimeError as error:
                errors[name] = str(error)
                print(f"{label}: {name} failed: {error}", file=sys.stderr, flush=True)
            else:
                results.setdefault(name, []).append(result)
                print(f"  {describe(result)}", file=sys.stderr, flush=True)
    return results, errors


def check_first_loss(loss, vocabulary, width):
    """@throws RuntimeError unless it is that of fresh weights within 3 %: ln V for a guess, and half the variance of the logits, which are products
    of `width` numbers of variance 1 with weights of deviation 0.02"""
    fresh = math.log(vocabulary) + width * 0.02**2 / 2
    if not abs(loss - fresh) <= 0.03 * fresh:
        raise RuntimeError(f"the first loss is {loss}, that of fresh weights about {fresh:.3f}: an error, or not the same task")


def ratios_text(ratios):
    return f"minimum {min(ratios):.2f}, geometric mean {statistics.geometric_mean(ratios):.2f}"


def cpu_name():
    facts = output_of(["lscpu"])
    family, model = (re.search(rf"^{key}:\s+(.*)$", facts, re.M) for key in ("CPU family", "Model name"))
    return f"{model[1]}, family {family[1]}" if family and model else "unknown"


def gpu_name():
    return output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()[0].strip()


def commit():
    """@returns "unknown" of a copy without its history: what was measured must not be lost for that"""
    try:
        return output_of(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]).strip()
    except (RuntimeError, OSError):
        return "unknown"
