#!/usr/bin/env python3
"""Time and memory as one thing grows: experts, tokens, length, ranks, start-up, corpus, checkpoint. Needs nothing but Python.

    bench/growth.py [TOPIC ...] [--pimoe build/pimoe] [--under "nice -n 19"] [--scratch DIR] [--show]

Runs pimoe as a user does, on the CPU. Each topic prints a Markdown table and, of each measured column, the exponent with which it grows: the slope of a line
through all points in logarithms, and that between the last two. 1 is "in proportion", 0 "not at all". A constant beside a growing part makes the first smaller; the last one says
where it is going. --results gathers the numbers of all topics, whichever run measured them; --svg draws one panel or two for each. --show prints and draws what is there.
docs/bench.md says what the columns are.
"""
import argparse
import json
import os
import pathlib
import shlex
import signal
import sys
import tempfile

from growth_report import picture, show
from growth_runs import Failure, Tool
from growth_topics import MODEL, SIZES, SMALL_SIZES, TOPICS

ROOT = pathlib.Path(__file__).resolve().parent.parent


def measure(topic, tool, options):
    sizes = options.sizes or (SMALL_SIZES if options.small else SIZES)[topic.name]
    points = []
    for point in topic.measure(tool, sizes):
        points.append(point)
        print(f"growth: {topic.name} {topic.shown(point['size'])}", file=sys.stderr, flush=True)
    return {"commit": tool.commit, "machine": tool.machine, "command": f"bench/growth.py {topic.name}" + (f" --under {shlex.quote(options.under)}" if options.under else ""),
            "points": points}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"{', '.join(topic.name for topic in TOPICS)}; without one, all")
    parser.add_argument("--pimoe", default=str(ROOT / "build" / "pimoe"))
    parser.add_argument("--mpirun", default="mpirun --allow-run-as-root --oversubscribe --bind-to none", help="how ranks are started, without -n")
    parser.add_argument("--under", default="", help="what every command is run by: nice, chrt")
    parser.add_argument("--seconds", type=float, default=0.5, help="of pimoe bench")
    parser.add_argument("--scratch", type=pathlib.Path, help="folder for corpora and runs; what is made there is removed (default: the system's)")
    parser.add_argument("--results", type=pathlib.Path, default=ROOT / "bench" / "results" / "growth.json")
    parser.add_argument("--svg", type=pathlib.Path, default=ROOT / "docs" / "growth.svg")
    parser.add_argument("--small", action="store_true", help="sizes that say nothing, in seconds: does everything work?")
    parser.add_argument("--sizes", help="sizes of the one TOPIC in place of the usual ones: 10,100,1000,10000")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    options = parser.parse_args()
    unknown = sorted(set(options.topics) - {topic.name for topic in TOPICS})
    if unknown:
        parser.error(f"no topic {', '.join(unknown)}")
    if options.sizes:
        if len(options.topics) != 1:
            parser.error(f"--sizes {options.sizes} is of one topic: {len(options.topics)} are named")
        try:
            options.sizes = [int(size) for size in options.sizes.split(",")]
        except ValueError:
            parser.error(f"--sizes {options.sizes}: whole numbers with commas between them")
        if sorted(set(options.sizes)) != options.sizes or options.sizes[0] < 1:
            parser.error(f"--sizes {','.join(map(str, options.sizes))}: they ascend from 1 on")
    options.pimoe = os.path.abspath(options.pimoe)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception: what was started ends, and its files go
    topics = [topic for topic in TOPICS if not options.topics or topic.name in options.topics]
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    failed = False
    for topic in topics:
        if not options.show:
            with tempfile.TemporaryDirectory(prefix="growth-", dir=options.scratch) as scratch:
                tool = Tool(options, pathlib.Path(scratch))
                try:
                    tool.bench("optimizer", MODEL)  # machine, commit and precision; and what the first start of a program costs is paid
                    results[topic.name] = measure(topic, tool, options)
                except Failure as failure:
                    print(f"growth: {topic.name}: {failure}", file=sys.stderr)
                    failed = True
                    continue
            options.results.write_text(json.dumps({each.name: results[each.name] for each in TOPICS if each.name in results}, indent=1) + "\n")
        if topic.name in results:
            show(topic, results[topic.name])
    if results:
        options.svg.write_text(picture(results))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
