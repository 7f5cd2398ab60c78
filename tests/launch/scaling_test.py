#!/usr/bin/env python3
"""launch/scaling.sh and bench/scaling.py: arithmetic on literal results, what is refused, what is run again.

    tests/launch/scaling_test.py [unittest option ...]     PIMOE_BUILD names a build: the last test measures with it, unless it is not there

pimoe and mpirun are stand-ins but for that test.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SCALING = str(REPOSITORY / "launch" / "scaling.sh")
BUILD = pathlib.Path(os.environ.get("PIMOE_BUILD", REPOSITORY / "build")).resolve()

# Takes R of `mpirun ... -n R pimoe ...`, and refuses to be killed politely while the file `slow` is there.
MPIRUN = """#!/bin/bash
while [ "$1" != -n ]; do echo "$1"; shift; done
if [ -e slow ]; then touch started; sleep 30; fi
RANKS=$2 exec "${@:3}"
"""
PIMOE = """#!/bin/bash
echo "$RANKS: $*" >>calls
case "$*" in
  *refused=*) echo "error: refused: no such key" >&2; exit 78 ;;
  *--print-config) echo "train:"; echo "  threads: auto  # of a rank"; echo "  global_batch: $(grep -o '[0-9]*' "$2")  # sequences" ;;
  *) [ "$RANKS" != 3 ] || { echo "info"; echo "error: experts (8) | 3"; exit 78; }
     cp "result-$RANKS.json" "${!#}" ;;
esac
"""


def document(ranks, tokens_per_second, seconds, sent, foretold, **machine):
    """As `pimoe bench scaling --json` writes it; forward takes 0.1 s more on the last rank."""
    row = {"suite": "scaling", "median_seconds": seconds, "low_seconds": seconds, "high_seconds": seconds, "tokens_per_second": tokens_per_second,
           "kept_bytes": 2_000_000, "peak_bytes": 9_000_000, "sent_bytes_by_group": sent,
           "foretold_sent_bytes_of_a_rank": dict(zip(("rows", "gradients", "weights"), foretold))}
    for phase in ("forward", "backward", "gradients", "update"):
        row[f"{phase}_seconds_by_rank"] = [0.2] * (ranks - 1) + [0.3 if phase == "forward" else 0.2]
    facts = {"ranks": ranks, "hosts": 1, "threads": 1, "cores": 2, "gpu": None, "cpu": "a cpu", "device": "a cpu", "transport": "MPI",
             "precision": "float32", "expert_parallel": min(ranks, 2), **machine}
    return {"commit": "abc1234", "command": "pimoe bench scaling c.yaml", "config": f"train:\n  global_batch: {8 * ranks}  # sequences\n",
            "machine": facts, "rows": [{"suite": "ceilings"}, row]}


ONE = document(1, 1000.0, 1.0, {}, (0, 0, 0))
TWO = document(2, 1800.0, 1.25, {"dense group of 2": 9_000_000, "dense gradient group of 2": 2_000_000}, (3_000_000, 1_000_000, 1_000_000))
FOUR = document(4, 3000.0, 2.0, {"dense group of 4": 8_000_000, "expert group of 2": 12_000_000, "expert replica group of 2": 4_000_000,
                                 "dense gradient group of 4": 6_000_000, "expert replica gradient group of 2": 2_000_000}, (3_000_000, 2_000_000, 2_500_000))


class Folder(unittest.TestCase):
    def setUp(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        self.folder = pathlib.Path(holder.name)

    def write(self, name, content, mode=0o644):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(mode)

    def read(self, name):
        return (self.folder / name).read_text()


class Gathering(Folder):
    def gather(self, results, counts, code=0, mode="weak"):
        self.write("experiment.json", {"mode": mode, "ranks": counts})
        for result in results:
            self.write(f"scaling-{result['machine']['ranks']}.json", result)
        done = subprocess.run([sys.executable, REPOSITORY / "bench" / "scaling.py", self.folder], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (code, ""))
        self.assertEqual(done.stdout, self.read("table.md"))
        return done.stdout

    def test_efficiency_is_speed_over_that_of_the_smallest_count_times_ranks(self):
        text = self.gather([ONE, TWO, FOUR], [1, 2, 4])
        self.assertIn("# Weak scaling", text)
        self.assertIn("| 1 | 1 | 1 | 1 | 8 | 1,000 (1,000 .. 1,000) | 1,000 | 100.0% |  |", text)
        self.assertIn("| 2 | 1 | 1 | 2 | 16 | 1,250 (1,250 .. 1,250) | 1,800 | 90.0% |  |", text)
        self.assertIn("| 4 | 1 | 1 | 2 | 32 | 2,000 (2,000 .. 2,000) | 3,000 | 75.0% | oversubscribed |", text)

    def test_phases_name_the_slowest_and_the_fastest_rank(self):
        self.assertIn("| 2 | 300.0 / 200.0 | 200.0 / 200.0 | 200.0 / 200.0 | 200.0 / 200.0 |", self.gather([ONE, TWO], [1, 2]))

    def test_bytes_stand_beside_those_foretold_for_all_ranks(self):
        text = self.gather([ONE, TWO, FOUR], [1, 2, 4])
        for row in ("| 1 | nothing | - | 0 | 0 | - |",
                    "| 2 | rows and weights | dense group of 2 | 9 | 8 | 1.125 |",  # 2 x (3 + 1)
                    "| 2 | gradients | dense gradient group of 2 | 2 | 2 | 1.000 |",
                    "| 4 | rows | expert group of 2 | 12.0 | 12.0 | 1.000 |",
                    "| 4 | weights | dense group of 4, expert replica group of 2 | 12.0 | 10.0 | 1.200 |",
                    "| 4 | gradients | dense gradient group of 4, expert replica gradient group of 2 | 8 | 8 | 1.000 |"):
            self.assertIn(row, text)

    def test_oversubscribed_ranks_are_named_and_their_bytes_come_first(self):
        self.assertIn("Oversubscribed: 4 ranks (4 threads on 2 cores)", self.gather([ONE, FOUR], [1, 4]))
        titles = [each.text for each in xml.etree.ElementTree.parse(self.folder / "scaling.svg").iter("{http://www.w3.org/2000/svg}text")]
        self.assertLess(titles.index("Sent in a step by a rank, on average"), titles.index("Speed"))
        self.assertIn("4*", titles)
        self.assertNotIn("Oversubscribed", self.gather([ONE, TWO], [1, 2]))

    def test_steps_that_take_unequal_times_are_remarked(self):
        TWO["rows"][1]["high_seconds"] = 2.0
        self.addCleanup(TWO["rows"][1].update, high_seconds=1.25)
        text = self.gather([ONE, TWO], [1, 2])
        self.assertIn("| 1,800 | 90.0% | unsteady |", text)
        self.assertIn("Unsteady: 2 ranks.", text)

    def test_a_count_without_a_result_is_a_row_with_its_error(self):
        self.write("scaling-3.status", "exit status 78\n")
        self.write("scaling-3.log", "info\nerror: experts (8) | 3\nmore\n")
        self.write("scaling-5.json", "{")
        self.write("scaling-6.status", "job 7 is OUT_OF_MEMORY\n")
        text = self.gather([ONE, TWO, {**FOUR, "rows": []}], [1, 2, 3, 4, 5, 6], code=1)
        self.assertIn("| 3 | - | - | - | - | - | - | - | exit status 78: error: experts (8) \\| 3 |", text)
        self.assertIn("scaling-4.json is not what `pimoe bench scaling --json` writes", text)
        self.assertIn("scaling-5.json is not what", text)
        self.assertIn("job 7 is OUT_OF_MEMORY; there is no log", text)
        self.assertIn("| 90.0% |", text)

    def test_without_any_result_there_are_errors_and_no_picture(self):
        self.write("scaling.svg", "of earlier")
        self.assertIn("| 2 | no result; there is no log |", self.gather([], [2], code=1))
        self.assertFalse((self.folder / "scaling.svg").exists())

    def test_what_makes_counts_incomparable_is_said(self):
        text = self.gather([document(2, 1000.0, 1.0, {}, (0, 0, 0), threads=2, cores=4), {**FOUR, "commit": "def5678"}], [1, 2, 4], code=1)
        self.assertIn("A rank's threads differ (2 at 2, 1 at 4 ranks)", text)
        self.assertIn("Not the same commit everywhere: abc1234, def5678.", text)
        self.assertIn("The smallest count has no result: efficiency is against 2 ranks.", text)
        self.assertIn("150.0%", text)


class Launching(Folder):
    def setUp(self):
        super().setUp()
        self.write("bin/mpirun", MPIRUN, 0o755)
        self.write("bin/nproc", "#!/bin/sh\necho 4\n", 0o755)
        self.write("build/pimoe", PIMOE, 0o755)
        self.write("c.yaml", "8")
        for result in (ONE, TWO, FOUR):
            self.write(f"result-{result['machine']['ranks']}.json", result)
        self.environment = {**os.environ, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "PIMOE_BUILD": str(self.folder / "build"),
                            "PIMOE_PYTHON": sys.executable, "PIMOE_DEPS": str(self.folder), "CUDA_VISIBLE_DEVICES": ""}
        self.environment.pop("OMP_NUM_THREADS", None)

    def command(self, *arguments):
        return {"args": [SCALING, *arguments], "cwd": self.folder, "env": self.environment, "text": True}

    def scale(self, *arguments, code=0):
        done = subprocess.run(**self.command(*arguments), capture_output=True)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done.stdout + done.stderr

    def counts_run(self):
        """Of the last command."""
        calls = [line.split(":")[0] for line in self.read("calls").splitlines() if "bench scaling" in line]
        self.write("calls", "")
        return calls

    def test_wrong_usage_is_said_and_ends_with_64(self):
        for arguments, said in (("c.yaml --ranks 1,2 --weak --fast", "no option --fast"),
                                ("--ranks 1,2 --weak", "no configuration given"),
                                ("c.yaml d.yaml --ranks 1,2 --weak", "two configurations"),
                                ("c.yaml --weak", "--ranks is missing"),
                                ("c.yaml --weak --ranks", "--ranks needs a value"),
                                ("c.yaml --ranks 1,2", "--strong (the step stays the same) or --weak"),
                                ("c.yaml --ranks 1,2 --weak --strong", "choose one"),
                                ("c.yaml --ranks 1,2 --weak --seconds long", "--seconds (long)"),
                                ("c.yaml --ranks 1,2 --weak --ranks-per-node 2", "--ranks-per-node is for --slurm"),
                                ("c.yaml --ranks 1,2 --weak --mpirun -v --slurm", "exclude each other"),
                                ("--gather nowhere", "no experiment was begun there"),
                                *((f"c.yaml --weak --ranks {ranks}", f"--ranks ({ranks})") for ranks in ("0,1", "1,,2", "two", "1,-2", "1.5", "1,"))):
            with self.subTest(arguments):
                self.assertIn(said, self.scale(*arguments.split(), code=64))
        self.assertFalse((self.folder / "runs").exists())
        self.assertIn("Examples:", self.scale("--help"))

    def test_a_configuration_that_no_count_could_run_ends_at_once(self):
        self.assertIn("error: refused", self.scale("c.yaml", "refused=1", "--ranks", "1,2", "--weak", code=78))

    def test_counts_run_in_order_each_once_and_a_failed_one_does_not_end_the_others(self):
        text = self.scale("c.yaml", "a.b=c d", "--strong", "--ranks", "4,3,1,1", "--seconds", "2", code=1)
        calls = [line for line in self.read("calls").splitlines() if "bench" in line]
        self.assertEqual(self.counts_run(), ["1", "3", "4"])
        self.assertIn("bench scaling c.yaml a.b=c d train.threads=1 --seconds 2 --json", calls[0])
        self.assertIn("exit status 78: error: experts (8) \\| 3", text)
        self.assertTrue((self.folder / "runs/scaling/c-strong/scaling.svg").exists(), text)

    def test_weak_gives_each_rank_what_it_has_at_the_smallest_count(self):
        self.write("c.yaml", "9")
        self.write("out/scaling-3.json", FOUR)  # of an older experiment
        text = self.scale("c.yaml", "train.global_batch=9", "--weak", "--ranks", "2,3,4", "--output", "out", code=1)
        calls = [line for line in self.read("calls").splitlines() if "bench" in line]
        self.assertEqual([call.split("global_batch=")[1].split()[0] for call in calls], ["9", "18"])
        self.assertEqual(self.counts_run(), ["2", "4"])
        self.assertIn("train.global_batch (9, of 2 ranks) times 3 / 2 is not whole", text)

    def test_only_what_changed_or_failed_runs_again(self):
        self.environment["OMP_NUM_THREADS"] = "1"
        command = ["c.yaml", "--strong", "--ranks", "1,2,3", "--output", "out"]
        self.scale(*command, code=1)
        self.assertEqual(self.counts_run(), ["1", "2", "3"])
        self.assertIn("of the same configuration, build and options", self.scale(*command, code=1))
        self.assertEqual(self.counts_run(), ["3"])
        (self.folder / "out/scaling-2.json").unlink()
        command[3] = "1,2"
        self.scale(*command)
        self.assertEqual(self.counts_run(), ["2"])
        self.assertIn("'seconds: 5' then, 'seconds: 1' now", self.scale(*command, "--seconds", "1"))
        self.assertEqual(self.counts_run(), ["1", "2"])
        self.write("c.yaml", "16")
        self.assertIn("'global_batch: 8' then, 'global_batch: 16' now", self.scale(*command, "--seconds", "1"))
        self.assertEqual(self.counts_run(), ["1", "2"])
        self.write("build/pimoe", PIMOE + "# built again\n", 0o755)
        self.assertIn("'build: ", self.scale(*command, "--seconds", "1"))
        self.assertEqual(self.counts_run(), ["1", "2"])
        self.assertIn("# Strong scaling", self.scale("--gather", "out"))
        self.assertEqual(self.counts_run(), [])

    def test_an_interrupted_experiment_ends_its_run_and_goes_on(self):
        command = ["c.yaml", "--strong", "--ranks", "1,2", "--output", "out"]
        self.scale(*command)
        (self.folder / "out/scaling-2.json").unlink()
        self.write("slow", "")
        with subprocess.Popen(**self.command(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
            while not (self.folder / "started").exists():
                time.sleep(0.05)
            self.assertIn("is at work in", self.scale(*command, code=1))
            os.killpg(process.pid, signal.SIGTERM)
            said = process.communicate(timeout=20)[0]
        self.assertEqual(process.returncode, 143, said)
        self.assertIn("the same command goes on", said)
        (self.folder / "slow").unlink()
        self.counts_run()
        self.scale(*command)
        self.assertEqual(self.counts_run(), ["2"])


@unittest.skipUnless((BUILD / "pimoe").exists(), f"{BUILD} has no pimoe")
class Measuring(Folder):
    def test_a_small_model_at_one_two_and_three_ranks(self):
        self.write("tiny.yaml", "mesh: {device: cpu}\n"
                   "model: {vocabulary: 64, layers: 1, width: 16, heads: 2, kv_heads: 2, sequence_length: 8, moe: {experts: 4, choices: 2, expert_width: 8}}\n"
                   "train: {global_batch: 4, micro_batch: 2, precision: float32}\n")
        done = subprocess.run([SCALING, "tiny.yaml", "mesh.expert_parallel=auto", "--weak", "--ranks", "1,2", "--seconds", "0", "--output", "out"],
                              cwd=self.folder, env={**os.environ, "PIMOE_BUILD": str(BUILD)}, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        results = [json.loads(self.read(f"out/scaling-{ranks}.json")) for ranks in (1, 2)]
        self.assertEqual([result["rows"][0]["tokens"] for result in results], [32, 64])
        self.assertIn("rows and weights", done.stdout)


if __name__ == "__main__":
    unittest.main()
