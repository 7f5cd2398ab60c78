#!/usr/bin/env python3
"""Many streams at a time, for long, against a server of its own: what goes wrong, how long clients wait, and whether memory grows.

    tests/serve/load.py [--seconds S] [--streams N] [--checkpoint PATH] [--json FILE] [option of pimoe serve ...]

N clients (default 200) each ask for one stream after the other for S seconds (default 600), over a connection of their own that serves ten of them; prompts and
lengths differ, one client in twenty leaves in the middle. A tiny model is trained unless --checkpoint names one. Every second the server's resident memory is
read, every tenth of the time a line is shown. Ends with 1 where a stream was refused, broke off or had another number of tokens than it says, where texts or
connections of clients are left at the end, where memory at the end is more than 5 % and 8 MB above that of the second fifth of the time, or where the server
does not leave with 0 when it is asked to. A server comes to its size in its first half minute: of less than 100 s no verdict on memory is given, and that is
said, but that 64 MB more are too much in any time. Times are shown and not judged. PIMOE_BUILD (default: build) holds pimoe.
"""

import argparse
import array
import asyncio
import json
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time

from attack import KEY, REPOSITORY, asked_to_leave, memory_mb, metric, served, trained

SHARE_THAT_LEAVES = 0.05
LEAST_SECONDS = 100  # of a verdict on memory: its second fifth begins when the server has come to its size
REQUESTS_OF_A_CONNECTION = 10


class Seen:
    """What all clients saw."""

    def __init__(self):
        self.first, self.next = array.array("d"), array.array("d")  # seconds
        self.streams = self.left = self.tokens = 0
        self.wrong = []


async def stream(reader, writer, choice, seen):
    """One stream of an open connection. Returns whether the client has left in its middle."""
    body = json.dumps({"prompt": f"the {choice.randrange(7)} cats sat on {choice.randrange(11)}", "max_tokens": choice.randint(16, 96), "stream": True,
                       "stream_options": {"include_usage": True}, "seed": choice.randrange(10**6)}).encode()
    leaves_after = choice.randint(1, 16) if choice.random() < SHARE_THAT_LEAVES else None
    asked = time.monotonic()
    writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    status = (await reader.readline()).decode()
    if not status.startswith("HTTP/1.1 200"):
        raise ValueError(f"answered with {status.strip() or 'nothing'}")
    while await reader.readline() not in (b"\r\n", b""):
        pass
    came, chunks, usage = asked, 0, None
    while (line := await reader.readline()) != b"data: [DONE]\n":
        if not line:
            raise ValueError("the stream broke off")
        if not line.startswith(b"data: "):
            continue  # sizes of chunks, empty lines
        said, now = json.loads(line[6:]), time.monotonic()
        if "error" in said:
            raise ValueError(f"error in the stream: {said['error']}")
        usage = said.get("usage") or usage
        if said["choices"]:
            (seen.next if chunks else seen.first).append(now - came)
            came, chunks = now, chunks + 1
            if chunks == leaves_after:
                seen.left += 1
                return True
    while await reader.readline() != b"0\r\n":
        pass
    await reader.readline()
    if usage is None or not chunks - 1 <= usage["completion_tokens"]:  # a piece of text may be of several tokens, the last of none
        raise ValueError(f"{chunks} pieces, and usage says {usage}")
    seen.streams += 1
    seen.tokens += usage["completion_tokens"]
    return False


async def client(port, number, until, seen):
    choice = random.Random(number)
    while time.monotonic() < until:
        writer = None
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(REQUESTS_OF_A_CONNECTION):
                if time.monotonic() >= until or await stream(reader, writer, choice, seen):
                    break
        except (OSError, ValueError, asyncio.IncompleteReadError) as error:
            seen.wrong.append(str(error))
            await asyncio.sleep(0.1)
        finally:
            if writer is not None:
                writer.close()


def milliseconds(seconds):
    ordered = sorted(seconds)
    return [1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99)] if ordered else [float("nan")] * 2


async def load(port, process, options, seen):
    begun = time.monotonic()
    clients = [asyncio.create_task(client(port, number, begun + options.seconds, seen)) for number in range(options.streams)]
    memory, shown = [], 0
    print(f"{'second':>7} {'streams':>8} {'tokens/s':>9} {'wrong':>6} {'memory':>9}")
    while not all(each.done() for each in clients):
        await asyncio.sleep(1)
        passed = time.monotonic() - begun
        memory.append((passed, memory_mb(process)))
        if passed >= shown * options.seconds / 10:
            print(f"{passed:7.0f} {seen.streams:8} {seen.tokens / passed:9.0f} {len(seen.wrong):6} {memory[-1][1]:6.1f} MB", flush=True)
            shown += 1
        if process.poll() is not None:
            break
    for each in clients:
        each.cancel()
    return memory, time.monotonic() - begun


def left_behind(port):
    """What is left of clients once all have gone; the connection that asks is one."""
    for _ in range(100):
        left = {name: metric(port, name) for name in ("texts_running", "texts_waiting", "connections")}
        if left["texts_running"] + left["texts_waiting"] == 0 and left["connections"] <= 1:
            return []
        time.sleep(0.1)
    return [f"left at the end: {left}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--checkpoint")
    parser.add_argument("--json")
    options, of_server = parser.parse_known_args()
    pimoe = str(pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve() / "pimoe")
    with tempfile.TemporaryDirectory(prefix="pimoe-load-") as scratch:
        folder = pathlib.Path(scratch)
        checkpoint = pathlib.Path(options.checkpoint).resolve() if options.checkpoint else trained(pimoe, folder)
        process, port = served(pimoe, folder, checkpoint, options=of_server)
        seen, troubles = Seen(), []
        try:
            memory, seconds = asyncio.run(load(port, process, options, seen))
            if process.poll() is not None:
                sys.exit(f"the server ended with {process.returncode}:\n" + (folder / "serve.log").read_text()[-3000:])
            troubles += left_behind(port)
            troubles += asked_to_leave(process)
        finally:
            process.kill()
            process.wait()
    between = lambda begin, end: statistics.mean([of for passed, of in memory if begin * options.seconds <= passed <= end * options.seconds] or [0.0])
    early, late = between(0.2, 0.4), between(0.8, 1.0)
    is_judged = options.seconds >= LEAST_SECONDS
    if late > (early * 1.05 + 8 if is_judged else early + 64):
        troubles.append(f"memory grew from {early:.1f} MB (the second fifth of the time) to {late:.1f} MB (the last)")
    verdict = f"no verdict, for which --seconds {LEAST_SECONDS} or more are needed" if not is_judged else "flat" if late <= early * 1.05 + 8 else "it grows"
    troubles += [f"{count} times: {what}" for what, count in sorted({each: seen.wrong.count(each) for each in seen.wrong}.items())[:5]]
    first, following = milliseconds(seen.first), milliseconds(seen.next)
    print(f"{options.streams} streams at a time for {seconds:.0f} s: {seen.streams} whole ones, {seen.left} left by their clients, {len(seen.wrong)} wrong; "
          f"{seen.tokens / seconds:.0f} tokens/s")
    print(f"first token {first[0]:.1f} ms (median), {first[1]:.1f} ms (p99); between tokens {following[0]:.2f} ms, {following[1]:.2f} ms; "
          f"memory {early:.1f} MB in the second fifth of the time, {late:.1f} MB in the last: {verdict}")
    if options.json:
        facts = {"streams": options.streams, "seconds": seconds, "whole": seen.streams, "left": seen.left, "wrong": len(seen.wrong),
                 "tokens_per_second": seen.tokens / seconds, "first_token_ms": first, "next_token_ms": following, "memory_mb": memory}
        pathlib.Path(options.json).write_text(json.dumps(facts) + "\n")
    for trouble in troubles:
        print(trouble)
    sys.exit(1 if troubles else 0)


if __name__ == "__main__":
    main()
