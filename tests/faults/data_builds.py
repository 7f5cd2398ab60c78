#!/usr/bin/env python3
"""Kills `pimoe data build`, lets its disk fill up, and checks that the same command goes on to the same bytes. Needs a build; Python's standard library alone.

    tests/faults/data_builds.py EXPERIMENT [--rounds N] [--seed S] [--megabytes M]

    kills    SIGKILL at random moments, up to three times before the build is left to its end
    calls    SIGKILL at a system call on the unfinished build or the corpus: every one of them in the long form, which is --rounds 0
    errors   ENOSPC at a system call, likewise: an error with the folder's name, and room again afterwards
    shared   two builds of one PREFIX at once, and other input or options than those of what is unfinished: refused, and nothing is lost

Exit status 1 if a round failed.
"""
import argparse
import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
PIMOE = BUILD / "pimoe"
SHIM = BUILD / "tests" / "libpimoe_fault_shim.so"
ENDINGS = (".bin", ".idx", "-validation.bin", "-validation.idx")


def tokenizer_of_bytes():
    """A tokenizer.json whose tokens are bytes: fast, so that much is read and written."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    letters = {byte: chr(byte) for byte in printed} | {byte: chr(256 + index) for index, byte in enumerate(others)}
    bytes_alone = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": bytes_alone, "post_processor": None,
            "decoder": bytes_alone, "added_tokens": [{"id": 256, "content": "<|endoftext|>", "special": True, "normalized": False}],
            "model": {"type": "BPE", "vocab": {letters[byte]: byte for byte in range(256)}, "merges": []}}


class Place:
    """A folder with input of every kind, and the corpus of an undisturbed build."""

    def __init__(self, folder, megabytes, seed):
        self.folder = folder
        self.random = random.Random(seed)
        words = ["".join(self.random.choices("abcdefghijklmnopqrstuvwxyzäß", k=self.random.randint(1, 9))) for _ in range(5000)]
        text = lambda size: " ".join(self.random.choices(words, k=size // 7)).replace(" q", "\n")
        source = folder / "in"
        source.mkdir()
        for number in range(20):
            (source / f"a{number:02}.txt").write_text(text(20_000 * megabytes))
        (source / "b.txt").write_text(text(300_000 * megabytes))  # one document of several parts
        (source / "c.txt").write_bytes(b"text " * 400_000 + b"\0")  # no text, as its end shows
        lines = lambda count: "".join(json.dumps({"text": text(self.random.choice([0, 30, 3000]))}) + "\n" for _ in range(count))
        (source / "d.jsonl").write_text(lines(150 * megabytes) + json.dumps({"text": text(2_500_000)}) + "\n" + lines(10))
        (source / "e.jsonl.gz").write_bytes(gzip.compress(lines(100 * megabytes).encode(), 1))
        (source / "f.txt.gz").write_bytes(gzip.compress(text(200_000 * megabytes).encode(), 1))
        (source / "g.txt").write_text(text(1000))
        (folder / "bytes.json").write_text(json.dumps(tokenizer_of_bytes()))
        self.tokenizer = ["--tokenizer", "bytes.json"]
        begun = time.time()
        finished = self.run(self.tokenizer, "reference")
        assert finished.returncode == 0, finished.stderr
        self.seconds = time.time() - begun
        self.facts = json.loads(finished.stdout)

    def command(self, options, prefix, source="in"):
        return [PIMOE, "data", "build", "--output", self.folder / prefix, "--validation", "0.2", "--save-every", "0.02", "--threads", "2", "--json", *options, source]

    def run(self, options, prefix, **environment):
        return subprocess.run(self.command(options, prefix), cwd=self.folder, capture_output=True, text=True, timeout=300,
                              env={**os.environ, **environment}, check=False)

    def start(self, options, prefix):
        return subprocess.Popen(self.command(options, prefix), cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def trouble(self, prefix, finished):
        """What is wrong with a build that was left to its end."""
        if finished.returncode != 0:
            return f"exit code {finished.returncode}: {finished.stderr}"
        for ending in ENDINGS:
            if (self.folder / (prefix + ending)).read_bytes() != (self.folder / ("reference" + ending)).read_bytes():
                return f"{prefix}{ending} differs from the undisturbed build's"
        facts = json.loads(finished.stdout)
        for name in ("documents", "tokens", "validation_documents", "validation_tokens", "unigram_entropy", "largest_id", "input_bytes", "skipped_files"):
            if facts[name] != self.facts[name]:
                return f"{name} is {facts[name]}, and was {self.facts[name]}"
        mine = {self.folder / (prefix + ending) for ending in (*ENDINGS, ".model")}
        left = [path.name for path in self.folder.glob(prefix + "*") if path not in mine]
        return f"left behind: {left}" if left else ""

    def remove(self, prefix):
        for path in self.folder.glob(prefix + "*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def calls(self, options):
        """How many system calls a build makes on what is watched."""
        count = self.folder / "count"
        finished = self.run(options, "watched/counted", LD_PRELOAD=str(SHIM), PIMOE_FAULT_FOLDER=str(self.folder / "watched"), PIMOE_FAULT_COUNT=str(count))
        assert finished.returncode == 0, finished.stderr
        self.remove("watched/counted")
        total = sum(map(int, count.read_text().split()))
        assert total > 20, f"a build made {total} system calls that were seen"
        return total


def kills(place, rounds):
    resumed = 0
    for number in range(rounds or 50):
        prefix = f"killed{number}"
        options = place.tokenizer
        for _ in range(place.random.randint(1, 3)):
            build = place.start(options, prefix)
            time.sleep(place.random.uniform(0, 1.1 * place.seconds))
            build.send_signal(signal.SIGKILL)
            said = build.communicate()[1]
            if not (place.folder / (prefix + ".unfinished")).exists():
                break  # it was done, or had not begun
            if (place.folder / (prefix + ".idx")).exists() and not (place.folder / (prefix + ".bin")).exists():
                yield number, "an index without tokens"
        finished = place.run(options, prefix)
        resumed += "going on with" in finished.stderr
        yield number, place.trouble(prefix, finished)
        place.remove(prefix)
    if rounds >= 5 or not rounds:
        yield "all", "" if resumed > (rounds or 50) // 4 else f"only {resumed} builds went on from a place"


def chosen(total, rounds, source):
    return range(1, total + 1) if not rounds else sorted(source.sample(range(1, total + 1), min(rounds, total)))


def calls(place, rounds):
    (place.folder / "watched").mkdir(exist_ok=True)
    total = place.calls(place.tokenizer)
    for at in chosen(total, rounds, place.random):
        prefix = f"watched/k{at}"
        hit = place.run(place.tokenizer, prefix, LD_PRELOAD=str(SHIM), PIMOE_FAULT_FOLDER=str(place.folder / "watched"), PIMOE_FAULT_AT=str(at),
                        PIMOE_FAULT_KIND="KILL")
        if hit.returncode not in (0, -signal.SIGKILL):
            yield at, f"exit code {hit.returncode}: {hit.stderr}"
        yield at, place.trouble(prefix, place.run(place.tokenizer, prefix))
        place.remove(prefix)


def errors(place, rounds):
    (place.folder / "watched").mkdir(exist_ok=True)
    total = place.calls(place.tokenizer)
    for at in chosen(total, rounds, place.random):
        prefix = f"watched/e{at}"
        hit = place.run(place.tokenizer, prefix, LD_PRELOAD=str(SHIM), PIMOE_FAULT_FOLDER=str(place.folder / "watched"), PIMOE_FAULT_AT=str(at),
                        PIMOE_FAULT_TIMES="0", PIMOE_FAULT_KIND="ENOSPC")
        if hit.returncode not in (0, 74):
            yield at, f"exit code {hit.returncode}: {hit.stderr}"
        if hit.returncode == 74 and "No space left" not in hit.stderr:
            yield at, f"does not say why: {hit.stderr}"
        yield at, place.trouble(prefix, place.run(place.tokenizer, prefix))
        place.remove(prefix)


def shared(place, _):
    build = place.start(place.tokenizer, "shared")
    while not (place.folder / "shared.unfinished" / "state.json").exists() and build.poll() is None:
        time.sleep(0.01)
    build.send_signal(signal.SIGSTOP)
    second = place.run(place.tokenizer, "shared")
    yield "two at once", "" if second.returncode == 64 and "another process builds" in second.stderr else second.stderr
    build.send_signal(signal.SIGKILL)
    build.communicate()
    for name, options, words in (("other options", [*place.tokenizer, "--seed", "7"], "--seed was 1234, and is 7 now"),
                                 ("other tokenizer", ["--vocabulary", "700"], "--vocabulary was null, and is 700 now")):
        other = place.run(options, "shared")
        yield name, "" if other.returncode == 64 and words in other.stderr and "--restart" in other.stderr else other.stderr
    changed = place.folder / "in" / "g.txt"
    before = changed.stat()
    os.utime(changed, (1, 1))
    other = place.run(place.tokenizer, "shared")
    yield "other input", "" if other.returncode == 64 and "g.txt has changed since" in other.stderr else other.stderr
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    finished = place.run(place.tokenizer, "shared")
    yield "going on", "" if "going on with" in finished.stderr else finished.stderr
    yield "its bytes", place.trouble("shared", finished)
    place.remove("shared")
    build = place.start(place.tokenizer, "shared")
    while not (place.folder / "shared.unfinished" / "state.json").exists() and build.poll() is None:
        time.sleep(0.01)
    build.send_signal(signal.SIGKILL)
    build.communicate()
    finished = place.run([*place.tokenizer, "--restart"], "shared")
    yield "restart", place.trouble("shared", finished)
    yield "restart's word", "" if "is thrown away" in finished.stderr and "going on" not in finished.stderr else finished.stderr


EXPERIMENTS = {"kills": kills, "calls": calls, "errors": errors, "shared": shared}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--megabytes", type=int, default=10, help="of text, about")
    options = parser.parse_args()
    if not PIMOE.exists():
        sys.exit(f"there is no {PIMOE}: launch/build.sh pimoe pimoe_fault_shim")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pimoe-data-"))
    place = Place(folder, options.megabytes, options.seed)
    rounds = failed = 0
    for name, trouble in EXPERIMENTS[options.experiment](place, options.rounds):
        rounds += 1
        if trouble:
            failed += 1
            print(f"{options.experiment} {name}: {trouble}", flush=True)
    print(f"{options.experiment}: {rounds - failed} of {rounds} held; a build takes {place.seconds:.1f} s")
    if failed == 0:
        shutil.rmtree(folder)
    else:
        print(f"see {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
