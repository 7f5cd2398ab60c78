#!/usr/bin/env python3
"""Attacks a server of its own with what clients may do wrong, while others ask; says what the others noticed.

    tests/serve/attack.py [--seconds S] [--checkpoint PATH] [--connections N] [--one-key] [ATTACK ...]

A tiny model is trained unless --checkpoint names one. Each attack goes on for S seconds (default 5) beside two clients that ask for completions one after the
other; the table gives their requests, the median and the 99th percentile of how long they waited, and that over the one of no attack. Attackers have a right key
of their own, or with --one-key that of the others. Ends with 1 where the server ended, one of those clients got anything but 200, or the server holds texts of
attackers afterwards. Times are shown and not judged: on a busy machine they say little (`chrt -r 20` before the command keeps others out, for its time).
PIMOE_BUILD (default: build) holds pimoe.
"""

import argparse
import http.client
import json
import multiprocessing
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
KEY = "attacked-server-key-0123456789"
ATTACKERS_KEY = "attackers-own-key-0123456789"
CONFIG = """
run: {directory: run}
mesh: {device: cpu}
data: {train: corpus, tokenizer: corpus.model}
model: {layers: 2, width: 32, heads: 2, kv_heads: 1, sequence_length: 256, moe: {experts: 4, choices: 2, expert_width: 32}}
train: {steps: 5, global_batch: 4, micro_batch: 4, precision: float32, threads: 1}
checkpoint: {every_steps: 5}
"""
HEAD = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ATTACKERS_KEY}\r\nContent-Type: application/json\r\n"


def asked(port, tokens=4):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "the 3 cats", "max_tokens": tokens}),
                           {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


class Others(threading.Thread):
    """A client that asks and asks, and notes how long it waited."""

    def __init__(self, port):
        super().__init__()
        self.port, self.seconds, self.wrong, self.is_over = port, [], [], False
        self.start()

    def run(self):
        while not self.is_over:
            begun = time.monotonic()
            try:
                status = asked(self.port)
            except OSError as error:
                status = repr(error)
            self.seconds.append(time.monotonic() - begun)
            if status != 200:
                self.wrong.append(status)

    def stop(self):
        self.is_over = True
        self.join()


class Attack:
    def __init__(self, port, connections):
        self.port, self.connections, self.opened = port, connections, []

    def open(self):
        made = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        self.opened.append(made)
        return made

    def close(self):
        for each in self.opened:
            each.close()
        self.opened.clear()

    def send(self, *parts):
        """One connection that sends until the server stops taking it. Returns the status it was answered with, or None."""
        made = self.open()
        try:
            for part in parts:
                made.sendall(part)
            return self.status(made)
        except OSError:
            return self.status(made)
        finally:
            made.close()
            self.opened.remove(made)

    @staticmethod
    def status(made):
        try:
            answer = made.recv(4096)
        except OSError:
            return None
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None

    def body(self, body):
        return self.send((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)


def none(attack, until):
    while time.monotonic() < until:
        time.sleep(0.05)


def idle_connections(attack, until):
    while len(attack.opened) < attack.connections and time.monotonic() < until:
        attack.open()
    none(attack, until)


def slow_heads(attack, until):
    for _ in range(200):
        attack.open().sendall(b"GET /health HTTP/1.1\r\n")
    while time.monotonic() < until:
        for made in attack.opened:
            try:
                made.sendall(b"A")
            except OSError:
                pass
        time.sleep(0.2)


def endless_heads(attack, until):
    while time.monotonic() < until:
        status = attack.send(b"GET /health HTTP/1.1\r\n", *[b"A: " + b"a" * 1000 + b"\r\n"] * 1000)
        assert status in (431, None), status


def bodies_of_1_gib(attack, until):
    while time.monotonic() < until:
        status = attack.send((HEAD + "Content-Length: 1073741824\r\n\r\n").encode(), *[b" " * 65536] * 64)
        assert status in (413, None), status
        status = attack.send((HEAD + "Transfer-Encoding: chunked\r\n\r\n40000000\r\n").encode(), *[b" " * 65536] * 64)
        assert status in (413, None), status


def deep_json(attack, until):
    while time.monotonic() < until:
        assert attack.body(b'{"prompt": ' + b"[" * 400_000 + b"]" * 400_000 + b"}") == 400
        assert attack.body(b"{" + b",".join(b'"k%d":1' % key for key in range(60_000)) + b"}") == 400


def bad_utf8(attack, until):
    while time.monotonic() < until:
        for bytes_ in (b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf8\x88\x80\x80\x80"):
            assert attack.body(b'{"prompt": "' + bytes_ * 1000 + b'"}') == 400
        assert attack.send(b"\x16\x03\x01" + bytes(range(256))) in (400, None)


def wrong_keys(attack, until):
    while time.monotonic() < until:
        for key in ("", "x", KEY[:-1], KEY + "0", "a" * 8000):
            assert attack.send(HEAD.replace(ATTACKERS_KEY, key).encode() + b"Content-Length: 2\r\n\r\n{}") == 401


def leaving_in_mid_stream(attack, until):
    body = json.dumps({"prompt": "the", "max_tokens": 200, "stream": True, "n": 2}).encode()
    while time.monotonic() < until:
        made = attack.open()
        made.sendall((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        made.recv(300)
        made.close()
        attack.opened.remove(made)


def deaf_clients(attack, until):
    body = json.dumps({"prompt": "the", "max_tokens": 200, "stream": True, "logprobs": 20, "n": 8}).encode()
    while time.monotonic() < until:
        made = socket.socket()
        attack.opened.append(made)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        made.connect(("127.0.0.1", attack.port))
        made.sendall((HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body)
        time.sleep(0.5)


ATTACKS = [idle_connections, slow_heads, endless_heads, bodies_of_1_gib, deep_json, bad_utf8, wrong_keys, leaving_in_mid_stream, deaf_clients]


def run(port, attack, seconds, connections):
    """Returns how long the others waited, sorted, what they got that was wrong, and what went wrong in the attack itself."""
    told, said = multiprocessing.Pipe(duplex=False)

    def attacks():  # in a process of its own: in this one the others would wait for it, and not for the server
        state, trouble = Attack(port, connections), ""
        try:
            attack(state, time.monotonic() + seconds)
        except Exception as error:
            trouble = f"{attack.__name__}: {error!r}"
        state.close()
        said.send(trouble)

    attacker = multiprocessing.get_context("fork").Process(target=attacks)
    attacker.start()
    others = [Others(port) for _ in range(2)]
    attacker.join()
    for each in others:
        each.stop()
    trouble = told.recv() if told.poll() else f"{attack.__name__} ended with {attacker.exitcode}"
    return sorted(sum((each.seconds for each in others), [])), sum((each.wrong for each in others), []), [trouble] if trouble else []


def metric(port, name):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": "Bearer " + KEY})
    text = connection.getresponse().read().decode()
    connection.close()
    return float(re.search(rf"^pimoe_serve_{name} (\S+)$", text, re.M).group(1))


def memory_mb(process):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{process.pid}/status").read_text()).group(1)) / 1024


def trained(pimoe, folder):
    (folder / "text").mkdir()
    (folder / "text" / "a.txt").write_text("".join(f"the {line % 7} cats sat on {line % 11} mats and {line % 5} hats\n" for line in range(4000)))
    (folder / "tiny.yaml").write_text(CONFIG)
    for command in (["data", "build", "--output", "corpus", "--vocabulary", "300", "--validation", "0", "text"], ["train", "tiny.yaml"]):
        subprocess.run([pimoe, *command], cwd=folder, check=True, capture_output=True)
    return folder / "run"


def asked_to_leave(process):
    """What went wrong with that."""
    process.send_signal(signal.SIGTERM)
    code = process.wait(60)
    return [] if code == 0 else [f"the server left with {code}"]


def served(pimoe, folder, checkpoint, one_key=True, options=()):
    (folder / "keys").write_text(f"tester {KEY}\n" if one_key else f"tester {KEY}\nattacker {ATTACKERS_KEY}\n")
    log = folder / "serve.log"
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    process = subprocess.Popen([pimoe, "serve", "--checkpoint", checkpoint, "--port", "0", "--api-key-file", "keys", "--header-timeout", "2", "--write-timeout", "2", *options],
                               cwd=folder, stderr=log.open("w"), env=environment)
    while process.poll() is None:
        found = re.search(r"at http://\S+:(\d+)", log.read_text())
        if found:
            return process, int(found.group(1))
        time.sleep(0.05)
    sys.exit("the server did not start:\n" + log.read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attacks", nargs="*", metavar="ATTACK", help=", ".join(each.__name__ for each in ATTACKS))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--checkpoint")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--one-key", action="store_true")
    options = parser.parse_args()
    if options.one_key:
        global ATTACKERS_KEY, HEAD
        HEAD, ATTACKERS_KEY = HEAD.replace(ATTACKERS_KEY, KEY), KEY
    chosen = [each for each in ATTACKS if not options.attacks or each.__name__ in options.attacks]
    if len(chosen) < len(set(options.attacks)):
        parser.error("known attacks: " + ", ".join(each.__name__ for each in ATTACKS))
    pimoe = str(pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve() / "pimoe")
    with tempfile.TemporaryDirectory(prefix="pimoe-attack-") as scratch:
        folder = pathlib.Path(scratch)
        process, port = served(pimoe, folder, options.checkpoint or trained(pimoe, folder), options.one_key)
        troubles = []
        try:
            asked(port)
            print(f"{'attack':24} {'requests':>8} {'median':>9} {'p99':>9} {'p99 / none':>10} {'memory':>8}")
            usual = None
            for attack in [none, *chosen]:
                seconds, wrong, trouble = run(port, attack, options.seconds, options.connections)
                troubles += trouble + [f"{attack.__name__}: others got {each}" for each in wrong[:3]]
                if process.poll() is not None:
                    sys.exit(f"the server ended with {process.returncode} in {attack.__name__}:\n" + (folder / "serve.log").read_text()[-3000:])
                worst = seconds[min(len(seconds) - 1, int(0.99 * len(seconds)))]
                usual = usual or worst
                print(f"{attack.__name__:24} {len(seconds):8} {1e3 * seconds[len(seconds) // 2]:6.1f} ms {1e3 * worst:6.1f} ms {worst / usual:10.2f} {memory_mb(process):5.0f} MB", flush=True)
            until = time.monotonic() + 30
            while metric(port, "texts_running") + metric(port, "texts_waiting") > 0 and time.monotonic() < until:
                time.sleep(0.1)
            left = metric(port, "texts_running") + metric(port, "texts_waiting")
            if left:
                troubles.append(f"{left:.0f} texts of clients that have left still go on")
            troubles += asked_to_leave(process)
        finally:
            process.kill()
            process.wait()
    for trouble in troubles:
        print(trouble)
    sys.exit(1 if troubles else 0)


if __name__ == "__main__":
    main()
