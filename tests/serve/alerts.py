#!/usr/bin/env python3
"""Every kind of alert of a training run and of a server fires once and clears once, while the sink of their webhook is down for a part of the time.

    tests/serve/alerts.py [--down S] [training] [serving]      default: both, the sink down for 60 s in each

The sink first takes messages, then for a third of S seconds each refuses connections, answers 503, and takes a message without an answer, until three alerts at
least were told meanwhile, and then works again. Numbers that alerts judge are steered: the learning rate rises and falls, float16 overflows at first, clients come
and go; one alert with `stop` ends the run (the server) with exit code 1 while the sink is down, and the next start goes on. Ends with 1 where a rule did not fire
exactly once and clear exactly once, where what the sink took (answered with 200) is not, in the same order, what alerts.jsonl says, message by message, or where a
step (a request) with the sink down took a second longer than the slowest with the sink up: a sender that waited for the sink would. PIMOE_BUILD (default: build)
holds pimoe.
"""

import argparse
import http.client
import json
import os
import pathlib
import queue
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from attack import REPOSITORY, trained

PIMOE = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve() / "pimoe"
ENVIRONMENT = dict(os.environ, OMP_NUM_THREADS="1")
LIMIT = 600.0  # seconds, for anything; far more than it takes
DO = "do: [log, file, webhook]"

# The learning rate rises to 1e-5 in half of the steps and falls to 2e-6. At float16's first scale gradients overflow until it has been halved often enough.
TRAINING_RULES = [
    ("grad_norm is not finite for 2 steps", DO),
    ("learning_rate < 1.5e-6", DO),
    ("learning_rate <= 1.9e-6 for 1 seconds", DO),
    ("learning_rate >= 5e-6 for 5 steps until < 4e-6", DO),
    ("learning_rate > 7e-6 for 0.05 minutes", DO),
    ("learning_rate > 8e-6", "do: [log, file, webhook, stop]"),
    ("learning_rate > 9e-6 for 3 steps", DO),
]
TRAINING = """
run: {directory: alerts}
mesh: {device: cpu}
data: {train: corpus, tokenizer: corpus.model}
model: {layers: 1, width: 16, heads: 2, kv_heads: 1, sequence_length: 64, moe: {experts: 4, choices: 2, expert_width: 16, balance: {z_loss: 1000}}}
train: {steps: STEPS, global_batch: BATCH, micro_batch: 4, precision: float16, threads: 1}
optimizer: {learning_rate: 1e-5, warmup_steps: HALF, schedule: linear, final_ratio: 0.2}
checkpoint: {every_steps: 0}
log: {every_steps: 1000, tensorboard: false}
monitor:
  webhook: URL
  alerts:
"""
MOST_STEPS = 1500  # before float16's scale has doubled, and its gradients overflow again

SERVING_RULES = [
    ("texts_running >= 4 until < 1", DO),
    ("texts_waiting > 2 for 2 steps until < 1", DO),
    ("pages_free < 90 for 3 seconds", DO),
    ("tokens_per_second > 20 for 0.05 minutes until <= 15", DO),
    ("requests_per_second >= 120 until < 40", "do: [log, file, webhook, stop]"),
]
SERVING = "monitor:\n  folder: alerts\n  webhook: URL\n  alerts:\n"


def with_rules(text, rules, url):
    return text.replace("URL", url) + "".join(f'    - {{when: "{when}", {do}}}\n' for when, do in rules)


class Sink(threading.Thread):
    """Takes posts on a port of its own, which it keeps while it is down. `taken`: what it has answered with 200."""

    def __init__(self):
        super().__init__(daemon=True)
        self.taken, self.tries, self.state, self.held, self.listener = [], 0, "up", [], None
        self.port = self.listen(0)
        self.start()

    def listen(self, port):
        self.listener = socket.create_server(("127.0.0.1", port))
        self.listener.settimeout(0.05)
        return self.listener.getsockname()[1]

    def url(self):
        return f"http://127.0.0.1:{self.port}/hook"

    def run(self):
        while True:
            if self.state == "refuses":
                if self.listener is not None:
                    self.listener.close()
                    self.listener = None
                time.sleep(0.02)
                continue
            if self.listener is None:
                self.listen(self.port)
            if self.state != "silent":
                while self.held:
                    self.held.pop().close()
            try:
                connection = self.listener.accept()[0]
            except TimeoutError:
                continue
            try:
                self.take(connection)
            except OSError:
                connection.close()

    def take(self, connection):
        connection.settimeout(10)
        text = b""
        while b"\r\n\r\n" not in text:
            text += self.some(connection)
        head, body = text.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"Content-Length: (\d+)", head).group(1))
        while len(body) < length:
            body += self.some(connection)
        self.tries += 1
        if self.state == "silent":
            return self.held.append(connection)
        is_up = self.state == "up"
        if is_up:
            self.taken.append(json.loads(body))
        connection.sendall(f"HTTP/1.1 {200 if is_up else 503} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        connection.close()

    @staticmethod
    def some(connection):
        got = connection.recv(65536)
        if not got:
            raise OSError("left")
        return got

    def down(self, seconds, is_enough):
        """Returns when it is up again: after `seconds`, and once there was enough to miss."""
        for state in ("refuses", "503", "silent"):
            self.state = state
            time.sleep(seconds / 3)
        until = time.monotonic() + LIMIT
        while not is_enough() and time.monotonic() < until:
            time.sleep(0.05)
        self.state = "up"


class Outage:
    """Takes the sink down in a thread, until it has missed three alerts at least, and knows when that was."""

    def __init__(self, sink, seconds, folder):
        self.begun = time.time()
        self.ended = None
        self.thread = threading.Thread(target=self.run, args=(sink, seconds, folder, len(told(folder))))
        self.thread.start()

    def run(self, sink, seconds, folder, before):
        sink.down(seconds, lambda: len(told(folder)) >= before + 3)
        self.ended = time.time()

    def covers(self, at):
        return self.begun <= at <= (self.ended or float("inf"))


def told(folder):
    file = folder / "alerts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(holds, what, process=None):
    until = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > until or (process is not None and process.poll() is not None and not holds()):
            raise AssertionError(f"waited for {what}" + ("" if process is None else f"; the process: {process.poll()}"))
        time.sleep(0.02)


def compare(rules, sink, folder, log):
    """What is wrong with what was told, and a line of what was right."""
    wrong = []
    lines = told(folder)
    for when, _ in rules:
        states = [line["state"] for line in lines if line["rule"] == when]
        if states != ["firing", "cleared"]:
            wrong.append(f"'{when}' was told as {states}")
        said = len(re.findall(r"alert (?:fired|cleared) [^\n]*: " + re.escape(when) + r" \(", log))
        if said != 2:
            wrong.append(f"the log tells {said} times of '{when}'")
    if sink.taken != lines:
        lost = [line["text"] for line in lines if line not in sink.taken]
        twice = [line["text"] for line in sink.taken if sink.taken.count(line) > 1]
        wrong.append(f"the sink took {len(sink.taken)} messages of {len(lines)}; lost: {lost}; twice: {twice}; else their order differs")
    if (folder / "alerts.unsent.jsonl").exists():
        wrong.append("alerts.unsent.jsonl still has messages")
    return wrong, lines


def show(lines, outage):
    for line in lines:
        print(f"  {line['time'] - lines[0]['time']:6.1f} s  {'sink down' if outage.covers(line['time']) else 'sink up  '}  {line['text']}")


def judge_times(what, down, up):
    """`down`, `up`: seconds of each step or request."""
    if not down or not up:
        return [f"{len(down)} {what} with the sink down, {len(up)} with it up: nothing to compare"]
    print(f"  {what}: {len(up)} with the sink up, median {1e3 * statistics.median(up):.1f} ms, slowest {1e3 * max(up):.0f} ms; "
          f"{len(down)} with it down, median {1e3 * statistics.median(down):.1f} ms, slowest {1e3 * max(down):.0f} ms")
    return [f"one of the {what} took {max(down):.2f} s with the sink down, {max(up):.2f} s with it up"] if max(down) > max(up) + 1 else []


def records(folder):
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def train(place, log):
    return subprocess.Popen([PIMOE, "train", "alerts.yaml"], cwd=place, stderr=log.open("a"), env=ENVIRONMENT)


def write_config(place, steps, batch, url, rules=TRAINING_RULES):
    text = TRAINING.replace("STEPS", str(steps)).replace("HALF", str(steps // 2)).replace("BATCH", str(batch))
    (place / "alerts.yaml").write_text(with_rules(text, rules, url))


def pace(place, log):
    """Seconds of a step of 4 sequences."""
    write_config(place, 40, 4, "http://127.0.0.1:1/", TRAINING_RULES[:1])
    (place / "alerts.yaml").write_text((place / "alerts.yaml").read_text().replace("directory: alerts", "directory: pace"))
    assert train(place, log).wait(LIMIT) == 0, log.read_text()
    return statistics.median(record["step_seconds"] for record in records(place / "pace"))


def training(place, down):
    sink, log, run = Sink(), place / "train.log", place / "alerts"
    seconds = pace(place, log)
    wanted = 2 * down + 20  # of the whole run
    batch = 4 * max(1, round(wanted / seconds / MOST_STEPS))
    steps = min(MOST_STEPS, max(400, int(wanted / (seconds * batch / 4))))
    write_config(place, steps, batch, sink.url())
    print(f"training: {steps} steps, the sink down for {down:.0f} s", flush=True)
    log.write_text("")
    process = train(place, log)
    try:
        at = lambda: len(records(run))
        wait_for(lambda: at() >= 0.35 * steps, "a third of the steps", process)
        wait_for(lambda: sink.taken == told(run) and told(run), "what was told before")
        begin, outage = at(), Outage(sink, down, run)
        code = process.wait(LIMIT)
        assert code == 1, f"the alert with stop ended the run with {code}"
        print(f"  the alert with stop ended it at step {at()} with exit code 1, {len(told(run)) - len(sink.taken)} messages unsent; it is started again", flush=True)
        process = train(place, log)
        outage.thread.join()
        end = at()
        code = process.wait(LIMIT)
        assert code == 0, f"the run ended with {code}"
    finally:
        process.kill()
        process.wait()
    wrong, lines = compare(TRAINING_RULES, sink, run, log.read_text())
    show(lines, outage)
    if [record["step"] for record in records(run)] != list(range(1, steps + 1)):
        wrong.append("metrics.jsonl has not each step once")
    times = [record["step_seconds"] for record in records(run)]
    missed = sum(outage.covers(line["time"]) for line in lines)
    print(f"  {len(lines)} messages, {missed} of them while the sink was down (steps {begin} to {end}); it took {len(sink.taken)}, and turned away {sink.tries - len(sink.taken)} more tries")
    if not 3 <= missed < len(lines):
        wrong.append(f"{missed} of {len(lines)} messages fell into the time of the sink that was down")
    return wrong + judge_times("steps", times[begin:end], times[5:begin] + times[end:])


class Clients:
    """`count` that ask for one long text after the other, and one that asks for a token now and then and notes how long it waited."""

    def __init__(self, port, count):
        self.port, self.waited, self.wrong, self.is_over, self.asks = port, queue.Queue(), [], False, threading.Event()
        self.threads = [threading.Thread(target=self.load) for _ in range(count)] + [threading.Thread(target=self.probe)]
        for each in self.threads:
            each.start()

    def ask(self, key, tokens):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request("POST", "/v1/completions", json.dumps({"prompt": "the 3 cats", "max_tokens": tokens, "temperature": 0}),
                               {"Content-Type": "application/json", "Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                self.wrong.append(answer.status)
        except OSError as error:
            self.wrong.append(str(error))
        finally:
            connection.close()

    def load(self):
        while not self.is_over:
            if self.asks.wait(0.1):
                self.ask("load-key-0123456789", 240)

    def probe(self):
        while not self.is_over:
            begun = time.time()
            self.ask("probe-key-0123456789", 1)
            self.waited.put((begun, time.time() - begun))
            time.sleep(0.1)

    def stop(self):
        self.is_over = True
        for each in self.threads:
            each.join()


def serve(place, log):
    said = len(log.read_text())
    process = subprocess.Popen([PIMOE, "serve", "--checkpoint", "run", "--port", "0", "--api-key-file", "alert-keys", "--monitor", "monitor.yaml", "--max-batch", "8"],
                               cwd=place, stderr=log.open("a"), env=ENVIRONMENT)
    port = lambda: re.search(r"at http://\S+:(\d+)", log.read_text()[said:])
    wait_for(port, "a port", process)
    return process, int(port().group(1))


def many_requests(port, until):
    """As many of /health as come through in one connection, until `until()`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    while not until():
        try:
            connection.request("GET", "/health")
            connection.getresponse().read()
        except OSError:
            return
    connection.close()


def serving(place, down):
    sink, log, folder = Sink(), place / "serve.log", place / "alerts-of-server"
    log.write_text("")
    (place / "alert-keys").write_text("load load-key-0123456789\nprobe probe-key-0123456789\n")
    (place / "monitor.yaml").write_text(with_rules(SERVING, SERVING_RULES, sink.url()).replace("folder: alerts", "folder: alerts-of-server"))
    print(f"serving: the sink down for {down:.0f} s", flush=True)
    process, port = serve(place, log)
    clients = Clients(port, 12)
    try:
        time.sleep(2)  # a look of a server that has nothing to do
        clients.asks.set()
        wait_for(lambda: any(line["rule"].startswith("texts_running") for line in told(folder)), "the first alert", process)
        wait_for(lambda: sink.taken == told(folder), "what was told before")
        outage = Outage(sink, down, folder)
        wait_for(lambda: len(told(folder)) == 4, "all that load makes fire", process)
        clients.asks.clear()
        wait_for(lambda: len(told(folder)) == 8, "all of these to clear", process)
        time.sleep(max(0.0, outage.begun + down / 2 - time.time()))  # requests go on with the sink down
        clients.stop()
        asking = [threading.Thread(target=many_requests, args=(port, lambda: process.poll() is not None or len(told(folder)) > 8)) for _ in range(4)]
        for each in asking:
            each.start()
        for each in asking:
            each.join()
        code = process.wait(LIMIT)
        assert code == 1, f"the alert with stop ended the server with {code}"
        print(f"  the alert with stop ended it with exit code 1, {len(told(folder)) - len(sink.taken)} messages unsent; it is started again", flush=True)
        process, port = serve(place, log)
        second = Clients(port, 0)
        outage.thread.join()
        time.sleep(5)
        second.stop()
        process.terminate()
        code = process.wait(LIMIT)
        assert code == 0, f"the server ended with {code}"
    finally:
        clients.is_over = True
        process.kill()
        process.wait()
    wrong, lines = compare(SERVING_RULES, sink, folder, log.read_text())
    show(lines, outage)
    missed = sum(outage.covers(line["time"]) for line in lines)
    print(f"  {len(lines)} messages, {missed} of them while the sink was down; it took {len(sink.taken)}, and turned away {sink.tries - len(sink.taken)} more tries")
    if not 3 <= missed < len(lines):
        wrong.append(f"{missed} of {len(lines)} messages fell into the time of the sink that was down")
    wrong += [f"a client got {each}" for each in (clients.wrong + second.wrong)[:3]]
    waited = list(clients.waited.queue) + list(second.waited.queue)
    return wrong + judge_times("requests", [took for at, took in waited if outage.covers(at)], [took for at, took in waited if not outage.covers(at)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="training, serving")
    parser.add_argument("--down", type=float, default=60.0)
    options = parser.parse_args()
    known = {"training": training, "serving": serving}
    if set(options.parts) - set(known):
        parser.error("known parts: " + ", ".join(known))
    failed = False
    with tempfile.TemporaryDirectory(prefix="pimoe-alerts-") as scratch:
        place = pathlib.Path(scratch).resolve()
        trained(str(PIMOE), place)
        for name, part in known.items():
            if options.parts and name not in options.parts:
                continue
            try:
                wrong = part(place, options.down)
            except AssertionError as error:
                log = place / ("train.log" if name == "training" else "serve.log")
                wrong = [f"{error}\n{log.read_text()[-3000:]}"]
            for each in wrong:
                print(f"{name}: {each}")
            failed = failed or bool(wrong)
    print("something is wrong" if failed else "all held: each rule fired once and cleared once; none of the messages was lost, doubled or out of order")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
