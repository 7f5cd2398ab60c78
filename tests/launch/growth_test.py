#!/usr/bin/env python3
"""bench/growth.py: exponents of literal points, and what it measures once at sizes that take seconds.

    tests/launch/growth_test.py [unittest option ...]     PIMOE_BUILD names a build: what measures is left out where there is none
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()
sys.path.insert(0, str(REPOSITORY / "bench"))
from growth_report import exponents  # noqa: E402
from growth_runs import write_texts  # noqa: E402


class Exponents(unittest.TestCase):
    def assert_close(self, points, expected):
        for got, wanted in zip(exponents(points), expected, strict=True):
            self.assertAlmostEqual(got, wanted, places=6)

    def test_are_powers(self):
        self.assert_close([(1, 3), (2, 6), (8, 24)], (1, 1))
        self.assert_close([(1, 5), (2, 5), (4, 5)], (0, 0))
        self.assert_close([(1, 1), (3, 9), (9, 81)], (2, 2))

    def test_of_the_last_two_says_where_it_is_going(self):
        self.assert_close([(1, 4), (2, 4), (4, 16)], (1, 2))  # logarithms to 2: (0, 2), (1, 2), (2, 4)

    def test_need_two_points_above_nothing(self):
        self.assertIsNone(exponents([(1, 0), (2, 0), (4, 3)]))
        self.assertIsNone(exponents([(1, 5)]))


class Texts(unittest.TestCase):
    def test_are_documents_of_their_own(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "texts.jsonl"
            write_texts(path, 50_000)
            documents = [json.loads(line)["text"] for line in path.read_text().splitlines()]
        self.assertEqual(len(documents), len(set(documents)))
        self.assertGreater(min(map(len, documents)), 1000)


TOPICS = ["experts", "ranks", "start", "corpus", "checkpoint"]  # tokens and length measure as experts do


@unittest.skipUnless((BUILD / "pimoe").exists(), f"{BUILD} has no pimoe")
class Measuring(unittest.TestCase):
    def test_topics_at_two_small_sizes(self):
        with tempfile.TemporaryDirectory() as folder:
            results, svg, scratch = (pathlib.Path(folder) / name for name in ("growth.json", "growth.svg", "scratch"))
            scratch.mkdir()
            command = [sys.executable, REPOSITORY / "bench" / "growth.py", *TOPICS, "--pimoe", BUILD / "pimoe", "--small", "--seconds", "0",
                       "--results", results, "--svg", svg, "--scratch", scratch]
            done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            self.assertEqual(list(scratch.iterdir()), [])
            measured = json.loads(results.read_text())
            self.assertEqual(list(measured), TOPICS)
            for name, result in measured.items():
                self.assertEqual(len(result["points"]), 2, name)
            one, two = measured["ranks"]["points"]
            self.assertEqual((one["all_messages"], one["dispatch_bytes"]), (0, 0))
            self.assertGreater(two["all_messages"], two["dispatch_messages"])
            self.assertEqual(done.stdout.count("| exponent (last two) |"), len(TOPICS))
            self.assertEqual(xml.etree.ElementTree.parse(svg).getroot().tag, "{http://www.w3.org/2000/svg}svg")
            shown = subprocess.run([*command, "--show"], capture_output=True, text=True, check=True)
            self.assertEqual(shown.stdout, done.stdout)

    def test_sizes_are_of_one_topic_and_ascend(self):
        for words, what in ((["corpus", "--sizes", "3,x"], "whole numbers"), (["corpus", "--sizes", "3,2"], "ascend"), (["--sizes", "1,2"], "of one topic")):
            done = subprocess.run([sys.executable, REPOSITORY / "bench" / "growth.py", *words], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(what, done.stderr)

    def test_a_command_that_fails_is_said_and_spoils_no_other_result(self):
        with tempfile.TemporaryDirectory() as folder:
            results = pathlib.Path(folder) / "growth.json"
            results.write_text("{}")
            done = subprocess.run([sys.executable, REPOSITORY / "bench" / "growth.py", "tokens", "--small", "--pimoe", "/bin/false", "--results", results,
                                   "--svg", pathlib.Path(folder) / "growth.svg"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn("growth: tokens: /bin/false bench optimizer", done.stderr)
            self.assertEqual(results.read_text(), "{}")


if __name__ == "__main__":
    unittest.main()
