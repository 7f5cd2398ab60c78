#!/usr/bin/env python3
"""What clients and operators of a server see when one of its ranks goes: `pimoe serve` under mpirun, and under launch/supervise.sh.

    tests/serve/ranks.py [killed] [stopped] [supervised]      default: all

    killed      kill -9 of the other rank: the job ends, its error names the rank, the exit code says so, the stream breaks off
    stopped     the other rank is stopped (SIGSTOP), as a host that freezes: likewise after --hang-limit
    supervised  launch/supervise.sh starts it again, it answers as before, and leaves with 0 when it is asked to in the middle of a stream, which ends whole

A tiny model is trained. Ends with 1 where one of them does not hold. PIMOE_BUILD (default: build) holds pimoe, PIMOE_MPIRUN names another mpirun.
"""

import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from attack import REPOSITORY, trained

LIMIT = 120.0  # seconds, for anything; far more than it takes
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
MPIRUN = os.environ.get("PIMOE_MPIRUN", "mpirun")
WORDS = ["--oversubscribe", "--bind-to", "none"]
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1", PIMOE_BUILD=str(BUILD), HWLOC_COMPONENTS="-opencl", OMPI_ALLOW_RUN_AS_ROOT="1",
                   OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", PATH=f"{pathlib.Path(MPIRUN).parent}:{os.environ['PATH']}" if "/" in MPIRUN else os.environ["PATH"])


class Job:
    """A server of two ranks, by itself or under the supervisor."""

    def __init__(self, folder, launcher, options=()):
        self.folder, self.log = folder, folder / "serve.log"
        self.log.write_text("")
        command = [*launcher, "serve", "--checkpoint", str(folder / "run"), "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=folder, stdout=self.log.open("a"), stderr=subprocess.STDOUT, env=ENVIRONMENT, start_new_session=True)

    def said(self):
        return self.log.read_text()

    def wait_for_ports(self, count):
        self.wait_until(lambda: len(self.ports()) >= count)
        return self.ports()[-1]

    def ports(self):
        return [int(port) for port in re.findall(r"at http://\S+:(\d+)", self.said())]

    def wait_until(self, holds):
        until = time.monotonic() + LIMIT
        while not holds():
            if time.monotonic() > until or (self.process.poll() is not None and not holds()):
                raise AssertionError(f"it ended with {self.process.poll()}, or stands still")
            time.sleep(0.02)

    def ranks(self):
        """Processes by rank."""
        found = {}
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (process / "exe").resolve() == BUILD / "pimoe" and (process / "cwd").resolve() == self.folder:
                    words = (process / "environ").read_bytes().split(b"\0")
                    found[int(next(word for word in words if word.startswith(b"OMPI_COMM_WORLD_RANK=")).split(b"=")[1])] = int(process.name)
            except (OSError, StopIteration):
                continue
        return found

    def end(self):
        return self.process.wait(LIMIT)


class Stream(threading.Thread):
    """A client in the middle of a stream. `whole` says afterwards whether it came to its end."""

    def __init__(self, port, tokens):
        super().__init__(daemon=True)
        self.port, self.tokens, self.whole, self.begun = port, tokens, None, threading.Event()
        self.start()
        assert self.begun.wait(LIMIT), "no stream"

    def run(self):
        text = b""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
            connection.request("POST", "/v1/completions", json.dumps({"prompt": "the", "max_tokens": self.tokens, "stream": True, "n": 4}),
                               {"Content-Type": "application/json"})
            answer = connection.getresponse()
            while piece := answer.read1():
                text += piece
                self.begun.set()
        except (OSError, http.client.HTTPException):
            pass
        self.begun.set()
        self.whole = text.endswith(b"data: [DONE]\n\n")


def text_of(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    connection.request("POST", "/v1/completions", json.dumps({"prompt": "the 3 cats", "max_tokens": 9, "temperature": 0}), {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["choices"][0]["text"]


def alone(folder, *options):
    return Job(folder, [MPIRUN, "-n", "2", *WORDS, str(BUILD / "pimoe")], options)


def ends_with_its_rank(job, number, word, statuses):
    stream = Stream(job.wait_for_ports(1), 240)
    os.kill(job.ranks()[1], number)
    begun = time.monotonic()
    status = job.end()
    stream.join(LIMIT)
    said = job.said()
    assert stream.whole is False, "the stream came to an end as if nothing had been"
    assert status in statuses, f"exit code {status}\n{said}"
    assert re.search(rf"{word}: rank 1 \(", said), said
    assert not job.ranks(), "a rank lives on"
    return f"the job had ended {time.monotonic() - begun:.1f} s afterwards"


def killed(folder):
    return ends_with_its_rank(alone(folder), signal.SIGKILL, "dead", (70, 128 + signal.SIGKILL))  # the watchdog's, or mpirun's own


def stopped(folder):
    return ends_with_its_rank(alone(folder, "--hang-limit", "3"), signal.SIGSTOP, "stopped", (70,))


def supervised(folder):
    job = Job(folder, [str(REPOSITORY / "launch" / "supervise.sh"), "-n", "2", "--back-off", "1", "--mpirun", " ".join(WORDS)],
              ["--drain-timeout", "100"])  # two ranks among others are slow
    text = text_of(job.wait_for_ports(1))
    os.kill(job.ranks()[1], signal.SIGKILL)
    begun = time.monotonic()
    port = job.wait_for_ports(2)
    back = time.monotonic() - begun
    assert text_of(port) == text, "it answers otherwise than before"
    stream = Stream(port, 60)
    job.process.send_signal(signal.SIGTERM)
    status = job.end()
    stream.join(LIMIT)
    assert status == 0, f"asked to leave it ended with {status}\n{job.said()}"
    assert stream.whole, f"the stream was not ended before it left\n{job.said()}"
    assert not job.ranks(), "a rank lives on"
    return f"it served again {back:.1f} s afterwards"


CASES = [killed, stopped, supervised]


def main():
    names = sys.argv[1:]
    unknown = set(names) - {each.__name__ for each in CASES}
    if unknown or "--help" in names or "-h" in names:
        print(__doc__)
        sys.exit(64 if unknown - {"--help", "-h"} else 0)
    with tempfile.TemporaryDirectory(prefix="pimoe-ranks-") as scratch:
        folder = pathlib.Path(scratch).resolve()
        trained(str(BUILD / "pimoe"), folder)
        failed = False
        for case in CASES:
            if names and case.__name__ not in names:
                continue
            try:
                print(f"{case.__name__}: {case(folder)}", flush=True)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                print(f"{case.__name__}: {error}\n{(folder / 'serve.log').read_text()[-3000:]}")
                failed = True
            finally:
                for process in Job.ranks(type("Place", (), {"folder": folder})()).values():
                    os.kill(process, signal.SIGKILL)
        sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
